"""What a step of a run does, counted while it does it, and how long it may take."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ..documents.reconcile import StepReport

_MOST_NOTES = 20
_LONGEST_NOTE = 300


class Tally:
    """One step's part of the report, in the making."""

    def __init__(self, name: str, until: float):
        self._name = name
        self._until = until
        self._done: Counter[str] = Counter()
        self._notes: list[str] = []
        self._is_complete = True

    @property
    def is_time_over(self) -> bool:
        """Whether the step should stop here; it goes on in the next run."""
        return asyncio.get_running_loop().time() >= self._until

    def count(self, what: str, number: int = 1) -> None:
        self._done[what] += number

    def note(self, text: str) -> None:
        """Something that went wrong, or that the operator must know."""
        if len(self._notes) < _MOST_NOTES:
            self._notes.append(text[:_LONGEST_NOTE])

    def leave_rest(self, why: str = "") -> None:
        """What is left is for the next run."""
        self._is_complete = False
        if why:
            self.note(why)

    def to_report(self, took_ms: float) -> StepReport:
        return StepReport(
            name=self._name,
            done={what: number for what, number in self._done.items() if number},
            notes=tuple(self._notes),
            is_complete=self._is_complete,
            took_ms=took_ms,
        )


@dataclass(frozen=True)
class Step:
    """A part of a run. It may be interrupted anywhere: whatever it has begun, the next run finishes."""

    name: str
    within_s: float
    requests: float
    """the part of the run's requests to GitHub that it may use, together with what others have left over"""
    work: Callable[[Tally], Awaitable[None]]
