"""What a group of requests does to a pool's ledger. Pure: ledger and requests in, new ledger and documents out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from ..documents.ledger import Lease, Ledger
from ..documents.lifecycle import JobState
from ..documents.workflow_job import DecisionRecord, Reservation, WorkflowJob
from ..routing.capacity import Capacity, Size
from ..routing.classify import Match
from ..routing.evaluate import Outcome, decide


@dataclass(frozen=True)
class Admit:
    """Decide about a queued job, and take a place for it if there is one."""

    job: WorkflowJob
    match: Match
    hosts: tuple[Size, ...]
    """the sizes of the pool's hosts that are available"""
    policy_revision: int
    runner_name: str
    """of the runner that will be made if there is room"""


@dataclass(frozen=True)
class Release:
    """Give back what a runner holds."""

    runner_name: str


@dataclass(frozen=True)
class Resize:
    """A runner was given a job of another profile than its own: move its lease to that size."""

    runner_name: str
    profile: str
    size: Size


Request = Admit | Release | Resize


@dataclass(frozen=True)
class Decided:
    """The job as it was recorded, decision included."""

    job: WorkflowJob


@dataclass(frozen=True)
class Known:
    """The job was recorded before: a redelivery, or a later event has overtaken this one."""

    job: WorkflowJob


@dataclass(frozen=True)
class Applied:
    """A release or resize; `changed` is False when the runner held no lease."""

    changed: bool


Result = Decided | Known | Applied


@dataclass(frozen=True)
class Plan:
    """The ledger after a group, the job documents to create with it, and each request's result, in order."""

    ledger: Ledger
    creates: tuple[WorkflowJob, ...]
    results: tuple[Result, ...]
    needs_commit: bool
    """False when the group neither changes the ledger nor concludes anything from it"""


def make_plan(
    ledger: Ledger, requests: Sequence[Request], known: Mapping[str, WorkflowJob], token: str, now: datetime
) -> Plan:
    """Settles a group against a ledger, in the order in which its requests came.

    Args:
        ledger: as last read.
        requests: the group.
        known: documents that exist already, by key, for the jobs of the group.
        token: of this attempt to commit.
        now: the time of the decision.
    """
    jobs = dict(known)
    creates: list[WorkflowJob] = []
    results: list[Result] = []
    before = ledger
    for request in requests:
        match request:
            case Admit(job=job) if job.key in jobs:
                results.append(Known(jobs[job.key]))
            case Admit():
                ledger, job = _admit(ledger, request, token, now)
                jobs[job.key] = job
                creates.append(job)
                results.append(Decided(job))
            case Release(runner_name):
                results.append(Applied(runner_name in ledger.leases))
                ledger = ledger.without_lease(runner_name)
            case Resize():
                ledger, changed = _resize(ledger, request)
                results.append(Applied(changed))
    return Plan(ledger.with_token(token), tuple(creates), tuple(results), bool(creates) or ledger is not before)


def _admit(ledger: Ledger, request: Admit, token: str, now: datetime) -> tuple[Ledger, WorkflowJob]:
    rules = request.match
    capacity = Capacity(
        hosts=request.hosts,
        reserved=ledger.reserved,
        places_taken=ledger.count_places(rules.scale_set_name),
        held=ledger.held.get(rules.scale_set_name, 0),
    )
    decision = decide(rules, capacity)
    record = DecisionRecord(
        outcome=decision.outcome,
        reason=decision.reason,
        rule=decision.rule,
        policy_revision=request.policy_revision,
        profile=rules.profile_name,
        profile_rule=rules.profile_rule,
        cpu_millis=rules.profile.cpu_millis,
        memory_bytes=rules.profile.memory_bytes,
        pids=rules.profile.pids,
        scale_set=rules.scale_set_name,
        pool=rules.scale_set.pool,
        places_taken=capacity.places_taken,
        free_cpu_millis=capacity.free.cpu_millis,
        free_memory_bytes=capacity.free.memory_bytes,
        hosts=len(capacity.hosts),
    )
    job = request.job.model_copy(update={"decision": record})
    if decision.outcome is Outcome.HELD:
        return ledger.with_held(rules.scale_set_name, +1), job
    if decision.outcome is not Outcome.SELF_HOSTED:
        return ledger, job
    lease = Lease(
        cpu_millis=rules.profile.cpu_millis,
        memory_bytes=rules.profile.memory_bytes,
        scale_set=rules.scale_set_name,
        profile=rules.profile_name,
        repository=job.repository,
        job_key=job.key,
        since=now,
    )
    reservation = Reservation(
        pool=rules.scale_set.pool,
        scale_set=rules.scale_set_name,
        profile=rules.profile_name,
        cpu_millis=lease.cpu_millis,
        memory_bytes=lease.memory_bytes,
        runner_name=request.runner_name,
        token=token,
    )
    phases = job.phases.model_copy(update={"reserved_at": now})
    job = job.model_copy(update={"reservation": reservation, "rank": int(JobState.RESERVED), "phases": phases})
    return ledger.with_lease(request.runner_name, lease), job


def _resize(ledger: Ledger, request: Resize) -> tuple[Ledger, bool]:
    lease = ledger.leases.get(request.runner_name)
    if lease is None or lease.size == request.size:
        return ledger, False
    moved = lease.model_copy(
        update={
            "cpu_millis": request.size.cpu_millis,
            "memory_bytes": request.size.memory_bytes,
            "profile": request.profile,
        }
    )
    return ledger.with_lease(request.runner_name, moved), True
