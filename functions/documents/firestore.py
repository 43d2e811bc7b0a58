"""The functions' door to Firestore. Foreign exceptions and field names stop here."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Protocol

from google.api_core import exceptions as google
from google.api_core.retry_async import AsyncRetry
from google.cloud import firestore

from . import command, host, installation, ledger, pending_runner, workflow_job
from .command import Answer, Command
from .errors import Moved, StoreRefused, StoreUnavailable
from .host import Host
from .installation import Installation, LastError, LastGood, installation_id
from .ledger import Ledger
from .lifecycle import JobState, RunnerEvent, RunnerState, move_runner
from .pending_runner import PendingRunner
from .workflow_job import Reservation, WorkflowJob

CALL_TIMEOUT_S = 3.0
"""for one call with its retries: a webhook has to be answered within 10 s"""
HOSTS_KEPT_FOR_S = 5.0
"""a host's lease is 30 s, so a list this old still tells which hosts are alive"""

_RETRY = AsyncRetry(
    predicate=lambda error: isinstance(error, google.ServiceUnavailable | google.InternalServerError),
    initial=0.05,
    maximum=0.5,
    timeout=CALL_TIMEOUT_S,
)
TRANSIENT = (
    google.ServiceUnavailable,
    google.DeadlineExceeded,
    google.RetryError,
    google.InternalServerError,
    google.ResourceExhausted,
    google.Unknown,
    asyncio.TimeoutError,
)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turns the library's exceptions into ours."""
    try:
        yield
    except (google.AlreadyExists, google.FailedPrecondition, google.Aborted, google.NotFound) as error:
        raise Moved(str(error)) from error
    except TRANSIENT as error:
        raise StoreUnavailable(f"Firestore does not answer: {error}") from error
    except google.GoogleAPICallError as error:
        raise StoreRefused(f"Firestore refused: {error}") from error


class Promoted(Protocol):
    """A job that waited and has a place now."""

    @property
    def job_key(self) -> str: ...
    @property
    def reservation(self) -> Reservation: ...
    @property
    def reason(self) -> str: ...


