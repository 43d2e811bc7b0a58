"""One workflow_job event, from typed event to reply. The steps are in the order of the README's list."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol

from ..admission.plan import Admit, Decided, Known, Release, Request, Resize, Result
from ..documents.errors import StoreUnavailable
from ..documents.host import Host
from ..documents.installation import Installation, LastError, LastGood, has_policy
from ..documents.lifecycle import JobState
from ..documents.pending_runner import PendingRunner, RunnerProfile
from ..documents.sealing import seal
from ..documents.workflow_job import (
    KEPT_FOR,
    DecisionRecord,
    Phases,
    Provisioning,
    Reservation,
    RunnerRef,
    WorkflowJob,
    job_key,
)
from ..github.errors import GitHubError
from ..github.protocol import JitRunner, Scope
from ..routing.capacity import Size
from ..routing.classify import Match, classify
from ..routing.evaluate import Outcome
from ..routing.policy import RunnerLevel, Strategy
from .event import Action, Ignored, JobEvent, Ping
from .in_force import PolicyInForce

RUNNER_NAME_PREFIX = "ry-"


class JobStore(Protocol):
    """What handling an event needs of the store, besides admission."""

    async def read_installation(self, owner: str) -> Installation | None: ...
    async def note_good_policy(self, owner: str, good: LastGood) -> None: ...
    async def note_policy_error(self, owner: str, error: LastError) -> None: ...
    async def list_hosts(self, pool: str) -> tuple[Host, ...]: ...
    async def create_job(self, job: WorkflowJob) -> bool: ...
    async def read_job(self, key: str) -> WorkflowJob | None: ...
    async def merge_job(self, job: WorkflowJob) -> None: ...
    async def publish_runner(self, runner: PendingRunner, job: WorkflowJob) -> None: ...
    async def read_runner(self, runner_name: str) -> PendingRunner | None: ...
    async def cancel_runner(self, runner_name: str, reason: str, now: datetime) -> PendingRunner | None: ...


class Admissions(Protocol):
    """The ledgers of all pools."""

    async def submit(self, pool: str, request: Request) -> Result: ...


class RunnerRegistry(Protocol):
    """What is wanted of GitHub."""

    async def create_jit_runner(
        self, scope: Scope, name: str, group: str, labels: tuple[str, ...], installation_id: int | None
    ) -> JitRunner: ...

    async def delete_runner(self, scope: Scope, runner_id: int, installation_id: int | None) -> None: ...


@dataclass(frozen=True)
class Reply:
    """What the webhook is answered with, and what the log line says."""

    outcome: str
    reason: str
    job: str | None = None
    runner: str | None = None
    rule: str | None = None
    warnings: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "outcome": self.outcome,
            "reason": self.reason,
            "job": self.job,
            "runner": self.runner,
        }
        fields |= {"rule": self.rule or None, "warnings": list(self.warnings) or None}
        return {name: value for name, value in fields.items() if value is not None}


class WebhookHandler:
    """Applies events to the documents, the ledgers and GitHub."""

    def __init__(
        self,
        store: JobStore,
        admissions: Admissions,
        github: RunnerRegistry,
        now: Callable[[], datetime],
        new_runner_name: Callable[[], str],
    ):
        self._store = store
        self._admissions = admissions
        self._github = github
        self._now = now
        self._new_runner_name = new_runner_name
        self._policies = PolicyInForce()

    async def handle(self, event: JobEvent | Ping | Ignored) -> Reply:
        """Makes an event durable and acts on it.

        Raises:
            StoreUnavailable, StoreRefused: nothing durable was written; GitHub should deliver it again.
        """
        match event:
            case Ping(zen):
                return Reply("pong", zen)
            case Ignored(reason):
                return Reply("ignored", reason)
            case JobEvent(action=Action.QUEUED):
                return await self._queued(event)
            case JobEvent(action=Action.IN_PROGRESS):
                return await self._in_progress(event)
            case JobEvent():
                return await self._completed(event)

    async def _queued(self, event: JobEvent) -> Reply:
        now = self._now()
        job = _facts_of(event, JobState.QUEUED, Phases(queued_at=event.created_at, received_at=now), now)
        installation = await self._store.read_installation(event.owner)
        if installation is None or not has_policy(installation):
            return await self._ignore(job, f"no policy for {event.owner}: publish one with policies/publish.py")
        in_force = self._policies.resolve(event.owner, installation, now)
        await self._note_edit(event.owner, in_force.note_good, in_force.note_error)
        warnings = tuple(f"policy not in force: {problem}" for problem in in_force.problems)
        if in_force.policy is None:
            reply = await self._ignore(job, f"the policy of {event.owner} is not valid, and there is no earlier one")
            return replace(reply, warnings=warnings)
        if not event.facts.labels:
            # A job for a runner group alone: GitHub does not name the group until a runner has the job.
            return await self._ignore(job, "the job names no labels")
        rules = classify(in_force.policy, event.facts)
        if rules is None:
            return await self._ignore(job, f"no route matches labels {', '.join(event.facts.labels)}")
        if rules.route.strategy is Strategy.GITHUB_HOSTED:
            reason = "the route's strategy is github_hosted"
            return await self._record(job, Outcome.GITHUB_HOSTED, reason, f"{rules.rule}.strategy")
        reply = await self._admit(event, job, rules, in_force.revision)
        return replace(reply, warnings=warnings)

    async def _note_edit(self, owner: str, good: LastGood | None, error: LastError | None) -> None:
        if good is not None:
            await self._store.note_good_policy(owner, good)
        if error is not None:
            await self._store.note_policy_error(owner, error)

    async def _ignore(self, job: WorkflowJob, reason: str) -> Reply:
        return await self._record(job, Outcome.IGNORED, reason, "")

    async def _record(self, job: WorkflowJob, outcome: Outcome, reason: str, rule: str) -> Reply:
        decided = job.model_copy(update={"decision": DecisionRecord(outcome=outcome, reason=reason, rule=rule)})
        if not await self._store.create_job(decided):
            return _known(job.key)
        return Reply(outcome, reason, job.key, rule=rule)

    async def _admit(self, event: JobEvent, job: WorkflowJob, rules: Match, revision: int) -> Reply:
        hosts = [host for host in await self._store.list_hosts(rules.scale_set.pool) if host.is_available(self._now())]
        request = Admit(job, rules, tuple(host.size for host in hosts), revision, self._new_runner_name())
        result = await self._admissions.submit(rules.scale_set.pool, request)
        if isinstance(result, Known):
            return _known(job.key)
        assert isinstance(result, Decided)  # noqa: S101 - the type of an Admit's result
        decision = result.job.decision
        assert decision is not None  # noqa: S101
        reservation = result.job.reservation
        if reservation is None:
            return Reply(decision.outcome, decision.reason, job.key, rule=decision.rule)
        failure = await self._provision(event, result.job, reservation, rules, hosts)
        if failure is not None:
            return Reply("failed", failure, job.key, rule=decision.rule)
        return Reply(decision.outcome, decision.reason, job.key, reservation.runner_name, decision.rule)

    async def _provision(
        self, event: JobEvent, job: WorkflowJob, reservation: Reservation, rules: Match, hosts: list[Host]
    ) -> str | None:
        """Gets the reserved place its runner; the reason in words when that fails, and then the place is given back."""
        scope = _scope_of(event, rules.scale_set.level)
        labels = rules.scale_set.labels or event.facts.labels
        name = reservation.runner_name
        try:
            runner = await self._github.create_jit_runner(
                scope, name, rules.scale_set.runner_group, labels, event.installation_id
            )
        except GitHubError as error:
            await self._give_back(job, reservation, str(error), error.retry_at)
            return str(error)
        now = self._now()
        pending = PendingRunner(
            runner_name=name,
            org=event.owner,
            repository=event.facts.repository,
            job_key=job.key,
            job_name=event.facts.name,
            runner_id=runner.runner_id,
            scope=scope.path,
            labels=labels,
            scale_set=rules.scale_set_name,
            pool=rules.scale_set.pool,
            image=rules.image,
            profile=RunnerProfile(
                name=rules.profile_name,
                cpu_millis=rules.profile.cpu_millis,
                memory_bytes=rules.profile.memory_bytes,
                pids=rules.profile.pids,
                privileges=rules.profile.privileges,
                env=rules.profile.env,
            ),
            sealed_config=seal(runner.config, {host.host_id: host.public_key for host in hosts}),
            created_at=now,
        )
        progress = _progress_of(job, JobState.PROVISIONED, phases=Phases(provisioned_at=now))
        try:
            await self._store.publish_runner(pending, progress)
        except StoreUnavailable as error:
            # The reservation is durable, so the delivery has succeeded: reconciling finishes or undoes it.
            return f"reserved and registered, but not handed to a host: {error}"
        return None

    async def _give_back(
        self, job: WorkflowJob, reservation: Reservation, failure: str, retry_at: datetime | None
    ) -> None:
        await self._admissions.submit(reservation.pool, Release(reservation.runner_name))
        provisioning = Provisioning(failure=failure, retry_at=retry_at)
        await self._store.merge_job(_progress_of(job, JobState.RESERVED, provisioning=provisioning))

    async def _in_progress(self, event: JobEvent) -> Reply:
        known = await self._store.read_job(job_key(event.owner, event.run_id, event.job_id))
        await self._follow_runner(event, known)
        job = _facts_of(event, JobState.IN_PROGRESS, Phases(started_at=event.started_at), self._now())
        await self._store.merge_job(_with_runner(job, event))
        return Reply("recorded", "in progress", job.key, event.runner_name)

    async def _follow_runner(self, event: JobEvent, known: WorkflowJob | None) -> None:
        """A runner that got another job than the one that it was made for holds that job's size from now on."""
        decision = known.decision if known is not None else None
        if event.runner_name is None or known is None or decision is None:
            return
        if known.reservation is not None and known.reservation.runner_name == event.runner_name:
            return
        if decision.profile is None or decision.cpu_millis is None or decision.memory_bytes is None:
            return
        runner = await self._read_own_runner(event.runner_name)
        if runner is not None:
            size = Size(decision.cpu_millis, decision.memory_bytes)
            await self._admissions.submit(runner.pool, Resize(event.runner_name, decision.profile, size))

    async def _completed(self, event: JobEvent) -> Reply:
        known = await self._store.read_job(job_key(event.owner, event.run_id, event.job_id))
        phases = Phases(started_at=event.started_at, completed_at=event.completed_at)
        if event.started_at is None:
            phases = Phases(completed_at=event.completed_at)
        job = _facts_of(event, JobState.COMPLETED, phases, self._now())
        update: dict[str, Any] = {"conclusion": event.conclusion, "expire_at": self._now() + KEPT_FOR}
        if event.started_at is not None and event.completed_at is not None:
            update["duration_seconds"] = (event.completed_at - event.started_at).total_seconds()
        # The release comes first: if it fails, GitHub delivers the event again and nothing has been concluded.
        warnings = await self._free_place(event, known)
        await self._store.merge_job(_with_runner(job.model_copy(update=update), event))
        reason = f"completed with {event.conclusion}"
        return Reply("recorded", reason, job.key, event.runner_name, warnings=warnings)

    async def _free_place(self, event: JobEvent, known: WorkflowJob | None) -> tuple[str, ...]:
        reservation = known.reservation if known is not None else None
        if event.runner_name is None:
            return () if reservation is None else await self._cancel_unclaimed(event, reservation)
        if reservation is not None and reservation.runner_name == event.runner_name:
            await self._admissions.submit(reservation.pool, Release(event.runner_name))
            return ()
        runner = await self._read_own_runner(event.runner_name)
        if runner is not None:
            await self._admissions.submit(runner.pool, Release(event.runner_name))
        return ()

    async def _cancel_unclaimed(self, event: JobEvent, reservation: Reservation) -> tuple[str, ...]:
        """The job ended before a runner took it. A runner that is up already stays: GitHub gives it another job."""
        reason = f"the job ended ({event.conclusion}) before a host claimed its runner"
        runner = await self._store.cancel_runner(reservation.runner_name, reason, self._now())
        if runner is None:
            return ()
        await self._admissions.submit(reservation.pool, Release(reservation.runner_name))
        try:
            await self._github.delete_runner(Scope(runner.scope), runner.runner_id, event.installation_id)
        except GitHubError as error:
            return (f"runner {runner.runner_name} stays registered at GitHub: {error}",)
        return ()

    async def _read_own_runner(self, runner_name: str) -> PendingRunner | None:
        if not runner_name.startswith(RUNNER_NAME_PREFIX):
            return None
        return await self._store.read_runner(runner_name)


