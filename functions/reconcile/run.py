"""One run: the steps one after the other, each within its time and its requests, and a report of what they did.

Runs follow each other once a minute, and two at once do no harm: whatever a step does is either the same when it is
done twice, or guarded by the version of a document. A run that is killed is continued by the next.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

from ..admission.terms import Account
from ..documents.errors import StoreRefused, StoreUnavailable
from ..documents.host import Host
from ..documents.in_force import PolicyInForce
from ..documents.pending_runner import SeenRunner
from ..documents.reconcile import KEPT_FOR, Cursor, Report, StepReport
from ..documents.reconcile_store import ReconcileStore
from ..documents.workflow_job import WorkflowJob
from ..github.client import GitHubClient
from ..github.errors import GitHubError
from ..github.listings import Repository
from ..github.protocol import Scope
from ..github.survey import KeptAnswers, OutOfRequests
from ..github.survey import Survey as GitHubSurvey
from ..settings import ReconcileSettings
from ..webhook.handle import WebhookHandler
from ..webhook.provision import Provisioner
from .deliveries import DeliverySurvey, find_hooks, redeliver_failed
from .jobs import EventHandler, JobFinder, JobSurvey
from .places import Admissions, FollowUp, Places, PlaceStore, list_open_jobs
from .registrations import RegistrationStore, RegistrationSurvey, remove_left, sweep
from .runners import RunnerStore, RunnerSurvey, look_after
from .tally import Step, Tally

WITHIN_S = 50.0
"""the scheduler starts another run after 60 s"""
_log = logging.getLogger("runyard.reconcile")


class Survey(DeliverySurvey, JobSurvey, RunnerSurvey, RegistrationSurvey, Protocol):
    """Everything that is asked of GitHub."""

    @property
    def requests(self) -> int: ...
    def allow(self, requests: float) -> None: ...
    async def list_repositories(self, owner: str) -> tuple[Repository, ...]: ...


class Store(PlaceStore, RunnerStore, RegistrationStore, Protocol):
    """Everything that is needed of the store."""

    async def list_owners(self) -> tuple[str, ...]: ...
    async def list_all_hosts(self) -> tuple[Host, ...]: ...
    async def list_left_runners(self) -> tuple[SeenRunner, ...]: ...
    async def read_cursor(self) -> Cursor: ...
    async def write_cursor(self, cursor: Cursor) -> None: ...
    async def write_report(self, key: str, report: Report) -> None: ...


class Run:
    """What the steps of one run share."""

    def __init__(
        self,
        survey: Survey,
        store: Store,
        handler: EventHandler,
        admissions: Admissions,
        follow_up: FollowUp,
        policies: PolicyInForce,
        settings: ReconcileSettings,
        now: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ):
        self._survey = survey
        self._store = store
        self._settings = settings
        self._now = now
        self._sleep = sleep
        self._grace = timedelta(seconds=settings.grace_s)
        self._finder = JobFinder(survey, store, handler, now, self._grace)
        self._places = Places(store, admissions, follow_up, policies, now, self._grace)
        self._cursor = Cursor()
        self._owners: tuple[str, ...] = ()
        self._repositories: list[Repository] = []
        self._open_jobs: tuple[WorkflowJob, ...] = ()
        self._hosts: tuple[Host, ...] = ()
        self._dropped: set[str] = set()

    @property
    def steps(self) -> Sequence[Step]:
        """In this order: what GitHub has told comes first, then what follows from it."""
        return (
            Step("overview", 5, 0.1, self._look_around),
            Step("deliveries", 8, 0.2, self._redeliver),
            Step("jobs", 12, 0.4, self._find_jobs),
            Step("unseen", 6, 0.1, self._ask_for_jobs),
            Step("runners", 6, 0.1, self._look_after_runners),
            Step("places", 20, 0, self._mend_places),
            Step("registrations", 6, 0.1, self._remove_registrations),
        )

    async def run(self) -> Report:
        """Everything; what goes wrong in one step does not keep the others from being done.

        Raises:
            StoreUnavailable, StoreRefused: not even the cursor can be read.
        """
        started_at, started, loop = self._now(), time.monotonic(), asyncio.get_running_loop()
        self._cursor = await self._store.read_cursor()
        until = loop.time() + WITHIN_S
        reports = []
        for step in self.steps:
            self._survey.allow(step.requests * self._settings.requests)
            reports.append(await _work(step, min(until, loop.time() + step.within_s)))
            await self._save_cursor()
        report = Report(
            started_at=started_at,
            took_ms=round((time.monotonic() - started) * 1000, 1),
            requests=self._survey.requests,
            steps=tuple(reports),
            expire_at=started_at + KEPT_FOR,
        )
        await self._store.write_report(f"{started_at:%Y-%m-%dT%H:%M:%S}-{secrets.token_hex(3)}", report)
        return report

    async def _save_cursor(self) -> None:
        """After every step: a run that is killed is continued where it was."""
        await self._store.write_cursor(self._cursor)

    # steps

    async def _look_around(self, tally: Tally) -> None:
        self._owners = await self._store.list_owners()
        self._hosts = await self._store.list_all_hosts()
        self._open_jobs = await list_open_jobs(self._store)
        for owner in self._owners:
            try:
                self._repositories += await self._survey.list_repositories(owner)
            except OutOfRequests as error:
                tally.leave_rest(str(error))
            except GitHubError as error:
                tally.note(f"repositories of {owner}: {error}")

    async def _redeliver(self, tally: Tally) -> None:
        hooks = await find_hooks(self._survey, self._hook_scopes(), self._settings.webhook_url, tally)
        self._cursor = await redeliver_failed(self._survey, self._cursor, hooks, self._now, tally, self._sleep)

    def _hook_scopes(self) -> list[Scope]:
        """Organizations have webhooks of their own, and so have the repositories of users."""
        organizations = {r.owner.lower(): Scope.organization(r.owner) for r in self._repositories if r.is_organizations}
        users = [repository.scope for repository in self._repositories if not repository.is_organizations]
        return [*organizations.values(), *users]

    async def _find_jobs(self, tally: Tally) -> None:
        self._cursor = await self._finder.look_through(self._repositories, self._open_jobs, self._cursor, tally)

    async def _ask_for_jobs(self, tally: Tally) -> None:
        self._cursor = await self._finder.ask(self._open_jobs, self._cursor, tally)

    async def _look_after_runners(self, tally: Tally) -> None:
        self._open_jobs = await list_open_jobs(self._store)
        busy = {job.runner.name for job in self._open_jobs if job.runner is not None}
        live = await self._store.list_live_runners()
        self._dropped = await look_after(
            self._survey, self._store, live, self._hosts, busy, self._now, self._grace, tally
        )

    async def _mend_places(self, tally: Tally) -> None:
        await self._places.mend(self._finder.told, self._dropped, self._hosts, self._accounts(), tally)

    def _accounts(self) -> list[Account]:
        """The owners as GitHub writes them; whoever it has shown nothing of is left alone in this run."""
        shown = {r.owner.lower(): Account(r.owner, r.is_organizations) for r in self._repositories}
        for job in self._open_jobs:
            if job.plan is not None and job.plan.scope.startswith("/orgs/"):
                shown.setdefault(job.org.lower(), Account(job.org, True))
        return [shown[owner] for owner in self._owners if owner in shown]

    async def _remove_registrations(self, tally: Tally) -> None:
        left = await self._store.list_left_runners()
        await remove_left(self._survey, self._store, left, tally)
        self._cursor = await sweep(self._survey, self._store, self._runner_scopes(left), self._cursor, self._now, tally)

    def _runner_scopes(self, left: Iterable[SeenRunner]) -> set[str]:
        """Where runners of ours may be registered, whether we still know of one or not."""
        owners = {Scope.organization(r.owner) if r.is_organizations else r.scope for r in self._repositories}
        planned = {job.plan.scope for job in self._open_jobs if job.plan is not None}
        return {scope.path for scope in owners} | planned | {seen.runner.scope for seen in left if seen.runner.scope}


class Reconciler:
    """Makes runs; keeps what is worth keeping from one to the next."""

    def __init__(
        self,
        store: ReconcileStore,
        admissions: Admissions,
        github: GitHubClient,
        settings: ReconcileSettings,
        now: Callable[[], datetime],
    ):
        self._store = store
        self._admissions = admissions
        self._github = github
        self._settings = settings
        self._now = now
        self._handler = WebhookHandler(store, admissions, github, now)
        self._provisioner = Provisioner(store, admissions, github, now)
        self._policies = PolicyInForce()
        self._kept = KeptAnswers()

    async def run(self) -> Report:
        """One run, from the beginning to its report."""
        return await Run(
            GitHubSurvey(self._github, self._kept, self._now),
            self._store,
            self._handler,
            self._admissions,
            self._provisioner.follow_up,
            self._policies,
            self._settings,
            self._now,
        ).run()


async def _work(step: Step, until: float) -> StepReport:
    """One step; it stops by itself when its time is over, and is stopped when it does not."""
    tally, started = Tally(step.name, until), time.monotonic()
    try:
        async with asyncio.timeout_at(until + _MAY_LINGER_S):
            await step.work(tally)
    except TimeoutError:
        tally.leave_rest(f"stopped after {step.within_s:g} s")
    except (StoreUnavailable, StoreRefused) as error:
        tally.leave_rest(str(error))
    except Exception as error:  # noqa: BLE001 - a fault in one step must not keep the others from healing
        _log.exception("reconcile step %s failed", step.name)
        tally.leave_rest(f"failed: {type(error).__name__}: {error}")
    return tally.to_report(round((time.monotonic() - started) * 1000, 1))


_MAY_LINGER_S = 2.0
"""for the call that is under way"""


def summarize(report: Report) -> dict[str, Any]:
    """The report as one flat line: what was done, how often, and what went wrong."""
    fields: dict[str, Any] = {"outcome": "reconciled", "requests": report.requests}
    for step in report.steps:
        fields |= {f"{step.name}.{what.replace(' ', '_')}": number for what, number in step.done.items()}
    notes = [f"{step.name}: {note}" for step in report.steps for note in step.notes]
    incomplete = [step.name for step in report.steps if not step.is_complete]
    return fields | ({"incomplete": incomplete} if incomplete else {}) | ({"notes": notes} if notes else {})
