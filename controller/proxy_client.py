"""The controller's side of the proxy's control socket, and the proxy's process."""

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from functions.documents.workflow_job import EgressSummary

from .attribution import Attribution

_log = logging.getLogger("runyard.controller")
_ANSWER_WITHIN_S = 5.0
_LOOK_EVERY_S = 0.02
_BACK_WITHIN_S = 10.0
_LONGEST_ANSWER = 16 * 1024 * 1024
"""bytes; a summary lists up to a thousand targets"""
_PAUSES_S = (0.0, 0.5, 1.0, 2.0, 5.0)
"""before it is started again: at once, unless it does not come up at all"""


class ProxyUnavailable(Exception):
    """The proxy does not answer; no runner may be started then."""


class ProxyClient:
    """Starts the proxy, keeps it running, and tells it who is who."""

    def __init__(self, control_socket: Path, config_file: Path):
        self._control_socket = control_socket
        self._config_file = config_file
        self._lock = asyncio.Lock()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._pid: int | None = None
        """of a proxy that was started here and is not known to have ended"""
        self._table: list[dict[str, Any]] | None = None

    async def keep_running(self) -> None:
        """Runs the proxy as a process of its own, and again whenever it ends, until cancelled.

        A proxy that is already there, from a controller before this one, is left alone: its tunnels carry running jobs.
        """
        failures = 0
        while True:
            if not await self.is_alive():
                await asyncio.sleep(_PAUSES_S[min(failures, len(_PAUSES_S) - 1)])
                if not await self._start():
                    failures += 1
                    continue
            failures = 0
            await self._until_gone()
            _log.error("the proxy has ended: starting it again")

    async def _start(self) -> bool:
        """Whether it has come up."""
        _log.info("starting the proxy")
        self._pid = _spawn([sys.executable, "-m", "controller.proxy", "--config", str(self._config_file)])
        while (code := _exit_code_of(self._pid)) is None:
            if await self.is_alive():
                if self._table is not None:
                    with suppress(ProxyUnavailable):
                        await self._ask({"runners": self._table})
                return True
            await asyncio.sleep(_LOOK_EVERY_S)
        self._pid = None
        _log.error("the proxy has ended with code %d before it came up", code)
        return False

    async def _until_gone(self) -> None:
        """Returns when the proxy has closed a connection to it, which it does only at its end."""
        with suppress(OSError):
            reader, writer = await asyncio.open_unix_connection(self._control_socket)
            try:
                await reader.read()
            finally:
                writer.close()
        # Its last breath: until then its port is taken.
        while self._pid is not None and _exit_code_of(self._pid) is None:
            await asyncio.sleep(_LOOK_EVERY_S)
        self._pid = None

    async def is_alive(self) -> bool:
        try:
            await self._ask({"usage": ""})
        except ProxyUnavailable:
            return False
        return True

    async def wait_until_alive(self) -> None:
        while not await self.is_alive():
            await asyncio.sleep(0.05)

    async def set_table(self, entries: Iterable[Attribution]) -> None:
        """Replaces the table; once this returns, whoever is in it is attributed.

        Raises:
            ProxyUnavailable: it did not take it, although it was waited for. It gets it when it is back.
        """
        self._table = [entry.model_dump() for entry in entries]
        await self._ask_patiently({"runners": self._table})

    async def usage_of(self, runner_name: str, *, forget: bool) -> EgressSummary:
        """What a runner has used of the network.

        Raises:
            ProxyUnavailable: it does not say, although it was waited for.
        """
        answer = await self._ask_patiently({"usage": runner_name, "forget": forget})
        return EgressSummary.from_firestore(answer["usage"])

    async def stop(self) -> None:
        """Asks the proxy to end, for when no runner is left."""
        with suppress(ProxyUnavailable):
            await self._ask({"stop": True})

    async def close(self) -> None:
        """Lets go of the proxy, which runs on."""
        self._disconnect()

    async def _ask_patiently(self, request: dict[str, Any]) -> dict[str, Any]:
        """Waits while the proxy is being started again: neither a launch nor a job's summary should fail for that."""
        deadline = time.monotonic() + _BACK_WITHIN_S
        while True:
            try:
                return await self._ask(request)
            except ProxyUnavailable:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        async with self._lock:
            try:
                async with asyncio.timeout(_ANSWER_WITHIN_S):
                    if self._writer is None or self._reader is None:
                        self._reader, self._writer = await asyncio.open_unix_connection(
                            self._control_socket, limit=_LONGEST_ANSWER
                        )
                    self._writer.write(json.dumps(request).encode() + b"\n")
                    await self._writer.drain()
                    line = await self._reader.readline()
                if not line:
                    raise ConnectionResetError("the proxy closed the control connection")
                answer: dict[str, Any] = json.loads(line)
            except (OSError, TimeoutError, ValueError) as error:
                self._disconnect()
                raise ProxyUnavailable(f"the proxy does not answer: {error}") from error
        if not answer.get("ok"):
            raise ProxyUnavailable(f"the proxy did not understand: {answer.get('error')}")
        return answer

    def _disconnect(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


def _spawn(command: list[str]) -> int:
    """Starts a process that outlives this one; its id. `subprocess` would see to its end."""
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        actions = [(os.POSIX_SPAWN_DUP2, null, 0)]
        return os.posix_spawn(command[0], command, os.environ, file_actions=actions, setsid=True)
    finally:
        os.close(null)


def _exit_code_of(pid: int) -> int | None:
    """None while it runs."""
    try:
        ended, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return 0
    return os.waitstatus_to_exitcode(status) if ended else None
