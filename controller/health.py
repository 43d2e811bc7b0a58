"""Whether this host should take new runners. Pure.

A host on which every start fails would otherwise win every race: it always has room.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

_FAILURES_FORGIVEN = 2
_FIRST_PAUSE = timedelta(seconds=10)
_LONGEST_PAUSE = timedelta(minutes=5)


@dataclass(frozen=True)
class Health:
    """What the last starts and the operator say."""

    failures: int = 0
    """starts that failed, one after the other"""
    failed_at: datetime | None = None
    reason: str = ""
    """of the last failure"""
    is_draining: bool = False
    """an operator wants nothing new here"""

    def after_start(self) -> "Health":
        return replace(self, failures=0, failed_at=None, reason="")

    def after_failure(self, reason: str, now: datetime) -> "Health":
        return replace(self, failures=self.failures + 1, failed_at=now, reason=reason)

    def with_draining(self, *, is_draining: bool) -> "Health":
        return replace(self, is_draining=is_draining)

    def most_claims(self, now: datetime) -> int | None:
        """How many runners may be claimed now; None for as many as there is room for.

        After a pause one is tried, to see whether the host has recovered.
        """
        if self.is_draining:
            return 0
        if self.failures <= _FAILURES_FORGIVEN or self.failed_at is None:
            return None
        pause = min(_FIRST_PAUSE * (1 << min(self.failures - _FAILURES_FORGIVEN - 1, 16)), _LONGEST_PAUSE)
        return 1 if now - self.failed_at >= pause else 0

    def in_words(self) -> str:
        """Why it takes little or nothing; empty when it takes all that fits."""
        if self.is_draining:
            return "draining: an operator wants nothing new here (runyard resume)"
        if self.failures <= _FAILURES_FORGIVEN:
            return ""
        return f"{self.failures} starts failed one after the other, the last one because {self.reason}"