class FirestoreStore:
    """Every read and write of the functions."""

    def __init__(self, project: str, database: str = "(default)"):
        self._client = firestore.AsyncClient(project=project, database=database)
        self._hosts: dict[str, tuple[float, tuple[Host, ...]]] = {}

    async def read_installation(self, owner: str) -> Installation | None:
        """An organization's policy as it stands now: an edit counts from the next webhook on."""
        reference = self._client.collection(installation.COLLECTION).document(installation_id(owner))
        with translated_errors():
            snapshot = await reference.get(retry=_RETRY, timeout=CALL_TIMEOUT_S)
        fields = snapshot.to_dict() if snapshot.exists else None
        return None if fields is None else Installation.from_firestore(fields)

    async def note_good_policy(self, owner: str, good: LastGood) -> None:
        """Remembers a policy that was valid, and clears the last error."""
        fields = {"lastGood": good.to_firestore(), "lastError": firestore.DELETE_FIELD}
        await self._update_installation(owner, fields)

    async def note_policy_error(self, owner: str, error: LastError) -> None:
        """Shows the operator, in the document that they edited, why their edit is not in force."""
        await self._update_installation(owner, {"lastError": error.to_firestore()})

    async def _update_installation(self, owner: str, fields: dict[str, Any]) -> None:
        reference = self._client.collection(installation.COLLECTION).document(installation_id(owner))
        with translated_errors():
            await reference.update(fields, retry=_RETRY, timeout=CALL_TIMEOUT_S)

    async def list_hosts(self, pool: str) -> tuple[Host, ...]:
        """The hosts of a pool, dead ones too, as of at most a few seconds ago."""
        read_at, hosts = self._hosts.get(pool, (float("-inf"), ()))
        if time.monotonic() - read_at < HOSTS_KEPT_FOR_S:
            return hosts
        query = self._client.collection(host.COLLECTION).where(filter=firestore.FieldFilter("pool", "==", pool))
        with translated_errors():
            snapshots = await query.get(retry=_RETRY, timeout=CALL_TIMEOUT_S)
        hosts = tuple(Host.from_firestore(snapshot.to_dict() or {}) for snapshot in snapshots)
        self._hosts[pool] = (time.monotonic(), hosts)
        return hosts

    async def read_ledger(
        self, pool: str, job_keys: Sequence[str]
    ) -> tuple[Ledger, datetime | None, Mapping[str, WorkflowJob]]:
        """The ledger, its version, and those of the jobs that exist, all as of one moment."""
        ledger_reference = self._client.collection(ledger.COLLECTION).document(pool)
        jobs = self._client.collection(workflow_job.COLLECTION)
        references = [ledger_reference, *(jobs.document(key) for key in dict.fromkeys(job_keys))]
        found = Ledger()
        version: datetime | None = None
        known: dict[str, WorkflowJob] = {}
        async for snapshot in self._get_all(references):
            if not snapshot.exists:
                continue
            fields = snapshot.to_dict() or {}
            if snapshot.reference.path == ledger_reference.path:
                found, version = Ledger.from_firestore(fields), snapshot.update_time
            else:
                known[snapshot.id] = WorkflowJob.from_firestore(fields)
        return found, version, known

    async def _get_all(self, references: list[Any]) -> AsyncIterator[Any]:
        with translated_errors():
            async for snapshot in self._client.get_all(references, retry=_RETRY, timeout=CALL_TIMEOUT_S):
                yield snapshot

    async def commit_ledger(
        self,
        pool: str,
        version: datetime | None,
        changed: Ledger,
        creates: Sequence[WorkflowJob],
        promotions: Sequence[Promoted] = (),
    ) -> datetime:
        """Writes ledger, new jobs and promoted jobs, all or nothing; the ledger must still be at `version`.

        Raises:
            Moved: it is not, or one of the new jobs exists.
        """
        reference = self._client.collection(ledger.COLLECTION).document(pool)
        batch = self._client.batch()
        if version is None:
            batch.create(reference, changed.to_firestore())
        else:
            batch.update(reference, changed.to_firestore(), option=self._client.write_option(last_update_time=version))
        for job in creates:
            batch.create(self._job(job.key), job.to_firestore())
        for promotion in promotions:
            batch.set(self._job(promotion.job_key), _promotion_fields(promotion), merge=True)
        with translated_errors():
            results = await batch.commit(retry=_RETRY, timeout=CALL_TIMEOUT_S)
        written: datetime = results[0].update_time
        return written

    async def create_job(self, job: WorkflowJob) -> bool:
        """Records a job that takes no part in admission; False when it was recorded before."""
        try:
            with translated_errors():
                await self._job(job.key).create(job.to_firestore(), retry=_RETRY, timeout=CALL_TIMEOUT_S)
        except Moved:
            return False
        return True

    async def read_job(self, key: str) -> WorkflowJob | None:
        with translated_errors():
            snapshot = await self._job(key).get(retry=_RETRY, timeout=CALL_TIMEOUT_S)
        fields = snapshot.to_dict() if snapshot.exists else None
        return None if fields is None else WorkflowJob.from_firestore(fields)

    async def read_jobs(self, keys: Sequence[str]) -> dict[str, WorkflowJob]:
        """Those of the jobs that exist, by key."""
        snapshots = [snapshot async for snapshot in self._get_all([self._job(key) for key in keys])]
        return {s.id: WorkflowJob.from_firestore(s.to_dict() or {}) for s in snapshots if s.exists}

    async def merge_job(self, job: WorkflowJob) -> None:
        """Writes the fields that were given to this value, raises the rank: safe in any order and number."""
        with translated_errors():
            await self._job(job.key).set(_event_fields(job), merge=True, retry=_RETRY, timeout=CALL_TIMEOUT_S)

    async def publish_runner(self, runner: PendingRunner) -> None:
        """Hands a runner to the controllers; one that has been handed over already stays as it is."""
        reference = self._runner(runner.runner_name)
        try:
            with translated_errors():
                await reference.create(runner.to_firestore(), retry=_RETRY, timeout=CALL_TIMEOUT_S)
        except Moved:
            # The name was made for this one attempt: an earlier answer was lost.
            return

    async def read_runner(self, runner_name: str) -> PendingRunner | None:
        with translated_errors():
            snapshot = await self._runner(runner_name).get(retry=_RETRY, timeout=CALL_TIMEOUT_S)
        fields = snapshot.to_dict() if snapshot.exists else None
        return None if fields is None else PendingRunner.from_firestore(fields)

    async def cancel_runner(self, runner_name: str, reason: str, now: datetime) -> PendingRunner | None:
        """Takes a runner back that no host has claimed; None when one has, or when there is no such runner."""
        reference = self._runner(runner_name)
        with translated_errors():
            snapshot = await reference.get(retry=_RETRY, timeout=CALL_TIMEOUT_S)
        if not snapshot.exists:
            return None
        runner = PendingRunner.from_firestore(snapshot.to_dict() or {})
        if runner.status is not RunnerState.PENDING:
            return None
        fields = {
            "status": move_runner(runner.status, RunnerEvent.CANCEL),
            "reason": reason,
            "endedAt": now,
            "expireAt": now + pending_runner.KEPT_FOR,
            "sealedConfig": firestore.DELETE_FIELD,
        }
        guard = self._client.write_option(last_update_time=snapshot.update_time)
        try:
            with translated_errors():
                await reference.update(fields, option=guard, retry=_RETRY, timeout=CALL_TIMEOUT_S)
        except Moved:
            return None
        return runner

    async def read_command(self, command_id: str) -> Command | None:
        with translated_errors():
            snapshot = await self._command(command_id).get(retry=_RETRY, timeout=CALL_TIMEOUT_S)
        fields = snapshot.to_dict() if snapshot.exists else None
        return None if fields is None else Command.from_firestore(fields)

    async def answer_command(self, command_id: str, answer: Answer) -> None:
        with translated_errors():
            await self._command(command_id).update(
                {"answer": answer.to_firestore()}, retry=_RETRY, timeout=CALL_TIMEOUT_S
            )

    def _command(self, command_id: str) -> Any:
        return self._client.collection(command.COLLECTION).document(command_id)

    def _job(self, key: str) -> Any:
        return self._client.collection(workflow_job.COLLECTION).document(key)

    def _runner(self, runner_name: str) -> Any:
        return self._client.collection(pending_runner.COLLECTION).document(runner_name)


def _promotion_fields(promotion: Promoted) -> dict[str, Any]:
    return {
        "reservation": promotion.reservation.to_firestore(),
        "decision": {"outcome": "self_hosted", "reason": promotion.reason},
        "phases": {"reservedAt": firestore.SERVER_TIMESTAMP},
        "rank": firestore.Maximum(int(JobState.RESERVED)),
    }


def _event_fields(job: WorkflowJob) -> dict[str, Any]:
    fields = job.model_dump(by_alias=True, exclude_unset=True, exclude_none=True)
    return {**fields, "rank": firestore.Maximum(int(job.rank))}
