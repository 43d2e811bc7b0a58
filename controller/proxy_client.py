"""The controller's side of the proxy's control socket, and the proxy's process."""

import asyncio
import json
import logging
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from functions.documents.workflow_job import EgressSummary

from .attribution import Attribution

_log = logging.getLogger("runyard.controller")
_ANSWER_WITHIN_S = 5.0
_START_AGAIN_AFTER_S = 0.5


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
        self._table: list[dict[str, Any]] = []

    async def keep_running(self) -> None:
        """Runs the proxy as a process of its own, and again whenever it ends, until cancelled.

        A proxy that is already there, from a controller before this one, is left alone: its tunnels carry running jobs.
        """
        while True:
            if await self.is_alive():
                await asyncio.sleep(1)
                continue
            _log.info("starting the proxy")
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "controller", "proxy", "--config", str(self._config_file), start_new_session=True
            )
            while process.returncode is None and not await self.is_alive():
                await asyncio.sleep(0.05)
            if process.returncode is None:
                with suppress(ProxyUnavailable):
                    await self._send_table()
                await process.wait()
            _log.error("the proxy has ended with code %s: starting it again", process.returncode)
            await asyncio.sleep(_START_AGAIN_AFTER_S)

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
            ProxyUnavailable: it did not take it. It gets it when it is back.
        """
        self._table = [entry.model_dump() for entry in entries]
        await self._send_table()

    async def _send_table(self) -> None:
        await self._ask({"runners": self._table})

    async def usage_of(self, runner_name: str, *, forget: bool) -> EgressSummary:
        """What a runner has used of the network.

        Raises:
            ProxyUnavailable: it does not say.
        """
        answer = await self._ask({"usage": runner_name, "forget": forget})
        return EgressSummary.from_firestore(answer["usage"])

    async def stop(self) -> None:
        """Asks the proxy to end, for when no runner is left."""
        with suppress(ProxyUnavailable):
            await self._ask({"stop": True})

    async def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        async with self._lock:
            try:
                async with asyncio.timeout(_ANSWER_WITHIN_S):
                    if self._writer is None or self._reader is None:
                        self._reader, self._writer = await asyncio.open_unix_connection(self._control_socket)
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
