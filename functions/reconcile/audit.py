"""Whether ledger, jobs and runners still fit together, and what mends it. Pure.

A lease belongs to a runner, a runner is made for a job, and GitHub gives it whichever job it likes. Each of these can
be lost, or end unseen, at any point; here all three are compared at once. Whatever is asked for must be harmless if it
is asked for twice, or by two runs at once: the ledger's compare-and-swap and the documents' versions see to that.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from ..admission.requests import Forget, Release, Request, Requeue, Restore, Start
from ..admission.terms import scale_set_key
from ..documents.ledger import Lease, Ledger
from ..documents.lifecycle import OVER, JobState
from ..documents.pending_runner import PendingRunner
from ..documents.workflow_job import WorkflowJob
from ..webhook.event import Action

_MENDED_WITHIN = timedelta(minutes=5)
"""after a refusal that somebody has to mend something for, it is tried again so late"""


@dataclass(frozen=True)
class Known:
    """All that is known of one pool."""

    pool: str
    ledger: Ledger
    jobs: Mapping[str, WorkflowJob]
    """by key: the unfinished ones, those that the ledger names, and those that the runners have had"""
    runners: Mapping[str, PendingRunner]
    """by name: those that live, and those that the ledger names"""
    told: Mapping[str, Action]
    """what GitHub has said of jobs just now"""
    dropped: Collection[str]
    """runners that GitHub does not know any more, although they live here"""
    now: datetime
    grace: timedelta
    """how long a reservation may be without a runner's document"""


@dataclass(frozen=True)
class Mend:
    """One thing to ask of the ledger."""

    request: Request
    what: str
    """for the report"""
    gives_up: str | None = None
    """a runner that must never be handed over after this: first make sure of that"""


def audit(known: Known) -> tuple[Mend, ...]:
    """What has to be mended in one pool."""
    had = {job.runner.name: job for job in known.jobs.values() if job.runner is not None}
    leases = known.ledger.leases.items()
    return (
        *(mend for name, lease in leases for mend in _about_lease(known, name, lease, had.get(name))),
        *_about_runners(known, had),
        *_about_queue(known),
        *_about_jobs(known),
    )


def _about_lease(known: Known, name: str, lease: Lease, had: WorkflowJob | None) -> Iterator[Mend]:
    """A place: whether its runner is there, and whether a job may count on it."""
    if lease.provisional_until is not None:
        return
    runner, owner = known.runners.get(name), known.jobs.get(lease.job_key)
    if had is not None and had.state is JobState.COMPLETED:
        # A runner takes one job: this one is used up.
        yield Mend(Release(name, had.key), "released")
    elif runner is None:
        yield from _about_lease_of_nobody(known, name, lease, owner)
    elif runner.status in OVER or name in known.dropped:
        yield Mend(Release(name), "released")
    elif had is not None and had.key != lease.job_key:
        yield Mend(_start(name, had, lease), "moved")
    elif lease.job_key and not _may_count_on(name, owner):
        yield Mend(Forget(lease.job_key), "made idle")
    elif lease.retiring_since is not None and lease.retiring_since + known.grace <= known.now:
        # Whoever was giving it up has died of it.
        yield Mend(Restore(name, lease.model_copy(update={"retiring_since": None})), "restored")


def _about_lease_of_nobody(known: Known, name: str, lease: Lease, owner: WorkflowJob | None) -> Iterator[Mend]:
    """No document: the runner was never handed over, or it has ended, or somebody has deleted the document."""
    reserved_at = owner.phases.reserved_at if owner is not None else None
    if max(lease.since, reserved_at or lease.since) + known.grace > known.now:
        return
    still_waits = owner is not None and _waits(owner) and known.told.get(owner.key) is Action.QUEUED
    if still_waits or not _may_count_on(name, owner):
        yield Mend(Release(name), "released", gives_up=name)


def _start(name: str, job: WorkflowJob, lease: Lease) -> Start:
    profile = job.plan.profile if job.plan is not None else None
    size = profile.size if profile is not None else lease.size
    return Start(name, job.key, profile.name if profile is not None else "", size, job.repository)


def _may_count_on(name: str, owner: WorkflowJob | None) -> bool:
    """Whether the job that a lease names still wants, or has, that runner."""
    if owner is None or owner.state is JobState.COMPLETED:
        return False
    return owner.runner is None or owner.runner.name == name


def _about_runners(known: Known, had: Mapping[str, WorkflowJob]) -> Iterator[Mend]:
    """Runners that live without a place: somebody has edited or deleted the ledger."""
    for name, runner in known.runners.items():
        is_here = runner.status not in OVER and runner.pool == known.pool and name not in known.dropped
        if not is_here or runner.is_unwanted or name in known.ledger.leases:
            continue
        job = had.get(name)
        if job is None or job.state is not JobState.COMPLETED:
            yield Mend(Restore(name, _lease_of(known, runner, job)), "restored")


def _lease_of(known: Known, runner: PendingRunner, had: WorkflowJob | None) -> Lease:
    """The lease that a runner must have had: of the job that it runs, else of the one that it was made for."""
    profile = had.plan.profile if had is not None and had.plan is not None else runner.profile
    owner = had or known.jobs.get(runner.job_key)
    spoken_for = {lease.job_key for lease in known.ledger.leases.values()} | known.ledger.queue.keys()
    counts_on_it = owner is not None and owner.key not in spoken_for and _may_count_on(runner.runner_name, owner)
    return Lease(
        cpu_millis=profile.cpu_millis,
        memory_bytes=profile.memory_bytes,
        scale_set=scale_set_key(runner.org, runner.scale_set),
        profile=profile.name,
        repository=owner.repository if owner is not None else runner.repository,
        labels=runner.labels,
        job_key=owner.key if owner is not None and counts_on_it else "",
        since=runner.created_at,
    )


def _about_queue(known: Known) -> Iterator[Mend]:
    """Those who wait although they need nothing any more."""
    for key in known.ledger.queue:
        job = known.jobs.get(key)
        if job is None or job.plan is None or not _waits(job):
            yield Mend(Forget(key), "forgotten")


def _about_jobs(known: Known) -> Iterator[Mend]:
    """Jobs that wait at GitHub for a runner that is not coming."""
    leases = known.ledger.leases
    spoken_for = {lease.job_key for lease in leases.values()} | known.ledger.queue.keys()
    # These have just been given back the leases of their runners.
    restored = {r.job_key for name, r in known.runners.items() if r.status not in OVER and name not in leases}
    for key, job in known.jobs.items():
        if job.plan is None or pool_of(job) != known.pool or key in spoken_for or key in restored:
            continue
        if _waits(job) and known.told.get(key) is Action.QUEUED and _is_due(job, known.now):
            yield Mend(Requeue(job), "requeued")


def _waits(job: WorkflowJob) -> bool:
    """As far as our document tells."""
    return job.state < JobState.IN_PROGRESS and job.runner is None


def _is_due(job: WorkflowJob, now: datetime) -> bool:
    """Whether a job whose last attempt came to nothing may be tried again."""
    failed = job.provisioning
    if failed is None or failed.failed_at is None:
        return True
    if failed.retry_at is not None and failed.retry_at >= failed.failed_at:
        return failed.retry_at <= now
    return failed.failed_at + _MENDED_WITHIN <= now


def pool_of(job: WorkflowJob) -> str | None:
    """The pool in which a job has its place, or waits for one."""
    if job.reservation is not None:
        return job.reservation.pool
    return job.decision.pool if job.decision is not None else None
