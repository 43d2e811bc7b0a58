"""The decision about one queued job: what the policy says, given what is free. Pure."""

from dataclasses import dataclass
from enum import StrEnum

from .capacity import Capacity, Size
from .classify import Match
from .policy import Overflow, Strategy
from .units import format_cpus, format_memory


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


_WITHOUT_ROOM = {
    Overflow.GITHUB_HOSTED: Outcome.OVERFLOW,
    Overflow.HOLD: Outcome.HELD,
    Overflow.REJECT: Outcome.REJECTED,
}


def decide(match: Match, capacity: Capacity) -> Decision:
    """What to do with a queued job that these rules hold for."""
    if match.route.strategy is Strategy.GITHUB_HOSTED:
        return Decision(Outcome.GITHUB_HOSTED, "the route's strategy is github_hosted", f"{match.rule}.strategy")
    shortage = find_shortage(match, capacity)
    if shortage is None:
        room = f"{capacity.places_taken + 1} of {match.scale_set.max_runners} places of {match.scale_set_name}"
        return Decision(Outcome.SELF_HOSTED, f"takes {room} with profile {match.profile_name}", match.rule)
    outcome = _WITHOUT_ROOM[match.route.overflow]
    if outcome is Outcome.HELD and capacity.held >= match.route.max_queue_depth:
        full = f"{shortage}, and {capacity.held} jobs wait already (max_queue_depth {match.route.max_queue_depth})"
        return Decision(Outcome.REJECTED, full, f"{match.rule}.max_queue_depth")
    return Decision(outcome, shortage, f"{match.rule}.overflow")


def find_shortage(match: Match, capacity: Capacity) -> str | None:
    """Why the job's runner cannot be admitted now, in words; None when it can."""
    wanted = Size(match.profile.cpu_millis, match.profile.memory_bytes)
    pool = match.scale_set.pool
    if not capacity.hosts:
        return f"no host of pool {pool} is alive"
    if capacity.places_taken >= match.scale_set.max_runners:
        return f"all {match.scale_set.max_runners} places of {match.scale_set_name} are taken"
    if not any(wanted.fits_into(host) for host in capacity.hosts):
        return f"no host of pool {pool} is large enough for profile {match.profile_name} ({_in_words(wanted)})"
    if not wanted.fits_into(capacity.free):
        return (
            f"profile {match.profile_name} needs {_in_words(wanted)}, pool {pool} has {_in_words(capacity.free)} left"
        )
    return None


def _in_words(size: Size) -> str:
    return f"{format_cpus(size.cpu_millis)} CPUs and {format_memory(size.memory_bytes)}"
