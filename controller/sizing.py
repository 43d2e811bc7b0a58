"""Does a runner's container fit the job that it got? Pure: what to do about it, and how it went.

GitHub gives a job to any idle runner with its labels, so the question comes up for every job, and nearly half of them
need another size than their runner was made with.
"""

from dataclasses import dataclass
from enum import StrEnum

from functions.documents.workflow_job import RunnerProfile, SizingReceipt, WorkflowJob
from functions.routing.capacity import Size
from functions.routing.policy import OnError
from functions.routing.units import format_memory

from .cgroup import Limits

MEMORY_MARGIN_BYTES = 16 << 20
"""what a runner program needs on top of what it uses when its job starts"""
_PARKED_CPU_MILLIS = 50
_LEAST_CPU_MILLIS = 10
"""the engine takes no CPU quota below a millisecond in a period of 100"""
_PAGE_BYTES = 4096


class Verdict(StrEnum):
    """How the sizing of one job ended."""

    FITS = "fits"
    """the container had the job's size already"""
    RESIZED = "resized"
    """it has it now, read back from the kernel"""
    OVERSUBSCRIBED = "oversubscribed"
    """the same, on a host that had no room for it (`no_room: oversubscribe`)"""
    OBSERVED = "observed"
    """nothing was changed (`mode: observe`): the job ran on whatever size its runner had"""
    KEPT = "kept"
    """it could not be given its size, and ran on the size that there was (`on_error: open`)"""
    REFUSED = "refused"
    """it could not be given its size: the job failed before its first step"""
    NOT_OURS = "not_ours"
    """the job has no profile here: the container keeps its size"""
    MISTAKEN = "mistaken"
    """the runner's output named this job, and the webhook another one: this one did not run here"""


@dataclass(frozen=True)
class Fit:
    """How one container was fitted."""

    verdict: Verdict
    before: Limits | None
    after: Limits | None
    reason: str = ""
    room_ms: float = 0
    resize_ms: float = 0

    @property
    def may_run(self) -> bool:
        return self.verdict is not Verdict.REFUSED


def unfit(limits: Limits | None, reason: str, on_error: OnError) -> Fit:
    """What becomes of a job that cannot be sized."""
    return Fit(Verdict.KEPT if on_error is OnError.OPEN else Verdict.REFUSED, limits, limits, reason)


def park(size: Size, limits: Limits) -> Size:
    """What a runner needs that only waits: to keep its job at GitHub, and the memory that it uses."""
    used = limits.memory_used_bytes
    memory = size.memory_bytes if used is None else min(size.memory_bytes, used + MEMORY_MARGIN_BYTES)
    return Size(min(size.cpu_millis, _PARKED_CPU_MILLIS), memory)


def is_decided(job: WorkflowJob) -> bool:
    """Whether the policy has said what the job needs, or that it needs nothing of ours."""
    return job.plan is not None or job.decision is not None


def find_mismatch(job: WorkflowJob, image: str, privileges: str) -> str | None:
    """What the job needs and no running container can be given, in words; None when there is nothing."""
    plan = job.plan
    if plan is None:
        return None
    advice = "give these profiles labels of their own, as GitHub hands jobs to any runner with their labels"
    if plan.image != image:
        return f"it needs image {plan.image}, and this runner was made of {image}: {advice}"
    if plan.profile.privileges != privileges:
        return f"it needs privileges {plan.profile.privileges}, and this runner was made with {privileges}: {advice}"
    return None


def find_memory_shortage(limits: Limits | None, memory_bytes: int) -> str | None:
    """Why memory cannot be lowered to this, in words; None when it can.

    The kernel's second version of control groups does not refuse a limit below what is used: it kills the job.
    """
    if limits is None or limits.memory_used_bytes is None:
        return None
    if limits.memory_used_bytes + MEMORY_MARGIN_BYTES <= memory_bytes:
        return None
    used, wanted = format_memory(limits.memory_used_bytes), format_memory(memory_bytes)
    return f"the runner itself uses {used} bytes of memory already, too much for {wanted}: give the profile more"


def differs(limits: Limits | None, profile: RunnerProfile) -> bool:
    """Whether what the kernel has is not what was asked for, as the engine and the kernel round it."""
    if limits is None:
        return True
    return (
        limits.cpu_millis != max(_LEAST_CPU_MILLIS, profile.cpu_millis)
        or limits.memory_bytes != profile.memory_bytes // _PAGE_BYTES * _PAGE_BYTES
        or limits.pids != profile.pids
    )


def receipt(
    fit: Fit, *, made_for: str, profile: RunnerProfile, known_by: str, known_ms: float, took_ms: float
) -> SizingReceipt:
    """What goes into the job's document.

    Args:
        fit: how it went.
        made_for: the profile that the runner was made with.
        profile: that the job has; the runner's own for a job without.
        known_by: how the job became known.
        known_ms: until it was known.
        took_ms: in all.
    """
    before, after = fit.before, fit.after
    return SizingReceipt(
        verdict=fit.verdict,
        profile=profile.name,
        made_for_profile=made_for,
        asked_cpu_millis=profile.cpu_millis,
        asked_memory_bytes=profile.memory_bytes,
        asked_pids=profile.pids,
        before_cpu_millis=before.cpu_millis if before else None,
        before_memory_bytes=before.memory_bytes if before else None,
        before_pids=before.pids if before else None,
        read_cpu_millis=after.cpu_millis if after else None,
        read_memory_bytes=after.memory_bytes if after else None,
        read_pids=after.pids if after else None,
        known_by=known_by,
        reason=fit.reason,
        known_ms=round(known_ms, 1),
        room_ms=round(fit.room_ms, 1),
        resize_ms=round(fit.resize_ms, 1),
        took_ms=round(took_ms, 1),
    )
