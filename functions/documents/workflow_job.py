"""`workflowJobs/{org}_{runId}_{jobId}`: one job, from the webhook that announced it to the end."""

from datetime import datetime, timedelta
from typing import Any, Self

from ..routing.capacity import Size
from ..routing.policy import Egress, EgressMode, NoRoom, OnError, Privileges, SizingMode
from .lifecycle import JobState
from .model import Document

COLLECTION = "workflowJobs"
KEPT_FOR = timedelta(days=30)


def job_key(owner: str, run_id: int, job_id: int) -> str:
    """The document's id; logins are compared without case, as GitHub does."""
    return f"{owner.lower()}_{run_id}_{job_id}"


def read_job_key(key: str) -> tuple[int, int]:
    """Run id and job id; zeros for what is no job's key."""
    words = key.rsplit("_", 2)
    if len(words) != 3 or not (words[1].isdecimal() and words[2].isdecimal()):
        return 0, 0
    return int(words[1]), int(words[2])


def owner_of(key: str) -> str:
    """The login in a job's key, in lower case; logins of enterprise users have underscores, too."""
    return key.rsplit("_", 2)[0]


class DecisionRecord(Document):
    """What was decided about a queued job, and what was seen when it was decided."""

    outcome: str
    reason: str
    rule: str = ""
    policy_revision: int = 0
    profile: str | None = None
    profile_rule: str | None = None
    scale_set: str | None = None
    pool: str | None = None
    places_taken: int | None = None
    held: int | None = None
    free_cpu_millis: int | None = None
    free_memory_bytes: int | None = None
    hosts: int | None = None


class RunnerEgressRule(Document):
    """One rule about targets."""

    name: str
    """for messages and the log"""
    is_allowed: bool
    targets: tuple[str, ...]
    """`host` or `host:port`, lower case; hosts are globs, `*` is any port"""


class RunnerEgress(Document):
    """Where a runner may connect to, besides the hosts that GitHub's runner needs itself."""

    mode: EgressMode = EgressMode.AUDIT
    rules: tuple[RunnerEgressRule, ...] = ()
    """the first one that fits decides; what none fits is allowed by none"""
    bytes_per_s: int | None = None
    connections: int | None = None
    """most at a time"""

    @classmethod
    def of_policy(cls, egress: Egress) -> Self:
        rules = [
            RunnerEgressRule(
                name=rule.name or f"egress.rules[{index}]", is_allowed=bool(rule.allow), targets=rule.allow or rule.deny
            )
            for index, rule in enumerate(egress.rules)
        ]
        if egress.allow:
            rules.append(RunnerEgressRule(name="egress.allow", is_allowed=True, targets=egress.allow))
        return cls(mode=egress.mode, rules=tuple(rules), bytes_per_s=egress.bandwidth, connections=egress.connections)


class RunnerProfile(Document):
    """A profile as a controller needs it."""

    name: str
    cpu_millis: int
    memory_bytes: int
    pids: int
    privileges: Privileges = Privileges.NONE
    env: dict[str, str] = {}
    timeout_s: int = 21600
    egress: RunnerEgress = RunnerEgress()

    @property
    def size(self) -> Size:
        return Size(self.cpu_millis, self.memory_bytes)


class SizingRules(Document):
    """What the gate does for the jobs of a runner, as the runner's scale set has it."""

    mode: SizingMode = SizingMode.ENFORCE
    no_room: NoRoom = NoRoom.WAIT
    wait_s: int = 600
    on_error: OnError = OnError.CLOSED


class RunnerPlan(Document):
    """The runner that a job needs, resolved when it was decided about: a later edit of the policy changes nothing."""

    profile: RunnerProfile
    image: str
    labels: tuple[str, ...]
    scale_set: str
    priority: int = 0
    runner_group: str
    scope: str
    """where it is registered: `/orgs/acme` or `/repos/acme/app`"""
    work_folder: str = "_work"
    installation_id: int | None = None
    """of the GitHub App"""
    sizing: SizingRules = SizingRules()
    idle_timeout_s: int = 300
    """seconds without a job after which it is asked whether the runner is still needed"""


