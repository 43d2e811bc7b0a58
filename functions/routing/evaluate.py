"""The decision about one queued job: what the policy says, given what is free. Pure."""

from dataclasses import dataclass
from enum import StrEnum

from .capacity import Shortage
from .classify import Match
from .policy import Overflow


class Outcome(StrEnum):
    """What becomes of a queued job."""

    SELF_HOSTED = "self_hosted"
    """a place is reserved and a runner is being made"""
    GITHUB_HOSTED = "github_hosted"
    """the policy leaves this job to GitHub's runners"""
    OVERFLOW = "overflow"
    """no room here: it is GitHub's runners' turn"""
    HELD = "held"
    """no room yet: it waits in the queue"""
    REJECTED = "rejected"
    """no room, and the policy does not let it wait"""
    IGNORED = "ignored"
    """not ours: no policy, no route or no labels"""


@dataclass(frozen=True)
class Decision:
    """An outcome with the rule that led to it and the reason in words."""

    outcome: Outcome
    reason: str
    rule: str = ""


def decide_without_room(match: Match, shortage: Shortage, held: int, *, can_overflow: bool) -> Decision:
    """What becomes of a job that cannot be admitted now.

    It waits as long as the queue has a place for it and waiting can help; then the route's overflow rule applies.

    Args:
        match: the rules that hold for the job.
        shortage: why it cannot be admitted.
        held: jobs of its scale set that wait already.
        can_overflow: whether the policy names a mechanism by which jobs get to GitHub's runners.
    """
    route, rule = match.route, match.rule
    overflow = route.overflow
    if overflow is Overflow.GITHUB_HOSTED and not can_overflow:
        return Decision(
            Outcome.HELD,
            f"{shortage.reason}; it is held, as the policy names no overflow.mechanism",
            f"{rule}.overflow",
        )
    has_place = held < route.queue_depth
    if has_place and (shortage.passes or overflow is Overflow.HOLD):
        return Decision(Outcome.HELD, f"{shortage.reason}; {held} jobs wait before it", f"{rule}.max_queue_depth")
    full = "" if has_place or not route.queue_depth else f", and {held} jobs wait already (max_queue_depth)"
    if overflow is Overflow.GITHUB_HOSTED:
        return Decision(Outcome.OVERFLOW, shortage.reason + full, f"{rule}.overflow")
    return Decision(Outcome.REJECTED, shortage.reason + full, f"{rule}.overflow")
