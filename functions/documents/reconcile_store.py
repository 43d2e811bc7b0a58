"""What reconciling reads and writes besides what webhooks do. Only the `reconcile` function imports this."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from google.cloud import firestore
from pydantic import ValidationError

from . import host, installation, ledger, pending_runner, reconcile, workflow_job
from .errors import Moved, Unreadable
from .firestore import CALL_TIMEOUT_S, RETRY, FirestoreStore, read_ledger, translated_errors
from .host import Host
from .ledger import SeenLedger
from .lifecycle import LIVE, OVER, JobState
from .pending_runner import PendingRunner, SeenRunner
from .reconcile import CURSOR_ID, Cursor, Report
from .workflow_job import WorkflowJob

UNFINISHED = tuple(state for state in JobState if state < JobState.COMPLETED)
OURS = ("self_hosted", "held", "overflow")
"""outcomes of jobs that may need a runner of ours"""
_MOST_ENDED = 100
_PAGE = 300
_LIST_TIMEOUT_S = 10.0

DocumentT = TypeVar("DocumentT")


class ReconcileStore(FirestoreStore):
    """The whole picture, and changes to parts of it that name the version they were decided on."""

    async def list_owners(self) -> tuple[str, ...]:
        """The organizations and users that have an `installations` document."""
        query = self._client.collection(installation.COLLECTION).select(["revision"])
        return tuple(snapshot.id for snapshot in await self._list(query))

    async def list_all_hosts(self) -> tuple[Host, ...]:
        return _readable(Host.from_firestore, await self._list(self._client.collection(host.COLLECTION)))

    async def list_ledgers(self) -> dict[str, SeenLedger]:
        """All ledgers by pool; in one that cannot be read, what can."""
        return {s.id: _seen_ledger(s) for s in await self._list(self._client.collection(ledger.COLLECTION))}

    async def mend_ledger(self, pool: str, seen: SeenLedger) -> bool:
        """Writes what can be read of a spoilt ledger in its place; False when it has changed meanwhile."""
        return await self._guarded(
            self._client.collection(ledger.COLLECTION).document(pool), seen.ledger.to_firestore(), seen.version
        )

    async def list_live_runners(self) -> tuple[SeenRunner, ...]:
        """Those that wait for a host, are being started, or run."""
        query = self._client.collection(pending_runner.COLLECTION).where(
            filter=firestore.FieldFilter("status", "in", sorted(LIVE))
        )
        return _seen_runners(await self._list(query))

    async def list_left_runners(self) -> tuple[SeenRunner, ...]:
        """Some of those that came to nothing and that GitHub may still know."""
        query = (
            self._client.collection(pending_runner.COLLECTION)
            .where(filter=firestore.FieldFilter("isRegistered", "==", True))
            .where(filter=firestore.FieldFilter("status", "in", sorted(OVER)))
            .limit(_MOST_ENDED)
        )
        return _seen_runners(await self._list(query))

    async def read_runners(self, names: Iterable[str]) -> dict[str, SeenRunner]:
        """Those of the runners that have a document, by name."""
        references = [self._runner(name) for name in dict.fromkeys(names)]
        found = [s async for s in self._get_all(references) if s.exists] if references else []
        return {seen.runner.runner_name: seen for seen in _seen_runners(found)}

    async def list_open_jobs(self, after: str = "") -> tuple[WorkflowJob, ...]:
        """A page of the jobs that have not ended and may need a runner of ours, by key."""
        jobs = self._client.collection(workflow_job.COLLECTION)
        query = (
            jobs.where(filter=firestore.FieldFilter("decision.outcome", "in", list(OURS)))
            .where(filter=firestore.FieldFilter("rank", "in", [int(state) for state in UNFINISHED]))
            .order_by("__name__")
            .limit(_PAGE)
        )
        if after:
            query = query.start_after({"__name__": jobs.document(after)})
        return _readable(WorkflowJob.from_firestore, await self._list(query))

    async def find_jobs_of_runner(self, runner_name: str) -> tuple[WorkflowJob, ...]:
        """The jobs that GitHub says a runner has had."""
        return await self._find_jobs("runner.name", runner_name)

    async def find_jobs_by_id(self, job_id: int) -> tuple[WorkflowJob, ...]:
        return await self._find_jobs("jobId", job_id)

    async def _find_jobs(self, field_path: str, value: object) -> tuple[WorkflowJob, ...]:
        jobs = self._client.collection(workflow_job.COLLECTION)
        query = jobs.where(filter=firestore.FieldFilter(field_path, "==", value))
        return _readable(WorkflowJob.from_firestore, await self._list(query))

    async def change_runner(self, seen: SeenRunner, fields: Mapping[str, Any]) -> bool:
        """Changes a runner's document unless somebody else has done so meanwhile; None takes a field away."""
        changes = {name: firestore.DELETE_FIELD if value is None else value for name, value in fields.items()}
        return await self._guarded(self._runner(seen.runner.runner_name), changes, seen.version)

    async def _guarded(self, reference: Any, fields: dict[str, Any], version: datetime) -> bool:
        guard = self._client.write_option(last_update_time=version)
        try:
            with translated_errors():
                await reference.update(fields, option=guard, retry=RETRY, timeout=CALL_TIMEOUT_S)
        except Moved:
            return False
        return True

    async def read_cursor(self) -> Cursor:
        """Where the last run has left off; the beginning when nobody can tell."""
        with translated_errors():
            snapshot = await self._cursor.get(retry=RETRY, timeout=CALL_TIMEOUT_S)
        try:
            return Cursor.from_firestore((snapshot.to_dict() or {}) if snapshot.exists else {})
        except ValidationError:
            return Cursor()

    async def write_cursor(self, cursor: Cursor) -> None:
        """The last one to write wins: whoever goes on from an older place only looks twice."""
        with translated_errors():
            await self._cursor.set(cursor.to_firestore(), retry=RETRY, timeout=CALL_TIMEOUT_S)

    async def write_report(self, key: str, report: Report) -> None:
        with translated_errors():
            await (
                self._client.collection(reconcile.COLLECTION)
                .document(key)
                .set(report.to_firestore(), retry=RETRY, timeout=CALL_TIMEOUT_S)
            )

    @property
    def _cursor(self) -> Any:
        return self._client.collection(reconcile.COLLECTION).document(CURSOR_ID)

    async def _list(self, query: Any) -> Sequence[Any]:
        with translated_errors():
            found: Sequence[Any] = await query.get(retry=RETRY, timeout=_LIST_TIMEOUT_S)
        return found


def _readable(read: Callable[[dict[str, Any]], DocumentT], snapshots: Sequence[Any]) -> tuple[DocumentT, ...]:
    """What somebody has spoilt by hand is left out: the rest must go on."""
    found = []
    for snapshot in snapshots:
        try:
            found.append(read(snapshot.to_dict() or {}))
        except ValidationError:
            continue
    return tuple(found)


def _seen_runners(snapshots: Sequence[Any]) -> tuple[SeenRunner, ...]:
    found = []
    for snapshot in snapshots:
        try:
            found.append(SeenRunner(PendingRunner.from_firestore(snapshot.to_dict() or {}), snapshot.update_time))
        except ValidationError:
            continue
    return tuple(found)


def _seen_ledger(snapshot: Any) -> SeenLedger:
    fields = snapshot.to_dict() or {}
    try:
        return SeenLedger(read_ledger(snapshot.id, fields), snapshot.update_time)
    except Unreadable as error:
        return SeenLedger(ledger.salvage(fields), snapshot.update_time, str(error))
