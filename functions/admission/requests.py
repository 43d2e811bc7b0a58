"""What may be asked of a pool's ledger, and what comes of it. Values only."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from ..documents.ledger import Lease, Ledger, Switch, WarmSupply
from ..documents.workflow_job import Reservation, RunnerPlan, WorkflowJob
from ..routing.capacity import Limits, Size
from ..routing.classify import Match


@dataclass(frozen=True)
class Terms:
    """What the policy says of a scale set now."""

    scale_set: str
    """as ledgers call it: `org/name`"""
    limits: Limits
    warm: WarmSupply | None = None
    """the idle runners that it keeps ready"""


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
    warm: WarmSupply | None = None
    """the idle runners that this scale set keeps ready"""


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
class Start:
    """A job runs on a runner of this pool, which need not be the one that was made for it."""

    runner_name: str
    job_key: str
    profile: str = ""
    size: Size | None = None
    """what the job needs; None for one that no policy gives a size"""
    repository: str = ""


@dataclass(frozen=True)
class Release:
    """A runner's job has ended, or the runner is gone: what it holds is free."""

    runner_name: str
    job_key: str = ""
    """the job that it had; empty for a runner that is gone without one"""


@dataclass(frozen=True)
class Forget:
    """A job has ended without a runner of ours: it waits no more, and the runner that was to have it is idle."""

    job_key: str


@dataclass(frozen=True)
class Requeue:
    """A job's runner has died: it waits again, where it stood before."""

    job: WorkflowJob
    not_before: datetime | None = None


@dataclass(frozen=True)
class Postpone:
    """GitHub gave a reserved place no runner: the place is free again, and nobody is admitted for a while.

    Otherwise one job after the other would leave the queue and fail while GitHub is away.
    """

    runner_name: str
    scale_set: str
    """as ledgers call it: `org/name`"""
    until: datetime
    reason: str
    job: WorkflowJob | None = None
    """waits and is tried again; None when somebody has to mend something first, or when no job counted on the place"""


@dataclass(frozen=True)
class Retire:
    """Give up an idle runner if it is not needed: nobody counts on it from now on. When it has gone, `Release` it."""

    runner_name: str


@dataclass(frozen=True)
class Restore:
    """A runner is there although the ledger does not know it, or says that it is being given up."""

    runner_name: str
    lease: Lease


@dataclass(frozen=True)
class Refresh:
    """Go by an organization's newest policy, and see what the queue and the idle runners need now."""

    org: str
    terms: tuple[Terms, ...] = ()
    """of all of its scale sets in this pool: those that are left out keep no idle runners any more"""


Request = Admit | Promise | Start | Release | Forget | Requeue | Postpone | Retire | Restore | Refresh


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
class Retired:
    """Whether a runner is needed: kept ready, or counted on by a job."""

    is_needed: bool
    lease: Lease | None = None
    """what it held; None also for one that holds nothing, because an earlier try came no further than this"""


@dataclass(frozen=True)
class Applied:
    """Everything else; `changed` is False when there was nothing to do."""

    changed: bool
    idle_runner: str = ""
    """a runner that nobody counts on any more"""


Result = Decided | Known | Promised | Retired | Applied


@dataclass(frozen=True)
class Promotion:
    """A job that waited has a place now."""

    job_key: str
    reservation: Reservation
    reason: str


@dataclass(frozen=True)
class WarmUp:
    """A place that was taken for a runner that waits for any job."""

    runner_name: str
    pool: str
    org: str
    plan: RunnerPlan
    host: str
    """that should start it"""


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
class Todo:
    """What is left to be done when a group has been committed."""

    promotions: tuple[Promotion, ...] = ()
    warm_ups: tuple[WarmUp, ...] = ()
    displaced: tuple[str, ...] = ()
    """keys of jobs whose runner is gone"""
    flips: tuple[Flip, ...] = ()

    def share(self, number: int, of: int) -> "Todo":
        """One of several equal parts."""
        part = slice(number, None, of)
        return Todo(self.promotions[part], self.warm_ups[part], self.displaced[part], self.flips[part])


@dataclass(frozen=True)
class Plan:
    """The ledger after a group, the documents to write with it, and each request's result, in order."""

    ledger: Ledger
    creates: tuple[WorkflowJob, ...]
    todo: Todo
    results: tuple[Result, ...]
    needs_commit: bool
    """False when the group neither changes the ledger nor concludes anything from it"""
