"""Processes of our own: started with a log file, waited for, and ended by their own id."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


class DidNotStart(Exception):
    """A process ended, or did not become ready in time; the message ends with its last output."""


class Process:
    """One running program, in a session of its own."""

    def __init__(self, name: str, command: Sequence[str], log_file: Path, environment: Mapping[str, str] | None = None):
        self.name = name
        self.log_file = log_file
        with log_file.open("ab") as log:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=None if environment is None else {**os.environ, **environment},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def is_running(self) -> bool:
        return self._popen.poll() is None

    def wait_until(self, is_ready: Callable[[], bool], within_s: float) -> None:
        """Waits until it is ready.

        Raises:
            DidNotStart: it ended, or is not ready in time.
        """
        deadline = time.monotonic() + within_s
        while not is_ready():
            if not self.is_running:
                raise DidNotStart(f"{self.name} ended with code {self._popen.returncode}:\n{self.tail()}")
            if time.monotonic() > deadline:
                self.stop()
                raise DidNotStart(f"{self.name} was not ready within {within_s:g} s:\n{self.tail()}")
            time.sleep(0.05)

    def tail(self, lines: int = 15) -> str:
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])

    def stop(self, wait_s: float = 20) -> int | None:
        """SIGTERM, and SIGKILL when that does not help; its exit code."""
        if self.is_running:
            self._popen.send_signal(signal.SIGTERM)
            try:
                self._popen.wait(wait_s)
            except subprocess.TimeoutExpired:
                self.kill()
        return self._popen.returncode

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._popen.kill()
        self._popen.wait()


def free_port() -> int:
    """A TCP port on loopback that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def accepts_connections(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
        return True
    return False
