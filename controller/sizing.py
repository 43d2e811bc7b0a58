"""Does a runner's container fit the job that it got? Pure: what to do about it, and how it went.

GitHub gives a job to any idle runner with its labels, so the question comes up for every job, and nearly half of them
need another size than their runner was made with.
"""

from enum import StrEnum

from functions.documents.workflow_job import SizingReceipt, WorkflowJob
from functions.routing.capacity import Size
from functions.routing.units import format_memory

from .cgroup import Limits

MEMORY_MARGIN_BYTES = 16 << 20
"""what a runner program needs on top of what it uses when its job starts"""
_LEAST_CPU_MILLIS = 10
"""the engine takes no CPU quota below a millisecond in a period of 100"""


class Verdict(StrEnum):
    """How the sizing of one job ended."""

    FITS = "fits"
    """the container had the job's size already"""
    RESIZED = "resized"
    """it has it now, read back from the kernel"""
    REFUSED = "refused"
    """it could not be given: the job fails before its first step"""
    NOT_OURS = "not_ours"
    """the job has no profile here: the container keeps its size"""


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


def find_memory_shortage(limits: Limits | None, size: Size) -> str | None:
    """Why memory cannot be lowered to this size, in words; None when it can.

    The kernel's second version of control groups does not refuse a limit below what is used: it kills the job.
    """
    if limits is None or limits.memory_used_bytes is None:
        return None
    if limits.memory_used_bytes + MEMORY_MARGIN_BYTES <= size.memory_bytes:
        return None
    used, wanted = format_memory(limits.memory_used_bytes), format_memory(size.memory_bytes)
    return f"the runner itself uses {used} bytes of memory already, too much for {wanted}: give the profile more"


def differs(limits: Limits | None, size: Size) -> bool:
    """Whether what the kernel has is not what was asked for, as the engine and the kernel round it."""
    if limits is None:
        return True
    return limits.cpu_millis != max(_LEAST_CPU_MILLIS, size.cpu_millis) or limits.memory_bytes != _in_pages(
        size.memory_bytes
    )


def _in_pages(memory_bytes: int) -> int:
    """The kernel counts memory in pages of 4096 bytes, rounded down."""
    return memory_bytes // 4096 * 4096


def receipt(
    verdict: Verdict,
    *,
    made_for: str,
    profile: str,
    asked: Size,
    before: Limits | None,
    after: Limits | None,
    known_by: str,
    reason: str = "",
    took_ms: float,
) -> SizingReceipt:
    """What goes into the job's document."""
    return SizingReceipt(
        verdict=verdict,
        profile=profile,
        made_for_profile=made_for,
        asked_cpu_millis=asked.cpu_millis,
        asked_memory_bytes=asked.memory_bytes,
        before_cpu_millis=before.cpu_millis if before else None,
        before_memory_bytes=before.memory_bytes if before else None,
        read_cpu_millis=after.cpu_millis if after else None,
        read_memory_bytes=after.memory_bytes if after else None,
        known_by=known_by,
        reason=reason,
        took_ms=round(took_ms, 1),
    )
