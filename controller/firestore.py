"""The controller's door to Firestore: it watches pending runners, claims them, and writes back what became of them."""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from google.api_core.bidi import ResumableBidiRpc
from google.api_core.retry_async import AsyncRetry
from google.cloud import firestore
from google.cloud.firestore_v1 import watch

from functions.documents import command, host, installation, pending_runner, workflow_job
from functions.documents.command import Answer, Command
from functions.documents.firestore import TRANSIENT, translated_errors
from functions.documents.host import Host
from functions.documents.installation import Installation
from functions.documents.lifecycle import RunnerState
from functions.documents.pending_runner import PendingRunner
from functions.documents.workflow_job import WorkflowJob

_log = logging.getLogger("runyard.controller")

_TIMEOUT_S = 10.0
_RETRY = AsyncRetry(predicate=lambda error: isinstance(error, TRANSIENT), initial=0.1, maximum=2, timeout=_TIMEOUT_S)
MOST_WATCHED = 200
"""pending runners that are looked at; every change costs work for each document in the set"""

# Without throttling, an outage of Firestore costs a whole CPU in reconnects. The library's Watch does not ask for it.
watch.ResumableBidiRpc = functools.partial(ResumableBidiRpc, throttle_reopen=True)  # type: ignore[attr-defined,assignment]


@dataclass(frozen=True)
class Seen:
    """A pending runner and the version that a claim must name."""

    runner: PendingRunner
    version: datetime


