"""The functions' store in memory, with the same promises as Firestore: guarded commits, creates that fail, merges.

`tests/contract` holds it to the same suite as the emulator.
"""

import asyncio
import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from functions.admission.requests import Promotion
from functions.documents.command import Answer, Command
from functions.documents.errors import Moved, StoreUnavailable, Unreadable
from functions.documents.firestore import read_ledger
from functions.documents.host import Host
from functions.documents.installation import Installation, LastError, LastGood, installation_id
from functions.documents.ledger import Ledger, SeenLedger, salvage
from functions.documents.lifecycle import LIVE, OVER, JobState, RunnerEvent, RunnerState, move_runner
from functions.documents.pending_runner import PendingRunner, SeenRunner
from functions.documents.reconcile import Cursor, Report
from functions.documents.reconcile_store import OURS, UNFINISHED
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
        self.commands: dict[str, Command] = {}
        self.cursor = Cursor()
        self.reports: dict[str, Report] = {}
        self.commits = 0
        """ledger commits that landed"""
        self.documents_read = 0
        """ledgers and jobs that admission has asked for"""
        self.before_commit: Callable[[], None] | None = None
        """called before each ledger commit is tried; may raise, or change what is stored"""
        self.after_commit: Callable[[], None] | None = None
        """called when one has landed; what it raises is a lost answer"""
        self._clock = datetime(2026, 1, 1, tzinfo=UTC)
        self._runner_versions: dict[str, datetime] = {}

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
        ledger = read_ledger(pool, copy.deepcopy(fields))
        known = {key: WorkflowJob.from_firestore(self.jobs[key]) for key in job_keys if key in self.jobs}
        return ledger, version, known

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

    async def publish_runner(self, runner: PendingRunner) -> bool:
        if runner.runner_name not in self.runners:
            self.write_runner(runner.runner_name, runner.to_firestore())
        return bool(self.runners[runner.runner_name]["runnerId"] == runner.runner_id)

    async def read_runner(self, runner_name: str) -> PendingRunner | None:
        fields = self.runners.get(runner_name)
        return None if fields is None else PendingRunner.from_firestore(fields)

    async def cancel_runner(self, runner_name: str, reason: str, now: datetime) -> PendingRunner | None:
        runner = await self.read_runner(runner_name)
        if runner is None or runner.status is not RunnerState.PENDING:
            return None
        fields = dict(self.runners[runner_name])
        fields |= {"status": move_runner(runner.status, RunnerEvent.CANCEL), "reason": reason, "endedAt": now}
        fields.pop("sealedConfig", None)
        self.write_runner(runner_name, fields)
        return runner

    async def read_command(self, command_id: str) -> Command | None:
        return self.commands.get(command_id)

    async def answer_command(self, command_id: str, answer: Answer) -> None:
        self.commands[command_id] = self.commands[command_id].model_copy(update={"answer": answer})

    # What reconciling needs besides

    async def list_owners(self) -> tuple[str, ...]:
        return tuple(self.installations)

    async def list_all_hosts(self) -> tuple[Host, ...]:
        return tuple(self.hosts.values())

    async def list_ledgers(self) -> dict[str, SeenLedger]:
        found = {}
        for pool, (fields, version) in self.ledgers.items():
            try:
                found[pool] = SeenLedger(read_ledger(pool, copy.deepcopy(fields)), version)
            except Unreadable as error:
                found[pool] = SeenLedger(salvage(copy.deepcopy(fields)), version, str(error))
        return found

    async def mend_ledger(self, pool: str, seen: SeenLedger) -> bool:
        if self.ledgers.get(pool, ({}, None))[1] != seen.version:
            return False
        self.write_ledger(pool, seen.ledger.to_firestore())
        return True

    async def list_live_runners(self) -> tuple[SeenRunner, ...]:
        return tuple(seen for seen in map(self._seen, self.runners) if seen.runner.status in LIVE)

    async def list_left_runners(self) -> tuple[SeenRunner, ...]:
        found = map(self._seen, self.runners)
        return tuple(seen for seen in found if seen.runner.status in OVER and seen.runner.is_registered)

    async def read_runners(self, names: Iterable[str]) -> dict[str, SeenRunner]:
        return {name: self._seen(name) for name in names if name in self.runners}

    async def list_open_jobs(self, after: str = "") -> tuple[WorkflowJob, ...]:
        page = []
        for key in sorted(self.jobs):
            fields = self.jobs[key]
            is_ours = fields.get("decision", {}).get("outcome") in OURS
            if key > after and is_ours and fields.get("rank") in UNFINISHED:
                page.append(WorkflowJob.from_firestore(fields))
        return tuple(page[:300])

    async def find_jobs_of_runner(self, runner_name: str) -> tuple[WorkflowJob, ...]:
        found = (f for f in self.jobs.values() if f.get("runner", {}).get("name") == runner_name)
        return tuple(WorkflowJob.from_firestore(fields) for fields in found)

    async def find_jobs_by_id(self, job_id: int) -> tuple[WorkflowJob, ...]:
        found = (fields for fields in self.jobs.values() if fields.get("jobId") == job_id)
        return tuple(WorkflowJob.from_firestore(fields) for fields in found)

    async def give_up_runner(self, tombstone: PendingRunner) -> bool:
        if tombstone.runner_name in self.runners:
            return self._seen(tombstone.runner_name).runner.status in OVER
        self.write_runner(tombstone.runner_name, tombstone.to_firestore())
        return True

    async def change_runner(self, seen: SeenRunner, fields: Mapping[str, Any]) -> bool:
        name = seen.runner.runner_name
        if name not in self.runners or self._seen(name).version != seen.version:
            return False
        changed = {**self.runners[name], **fields}
        self.write_runner(name, {field: value for field, value in changed.items() if value is not None})
        return True

    async def read_cursor(self) -> Cursor:
        return self.cursor

    async def write_cursor(self, cursor: Cursor) -> None:
        self.cursor = cursor

    async def write_report(self, key: str, report: Report) -> None:
        self.reports[key] = report

    def write_ledger(self, pool: str, fields: dict[str, Any]) -> None:
        """As somebody else than a group commit does."""
        self.ledgers[pool] = (fields, self._tick())

    def write_runner(self, name: str, fields: dict[str, Any] | None) -> None:
        """As whoever owns the runner's document does; None deletes it."""
        if fields is None:
            self.runners.pop(name, None)
        else:
            self.runners[name] = fields
            self._runner_versions[name] = self._tick()

    def _seen(self, name: str) -> SeenRunner:
        runner = PendingRunner.from_firestore(self.runners[name])
        return SeenRunner(runner, self._runner_versions.get(name, self._clock.min.replace(tzinfo=UTC)))

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
