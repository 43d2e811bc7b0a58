"""The proxy's loop: one edge-triggered epoll set, one callback for each event; no task, no thread for a connection."""

import heapq
import logging
import os
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress

READ = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
READ_WRITE = READ | select.EPOLLOUT
BROKEN = select.EPOLLERR | select.EPOLLHUP
"""reset, or ended both ways"""
ENDING = BROKEN | select.EPOLLRDHUP
"""nothing more will come than what is there"""
_EVENTS_IN_A_TURN = 256
_PAUSE_S = 0.25

_log = logging.getLogger("runyard.proxy")


class Timer:
    """Something that is to happen later, unless it is cancelled before."""

    __slots__ = ("_callback", "at")

    def __init__(self, at: float, callback: Callable[[], None]):
        self.at = at
        self._callback: Callable[[], None] | None = callback

    def __lt__(self, other: "Timer") -> bool:
        return self.at < other.at

    def cancel(self) -> None:
        self._callback = None

    def fire(self) -> None:
        if self._callback is not None:
            self._callback()


class Loop:
    """Calls back for events on descriptors until it is stopped. Not thread-safe."""

    def __init__(self) -> None:
        self.now = time.monotonic()
        """seconds, as of the current batch of events"""
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._turns: dict[Callable[[], None], None] = {}
        """in their order"""
        self._timers: list[Timer] = []
        self._to_close: list[socket.socket] = []
        self._is_running = True

    def watch(self, descriptor: int, callback: Callable[[int], None], events: int = select.EPOLLIN) -> None:
        """Calls back with the events on a descriptor."""
        self._callbacks[descriptor] = callback
        self._epoll.register(descriptor, events)

    def replace(self, descriptor: int, callback: Callable[[int], None]) -> None:
        """Calls back somebody else from now on."""
        self._callbacks[descriptor] = callback

    def change(self, descriptor: int, events: int) -> None:
        """Waits for other events on a descriptor that is watched already."""
        self._epoll.modify(descriptor, events)

    def unwatch(self, descriptor: int) -> None:
        self._callbacks.pop(descriptor, None)
        with suppress(OSError):
            self._epoll.unregister(descriptor)

    def pause(self, descriptor: int) -> None:
        """Looks away from a descriptor for a moment: one that cannot be served now would spin the loop."""
        self._epoll.unregister(descriptor)
        self.call_later(_PAUSE_S, lambda: self._resume(descriptor))

    def _resume(self, descriptor: int) -> None:
        if descriptor in self._callbacks:
            self._epoll.register(descriptor, select.EPOLLIN)

    def close_later(self, sock: socket.socket) -> None:
        """Closes after the batch of events: a number that is used again must not get a stale event."""
        self._callbacks.pop(sock.fileno(), None)
        self._to_close.append(sock)

    def give_turn(self, callback: Callable[[], None]) -> None:
        """Calls back after everybody who has events now; once, however often it is asked for."""
        self._turns[callback] = None

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(self.now + delay_s, callback)
        heapq.heappush(self._timers, timer)
        return timer

    def stop(self) -> None:
        self._is_running = False

    def run(self) -> None:
        """Serves until stopped."""
        find_callback = self._callbacks.get
        while self._is_running:
            events = self._epoll.poll(self._longest_wait_s(), _EVENTS_IN_A_TURN)
            self.now = time.monotonic()
            for descriptor, event in events:
                if (callback := find_callback(descriptor)) is not None:
                    try:
                        callback(event)
                    except Exception:  # noqa: BLE001 - see below
                        # From a fault of ours one connection may suffer, until its time is out: the others carry jobs.
                        _log.exception("a fault in the proxy")
            if self._turns:
                self._take_turns()
            if self._timers and self._timers[0].at <= self.now:
                self._fire_timers()
            if self._to_close:
                self._close_sockets()

    def close(self) -> None:
        """Closes what was left to be closed, and the set itself."""
        self._close_sockets()
        self._epoll.close()

    def _longest_wait_s(self) -> float:
        if self._turns:
            return 0
        if not self._timers:
            return -1
        return max(0.0, self._timers[0].at - time.monotonic())

    def _take_turns(self) -> None:
        turns, self._turns = self._turns, {}
        for callback in turns:
            _call(callback)

    def _fire_timers(self) -> None:
        while self._timers and self._timers[0].at <= self.now:
            _call(heapq.heappop(self._timers).fire)

    def _close_sockets(self) -> None:
        for sock in self._to_close:
            os.close(sock.detach())
        self._to_close.clear()


def _call(callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception:  # noqa: BLE001 - as for events
        _log.exception("a fault in the proxy")
