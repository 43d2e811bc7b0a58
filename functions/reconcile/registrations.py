"""Runners that are registered at GitHub and have neither a container nor a document any more: they are removed there.

A runner that has failed or was cancelled says so in its document: that is how a controller, which has no rights at
GitHub, asks for this. What has no document, as its function died at the wrong moment, is found in GitHub's own list.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Protocol

from ..documents.errors import StoreUnavailable
from ..documents.ledger import SeenLedger
from ..documents.lifecycle import LIVE
from ..documents.pending_runner import PendingRunner, SeenRunner
from ..documents.reconcile import Cursor, ScopeCursor
from ..documents.runner_name import read_runner_name
from ..documents.workflow_job import WorkflowJob
from ..github.errors import GitHubError, RunnerBusy
from ..github.protocol import RegisteredRunner, Scope
from ..github.survey import OutOfRequests
from .tally import Tally

LIST_EVERY = timedelta(minutes=10)
"""what is found there harms nobody meanwhile: it is offline"""
FORGET_AFTER = timedelta(days=2)
"""GitHub removes runners like ours after a day without a connection"""


class RegistrationSurvey(Protocol):
    """What is asked of GitHub."""

    async def find_runner(self, scope: Scope, name: str) -> RegisteredRunner | None: ...
    async def list_runners(self, scope: Scope) -> tuple[RegisteredRunner, ...]: ...
    async def delete_runner(self, scope: Scope, runner_id: int) -> None: ...


class RegistrationStore(Protocol):
    """What is needed of the store."""

    async def change_runner(self, seen: SeenRunner, fields: Mapping[str, Any]) -> bool: ...
    async def list_ledgers(self) -> Mapping[str, SeenLedger]: ...
    async def read_runners(self, names: Iterable[str]) -> dict[str, SeenRunner]: ...
    async def find_jobs_by_id(self, job_id: int) -> tuple[WorkflowJob, ...]: ...


async def remove_left(
    survey: RegistrationSurvey, store: RegistrationStore, left: Iterable[SeenRunner], tally: Tally
) -> None:
    """Removes those whose documents say that they have come to nothing."""
    for seen in left:
        if tally.is_time_over:
            tally.leave_rest()
            return
        try:
            if await _remove(survey, seen.runner, tally):
                await store.change_runner(seen, {"isRegistered": False})
        except OutOfRequests as error:
            tally.leave_rest(str(error))
            return
        except (GitHubError, StoreUnavailable) as error:
            tally.note(f"{seen.runner.runner_name}: {error}")


async def _remove(survey: RegistrationSurvey, runner: PendingRunner, tally: Tally) -> bool:
    """False when it has a job: it is asked for again in the next run."""
    scope, runner_id = Scope(runner.scope), runner.runner_id
    if not runner_id:
        # Given up before it was handed over: GitHub may have made it all the same.
        found = await survey.find_runner(scope, runner.runner_name)
        if found is None:
            return True
        runner_id = found.runner_id
    try:
        await survey.delete_runner(scope, runner_id)
    except RunnerBusy:
        tally.count("busy")
        return False
    tally.count("removed")
    return True


async def sweep(
    survey: RegistrationSurvey,
    store: RegistrationStore,
    scopes: Collection[str],
    cursor: Cursor,
    now: Callable[[], datetime],
    tally: Tally,
) -> Cursor:
    """Removes those of our runners in GitHub's lists that nobody here knows; the new cursor.

    Args:
        survey: asks GitHub.
        store: knows documents.
        scopes: paths of the organizations and repositories where runners of ours are registered.
        cursor: when each was last listed.
        now: the clock.
        tally: of this step.
    """
    known = {path: scope for path, scope in cursor.scopes.items() if scope.used_at + FORGET_AFTER > now()}
    for path in scopes:
        known[path] = known.get(path, ScopeCursor(used_at=now())).model_copy(update={"used_at": now()})
    for path in find_due(known, now()):
        if tally.is_time_over:
            tally.leave_rest()
            break
        try:
            await _sweep(survey, store, Scope(path), tally)
        except OutOfRequests as error:
            tally.leave_rest(str(error))
            break
        except (GitHubError, StoreUnavailable) as error:
            tally.note(f"runners of {path}: {error}")
        else:
            known[path] = known[path].model_copy(update={"listed_at": now()})
    return cursor.model_copy(update={"scopes": known})


def find_due(scopes: Mapping[str, ScopeCursor], now: datetime) -> list[str]:
    """Those that are to be listed now, the longest unseen first."""

    def seen_at(path: str) -> float:
        listed_at = scopes[path].listed_at
        return listed_at.timestamp() if listed_at is not None else 0.0

    return sorted(
        (path for path in scopes if now.timestamp() - seen_at(path) >= LIST_EVERY.total_seconds()), key=seen_at
    )


async def _sweep(survey: RegistrationSurvey, store: RegistrationStore, scope: Scope, tally: Tally) -> None:
    offline = {r.name: r for r in await survey.list_runners(scope) if not (r.is_online or r.is_busy)}
    # Read after the list: a runner has its place before it is registered, so this one may still be handed over.
    leases = {name for seen in (await store.list_ledgers()).values() for name in seen.ledger.leases}
    ours = [name for name in offline if name not in leases and read_runner_name(name) is not None]
    documents = await store.read_runners(ours)
    for name in ours:
        document = documents.get(name)
        if document is not None and document.runner.status in LIVE:
            continue
        if document is None and not await _was_ours(store, name):
            continue
        try:
            await survey.delete_runner(scope, offline[name].runner_id)
        except RunnerBusy:
            tally.count("busy")
        else:
            tally.count("swept")


async def _was_ours(store: RegistrationStore, name: str) -> bool:
    """Whether we have made it: another installation of Runyard may name its runners alike."""
    parsed = read_runner_name(name)
    if parsed is None or not parsed.job_id:
        return False
    jobs = await store.find_jobs_by_id(parsed.job_id)
    return any(job.plan is not None and job.reservation is not None for job in jobs)
