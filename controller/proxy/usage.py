"""What each runner has used of the network, summed up for its job's document."""

from dataclasses import dataclass, field

MOST_TARGETS = 100


@dataclass
class Usage:
    """Sums over a runner's connections that have ended."""

    connections: int = 0
    refused: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    targets: dict[str, None] = field(default_factory=dict)
    """in the order of their first use, the first hundred"""

    def add(self, target: str, bytes_up: int, bytes_down: int, *, was_refused: bool) -> None:
        self.connections += 1
        self.refused += was_refused
        self.bytes_up += bytes_up
        self.bytes_down += bytes_down
        if target and len(self.targets) < MOST_TARGETS:
            self.targets[target] = None