class Reservation(Document):
    """The place that was taken in the ledger for a job; the key of the lease is the runner's name."""

    pool: str
    scale_set: str
    profile: str
    runner_name: str
    has_runner: bool = False
    """an idle runner is there already: none has to be made"""
    token: str
    """of the commit that took it: tells our own write from another's after a lost answer"""


class Provisioning(Document):
    """How asking GitHub for a runner went, when it did not go well."""

    failure: str
    failed_at: datetime | None = None
    retry_at: datetime | None = None
    """when it makes sense to try again; None when somebody has to mend something first"""
    runners_lost: int = 0
    """that died before they had a job"""


class RunnerRef(Document):
    """The runner that GitHub gave the job to, which need not be the one that was made for it."""

    name: str
    id: int


class Phases(Document):
    """When each thing happened."""

    queued_at: datetime | None = None
    """GitHub's `created_at`"""
    received_at: datetime | None = None
    """the webhook reached us"""
    reserved_at: datetime | None = None
    provisioned_at: datetime | None = None
    claimed_at: datetime | None = None
    launched_at: datetime | None = None
    registered_at: datetime | None = None
    started_at: datetime | None = None
    """GitHub's `started_at`"""
    completed_at: datetime | None = None
    """GitHub's `completed_at`"""


class SizingReceipt(Document):
    """How the container of the runner that got the job was fitted to the job's profile."""

    verdict: str
    profile: str
    made_for_profile: str
    asked_cpu_millis: int
    asked_memory_bytes: int
    asked_pids: int | None = None
    before_cpu_millis: int | None = None
    before_memory_bytes: int | None = None
    before_pids: int | None = None
    read_cpu_millis: int | None = None
    """read back from the cgroup, as are the next two"""
    read_memory_bytes: int | None = None
    read_pids: int | None = None
    known_by: str = ""
    """how the job became known: by the runner's output, the webhook, or both"""
    reason: str = ""
    known_ms: float = 0
    """until the job was known"""
    room_ms: float = 0
    """until there was room for it"""
    resize_ms: float = 0
    """for the engine's call and for reading the limits back"""
    took_ms: float = 0
    """in all, from the hook's question to the answer"""


class TargetSummary(Document):
    """What was connected to under one `host:port`."""

    target: str
    connections: int = 0
    refused: int = 0
    unlisted: int = 0
    bytes_up: int = 0
    bytes_down: int = 0


class EgressSummary(Document):
    """What the job's runner connected to through the proxy."""

    connections: int = 0
    refused: int = 0
    unlisted: int = 0
    """that the profile's rules refuse, whether they are enforced or not"""
    bytes_up: int = 0
    bytes_down: int = 0
    targets: tuple[TargetSummary, ...] = ()
    """in the order of their first use"""
    connections_to_others: int = 0
    """to targets beyond the most that are listed"""


class WorkflowJob(Document):
    """One job. Every event writes only its own fields, so events may come in any order."""

    org: str
    repository: str
    run_id: int
    run_attempt: int
    job_id: int
    name: str
    labels: tuple[str, ...]
    workflow: str = ""
    branch: str = ""
    head_sha: str = ""
    html_url: str = ""
    rank: int = JobState.QUEUED
    decision: DecisionRecord | None = None
    plan: RunnerPlan | None = None
    reservation: Reservation | None = None
    provisioning: Provisioning | None = None
    runner: RunnerRef | None = None
    phases: Phases = Phases()
    conclusion: str | None = None
    duration_seconds: float | None = None
    """from GitHub's `started_at` to its `completed_at`"""
    sizing: SizingReceipt | None = None
    egress: EgressSummary | None = None
    expire_at: datetime | None = None

    def only(self, state: JobState, **fields: Any) -> Self:
        """A value for merging: just what identifies the job, and these fields."""
        return type(self)(
            org=self.org,
            repository=self.repository,
            run_id=self.run_id,
            run_attempt=self.run_attempt,
            job_id=self.job_id,
            name=self.name,
            labels=self.labels,
            rank=state,
            **fields,
        )

    @property
    def key(self) -> str:
        return job_key(self.org, self.run_id, self.job_id)

    @property
    def state(self) -> JobState:
        return JobState(max(state for state in JobState if state <= max(self.rank, JobState.QUEUED)))
