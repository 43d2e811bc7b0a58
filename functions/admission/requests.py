"""What may be asked of a pool's ledger, and what comes of it. Values only."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from ..documents.ledger import Ledger, Switch
from ..documents.workflow_job import Reservation, WorkflowJob
from ..routing.capacity import Size
from ..routing.classify import Match


@dataclass(frozen=True)
class Admit:
    """Decide about a queued job, and take a place for it if there is one."""

    job: WorkflowJob
    match: Match
    policy_revision: int
    overflow_grace: timedelta | None = None
    """how long an overflowed job is left to GitHub; None when the policy names no mechanism by which it gets there"""
    switch: Switch | None = None
    """the variable that is switched when this scale set's places run short"""


@dataclass(frozen=True)
class Promise:
    """Set places aside for jobs that a workflow run will queue in a moment: for all of them or for none."""

    org: str
    repository: str
    run_id: int
    matches: tuple[Match, ...]
    """the rules of each job"""
    labels: tuple[str, ...]
    until: datetime


@dataclass(frozen=True)
class Release:
    """Give back what a runner holds."""

    runner_name: str


@dataclass(frozen=True)
class MakeIdle:
    """A runner's job is gone, and the runner is up: the next fitting job may have it."""

    runner_name: str


@dataclass(frozen=True)
class Forget:
    """A job has ended, or somebody else's runner has it: it waits no more."""

    job_key: str


@dataclass(frozen=True)
class Resize:
    """A runner was given a job of another profile than its own: move its lease to that size."""

    runner_name: str
    profile: str
    size: Size
    job_key: str


@dataclass(frozen=True)
class Postpone:
    """GitHub gave a reserved place no runner: the place is free again, and nobody is admitted for a while.

    Otherwise one job after the other would leave the queue and fail while GitHub is away.
    """

    job: WorkflowJob
    until: datetime
    reason: str
    is_held: bool
    """the job waits and is tried again; False when somebody has to mend something first"""


Request = Admit | Promise | Release | MakeIdle | Forget | Resize | Postpone


@dataclass(frozen=True)
class Decided:
    """The job as it was recorded, decision included."""

    job: WorkflowJob


@dataclass(frozen=True)
class Known:
    """The job was recorded before: a redelivery, or a later event has overtaken this one."""

    job: WorkflowJob


@dataclass(frozen=True)
class Promised:
    """Whether places were set aside, and why not."""

    shortage: str | None


@dataclass(frozen=True)
class Applied:
    """Everything else; `changed` is False when there was nothing to do."""

    changed: bool


Result = Decided | Known | Promised | Applied


@dataclass(frozen=True)
class Promotion:
    """A job that waited has a place now."""

    job_key: str
    reservation: Reservation
    reason: str


@dataclass(frozen=True)
class Flip:
    """A variable at GitHub that must be switched."""

    switch: Switch
    is_short: bool
    """to GitHub's runners"""

    @property
    def labels(self) -> tuple[str, ...]:
        return self.switch.hosted_labels if self.is_short else self.switch.labels


@dataclass(frozen=True)
class Plan:
    """The ledger after a group, the documents to write with it, and each request's result, in order."""

    ledger: Ledger
    creates: tuple[WorkflowJob, ...]
    promotions: tuple[Promotion, ...]
    flips: tuple[Flip, ...]
    results: tuple[Result, ...]
    needs_commit: bool
    """False when the group neither changes the ledger nor concludes anything from it"""
