"""What is taken and what is free, as numbers; whether a runner of some size can be admitted. Pure."""

from dataclasses import dataclass

from .units import format_cpus, format_memory


@dataclass(frozen=True)
class Size:
    """CPU in millicpus and memory in bytes."""

    cpu_millis: int
    memory_bytes: int

    def __add__(self, other: "Size") -> "Size":
        return Size(self.cpu_millis + other.cpu_millis, self.memory_bytes + other.memory_bytes)

    def __sub__(self, other: "Size") -> "Size":
        return Size(self.cpu_millis - other.cpu_millis, self.memory_bytes - other.memory_bytes)

    def fits_into(self, room: "Size") -> bool:
        return self.cpu_millis <= room.cpu_millis and self.memory_bytes <= room.memory_bytes

    def __str__(self) -> str:
        return f"{format_cpus(self.cpu_millis)} CPUs and {format_memory(self.memory_bytes)}"


NOTHING = Size(0, 0)


@dataclass(frozen=True)
class Limits:
    """What the policy allows a scale set."""

    max_runners: int
    per_repository: int | None = None


@dataclass(frozen=True)
class Capacity:
    """What one decision sees: the hosts of a pool, and what its ledger has given away."""

    hosts: tuple[Size, ...]
    """the whole size of each host that is alive and not draining"""
    reserved: Size
    """the sum of all leases of the pool"""
    places_taken: int
    """runners of the job's scale set that hold a lease"""
    places_of_repository: int = 0
    """those of them that were made for the job's repository"""
    held: int = 0
    """jobs of the job's scale set that wait"""

    @property
    def free(self) -> Size:
        total = Size(sum(host.cpu_millis for host in self.hosts), sum(host.memory_bytes for host in self.hosts))
        return total - self.reserved


@dataclass(frozen=True)
class Shortage:
    """Why a runner cannot be admitted now."""

    reason: str
    passes: bool
    """whether waiting can help: a place comes free with the next job that ends, a larger host does not"""
    is_of_room: bool = False
    """CPU and memory are short, which smaller jobs would go on taking"""


def find_shortage(wanted: Size, scale_set: str, limits: Limits, capacity: Capacity) -> Shortage | None:
    """Why a runner of this size cannot be admitted to a scale set now; None when it can."""
    if not capacity.hosts:
        return Shortage("no host of its pool is alive", passes=False)
    if not any(wanted.fits_into(host) for host in capacity.hosts):
        return Shortage(f"no host of its pool is large enough for {wanted}", passes=False)
    if capacity.places_taken >= limits.max_runners:
        return Shortage(f"all {limits.max_runners} places of {scale_set} are taken", passes=True)
    if limits.per_repository is not None and capacity.places_of_repository >= limits.per_repository:
        return Shortage(
            f"the repository has all of its {limits.per_repository} places of {scale_set} (per_repository)", passes=True
        )
    if not wanted.fits_into(capacity.free):
        reason = f"it needs {wanted}, and its pool has {capacity.free} left"
        return Shortage(reason, passes=True, is_of_room=True)
    return None
