"""Does a runner's container fit the job that it got? Pure: what to do about it, and how it went.

GitHub gives a job to any idle runner with its labels, so the question comes up for every job, and nearly half of them
need another size than their runner was made with.
"""

from dataclasses import dataclass
from enum import StrEnum

from functions.documents.workflow_job import SizingReceipt, WorkflowJob
from functions.routing.capacity import Size

from .cgroup import Limits

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


@dataclass(frozen=True)
class Need:
    """What a job must have."""

    profile: str
    size: Size
    pids: int


def need_of(job: WorkflowJob) -> Need | None:
    """The profile that was decided for a job; None when no policy of ours spoke of it."""
    decision = job.decision
    if decision is None or decision.profile is None or decision.cpu_millis is None or decision.memory_bytes is None:
        return None
    return Need(decision.profile, Size(decision.cpu_millis, decision.memory_bytes), decision.pids or 4096)


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
