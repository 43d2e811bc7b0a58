"""One workflow_job event, from typed event to reply. The steps are in the order of the README's list."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from ..admission.group import Settled
from ..admission.requests import Admit, Decided, Forget, Known, MakeIdle, Release, Request, Resize
from ..documents.in_force import PolicyInForce
from ..documents.installation import Installation, LastError, LastGood, has_policy
from ..documents.ledger import Switch
from ..documents.lifecycle import JobState
from ..documents.pending_runner import PendingRunner
from ..documents.runner_name import RunnerName, read_runner_name
from ..documents.workflow_job import (
    KEPT_FOR,
    DecisionRecord,
    Phases,
    Reservation,
    RunnerPlan,
    RunnerProfile,
    RunnerRef,
    SizingRules,
    WorkflowJob,
    job_key,
)
from ..github.errors import GitHubError
from ..github.protocol import RunFacts, Scope
from ..routing.classify import CompiledPolicy, Match
from ..routing.evaluate import Outcome
from ..routing.job import JobFacts, Trust
from ..routing.policy import Mechanism, Overflow, RunnerLevel, Strategy
from .event import Action, Ignored, JobEvent, Ping
from .provision import Provisioner, ProvisionStore, RunnerRegistry, scope_of


class JobStore(ProvisionStore, Protocol):
    """What handling an event needs of the store, besides admission."""

    async def read_installation(self, owner: str) -> Installation | None: ...
    async def note_good_policy(self, owner: str, good: LastGood) -> None: ...
    async def note_policy_error(self, owner: str, error: LastError) -> None: ...
    async def create_job(self, job: WorkflowJob) -> bool: ...
    async def read_job(self, key: str) -> WorkflowJob | None: ...
    async def cancel_runner(self, runner_name: str, reason: str, now: datetime) -> PendingRunner | None: ...


class Admissions(Protocol):
    """The ledgers of all pools."""

    async def submit(self, pool: str, request: Request) -> Settled: ...


class GitHub(RunnerRegistry, Protocol):
    """What is wanted of GitHub."""

    async def delete_runner(self, scope: Scope, runner_id: int, installation_id: int | None) -> None: ...
    async def read_run(self, repository: str, run_id: int, installation_id: int | None) -> RunFacts: ...
    async def cancel_run(self, repository: str, run_id: int, installation_id: int | None) -> None: ...


@dataclass(frozen=True)
class Reply:
    """What the webhook is answered with, and what the log line says."""

    outcome: str
    reason: str
    job: str | None = None
    runner: str | None = None
    rule: str | None = None
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "outcome": self.outcome,
            "reason": self.reason,
            "job": self.job,
            "runner": self.runner,
            "rule": self.rule or None,
            "warnings": list(self.warnings) or None,
        }
        return {name: value for name, value in fields.items() if value is not None}

    def warning(self, *more: str) -> "Reply":
        """The same reply with more warnings."""
        return replace(self, warnings=(*self.warnings, *more))


class WebhookHandler:
    """Applies events to the documents, the ledgers and GitHub."""

    def __init__(self, store: JobStore, admissions: Admissions, github: GitHub, now: Callable[[], datetime]):
        self._store = store
        self._admissions = admissions
        self._github = github
        self._now = now
        self._policies = PolicyInForce()
        self._provisioner = Provisioner(store, admissions, github, now)

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

    # queued

    async def _queued(self, event: JobEvent) -> Reply:
        now = self._now()
        job = _facts_of(event, JobState.QUEUED, Phases(queued_at=event.created_at, received_at=now), now)
        installation = await self._store.read_installation(event.owner)
        if installation is None or not has_policy(installation):
            return await self._ignore(job, f"no policy for {event.owner}: publish one with runyard policy push")
        in_force = self._policies.resolve(event.owner, installation, now)
        await self._note_edit(event.owner, in_force.note_good, in_force.note_error)
        warnings = tuple(f"policy not in force: {problem}" for problem in in_force.problems)
        if in_force.policy is None:
            reason = f"the policy of {event.owner} is not valid, and there is no earlier one"
            return (await self._ignore(job, reason)).warning(*warnings)
        reply = await self._route(event, job, in_force.policy, in_force.revision)
        return reply.warning(*warnings)

    async def _note_edit(self, owner: str, good: LastGood | None, error: LastError | None) -> None:
        if good is not None:
            await self._store.note_good_policy(owner, good)
        if error is not None:
            await self._store.note_policy_error(owner, error)

    async def _route(self, event: JobEvent, job: WorkflowJob, policy: CompiledPolicy, revision: int) -> Reply:
        if not event.facts.labels:
            # A job for a runner group alone: GitHub does not name the group until a runner has the job.
            return await self._ignore(job, "the job names no labels")
        facts = await self._learn_run(event) if policy.needs_run else event.facts
        rules = policy.classify(facts)
        if rules is None:
            return await self._ignore(job, f"no route matches labels {', '.join(facts.labels)}")
        if rules.route.strategy is Strategy.GITHUB_HOSTED:
            reason = "the route's strategy is github_hosted"
            return await self._record(job, Outcome.GITHUB_HOSTED, reason, f"{rules.rule}.strategy")
        job = job.model_copy(update={"plan": plan_runner(event, rules)})
        overflow = policy.policy.overflow
        grace = timedelta(seconds=overflow.grace) if overflow is not None else None
        at_organization = event.is_organization and rules.scale_set.level is RunnerLevel.ORGANIZATION
        scope = scope_of(event.owner, event.facts.repository, at_organization=at_organization)
        switch = plan_switch(policy, rules, scope, event.installation_id)
        request = Admit(job, rules, revision, grace, switch)
        return await self._admit(event, request)

    async def _learn_run(self, event: JobEvent) -> JobFacts:
        """What a webhook does not tell. A run that GitHub does not show is trusted no more than a fork's."""
        try:
            run = await self._github.read_run(event.facts.repository, event.run_id, event.installation_id)
        except GitHubError:
            return replace(event.facts, trust=Trust.FORK)
        is_own = run.head_repository is not None and run.head_repository.lower() == event.facts.repository.lower()
        return replace(event.facts, event=run.event, trust=Trust.TRUSTED if is_own else Trust.FORK)

    async def _ignore(self, job: WorkflowJob, reason: str) -> Reply:
        return await self._record(job, Outcome.IGNORED, reason, "")

    async def _record(self, job: WorkflowJob, outcome: Outcome, reason: str, rule: str) -> Reply:
        decided = job.model_copy(update={"decision": DecisionRecord(outcome=outcome, reason=reason, rule=rule)})
        if not await self._store.create_job(decided):
            return _known(job.key)
        return Reply(outcome, reason, job.key, rule=rule)

    async def _admit(self, event: JobEvent, request: Admit) -> Reply:
        key = request.job.key
        settled = await self._admissions.submit(request.match.scale_set.pool, request)
        warnings = await self._provisioner.follow_up(settled)
        match settled.result:
            case Decided(job):
                reply = await self._act_on(event, request.match, job)
            case Known() | _:
                reply = _known(key)
        return reply.warning(*warnings)

    async def _act_on(self, event: JobEvent, rules: Match, job: WorkflowJob) -> Reply:
        decision = job.decision or DecisionRecord(outcome="", reason="")
        runner = job.reservation.runner_name if job.reservation is not None else None
        reply = Reply(decision.outcome, decision.reason, job.key, runner, decision.rule)
        if decision.outcome == Outcome.REJECTED and rules.route.overflow is Overflow.REJECT and rules.route.cancel:
            return reply.warning(*await self._cancel_run(event))
        if (failure := await self._provisioner.provide(job)) is not None:
            return Reply("failed", failure, job.key, rule=decision.rule)
        return reply

    async def _cancel_run(self, event: JobEvent) -> tuple[str, ...]:
        try:
            await self._github.cancel_run(event.facts.repository, event.run_id, event.installation_id)
        except GitHubError as error:
            return (f"the run was not cancelled: {error}",)
        return ("the run was cancelled (cancel: true)",)

    # in_progress

    async def _in_progress(self, event: JobEvent) -> Reply:
        name = read_runner_name(event.runner_name or "")
        warnings: tuple[str, ...] = ()
        if name is None or name.job_id != event.job_id:
            warnings = await self._follow_runner(event, name)
        job = _facts_of(event, JobState.IN_PROGRESS, Phases(started_at=event.started_at), self._now())
        await self._store.merge_job(_with_runner(job, event))
        return Reply("recorded", "in progress", job.key, event.runner_name, warnings=warnings)

    async def _follow_runner(self, event: JobEvent, name: RunnerName | None) -> tuple[str, ...]:
        """The job is on another runner than the one that was made for it, or on somebody else's."""
        known = await self._store.read_job(_key_of(event))
        if known is None or known.plan is None:
            return ()
        if name is None or event.runner_name is None:
            return await self._leave_to_others(known)
        profile = known.plan.profile
        settled = await self._admissions.submit(
            name.pool, Resize(event.runner_name, profile.name, profile.size, known.key)
        )
        warnings = await self._provisioner.follow_up(settled)
        if known.reservation is None and known.decision is not None and known.decision.pool is not None:
            # It waited, and an idle runner took it.
            settled = await self._admissions.submit(known.decision.pool, Forget(known.key))
            warnings += await self._provisioner.follow_up(settled)
        return warnings

    async def _leave_to_others(self, job: WorkflowJob) -> tuple[str, ...]:
        """The job needs nothing here any more: it waits no longer, and a runner that was made for it is free."""
        warnings: tuple[str, ...] = ()
        if job.reservation is not None:
            settled = await self._admissions.submit(job.reservation.pool, MakeIdle(job.reservation.runner_name))
            warnings += await self._provisioner.follow_up(settled)
        if job.decision is not None and job.decision.pool is not None:
            settled = await self._admissions.submit(job.decision.pool, Forget(job.key))
            warnings += await self._provisioner.follow_up(settled)
        return warnings

    # completed

    async def _completed(self, event: JobEvent) -> Reply:
        phases = Phases(completed_at=event.completed_at)
        update: dict[str, Any] = {"conclusion": event.conclusion, "expire_at": self._now() + KEPT_FOR}
        if event.started_at is not None:
            phases = Phases(started_at=event.started_at, completed_at=event.completed_at)
        if event.started_at is not None and event.completed_at is not None:
            update["duration_seconds"] = (event.completed_at - event.started_at).total_seconds()
        # The release comes first: if it fails, GitHub delivers the event again and nothing has been concluded.
        warnings = await self._free_place(event)
        job = _facts_of(event, JobState.COMPLETED, phases, self._now()).model_copy(update=update)
        await self._store.merge_job(_with_runner(job, event))
        return Reply("recorded", f"completed with {event.conclusion}", job.key, event.runner_name, warnings=warnings)

    async def _free_place(self, event: JobEvent) -> tuple[str, ...]:
        """A lease belongs to the runner: whoever had the job gives it back."""
        name = read_runner_name(event.runner_name or "")
        if name is not None and event.runner_name is not None:
            settled = await self._admissions.submit(name.pool, Release(event.runner_name))
            return await self._provisioner.follow_up(settled)
        known = await self._store.read_job(_key_of(event))
        if known is None:
            return ()
        warnings: tuple[str, ...] = ()
        if event.runner_name is None and known.reservation is not None:
            warnings = await self._cancel_unclaimed(event, known.reservation)
        return warnings + await self._leave_to_others(known)

    async def _cancel_unclaimed(self, event: JobEvent, reservation: Reservation) -> tuple[str, ...]:
        """The job ended before a runner took it. A runner that is up already stays: GitHub gives it another job."""
        reason = f"the job ended ({event.conclusion}) before a host claimed its runner"
        runner = await self._store.cancel_runner(reservation.runner_name, reason, self._now())
        request: Request = MakeIdle(reservation.runner_name) if runner is None else Release(reservation.runner_name)
        settled = await self._admissions.submit(reservation.pool, request)
        warnings = await self._provisioner.follow_up(settled)
        if runner is not None:
            try:
                await self._github.delete_runner(Scope(runner.scope), runner.runner_id, event.installation_id)
            except GitHubError as error:
                warnings += (f"runner {runner.runner_name} stays registered at GitHub: {error}",)
        return warnings


