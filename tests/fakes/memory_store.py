"""The functions' store in memory, with the same promises as Firestore: guarded commits, creates that fail, merges.

`tests/contract` holds it to the same suite as the emulator.
"""

import asyncio
import copy
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from functions.admission.requests import Promotion
from functions.documents.errors import Moved, StoreUnavailable
from functions.documents.host import Host
from functions.documents.installation import Installation, LastError, LastGood, installation_id
from functions.documents.ledger import Ledger
from functions.documents.lifecycle import JobState, RunnerEvent, RunnerState, move_runner
from functions.documents.pending_runner import PendingRunner
from functions.documents.workflow_job import WorkflowJob


class MemoryStore:
    """Documents as plain maps, as Firestore has them."""

    def __init__(self) -> None:
        self.installations: dict[str, dict[str, Any]] = {}
        self._installations_read: dict[str, dict[str, Any]] = {}
        self.hosts: dict[str, Host] = {}
        self.ledgers: dict[str, tuple[dict[str, Any], datetime]] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.runners: dict[str, dict[str, Any]] = {}
        self.commits = 0
        """ledger commits that landed"""
        self.documents_read = 0
        """ledgers and jobs that admission has asked for"""
        self.before_commit: Callable[[], None] | None = None
        """called before each ledger commit is tried; may raise, or change what is stored"""
        self.after_commit: Callable[[], None] | None = None
        """called when one has landed; what it raises is a lost answer"""
        self._clock = datetime(2026, 1, 1, tzinfo=UTC)

    async def read_installation(self, owner: str) -> Installation | None:
        fields = self.installations.get(installation_id(owner))
        if fields is None:
            return None
        self._installations_read[installation_id(owner)] = copy.deepcopy(fields)
        return Installation.from_firestore(copy.deepcopy(fields))

    async def note_good_policy(self, owner: str, good: LastGood) -> None:
        if self._is_as_read(owner):
            fields = self.installations[installation_id(owner)]
            fields["lastGood"] = good.to_firestore()
            fields.pop("lastError", None)

    async def note_policy_error(self, owner: str, error: LastError) -> None:
        if self._is_as_read(owner):
            self.installations[installation_id(owner)]["lastError"] = error.to_firestore()

    def _is_as_read(self, owner: str) -> bool:
        key = installation_id(owner)
        return self._installations_read.get(key) in (None, self.installations[key])

    async def list_hosts(self, pool: str) -> tuple[Host, ...]:
        return tuple(host for host in self.hosts.values() if host.pool == pool)

    async def read_ledger(
        self, pool: str, job_keys: Sequence[str]
    ) -> tuple[Ledger, datetime | None, Mapping[str, WorkflowJob]]:
        await asyncio.sleep(0)
        self.documents_read += 1 + len(job_keys)
        fields, version = self.ledgers.get(pool, ({}, None))
        known = {key: WorkflowJob.from_firestore(self.jobs[key]) for key in job_keys if key in self.jobs}
        return Ledger.from_firestore(copy.deepcopy(fields)), version, known

    async def commit_ledger(
        self,
        pool: str,
        version: datetime | None,
        changed: Ledger,
        creates: Sequence[WorkflowJob],
        promotions: Sequence[Promotion] = (),
    ) -> datetime:
        await asyncio.sleep(0)
        if self.before_commit is not None:
            self.before_commit()
        current = self.ledgers.get(pool, ({}, None))[1]
        if current != version or any(job.key in self.jobs for job in creates):
            raise Moved("somebody else was first")
        if len({job.key for job in creates}) != len(creates):
            raise AssertionError("Firestore refuses two creates of one document in one commit")
        self.ledgers[pool] = (changed.to_firestore(), self._tick())
        self.jobs |= {job.key: job.to_firestore() for job in creates}
        for promotion in promotions:
            reserved = {
                "reservation": promotion.reservation.to_firestore(),
                "decision": {"outcome": "self_hosted", "reason": promotion.reason},
                "phases": {"reservedAt": self._clock},
                "rank": max(int(JobState.RESERVED), self.jobs[promotion.job_key].get("rank", 0)),
            }
            _merge(self.jobs[promotion.job_key], reserved)
        self.commits += 1
        if self.after_commit is not None:
            self.after_commit()
        return self.ledgers[pool][1]

    async def create_job(self, job: WorkflowJob) -> bool:
        if job.key in self.jobs:
            return False
        self.jobs[job.key] = job.to_firestore()
        return True

    async def read_job(self, key: str) -> WorkflowJob | None:
        return WorkflowJob.from_firestore(self.jobs[key]) if key in self.jobs else None

    async def read_jobs(self, keys: Sequence[str]) -> dict[str, WorkflowJob]:
        return {key: WorkflowJob.from_firestore(self.jobs[key]) for key in keys if key in self.jobs}

    async def merge_job(self, job: WorkflowJob) -> None:
        fields = job.model_dump(by_alias=True, exclude_unset=True, exclude_none=True)
        stored = self.jobs.setdefault(job.key, {})
        fields["rank"] = max(int(job.rank), stored.get("rank", 0))
        _merge(stored, fields)

    async def publish_runner(self, runner: PendingRunner) -> None:
        self.runners.setdefault(runner.runner_name, runner.to_firestore())

    async def read_runner(self, runner_name: str) -> PendingRunner | None:
        fields = self.runners.get(runner_name)
        return None if fields is None else PendingRunner.from_firestore(fields)

    async def cancel_runner(self, runner_name: str, reason: str, now: datetime) -> PendingRunner | None:
        runner = await self.read_runner(runner_name)
        if runner is None or runner.status is not RunnerState.PENDING:
            return None
        fields = self.runners[runner_name]
        fields |= {"status": move_runner(runner.status, RunnerEvent.CANCEL), "reason": reason, "endedAt": now}
        fields.pop("sealedConfig", None)
        return runner

    def ledger(self, pool: str = "default") -> Ledger:
        """A pool's ledger as it stands."""
        return Ledger.from_firestore(self.ledgers.get(pool, ({}, None))[0])

    def _tick(self) -> datetime:
        self._clock += timedelta(microseconds=1)
        return self._clock


def lose_every(number: int) -> Callable[[], None]:
    """Every so-manieth answer is lost on its way back."""
    count = 0

    def lose() -> None:
        nonlocal count
        count += 1
        if count % number == 0:
            raise StoreUnavailable("the answer was lost")

    return lose


def _merge(stored: dict[str, Any], fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        if isinstance(value, Mapping) and isinstance(stored.get(name), dict):
            _merge(stored[name], value)
        else:
            stored[name] = copy.deepcopy(value)
