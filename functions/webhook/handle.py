"""One workflow_job event, from typed event to reply. The steps are in the order of the README's list."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from ..admission.requests import Admit, Applied, Decided, Forget, Known, Release, Request, Start
from ..admission.terms import Account, plan_runner, plan_switch, plan_warm_supply
from ..documents.in_force import InForce, PolicyInForce, Standing
from ..documents.installation import Installation, LastError, LastGood, has_policy
from ..documents.lifecycle import JobState
from ..documents.runner_name import RunnerName, read_runner_name
from ..documents.workflow_job import (
    KEPT_FOR,
    DecisionRecord,
    Phases,
    RunnerRef,
    WorkflowJob,
    job_key,
)
from ..github.errors import GitHubError
from ..github.protocol import RunFacts
from ..routing.classify import CompiledPolicy, Match
from ..routing.evaluate import Outcome
from ..routing.job import JobFacts, Trust
from ..routing.policy import Overflow, Strategy
from .event import Action, Ignored, JobEvent, Ping
from .provision import Admissions, Provisioner, ProvisionStore, RunnerRegistry
from .retire import Retirement, RetirementStore, RunnerRemover


class JobStore(ProvisionStore, RetirementStore, Protocol):
    """What handling an event needs of the store, besides admission."""

    async def read_installation(self, owner: str) -> Installation | None: ...
    async def note_good_policy(self, owner: str, good: LastGood) -> None: ...
    async def note_policy_error(self, owner: str, error: LastError) -> None: ...
    async def create_job(self, job: WorkflowJob) -> bool: ...
    async def read_job(self, key: str) -> WorkflowJob | None: ...


class GitHub(RunnerRegistry, RunnerRemover, Protocol):
    """What is wanted of GitHub."""

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
    policy: Standing | None = None
    """None where no policy was asked"""
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "outcome": self.outcome,
            "reason": self.reason,
            "job": self.job,
            "runner": self.runner,
            "rule": self.rule or None,
            "policy": self.policy,
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
        self._retirement = Retirement(store, admissions, self._provisioner, github, now)

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
        in_force = await self._policy_of(event.owner)
        if in_force is None:
            return await self._ignore(job, _not_installed(event))
        warnings = tuple(f"policy not in force: {problem}" for problem in in_force.problems)
        if in_force.policy is None:
            reason = f"the policy of {event.owner} is not valid, and there is no earlier one"
            reply = await self._ignore(job, reason)
        else:
            reply = await self._route(event, job, in_force.policy, in_force.revision)
        return replace(reply.warning(*warnings), policy=in_force.standing)

    async def _policy_of(self, owner: str) -> InForce | None:
        """The policy that decides now; None for an organization that is not installed."""
        installation = await self._store.read_installation(owner)
        if installation is None or not has_policy(installation):
            return None
        in_force = self._policies.resolve(owner, installation, self._now())
        await self._note_edit(owner, in_force.note_good, in_force.note_error)
        return in_force

    async def _note_edit(self, owner: str, good: LastGood | None, error: LastError | None) -> None:
        if good is not None:
            await self._store.note_good_policy(owner, good)
        if error is not None:
            await self._store.note_policy_error(owner, error)

    async def _route(self, event: JobEvent, job: WorkflowJob, policy: CompiledPolicy, revision: int) -> Reply:
        if not event.facts.labels:
            # A job for a runner group alone: GitHub does not name the group until a runner has the job.
            return await self._ignore(job, "the job names no labels")
        facts = await self._learn_facts(event, policy)
        rules = policy.classify(facts)
        if rules is None:
            return await self._ignore(job, f"no route matches labels {', '.join(facts.labels)}")
        if rules.route.strategy is Strategy.GITHUB_HOSTED:
            reason = "the route's strategy is github_hosted"
            return await self._record(job, Outcome.GITHUB_HOSTED, reason, f"{rules.rule}.strategy")
        account = _account_of(event)
        job = job.model_copy(update={"plan": plan_runner(account, event.facts, rules)})
        overflow = policy.policy.overflow
        request = Admit(
            job,
            rules,
            revision,
            timedelta(seconds=overflow.grace) if overflow is not None else None,
            plan_switch(policy.policy, rules, account, event.facts.repository),
            plan_warm_supply(policy.policy, rules.scale_set_name, account),
        )
        return await self._admit(event, request)

    async def _learn_facts(self, event: JobEvent, policy: CompiledPolicy) -> JobFacts:
        """With what a webhook does not tell. A run that GitHub does not show is trusted no more than a fork's."""
        if not policy.needs_run:
            return event.facts
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

    async def _is_strangers(self, event: JobEvent) -> bool:
        """Whether a job that is on no runner of ours belongs to somebody who has no policy here."""
        if read_runner_name(event.runner_name or "") is not None:
            return False
        return not has_policy(await self._store.read_installation(event.owner))

    # in_progress

    async def _in_progress(self, event: JobEvent) -> Reply:
        if await self._is_strangers(event):
            return Reply("ignored", _not_installed(event))
        job = _facts_of(event, JobState.IN_PROGRESS, Phases(started_at=event.started_at), self._now())
        name = read_runner_name(event.runner_name or "")
        warnings: tuple[str, ...] = ()
        if name is None or name.job_id != event.job_id:
            known = await self._store.read_job(job.key)
            if name is not None and (known is None or known.decision is None):
                job = known = await self._decide_late(event, job)
            warnings = await self._follow_runner(event, known, name)
        await self._store.merge_job(_with_runner(job, event))
        return Reply("recorded", "in progress", job.key, event.runner_name, warnings=warnings)

    async def _decide_late(self, event: JobEvent, job: WorkflowJob) -> WorkflowJob:
        """A job that runs before its `queued` event has come, if it comes at all: its container waits for its size."""
        in_force = await self._policy_of(event.owner)
        policy = in_force.policy if in_force is not None else None
        rules = policy.classify(await self._learn_facts(event, policy)) if policy is not None else None
        if in_force is None or rules is None:
            reason = "no policy and no route is for it, and it runs on a runner of ours"
            return job.model_copy(update={"decision": DecisionRecord(outcome=Outcome.IGNORED, reason=reason)})
        decision = DecisionRecord(
            outcome=Outcome.SELF_HOSTED,
            reason="it ran before its queued event came",
            rule=rules.rule,
            policy_revision=in_force.revision,
            profile=rules.profile_name,
            profile_rule=rules.profile_rule,
            scale_set=rules.scale_set_name,
            pool=rules.scale_set.pool,
        )
        return job.model_copy(
            update={"decision": decision, "plan": plan_runner(_account_of(event), event.facts, rules)}
        )

    async def _follow_runner(
        self, event: JobEvent, known: WorkflowJob | None, name: RunnerName | None
    ) -> tuple[str, ...]:
        """The job is on another runner than the one that was made for it, or on somebody else's."""
        if name is None or event.runner_name is None:
            return await self._leave_to_others(known)
        plan = known.plan if known is not None else None
        start = Start(
            event.runner_name,
            _key_of(event),
            plan.profile.name if plan is not None else "",
            plan.profile.size if plan is not None else None,
            event.facts.repository,
        )
        return await self._settle(name.pool, start)

    async def _leave_to_others(self, job: WorkflowJob | None) -> tuple[str, ...]:
        """The job needs nothing here any more: it waits no longer, and a runner that was made for it is free."""
        if job is None or job.decision is None or job.decision.pool is None:
            return ()
        return await self._settle(job.decision.pool, Forget(job.key))

    async def _settle(self, pool: str, request: Request) -> tuple[str, ...]:
        """Settles a request, and does what it leaves to be done; what went wrong, a line for each."""
        settled = await self._admissions.submit(pool, request)
        warnings = await self._provisioner.follow_up(settled)
        if isinstance(settled.result, Applied) and settled.result.idle_runner:
            warnings += await self._retirement.retire_unclaimed(pool, settled.result.idle_runner)
        return warnings

    # completed

    async def _completed(self, event: JobEvent) -> Reply:
        if await self._is_strangers(event):
            return Reply("ignored", _not_installed(event))
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
            return await self._settle(name.pool, Release(event.runner_name, _key_of(event)))
        return await self._leave_to_others(await self._store.read_job(_key_of(event)))


def _not_installed(event: JobEvent) -> str:
    return f"no policy for {event.owner}: publish one with runyard policy push"


def _known(key: str) -> Reply:
    return Reply("duplicate", "the job is known: a redelivery, or a later event came first", key)


def _account_of(event: JobEvent) -> Account:
    return Account(event.owner, event.is_organization, event.installation_id)


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