def plan_switch(policy: CompiledPolicy, rules: Match, scope: Scope, installation_id: int | None) -> Switch | None:
    """The variable that goes with a route's scale set; None for all others."""
    overflow = policy.policy.overflow
    if overflow is None or overflow.mechanism is not Mechanism.VARIABLE or overflow.variable is None:
        return None
    if rules.route.overflow is not Overflow.GITHUB_HOSTED:
        return None
    return Switch(
        scope=scope.path,
        name=overflow.variable,
        labels=overflow.variable_labels,
        hosted_labels=overflow.hosted_labels,
        low=overflow.low,
        high=overflow.high,
        installation_id=installation_id,
    )


def plan_runner(event: JobEvent, rules: Match) -> RunnerPlan:
    """The runner that these rules give a job."""
    profile, scale_set = rules.profile, rules.scale_set
    # Users have no organization-level runners.
    at_organization = scale_set.level is RunnerLevel.ORGANIZATION and event.is_organization
    return RunnerPlan(
        profile=RunnerProfile(
            name=rules.profile_name,
            cpu_millis=profile.cpu_millis,
            memory_bytes=profile.memory_bytes,
            pids=profile.pids,
            privileges=profile.privileges,
            env=profile.env,
            timeout_s=profile.timeout,
            egress_mode=profile.egress.mode,
            egress_allow=profile.egress.allow,
        ),
        image=rules.image,
        labels=scale_set.labels or event.facts.labels,
        scale_set=rules.scale_set_name,
        priority=scale_set.priority,
        runner_group=scale_set.runner_group,
        scope=scope_of(event.owner, event.facts.repository, at_organization=at_organization).path,
        work_folder=scale_set.work_folder,
        installation_id=event.installation_id,
        sizing=SizingRules(
            mode=scale_set.sizing.mode,
            no_room=scale_set.sizing.no_room,
            wait_s=scale_set.sizing.wait,
            on_error=scale_set.sizing.on_error,
        ),
    )


def _known(key: str) -> Reply:
    return Reply("duplicate", "the job is known: a redelivery, or a later event came first", key)


def _key_of(event: JobEvent) -> str:
    return job_key(event.owner, event.run_id, event.job_id)


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
