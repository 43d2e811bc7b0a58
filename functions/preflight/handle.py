"""A workflow asks which labels its next jobs should use: places here, set aside for it, or GitHub's own runners."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..admission.group import Settled
from ..admission.requests import Promise, Promised, Request
from ..documents.in_force import PolicyInForce, Standing
from ..documents.installation import Installation, has_policy
from ..github.oidc import WorkflowClaims
from ..routing.classify import CompiledPolicy, Match
from ..routing.job import JobFacts, Trust
from ..routing.policy import Overflow, Strategy

PROMISED_FOR = timedelta(minutes=10)
"""a place that is set aside is free again after this time; GitHub needs seconds to queue the jobs that follow"""
_HOSTED = ("ubuntu-latest",)


class MalformedQuestion(Exception):
    """A body that is not a question; the message says where."""


_Label = Annotated[str, Field(min_length=1, max_length=256)]


class Question(BaseModel):
    """What a workflow asks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    labels: Annotated[tuple[_Label, ...], Field(min_length=1, max_length=100)]
    """that its jobs would have here"""
    jobs: Annotated[tuple[Annotated[str, Field(max_length=1000)], ...], Field(min_length=1, max_length=256)] = ("",)
    """the display names of the jobs that follow"""


class Outcome(StrEnum):
    """What a workflow is told."""

    SELF_HOSTED = "self_hosted"
    """places are set aside"""
    GITHUB_HOSTED = "github_hosted"
    """the policy leaves these jobs to GitHub's runners"""
    OVERFLOW = "overflow"
    """no room here: GitHub's runners"""
    HELD = "held"
    """no room yet: the jobs will wait here"""
    REJECTED = "rejected"
    """no room, and the policy lets them neither wait nor go to GitHub's runners"""


@dataclass(frozen=True)
class Answer:
    """The labels to use, and why."""

    outcome: Outcome
    runs_on: tuple[str, ...]
    reason: str
    policy: Standing | None = None
    """None where there is none to ask"""

    def to_json(self) -> dict[str, Any]:
        policy = {} if self.policy is None else {"policy": self.policy}
        return {"outcome": self.outcome, "runs_on": list(self.runs_on), "reason": self.reason} | policy


_WITHOUT_ROOM = {
    Overflow.GITHUB_HOSTED: Outcome.OVERFLOW,
    Overflow.HOLD: Outcome.HELD,
    Overflow.REJECT: Outcome.REJECTED,
}


class PreflightStore(Protocol):
    """What is needed of the store, besides admission."""

    async def read_installation(self, owner: str) -> Installation | None: ...


class Admissions(Protocol):
    """The ledgers of all pools."""

    async def submit(self, pool: str, request: Request) -> Settled: ...


class FollowUp(Protocol):
    """Does what a group of requests leaves to be done."""

    async def __call__(self, settled: Settled) -> tuple[str, ...]: ...


def read_question(body: bytes) -> Question:
    """The question in a request's body.

    Raises:
        MalformedQuestion: there is none.
    """
    try:
        return Question.model_validate_json(body)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:5])
        raise MalformedQuestion(f'write {{"labels": [...], "jobs": [...]}}: {problems}') from None


class PreflightHandler:
    """Answers questions."""

    def __init__(
        self,
        store: PreflightStore,
        admissions: Admissions,
        follow_up: FollowUp,
        now: Callable[[], datetime],
    ):
        self._store = store
        self._admissions = admissions
        self._follow_up = follow_up
        self._now = now
        self._policies = PolicyInForce()

    async def answer(self, claims: WorkflowClaims, question: Question) -> Answer:
        """Which labels the jobs should use; places are set aside until they come, for all of them or for none.

        Raises:
            StoreUnavailable, StoreRefused: no answer is possible now.
        """
        installation = await self._store.read_installation(claims.owner)
        if installation is None or not has_policy(installation):
            return Answer(Outcome.GITHUB_HOSTED, _HOSTED, f"no policy for {claims.owner}")
        in_force = self._policies.resolve(claims.owner, installation, self._now())
        if in_force.policy is None:
            answer = Answer(Outcome.GITHUB_HOSTED, _HOSTED, f"the policy of {claims.owner} is not valid")
        else:
            answer = await self._ask(claims, question, in_force.policy)
        return replace(answer, policy=in_force.standing)

    async def _ask(self, claims: WorkflowClaims, question: Question, policy: CompiledPolicy) -> Answer:
        hosted = policy.policy.overflow.hosted_labels if policy.policy.overflow is not None else _HOSTED
        matches = [policy.classify(facts) for facts in _facts_of(claims, question)]
        ours = [match for match in matches if match is not None]
        if len(ours) < len(matches):
            return Answer(Outcome.GITHUB_HOSTED, hosted, f"no route matches labels {', '.join(question.labels)}")
        if any(match.route.strategy is Strategy.GITHUB_HOSTED for match in ours):
            return Answer(Outcome.GITHUB_HOSTED, hosted, "the route's strategy is github_hosted")
        if len({match.scale_set.pool for match in ours}) > 1:
            return Answer(Outcome.HELD, question.labels, "the jobs belong to several pools: ask for each by itself")
        return await self._promise(claims, question, policy, ours)

    async def _promise(
        self, claims: WorkflowClaims, question: Question, policy: CompiledPolicy, matches: Sequence[Match]
    ) -> Answer:
        promise = Promise(
            org=claims.owner,
            repository=claims.repository,
            run_id=claims.run_id,
            matches=tuple(matches),
            labels=question.labels,
            until=self._now() + PROMISED_FOR,
        )
        settled = await self._admissions.submit(matches[0].scale_set.pool, promise)
        await self._follow_up(settled)
        shortage = settled.result.shortage if isinstance(settled.result, Promised) else None
        if shortage is None:
            minutes = int(PROMISED_FOR.total_seconds() // 60)
            reason = f"{len(matches)} places are set aside for {minutes} minutes"
            return Answer(Outcome.SELF_HOSTED, question.labels, reason)
        outcome = _WITHOUT_ROOM[matches[0].route.overflow]
        overflow = policy.policy.overflow
        if outcome is Outcome.OVERFLOW:
            return Answer(outcome, overflow.hosted_labels if overflow is not None else _HOSTED, shortage)
        return Answer(outcome, question.labels, shortage)


def _facts_of(claims: WorkflowClaims, question: Question) -> list[JobFacts]:
    """GitHub gives pull requests from forks no OIDC token: whoever has one is trusted."""
    return [
        JobFacts(
            repository=claims.repository,
            name=name,
            labels=question.labels,
            workflow=claims.workflow,
            branch=claims.branch,
            event=claims.event,
            trust=Trust.TRUSTED,
        )
        for name in question.jobs
    ]
