"""The documents of a history: in memory, or in the Firestore emulator by the programs' own adapters."""

import copy
from datetime import datetime
from typing import Any

from google.cloud import firestore

from controller.firestore import ControllerStore, Seen
from functions.documents import installation, ledger, pending_runner, workflow_job
from functions.documents.command import Command
from functions.documents.errors import Moved
from functions.documents.host import Host
from functions.documents.ledger import Ledger
from functions.documents.pending_runner import PendingRunner, SeenRunner
from functions.documents.reconcile_store import ReconcileStore
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


class EmulatorDocuments:
    """In the emulator, as the functions and the controllers write them."""

    def __init__(self, project: str):
        self.store = ReconcileStore(project)
        self._controller = ControllerStore(project, "(default)")
        self._client = firestore.AsyncClient(project=project)

    def close(self) -> None:
        self._controller.close()

    async def write_policy(self, owner: str, policy: dict[str, Any]) -> None:
        reference = self._client.collection(installation.COLLECTION).document(owner)
        await reference.set({"policy": policy, "revision": 1})

    async def write_host(self, host_id: str, lease_until: datetime) -> None:
        await self._controller.write_host(Host.from_firestore(host_fields(host_id, lease_until)))

    async def list_runners(self) -> dict[str, SeenRunner]:
        snapshots = await self._client.collection(pending_runner.COLLECTION).get()
        return {s.id: SeenRunner(PendingRunner.from_firestore(s.to_dict() or {}), s.update_time) for s in snapshots}

    async def claim(self, seen: SeenRunner, fields: dict[str, Any]) -> bool:
        try:
            await self._controller.claim([Seen(seen.runner, seen.version)], fields)
        except Moved:
            return False
        return True

    async def update_runner(self, name: str, fields: dict[str, Any]) -> None:
        await self._controller.update_runner(name, fields)

    async def fail_runner(self, name: str, fields: dict[str, Any], command: Command) -> None:
        await self._controller.fail_runner(name, fields, command)

    async def write_command(self, command_id: str, command: Command) -> None:
        await self._controller.write_command(command_id, command)

    async def end_runner(self, name: str, job_key: str) -> None:
        await self._controller.end_runner(name, job_key, {})

    async def read_ledger(self) -> Ledger:
        return Ledger.from_firestore(await self.read_raw_ledger())

    async def spoil_ledger(self, fields: dict[str, Any] | None) -> None:
        reference = self._client.collection(ledger.COLLECTION).document(POOL)
        await (reference.delete() if fields is None else reference.set(fields))

    async def read_raw_ledger(self) -> dict[str, Any]:
        snapshot = await self._client.collection(ledger.COLLECTION).document(POOL).get()
        return snapshot.to_dict() or {}

    async def list_jobs(self) -> dict[str, WorkflowJob]:
        snapshots = await self._client.collection(workflow_job.COLLECTION).get()
        return {s.id: WorkflowJob.from_firestore(s.to_dict() or {}) for s in snapshots}
