"""What is taken and what is free, as numbers. Pure."""

from dataclasses import dataclass


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


NOTHING = Size(0, 0)


@dataclass(frozen=True)
class Capacity:
    """What one decision sees: the hosts of a pool, and what its ledger has given away."""

    hosts: tuple[Size, ...]
    """the whole size of each host that is alive and not draining"""
    reserved: Size
    """the sum of all leases of the pool"""
    places_taken: int
    """runners of the job's scale set that hold a lease"""
    held: int
    """jobs of the job's scale set that wait"""

    @property
    def free(self) -> Size:
        total = Size(sum(host.cpu_millis for host in self.hosts), sum(host.memory_bytes for host in self.hosts))
        return total - self.reserved
