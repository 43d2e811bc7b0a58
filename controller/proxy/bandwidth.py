"""How fast a runner may be: a bucket of bytes that fills as time goes by, and whoever waits for it to fill."""

from collections.abc import Callable

from .loop import Loop

_HOLDS_S = 0.25
"""what has not been used can be used later, but not more than this time's worth"""
_FILLS_EVERY_S = 0.02


class Bucket:
    """The bytes that a runner's connections may move now, both ways together. Pure.

    Args:
        bytes_per_s: how fast it fills.
        now: seconds.
    """

    def __init__(self, bytes_per_s: int, now: float):
        self.bytes_per_s = bytes_per_s
        self.level = int(bytes_per_s * _HOLDS_S)
        """bytes"""
        self._filled_at = now

    def fill(self, now: float) -> None:
        """Adds what has come in since the last time."""
        earned = int((now - self._filled_at) * self.bytes_per_s)
        if earned > 0:
            # Only as far as it counted: calls that come faster than bytes must not lose them.
            self._filled_at += earned / self.bytes_per_s
            self.level = min(self.level + earned, int(self.bytes_per_s * _HOLDS_S))

    def spend(self, count: int) -> None:
        self.level -= count


class Bandwidth:
    """A runner's bucket, with its tunnels that have found it empty."""

    def __init__(self, bytes_per_s: int, loop: Loop):
        self.bucket = Bucket(bytes_per_s, loop.now)
        self._loop = loop
        self._waiting: dict[Callable[[], None], None] = {}
        """in the order of their turns"""
        self._is_filling = False

    def wait(self, callback: Callable[[], None]) -> None:
        """Calls back when there is something in the bucket."""
        self._waiting[callback] = None
        self._fill_later()

    def _fill_later(self) -> None:
        if self._waiting and not self._is_filling:
            self._is_filling = True
            self._loop.call_later(_FILLS_EVERY_S, self._fill)

    def _fill(self) -> None:
        self._is_filling = False
        self.bucket.fill(self._loop.now)
        waiting, self._waiting = list(self._waiting), {}
        while waiting and self.bucket.level > 0:
            waiting.pop(0)()
        # Those whose turn did not come are before those that have had theirs and want more.
        self._waiting = dict.fromkeys(waiting) | self._waiting
        self._fill_later()
