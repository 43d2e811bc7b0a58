"""What each runner has used of the network, summed up for its job's document. Pure."""

from dataclasses import dataclass, field

MOST_TARGETS = 100
"""that are listed; the others are counted together"""
MOST_TARGETS_TO_LEARN = 1000


@dataclass(slots=True)
class Counts:
    """Sums over connections."""

    connections: int = 0
    refused: int = 0
    unlisted: int = 0
    """that the profile's rules refuse, whether they are enforced or not"""
    bytes_up: int = 0
    bytes_down: int = 0

    def add(self, other: "Counts") -> None:
        self.connections += other.connections
        self.refused += other.refused
        self.unlisted += other.unlisted
        self.bytes_up += other.bytes_up
        self.bytes_down += other.bytes_down

    def values(self) -> tuple[int, int, int, int, int]:
        """In the order of the fields."""
        return self.connections, self.refused, self.unlisted, self.bytes_up, self.bytes_down


@dataclass
class Usage:
    """What one runner has used, for each target."""

    targets: dict[str, Counts] = field(default_factory=dict)
    """in the order of their first use; no target for connections that named none"""
    others: Counts = field(default_factory=Counts)
    """targets beyond the most that are listed"""

    def add(self, target: str | None, counts: Counts, most_targets: int = MOST_TARGETS) -> str | None:
        """Counts under a target; None: under the others, and so is a target beyond the most. Returns which it was."""
        if target is not None and target not in self.targets:
            if len(self.targets) < most_targets:
                self.targets[target] = Counts()
            else:
                target = None
        (self.others if target is None else self.targets[target]).add(counts)
        return target

    def total(self) -> Counts:
        total = Counts()
        for counts in (*self.targets.values(), self.others):
            total.add(counts)
        return total

    def copy(self) -> "Usage":
        targets = {target: Counts(*counts.values()) for target, counts in self.targets.items()}
        return Usage(targets, Counts(*self.others.values()))
