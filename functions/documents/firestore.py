"""The functions' door to Firestore. Foreign exceptions and field names stop here."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Protocol

from google.api_core import exceptions as google
from google.api_core.retry_async import AsyncRetry
from google.cloud import firestore
from pydantic import ValidationError

from . import command, host, installation, ledger, pending_runner, workflow_job, writes
from .command import Answer, Command
from .errors import Moved, StoreRefused, StoreUnavailable, Unreadable
from .gather import Gather
from .host import Host
from .installation import Installation, LastError, LastGood, installation_id
from .ledger import Ledger
from .lifecycle import OVER, JobState, RunnerEvent, RunnerState, move_runner
from .pending_runner import PendingRunner
from .workflow_job import Reservation, WorkflowJob

CALL_TIMEOUT_S = 3.0
"""for one call with its retries: a webhook has to be answered within 10 s"""
HOSTS_KEPT_FOR_S = 5.0
"""a host's lease is 30 s, so a list this old still tells which hosts are alive"""
MOST_READS = 1000
"""askers in one group: most of them ask for the same"""
MOST_WRITES = 200
"""in one commit: a runner's document takes some 5 KB of the 10 MB that a commit may have"""

RETRY = AsyncRetry(
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
        self._documents = f"projects/{project}/databases/{database}/documents"
        self._hosts: dict[str, tuple[float, tuple[Host, ...]]] = {}
        self._installations: dict[str, tuple[datetime, Installation]] = {}
        self._pools = Gather(self._list_hosts, MOST_READS)
        self._reads = Gather(self._read_installations, MOST_READS)
        self._notes = Gather(self._write_notes, MOST_READS)
        self._writes = Gather(self._write_each, MOST_WRITES)

    async def read_installation(self, owner: str) -> Installation | None:
        """An organization's policy as it stands now: an edit counts from the next webhook on."""
        return await self._reads.submit(installation_id(owner))

    async def _read_installations(self, keys: Sequence[str]) -> list[Installation | None]:
        """Asks for the documents' versions, and for a document only if its version is new: a policy may be large."""
        versions = {snapshot.id: snapshot.update_time async for snapshot in self._get_installations(keys, ["revision"])}
        known = {key: kept for key in versions if (kept := self._installations.get(key)) and kept[0] == versions[key]}
        if changed := versions.keys() - known.keys():
            async for snapshot in self._get_installations(changed):
                found = Installation.from_firestore(snapshot.to_dict() or {})
                known[snapshot.id] = snapshot.update_time, found
        self._installations |= known
        return [known[key][1] if key in known else None for key in keys]

    async def _get_installations(self, keys: Iterable[str], fields: Sequence[str] | None = None) -> AsyncIterator[Any]:
        collection = self._client.collection(installation.COLLECTION)
        async for snapshot in self._get_all([collection.document(key) for key in dict.fromkeys(keys)], fields):
            if snapshot.exists:
                yield snapshot

    async def note_good_policy(self, owner: str, good: LastGood) -> None:
        """Remembers a policy that was valid, and clears the last error."""
        fields = {"lastGood": good.to_firestore(), "lastError": firestore.DELETE_FIELD}
        await self._note(owner, fields)

    async def note_policy_error(self, owner: str, error: LastError) -> None:
        """Shows the operator, in the document that they edited, why their edit is not in force."""
        await self._note(owner, {"lastError": error.to_firestore()})

    async def _note(self, owner: str, fields: dict[str, Any]) -> None:
        key = installation_id(owner)
        version, _ = self._installations.get(key, (None, None))
        await self._notes.submit((key, version, fields))

    async def _write_notes(self, notes: Sequence[tuple[str, datetime | None, dict[str, Any]]]) -> list[None]:
        """In a burst every webhook after an edit finds it: one of them writes what is to be noted."""
        newest = {key: (version, fields) for key, version, fields in notes}
        await asyncio.gather(*(self._write_note(key, *note) for key, note in newest.items()))
        return [None] * len(notes)

    async def _write_note(self, key: str, version: datetime | None, fields: dict[str, Any]) -> None:
        reference = self._client.collection(installation.COLLECTION).document(key)
        guard = None if version is None else self._client.write_option(last_update_time=version)
        try:
            with translated_errors():
                await reference.update(fields, option=guard, retry=RETRY, timeout=CALL_TIMEOUT_S)
        except Moved:
            # Edited again, or noted by somebody else: the next webhook sees which.
            return

    async def list_hosts(self, pool: str) -> tuple[Host, ...]:
        """The hosts of a pool, dead ones too, as of at most a few seconds ago."""
        read_at, hosts = self._hosts.get(pool, (float("-inf"), ()))
        if time.monotonic() - read_at < HOSTS_KEPT_FOR_S:
            return hosts
        return await self._pools.submit(pool)

    async def _list_hosts(self, pools: Sequence[str]) -> list[tuple[Host, ...]]:
        for pool in dict.fromkeys(pools):
            query = self._client.collection(host.COLLECTION).where(filter=firestore.FieldFilter("pool", "==", pool))
            with translated_errors():
                snapshots = await query.get(retry=RETRY, timeout=CALL_TIMEOUT_S)
            hosts = tuple(Host.from_firestore(snapshot.to_dict() or {}) for snapshot in snapshots)
            self._hosts[pool] = (time.monotonic(), hosts)
        return [self._hosts[pool][1] for pool in pools]

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
                found, version = read_ledger(pool, fields), snapshot.update_time
            else:
                known[snapshot.id] = WorkflowJob.from_firestore(fields)
        return found, version, known

    async def _get_all(self, references: list[Any], fields: Sequence[str] | None = None) -> AsyncIterator[Any]:
        with translated_errors():
            found = self._client.get_all(references, field_paths=fields, retry=RETRY, timeout=CALL_TIMEOUT_S)
            async for snapshot in found:
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
        document, fields = self._name(ledger.COLLECTION, pool), changed.to_firestore()
        first = writes.create(document, fields) if version is None else writes.replace(document, fields, version)
        results = await self._commit(
            [
                first,
                *(self._create_job(job) for job in creates),
                *(self._promote_job(promotion) for promotion in promotions),
            ]
        )
        written: datetime = results[0].update_time
        return written

    async def create_job(self, job: WorkflowJob) -> bool:
        """Records a job that takes no part in admission; False when it was recorded before."""
        try:
            await self._writes.submit(self._create_job(job))
        except Moved:
            return False
        return True

    async def read_job(self, key: str) -> WorkflowJob | None:
        with translated_errors():
            snapshot = await self._job(key).get(retry=RETRY, timeout=CALL_TIMEOUT_S)
        fields = snapshot.to_dict() if snapshot.exists else None
        return None if fields is None else WorkflowJob.from_firestore(fields)

    async def read_jobs(self, keys: Sequence[str]) -> dict[str, WorkflowJob]:
        """Those of the jobs that exist, by key."""
        snapshots = [snapshot async for snapshot in self._get_all([self._job(key) for key in keys])]
        return {s.id: WorkflowJob.from_firestore(s.to_dict() or {}) for s in snapshots if s.exists}

    async def merge_job(self, job: WorkflowJob) -> None:
        """Writes the fields that were given to this value, raises the rank: safe in any order and number."""
        fields = job.model_dump(by_alias=True, exclude_unset=True, exclude_none=True, exclude={"rank"})
        await self._writes.submit(writes.merge(self._job_name(job.key), fields, {"rank": int(job.rank)}))

    async def publish_runner(self, runner: PendingRunner) -> bool:
        """Hands a runner to the controllers; False when its name was given up meanwhile."""
        name = self._name(pending_runner.COLLECTION, runner.runner_name)
        try:
            await self._writes.submit(writes.create(name, runner.to_firestore()))
        except Moved:
            # Ours, when an earlier answer was lost; else reconciling has waited for it long enough.
            found = await self.read_runner(runner.runner_name)
            return found is not None and found.runner_id == runner.runner_id
        return True

    async def give_up_runner(self, tombstone: PendingRunner) -> bool:
        """Makes sure that a runner which was never handed over never will be; False when it was after all."""
        name = self._name(pending_runner.COLLECTION, tombstone.runner_name)
        try:
            await self._writes.submit(writes.create(name, tombstone.to_firestore()))
        except Moved:
            found = await self.read_runner(tombstone.runner_name)
            return found is not None and found.status in OVER
        return True

    async def read_runner(self, runner_name: str) -> PendingRunner | None:
        with translated_errors():
            snapshot = await self._runner(runner_name).get(retry=RETRY, timeout=CALL_TIMEOUT_S)
        fields = snapshot.to_dict() if snapshot.exists else None
        return None if fields is None else PendingRunner.from_firestore(fields)

    async def cancel_runner(self, runner_name: str, reason: str, now: datetime) -> PendingRunner | None:
        """Takes a runner back that no host has claimed; None when one has, or when there is no such runner."""
        reference = self._runner(runner_name)
        with translated_errors():
            snapshot = await reference.get(retry=RETRY, timeout=CALL_TIMEOUT_S)
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
                await reference.update(fields, option=guard, retry=RETRY, timeout=CALL_TIMEOUT_S)
        except Moved:
            return None
        return runner

    async def read_command(self, command_id: str) -> Command | None:
        with translated_errors():
            snapshot = await self._command(command_id).get(retry=RETRY, timeout=CALL_TIMEOUT_S)
        fields = snapshot.to_dict() if snapshot.exists else None
        return None if fields is None else Command.from_firestore(fields)

    async def answer_command(self, command_id: str, answer: Answer) -> None:
        with translated_errors():
            await self._command(command_id).update(
                {"answer": answer.to_firestore()}, retry=RETRY, timeout=CALL_TIMEOUT_S
            )

    def _command(self, command_id: str) -> Any:
        return self._client.collection(command.COLLECTION).document(command_id)

    def _job(self, key: str) -> Any:
        return self._client.collection(workflow_job.COLLECTION).document(key)

    def _runner(self, runner_name: str) -> Any:
        return self._client.collection(pending_runner.COLLECTION).document(runner_name)

    async def _write_each(self, group: Sequence[writes.Write]) -> list[Exception | None]:
        """Writes that do not depend on each other, in one commit if that can be."""
        try:
            await self._commit(group)
        except (Moved, StoreRefused) as error:
            if len(group) == 1:
                return [error]
            # One that cannot be written kept the others from it, too.
            alone = await asyncio.gather(*(self._write_each([write]) for write in group))
            return [error for (error,) in alone]
        return [None] * len(group)

    async def _commit(self, group: Sequence[writes.Write]) -> Any:
        batch = writes.Batch(self._client)
        batch.add(group)
        with translated_errors():
            return await batch.commit(retry=RETRY, timeout=CALL_TIMEOUT_S)

    def _create_job(self, job: WorkflowJob) -> writes.Write:
        return writes.create(self._job_name(job.key), job.to_firestore())

    def _promote_job(self, promotion: Promoted) -> writes.Write:
        fields = {
            "reservation": promotion.reservation.to_firestore(),
            "decision": {"outcome": "self_hosted", "reason": promotion.reason},
        }
        rank = {"rank": int(JobState.RESERVED)}
        return writes.merge(self._job_name(promotion.job_key), fields, rank, stamped=["phases.reservedAt"])

    def _job_name(self, key: str) -> str:
        return self._name(workflow_job.COLLECTION, key)

    def _name(self, collection: str, document_id: str) -> str:
        return f"{self._documents}/{collection}/{document_id}"


def read_ledger(pool: str, fields: dict[str, Any]) -> Ledger:
    """The ledger in a document's fields.

    Raises:
        Unreadable: somebody has edited it. To go on without the part that cannot be read could admit too many.
    """
    try:
        return Ledger.from_firestore(fields)
    except ValidationError as error:
        places = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:5])
        raise Unreadable(f"the ledger pools/{pool} cannot be read: {places}") from None