def _known(key: str) -> Reply:
    return Reply("duplicate", "the job is known: a redelivery, or a later event came first", key)


def _scope_of(event: JobEvent, level: RunnerLevel) -> Scope:
    """Users have no organization-level runners."""
    if level is RunnerLevel.ORGANIZATION and event.is_organization:
        return Scope.organization(event.owner)
    return Scope.repository(event.facts.repository)


def _facts_of(event: JobEvent, state: JobState, phases: Phases, now: datetime) -> WorkflowJob:
    """The job as one event tells it."""
    return WorkflowJob(
        org=event.owner,
        repository=event.facts.repository,
        run_id=event.run_id,
        run_attempt=event.run_attempt,
        job_id=event.job_id,
        name=event.facts.name,
        labels=event.facts.labels,
        workflow=event.facts.workflow,
        branch=event.facts.branch,
        head_sha=event.head_sha,
        html_url=event.html_url,
        rank=state,
        phases=phases,
        expire_at=now + KEPT_FOR,
    )


def _with_runner(job: WorkflowJob, event: JobEvent) -> WorkflowJob:
    if event.runner_name is None or event.runner_id is None:
        return job
    return job.model_copy(update={"runner": RunnerRef(name=event.runner_name, id=event.runner_id)})


def _progress_of(job: WorkflowJob, state: JobState, **fields: Any) -> WorkflowJob:
    """Only what identifies the job and these fields: the rest of the document is not touched."""
    return WorkflowJob(
        org=job.org,
        repository=job.repository,
        run_id=job.run_id,
        run_attempt=job.run_attempt,
        job_id=job.job_id,
        name=job.name,
        labels=job.labels,
        rank=state,
        **fields,
    )