class ControllerStore:
    """Every read and write of one host's controller."""

    def __init__(self, project: str, database: str):
        self._client = firestore.AsyncClient(project=project, database=database)
        self._watch_client = firestore.Client(project=project, database=database)

    def watch_pending(self, pool: str, on_change: Callable[[list[Seen]], None]) -> "PendingWatch":
        """Calls back, on a thread of its own, with all pending runners of a pool whenever one comes or goes."""
        return PendingWatch(_pending_query(self._watch_client, pool), on_change)

    async def list_pending(self, pool: str) -> list[Seen]:
        """The same by asking once: listeners can die without a word."""
        with translated_errors():
            snapshots = await _pending_query(self._client, pool).get(retry=_RETRY, timeout=_TIMEOUT_S)
        return _seen(snapshots)

    async def claim(self, seen: Sequence[Seen], changes: Mapping[str, Any]) -> None:
        """Moves runners from pending to scheduling in one commit, all or none, and takes the sealed configs out.

        Raises:
            Moved: another host, or an earlier attempt of ours, was first with one of them.
        """
        batch = self._client.batch()
        for one in seen:
            guard = self._client.write_option(last_update_time=one.version)
            fields = {**changes, "attempts": one.runner.attempts + 1, "sealedConfig": firestore.DELETE_FIELD}
            batch.update(self._runner(one.runner.runner_name), fields, option=guard)
        with translated_errors():
            await batch.commit(retry=_RETRY, timeout=_TIMEOUT_S)

    async def read_runner(self, runner_name: str) -> PendingRunner | None:
        with translated_errors():
            snapshot = await self._runner(runner_name).get(retry=_RETRY, timeout=_TIMEOUT_S)
        return PendingRunner.from_firestore(snapshot.to_dict() or {}) if snapshot.exists else None

    async def list_own_runners(self, host_id: str) -> list[PendingRunner]:
        """The runners that this host has claimed and that have not ended."""
        query = (
            self._client.collection(pending_runner.COLLECTION)
            .where(filter=firestore.FieldFilter("claim.hostId", "==", host_id))
            .where(filter=firestore.FieldFilter("status", "in", [RunnerState.SCHEDULING, RunnerState.SCHEDULED]))
        )
        with translated_errors():
            snapshots = await query.get(retry=_RETRY, timeout=_TIMEOUT_S)
        return [PendingRunner.from_firestore(snapshot.to_dict() or {}) for snapshot in snapshots]

    async def update_runner(self, runner_name: str, fields: Mapping[str, Any]) -> None:
        """Writes back how a runner of this host is doing."""
        with translated_errors():
            await self._runner(runner_name).update(dict(fields), retry=_RETRY, timeout=_TIMEOUT_S)

    async def fail_runner(self, runner_name: str, fields: Mapping[str, Any], command: Command) -> None:
        """Writes why a runner has failed, and asks for what has to be done about it, in one commit."""
        batch = self._client.batch()
        batch.update(self._runner(runner_name), dict(fields))
        batch.set(self._command(f"{runner_name}-{command.kind}"), command.to_firestore())
        with translated_errors():
            await batch.commit(retry=_RETRY, timeout=_TIMEOUT_S)

    async def write_command(self, command_id: str, command: Command) -> None:
        """Asks for something that only the functions can do."""
        with translated_errors():
            await self._command(command_id).set(command.to_firestore(), retry=_RETRY, timeout=_TIMEOUT_S)

    async def read_answer(self, command_id: str) -> Answer | None:
        with translated_errors():
            snapshot = await self._command(command_id).get(retry=_RETRY, timeout=_TIMEOUT_S)
        return Command.from_firestore(snapshot.to_dict() or {}).answer if snapshot.exists else None

    async def end_runner(self, runner_name: str, job_key: str | None, fields: Mapping[str, Any]) -> None:
        """Writes what a runner has left to say into its job, if that is known, and deletes its document, in one commit.

        Its place is given back by GitHub's `completed` webhook, which also admits those who wait.
        """
        batch = self._client.batch()
        batch.delete(self._runner(runner_name))
        if job_key is not None:
            batch.set(self._client.collection(workflow_job.COLLECTION).document(job_key), dict(fields), merge=True)
        with translated_errors():
            await batch.commit(retry=_RETRY, timeout=_TIMEOUT_S)

    async def merge_job(self, job_key: str, fields: Mapping[str, Any], rank: int) -> None:
        """Adds the controller's own fields to a job; its rank only ever rises."""
        reference = self._client.collection(workflow_job.COLLECTION).document(job_key)
        document = {**fields, "rank": firestore.Maximum(rank)}
        with translated_errors():
            await reference.set(document, merge=True, retry=_RETRY, timeout=_TIMEOUT_S)

    async def find_jobs(self, org: str, run_id: int, name: str) -> list[WorkflowJob]:
        """The jobs of a workflow run with a display name; names are not unique."""
        return await self._query_jobs(("org", org), ("runId", run_id), ("name", name))

    async def list_jobs_of_run(self, org: str, run_id: int) -> list[WorkflowJob]:
        """All jobs of a workflow run, of every attempt."""
        return await self._query_jobs(("org", org), ("runId", run_id))

    async def find_jobs_of_runner(self, runner_name: str) -> list[WorkflowJob]:
        """The jobs that GitHub says this runner has had."""
        return await self._query_jobs(("runner.name", runner_name))

    async def _query_jobs(self, *conditions: tuple[str, object]) -> list[WorkflowJob]:
        query: Any = self._client.collection(workflow_job.COLLECTION)
        for field_path, value in conditions:
            query = query.where(filter=firestore.FieldFilter(field_path, "==", value))
        with translated_errors():
            snapshots = await query.get(retry=_RETRY, timeout=_TIMEOUT_S)
        return [WorkflowJob.from_firestore(snapshot.to_dict() or {}) for snapshot in snapshots]

    async def read_installation(self, org: str) -> Installation | None:
        """An organization's policy, as it is written."""
        reference = self._client.collection(installation.COLLECTION).document(installation.installation_id(org))
        with translated_errors():
            snapshot = await reference.get(retry=_RETRY, timeout=_TIMEOUT_S)
        return Installation.from_firestore(snapshot.to_dict() or {}) if snapshot.exists else None

    async def write_host(self, description: Host) -> None:
        """The heartbeat; whether the host drains is an operator's word, and stays."""
        reference = self._client.collection(host.COLLECTION).document(description.host_id)
        fields = description.model_dump(by_alias=True, exclude={"is_draining"})
        with translated_errors():
            await reference.set(fields, merge=True, retry=_RETRY, timeout=_TIMEOUT_S)

    async def list_hosts(self, pool: str) -> list[Host]:
        query = self._client.collection(host.COLLECTION).where(filter=firestore.FieldFilter("pool", "==", pool))
        with translated_errors():
            snapshots = await query.get(retry=_RETRY, timeout=_TIMEOUT_S)
        return [Host.from_firestore(snapshot.to_dict() or {}) for snapshot in snapshots]

    def close(self) -> None:
        self._watch_client.close()  # type: ignore[no-untyped-call]

    def _command(self, command_id: str) -> Any:
        return self._client.collection(command.COLLECTION).document(command_id)

    def _runner(self, runner_name: str) -> Any:
        return self._client.collection(pending_runner.COLLECTION).document(runner_name)


class PendingWatch:
    """A listener on pending runners. It is only a doorbell: whoever uses it polls beside it."""

    def __init__(self, query: Any, on_change: Callable[[list[Seen]], None]):
        self._on_change = on_change
        self._watch = query.on_snapshot(self._on_snapshot)

    @property
    def is_active(self) -> bool:
        """Whether the listening thread lives; it may be deaf all the same."""
        return bool(self._watch.is_active)

    def close(self) -> None:
        self._watch.unsubscribe()

    def _on_snapshot(self, snapshots: Sequence[Any], changes: object, read_time: object) -> None:
        # An exception here would end the listener for good, and without a word.
        try:
            self._on_change(_seen(snapshots))
        except Exception:  # noqa: BLE001
            _log.exception("the listener on pending runners could not pass on a change")


def _pending_query(client: Any, pool: str) -> Any:
    return (
        client.collection(pending_runner.COLLECTION)
        .where(filter=firestore.FieldFilter("pool", "==", pool))
        .where(filter=firestore.FieldFilter("status", "==", RunnerState.PENDING))
        .order_by("createdAt")
        .limit(MOST_WATCHED)
    )


def _seen(snapshots: Sequence[Any]) -> list[Seen]:
    return [Seen(PendingRunner.from_firestore(s.to_dict() or {}), s.update_time) for s in snapshots]
