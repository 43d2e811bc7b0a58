"""Names to addresses, without ever stopping the loop: a few threads and a short memory."""

import ipaddress
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Mapping

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
    """

    def __init__(self, hosts: Mapping[str, str], wake: Callable[[], None]):
        self._hosts = dict(hosts)
        self._wake = wake
        self._known: dict[str, tuple[float, Answer]] = {}
        self._waiting: dict[str, list[Callable[[Answer], None]]] = {}
        self._questions: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[str, Answer]] = queue.SimpleQueue()
        for number in range(THREADS):
            threading.Thread(target=self._work, name=f"resolver-{number}", daemon=True).start()

    def resolve(self, name: str, then: Callable[[Answer], None]) -> None:
        """Calls `then` with the answer: at once if it is known, else later from `deliver`."""
        if (fixed := self._hosts.get(name)) is not None:
            then((fixed,))
        elif _is_address(name):
            then((name,))
        elif (known := self._known.get(name)) is not None and known[0] > time.monotonic():
            then(known[1])
        elif name in self._waiting:
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

    def _work(self) -> None:
        while True:
            name = self._questions.get()
            try:
                found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError):
                found = []
            self._answers.put((name, tuple(dict.fromkeys(str(entry[4][0]) for entry in found))))
            self._wake()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def make_waker() -> tuple[int, Callable[[], None]]:
    """A descriptor that becomes readable when the function is called, from any thread."""
    descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    return descriptor, lambda: os.eventfd_write(descriptor, 1)
