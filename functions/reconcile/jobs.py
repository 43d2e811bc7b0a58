"""Jobs that no webhook told us of: looked for in the repositories' workflow runs, and asked for one by one.

What is found goes the way of a webhook. GitHub has no list of all queued jobs, and a queued job may be in a run that is
in progress already.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

from ..documents.errors import StoreUnavailable
from ..documents.lifecycle import JobState
from ..documents.reconcile import Cursor
from ..documents.workflow_job import WorkflowJob, job_key
from ..github.errors import GitHubError
from ..github.listings import Repository
from ..github.survey import OutOfRequests
from ..routing.job import JobFacts
from ..webhook.event import Action, JobEvent, MalformedPayload, read_job
from ..webhook.handle import Reply
from .news import is_news
from .tally import Tally

MOST_REPOSITORIES = 1000
"""of which it is remembered when they were looked through"""
GONE_AFTER = {JobState.IN_PROGRESS: timedelta(days=5, hours=1)}
"""GitHub's own limits for how long a self-hosted job may run; for all states before, `QUEUED_AT_MOST` holds"""
QUEUED_AT_MOST = timedelta(hours=25)


class JobSurvey(Protocol):
    """What is asked of GitHub."""

    async def list_runs(self, repository: Repository) -> tuple[int, ...]: ...
    async def list_jobs(self, repository: Repository, run_id: int) -> tuple[Mapping[str, Any], ...]: ...
    async def read_job(self, repository: Repository, job_id: int) -> Mapping[str, Any] | None: ...


class JobStore(Protocol):
    """What is needed of the store."""

    async def read_jobs(self, keys: Sequence[str]) -> dict[str, WorkflowJob]: ...


class EventHandler(Protocol):
    """The way of a webhook."""

    async def handle(self, event: JobEvent) -> Reply: ...


class JobFinder:
    """Compares GitHub's jobs with ours, for one run."""

    def __init__(
        self,
        survey: JobSurvey,
        store: JobStore,
        handler: EventHandler,
        now: Callable[[], datetime],
        grace: timedelta,
    ):
        self._survey = survey
        self._store = store
        self._handler = handler
        self._now = now
        self._grace = grace
        self.told: dict[str, Action] = {}
        """what GitHub has said of each job in this run, by key"""

    async def look_through(
        self, repositories: Sequence[Repository], open_jobs: Sequence[WorkflowJob], cursor: Cursor, tally: Tally
    ) -> Cursor:
        """Looks through the runs that have not ended; the new cursor."""
        looked_at = dict(cursor.repositories)
        ours = {job.key: job for job in open_jobs}
        refusals: set[str] = set()
        for repository in in_order(repositories, open_jobs, looked_at):
            if tally.is_time_over:
                tally.leave_rest()
                break
            if repository.owner in refusals:
                continue
            try:
                await self._look_through(repository, ours, tally)
            except OutOfRequests as error:
                # Another owner's requests may count for themselves.
                refusals.add(repository.owner)
                tally.leave_rest(str(error))
            except (GitHubError, MalformedPayload, StoreUnavailable) as error:
                tally.note(f"{repository.full_name}: {error}")
            else:
                tally.count("repositories")
                looked_at[repository.full_name] = self._now()
        newest = sorted(looked_at.items(), key=lambda item: item[1])[-MOST_REPOSITORIES:]
        return cursor.model_copy(update={"repositories": dict(newest)})

    async def _look_through(self, repository: Repository, ours: Mapping[str, WorkflowJob], tally: Tally) -> None:
        for run_id in await self._survey.list_runs(repository):
            found = [
                event
                for document in await self._survey.list_jobs(repository, run_id)
                if isinstance(event := _read(document, repository), JobEvent)
            ]
            for event in found:
                self.told[key_of(event)] = event.action
            # Most jobs of a large run have ended and are known to have.
            asked = [e for e in found if e.action is not Action.COMPLETED or key_of(e) in ours]
            unknown = [key for event in asked if (key := key_of(event)) not in ours]
            known = {**ours, **(await self._store.read_jobs(unknown) if unknown else {})}
            for event in sorted(asked, key=lambda event: (event.created_at, event.job_id)):
                await self._take(event, known.get(key_of(event)), tally)

    async def ask(self, open_jobs: Sequence[WorkflowJob], cursor: Cursor, tally: Tally) -> Cursor:
        """Asks for those of our unfinished jobs that were in no list; the new cursor."""
        unseen = [job for job in open_jobs if job.key not in self.told]
        turn = [job for job in unseen if job.key > cursor.jobs_after]
        last = cursor.jobs_after
        for job in [*turn, *(job for job in unseen if job.key <= cursor.jobs_after)]:
            if tally.is_time_over:
                tally.leave_rest()
                break
            try:
                await self._ask(job, tally)
            except OutOfRequests as error:
                tally.leave_rest(str(error))
                break
            except (GitHubError, MalformedPayload, StoreUnavailable) as error:
                tally.note(f"{job.key}: {error}")
            last = job.key
        return cursor.model_copy(update={"jobs_after": last})

    async def _ask(self, job: WorkflowJob, tally: Tally) -> None:
        repository = repository_of(job)
        document = await self._survey.read_job(repository, job.job_id)
        tally.count("asked")
        if document is None:
            if is_gone(job, self._now()):
                # Nothing else will ever tell of its end.
                await self._handle(end_of(job, self._now()), tally, "gone")
            return
        event = _read(document, repository)
        if event is not None:
            self.told[job.key] = event.action
            await self._take(event, job, tally)

    async def _take(self, event: JobEvent, known: WorkflowJob | None, tally: Tally) -> None:
        if is_news(event, known, self._now(), self._grace):
            await self._handle(event, tally, str(event.action))

    async def _handle(self, event: JobEvent, tally: Tally, what: str) -> None:
        reply = await self._handler.handle(event)
        tally.count(what)
        for warning in reply.warnings:
            tally.note(f"{key_of(event)}: {warning}")


