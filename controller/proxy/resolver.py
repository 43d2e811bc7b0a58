"""Names to addresses, without ever stopping the loop: a few threads and a short memory."""

import ipaddress
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache

KEPT_FOR_S = 30.0
FAILURE_KEPT_FOR_S = 2.0
THREADS = 8
MOST_NAMES = 10_000

Answer = tuple[str, ...]
"""addresses, those to try first first; empty when the name does not resolve"""


class Resolver:
    """Answers through a callback on the loop's thread.

    Args:
        hosts: fixed answers, as in /etc/hosts.
        wake: called from any thread when `deliver` has something to do.

    Raises:
        ValueError: a fixed answer is no address.
    """

    def __init__(self, hosts: Mapping[str, str], wake: Callable[[], None]):
        self._hosts = {name.lower(): str(ipaddress.ip_address(address)) for name, address in hosts.items()}
        self._wake = wake
        self._known: dict[str, tuple[float, Answer]] = {}
        self._waiting: dict[str, list[Callable[[Answer], None]]] = {}
        self._questions: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[str, Answer]] = queue.SimpleQueue()
        for number in range(THREADS):
            threading.Thread(target=self._work, name=f"resolver-{number}", daemon=True).start()

    def find(self, name: str) -> Answer | None:
        """The answer, if it is known without asking."""
        if (known := self._known.get(name)) is not None and known[0] > time.monotonic():
            return known[1]
        if (fixed := self._hosts.get(name)) is not None:
            return (fixed,)
        return (name,) if _is_address(name) else None

    def ask(self, name: str, then: Callable[[Answer], None]) -> None:
        """Calls `then` with the answer, later from `deliver`."""
        if name in self._waiting:
            self._waiting[name].append(then)
        else:
            self._waiting[name] = [then]
            self._questions.put(name)

    def deliver(self) -> None:
        """Hands out the answers that have come in."""
        while not self._answers.empty():
            name, answer = self._answers.get_nowait()
            if len(self._known) >= MOST_NAMES:
                self._known.clear()
            self._known[name] = (time.monotonic() + (KEPT_FOR_S if answer else FAILURE_KEPT_FOR_S), answer)
            for then in self._waiting.pop(name, ()):
                then(answer)

    def close(self) -> None:
        """Lets the threads end, each after the lookup that it is at."""
        for _ in range(THREADS):
            self._questions.put(None)

    def _work(self) -> None:
        while (name := self._questions.get()) is not None:
            try:
                found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError):
                found = []
            self._answers.put((name, tuple(dict.fromkeys(str(entry[4][0]) for entry in found))))
            self._wake()


@lru_cache(MOST_NAMES)
def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Waker:
    """A descriptor that becomes readable when `wake` is called, from any thread."""

    def __init__(self) -> None:
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()
        self._is_open = True

    def wake(self) -> None:
        # A lookup may outlast the loop, and by then the descriptor's number may be somebody else's.
        with self._lock:
            if self._is_open:
                os.eventfd_write(self.descriptor, 1)

    def clear(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self.descriptor)

    def close(self) -> None:
        with self._lock:
            self._is_open = False
            os.close(self.descriptor)
