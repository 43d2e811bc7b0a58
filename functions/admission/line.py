"""Who is next when there is not room for all. Pure.

Higher priority first, then the repository that has the fewest runners, then who waits longest.
"""

from collections import deque
from collections.abc import Mapping
from datetime import datetime, timedelta

from ..documents.ledger import Waiting
from ..routing.capacity import Shortage
from .books import Books

PATIENCE = timedelta(seconds=60)
"""smaller jobs may go before a larger one that does not fit yet; after this time they no longer do"""


class Line:
    """Who is next: priority, then the repository with the fewest runners, then age."""

    def __init__(self, queue: Mapping[str, Waiting], books: Books, now: datetime):
        self._queue = queue
        self._books = books
        self._now = now
        self._groups: dict[tuple[int, str], deque[str]] = {}
        self._is_closed = False
        self.reasons: dict[str, Shortage] = {}
        ready = [key for key, waiting in queue.items() if waiting.not_before is None or waiting.not_before <= now]
        for key in sorted(ready, key=self._age):
            self._groups.setdefault((queue[key].priority, queue[key].repository), deque()).append(key)

    def _age(self, key: str) -> tuple[datetime, int]:
        return self._queue[key].since, self._queue[key].job_id

    def next(self) -> str | None:
        if self._is_closed or not self._groups:
            return None

        def rank(group: tuple[int, str]) -> tuple[int, int, tuple[datetime, int]]:
            priority, repository = group
            return -priority, self._books.runners_of_repository[repository], self._age(self._groups[group][0])

        return self._groups[min(self._groups, key=rank)][0]

    def pass_over(self, key: str, shortage: Shortage) -> None:
        """Lets those behind it go first, unless it has waited long enough."""
        self.reasons[key] = shortage
        self._is_closed = shortage.is_of_room and self._now - self._queue[key].since > PATIENCE
        self.step_out(key)

    def step_out(self, key: str) -> None:
        group = (self._queue[key].priority, self._queue[key].repository)
        self._groups[group].popleft()
        if not self._groups[group]:
            del self._groups[group]