def in_order(
    repositories: Iterable[Repository], open_jobs: Iterable[WorkflowJob], looked_at: Mapping[str, datetime]
) -> list[Repository]:
    """Those with unfinished jobs of ours first, the busiest before the others; then who was not looked at longest."""
    busy = Counter(job.repository for job in open_jobs)
    by_name = {repository.full_name: repository for repository in repositories}
    by_name |= {job.repository: repository_of(job) for job in open_jobs if job.repository not in by_name}

    def rank(repository: Repository) -> tuple[int, float, str]:
        name = repository.full_name
        at = looked_at.get(name)
        return -busy[name], at.timestamp() if at is not None else 0.0, name

    return sorted(by_name.values(), key=rank)


def repository_of(job: WorkflowJob) -> Repository:
    """The repository of a job, as far as its document tells."""
    at_organization = job.plan is not None and job.plan.scope.startswith("/orgs/")
    return Repository(job.repository, at_organization)


def is_gone(job: WorkflowJob, now: datetime) -> bool:
    """Whether a job that GitHub does not show can have no end that we do not know of."""
    since = job.phases.started_at or job.phases.queued_at or job.phases.received_at
    return since is not None and now - since > GONE_AFTER.get(job.state, QUEUED_AT_MOST)


def end_of(job: WorkflowJob, now: datetime) -> JobEvent:
    """The end of a job of which GitHub has nothing left, as an event."""
    return JobEvent(
        action=Action.COMPLETED,
        owner=job.org,
        is_organization=repository_of(job).is_organizations,
        facts=JobFacts(job.repository, job.name, job.labels, job.workflow, job.branch),
        run_id=job.run_id,
        run_attempt=job.run_attempt,
        job_id=job.job_id,
        created_at=job.phases.queued_at or now,
        head_sha=job.head_sha,
        html_url=job.html_url,
        started_at=job.phases.started_at,
        completed_at=now,
        conclusion="unknown",
        runner_id=job.runner.id if job.runner is not None else None,
        runner_name=job.runner.name if job.runner is not None else None,
        installation_id=None,
    )


def key_of(event: JobEvent) -> str:
    return job_key(event.owner, event.run_id, event.job_id)


def _read(document: Mapping[str, Any], repository: Repository) -> JobEvent | None:
    event = read_job(document, repository.full_name, is_organization=repository.is_organizations)
    return event if isinstance(event, JobEvent) else None
