"""The documents of a history, in memory: the contract suite holds that store to what the Firestore emulator does."""

import copy
from datetime import datetime
from typing import Any

from functions.documents.command import Command
from functions.documents.host import Host
from functions.documents.ledger import Ledger
from functions.documents.pending_runner import SeenRunner
from functions.documents.workflow_job import WorkflowJob
from tests.fakes.memory_store import MemoryStore
from tests.histories.yard import POOL, host_fields


class MemoryDocuments:
    """In memory: ten thousand histories in minutes."""

    def __init__(self) -> None:
        self.store = MemoryStore()

    async def write_policy(self, owner: str, policy: dict[str, Any]) -> None:
        self.store.installations[owner] = {"policy": policy, "revision": 1}

    async def write_host(self, host_id: str, lease_until: datetime) -> None:
        self.store.hosts[host_id] = Host.from_firestore(host_fields(host_id, lease_until))

    async def list_runners(self) -> dict[str, SeenRunner]:
        return await self.store.read_runners(list(self.store.runners))

    async def claim(self, seen: SeenRunner, fields: dict[str, Any]) -> bool:
        return await self.store.change_runner(seen, {**fields, "sealedConfig": None})

    async def update_runner(self, name: str, fields: dict[str, Any]) -> None:
        if name in self.store.runners:
            self.store.write_runner(name, {**self.store.runners[name], **fields})

    async def fail_runner(self, name: str, fields: dict[str, Any], command: Command) -> None:
        if name in self.store.runners:
            await self.update_runner(name, fields)
            self.store.commands[f"{name}-{command.kind}"] = command

    async def write_command(self, command_id: str, command: Command) -> None:
        self.store.commands[command_id] = command

    async def end_runner(self, name: str, job_key: str) -> None:
        self.store.write_runner(name, None)

    async def read_ledger(self) -> Ledger:
        return self.store.ledger(POOL)

    async def spoil_ledger(self, fields: dict[str, Any] | None) -> None:
        if fields is None:
            self.store.ledgers.pop(POOL, None)
        else:
            self.store.write_ledger(POOL, copy.deepcopy(fields))

    async def read_raw_ledger(self) -> dict[str, Any]:
        return copy.deepcopy(self.store.ledgers[POOL][0]) if POOL in self.store.ledgers else {}

    async def list_jobs(self) -> dict[str, WorkflowJob]:
        return {key: WorkflowJob.from_firestore(fields) for key, fields in self.store.jobs.items()}
