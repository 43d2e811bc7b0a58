"""How long a request has waited for others: for the log line and the `Server-Timing` header."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Stopwatch:
    """Time in which at least one of several overlapping waits was going on."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._waits = 0
        self._since = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        if self._waits == 0:
            self._since = time.monotonic()
        self._waits += 1
        try:
            yield
        finally:
            self._waits -= 1
            if self._waits == 0:
                self._seconds += time.monotonic() - self._since

    @property
    def milliseconds(self) -> float:
        return round(self._seconds * 1000, 1)


_github: ContextVar[Stopwatch | None] = ContextVar("github", default=None)


def watch_github() -> Stopwatch:
    """What this request, and the tasks that it starts, wait for GitHub from now on."""
    stopwatch = Stopwatch()
    _github.set(stopwatch)
    return stopwatch


@contextmanager
def waiting_for_github() -> Iterator[None]:
    """Around a call to GitHub."""
    stopwatch = _github.get()
    if stopwatch is None:
        yield
    else:
        with stopwatch.running():
            yield
