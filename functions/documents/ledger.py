"""`pools/{pool}`: the leases on the hosts that share a pool. Small, and changed only by compare-and-swap."""

from datetime import datetime
from typing import Self

from ..routing.capacity import NOTHING, Size
from .model import Document

COLLECTION = "pools"


class Lease(Document):
    """What one runner holds."""

    cpu_millis: int
    memory_bytes: int
    scale_set: str
    profile: str
    repository: str
    job_key: str
    """the job that it was taken for"""
    since: datetime

    @property
    def size(self) -> Size:
        return Size(self.cpu_millis, self.memory_bytes)


class Ledger(Document):
    """Every lease of a pool by runner name, and how many jobs of each scale set wait."""

    leases: dict[str, Lease] = {}
    held: dict[str, int] = {}
    token: str = ""
    """of the last group commit: tells our own write from another's after a lost answer"""

    @property
    def reserved(self) -> Size:
        return sum((lease.size for lease in self.leases.values()), NOTHING)

    def count_places(self, scale_set: str) -> int:
        return sum(lease.scale_set == scale_set for lease in self.leases.values())

    def with_lease(self, runner_name: str, lease: Lease) -> Self:
        return self.model_copy(update={"leases": {**self.leases, runner_name: lease}})

    def without_lease(self, runner_name: str) -> Self:
        """The ledger after a runner gave its lease back; the same ledger when it holds none."""
        if runner_name not in self.leases:
            return self
        return self.model_copy(update={"leases": {k: v for k, v in self.leases.items() if k != runner_name}})

    def with_held(self, scale_set: str, change: int) -> Self:
        count = max(0, self.held.get(scale_set, 0) + change)
        return self.model_copy(update={"held": {**self.held, scale_set: count}})

    def with_token(self, token: str) -> Self:
        return self.model_copy(update={"token": token})
