"""`pools/{pool}`: the leases on the hosts that share a pool, and the jobs that wait for one.

Small, and changed only by compare-and-swap. The queue is in it: whoever gives a place back and whoever takes one see
the same document, so no wake-up is lost.
"""

from datetime import datetime

from ..routing.capacity import Limits, Size
from .model import Document

COLLECTION = "pools"


class Lease(Document):
    """What one runner holds."""

    cpu_millis: int
    memory_bytes: int
    scale_set: str
    profile: str
    repository: str
    labels: tuple[str, ...] = ()
    """of the runner"""
    job_key: str = ""
    """the job that counts on it; empty for an idle runner, which the next fitting job may have"""
    since: datetime
    provisional_until: datetime | None = None
    """promised to a workflow run that has not queued its job yet; lapses then"""
    run_id: int = 0
    """of that run"""

    @property
    def size(self) -> Size:
        return Size(self.cpu_millis, self.memory_bytes)

    @property
    def is_idle(self) -> bool:
        return not self.job_key and self.provisional_until is None

    def has_labels(self, wanted: tuple[str, ...]) -> bool:
        """GitHub's own rule: every label of the job, upper and lower case alike."""
        offered = {label.casefold() for label in self.labels}
        return {label.casefold() for label in wanted} <= offered


class Waiting(Document):
    """A held job: what it needs, and what decides when its turn comes."""

    cpu_millis: int
    memory_bytes: int
    scale_set: str
    profile: str
    repository: str
    labels: tuple[str, ...]
    run_id: int
    job_id: int
    priority: int = 0
    since: datetime
    not_before: datetime | None = None
    """an overflowed job is GitHub's until then"""

    @property
    def is_held(self) -> bool:
        """Not one that was sent to GitHub's runners, and waits only in case that they do not take it."""
        return self.not_before is None

    @property
    def size(self) -> Size:
        return Size(self.cpu_millis, self.memory_bytes)


class Switch(Document):
    """A variable at GitHub that workflows use for `runs-on`, switched when a scale set's places run short."""

    scope: str
    """where it is: `/orgs/acme` or `/repos/acme/app`"""
    name: str
    labels: tuple[str, ...]
    """its value while there is room"""
    hosted_labels: tuple[str, ...]
    """its value while there is none"""
    low: float
    """switched to GitHub's runners when a smaller part of the places is free"""
    high: float
    """switched back when a larger part is"""
    installation_id: int | None = None


class KnownLimits(Document):
    """What the policy last allowed a scale set: the queue goes by it when no new job brings the policy along."""

    max_runners: int
    per_repository: int | None = None
    switch: Switch | None = None
    is_switched: bool = False
    """the variable names GitHub's runners"""
    paused_until: datetime | None = None
    """GitHub gives it no runners until then"""
    pause_reason: str = ""

    @property
    def limits(self) -> Limits:
        return Limits(self.max_runners, self.per_repository)


class Ledger(Document):
    """Every lease of a pool by runner name, and every waiting job by its key."""

    leases: dict[str, Lease] = {}
    queue: dict[str, Waiting] = {}
    limits: dict[str, KnownLimits] = {}
    """by scale set; a pool may serve several organizations, so each is named `org/scale set`"""
    token: str = ""
    """of the last group commit: tells our own write from another's after a lost answer"""
