"""What this host has given away: CPU and memory of every runner, from the claim to the container's end. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from functions.routing.capacity import NOTHING, Size


@dataclass(frozen=True)
class HostLedger:
    """The sizes of this host's runners, by name."""

    capacity: Size
    taken: Mapping[str, Size] = field(default_factory=dict)

    @property
    def free(self) -> Size:
        """What is left; below zero where a host was made smaller than what runs on it."""
        return self.capacity - sum(self.taken.values(), NOTHING)

    def has_room_for(self, runner_name: str, size: Size) -> bool:
        """Whether a runner can have this size; what it has already it can keep, even on an overfull host."""
        free = self.free
        room = Size(max(free.cpu_millis, 0), max(free.memory_bytes, 0))
        return size.fits_into(room + self.taken.get(runner_name, NOTHING))

    def with_runner(self, runner_name: str, size: Size) -> "HostLedger":
        """The ledger after a runner has come, or has changed its size."""
        return replace(self, taken={**self.taken, runner_name: size})

    def without_runner(self, runner_name: str) -> "HostLedger":
        return replace(self, taken={name: size for name, size in self.taken.items() if name != runner_name})
