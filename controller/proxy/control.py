"""How the controller tells the proxy who is who: one JSON object a line, over a Unix socket.

`{"runners": [...]}` replaces the table and is answered once the new table is in force, so a container that is started
after the answer is attributed from its first packet on. `{"usage": NAME, "forget": true}` asks what a runner has used,
`{"stop": true}` ends the proxy. The table is also kept in a file: a proxy that is started anew knows the runners before
it accepts anyone.
"""

import json
import logging
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from functions.documents.workflow_job import EgressSummary, TargetSummary

from ..attribution import Attribution, AttributionTable
from .server import ProxyServer
from .usage import Usage

_log = logging.getLogger("runyard.proxy")
_ENTRIES = TypeAdapter(list[Attribution])
_LONGEST_LINE = 16 * 1024 * 1024


class ControlSocket:
    """Listens for the controller. Only root may connect: the socket's folder is the controller's own."""

    def __init__(self, server: ProxyServer, path: Path, table_file: Path):
        self._server = server
        self._table_file = table_file
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._listener.bind(str(path))
        path.chmod(0o600)
        self._listener.listen(8)
        self._clients: set[socket.socket] = set()
        server.loop.watch(self._listener.fileno(), lambda _: self._accept())

    def load_table(self) -> None:
        """Takes up the table that the proxy before this one had."""
        with suppress(OSError, ValidationError):
            self._server.set_table(AttributionTable(_ENTRIES.validate_json(self._table_file.read_bytes())))

    def close(self) -> None:
        """For when the server has ended."""
        for sock in (self._listener, *self._clients):
            sock.close()

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            _log.error("the control socket cannot be served now: %s", error.strerror)
            self._server.loop.pause(self._listener.fileno())
            return
        client.setblocking(False)
        self._clients.add(client)
        buffer = bytearray()
        self._server.loop.watch(client.fileno(), lambda _: self._on_readable(client, buffer))

    def _on_readable(self, client: socket.socket, buffer: bytearray) -> None:
        try:
            data = client.recv(1024 * 1024)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        buffer += data
        if not data or len(buffer) > _LONGEST_LINE or not self._answer_lines(client, buffer):
            self._server.loop.unwatch(client.fileno())
            self._clients.discard(client)
            client.close()

    def _answer_lines(self, client: socket.socket, buffer: bytearray) -> bool:
        """Answers what is complete; False when the answer cannot be given."""
        *lines, rest = bytes(buffer).split(b"\n")
        buffer[:] = rest
        try:
            for line in lines:
                client.sendall(json.dumps(self._answer(line)).encode() + b"\n")
        except OSError:
            # Gone, or it asks and asks without reading: half an answer would only mislead it.
            return False
        return True

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            if "runners" in request:
                entries = _ENTRIES.validate_python(request["runners"])
                self._server.set_table(AttributionTable(entries))
                self._keep_table(entries)
                return {"ok": True, "runners": len(entries)}
            if "stop" in request:
                self._server.stop()
                return {"ok": True}
            runner_name = str(request["usage"])
            usage = self._server.usage_of(runner_name)
            if request.get("forget"):
                self._server.forget_usage(runner_name)
            return {"ok": True, "usage": _to_summary(usage).to_firestore()}
        except (ValueError, KeyError, TypeError, RecursionError, ValidationError, OSError) as error:
            return {"ok": False, "error": f"{type(error).__name__}: {error}"}

    def _keep_table(self, entries: list[Attribution]) -> None:
        new = self._table_file.with_suffix(".new")
        new.write_bytes(_ENTRIES.dump_json(entries))
        os.replace(new, self._table_file)  # noqa: PTH105 - as atomic as it says


def _to_summary(usage: Usage) -> EgressSummary:
    total = usage.total()
    return EgressSummary(
        connections=total.connections,
        refused=total.refused,
        unlisted=total.unlisted,
        bytes_up=total.bytes_up,
        bytes_down=total.bytes_down,
        targets=tuple(
            TargetSummary(
                target=target,
                connections=counts.connections,
                refused=counts.refused,
                unlisted=counts.unlisted,
                bytes_up=counts.bytes_up,
                bytes_down=counts.bytes_down,
            )
            for target, counts in usage.targets.items()
            if target
        ),
        connections_to_others=usage.others.connections,
    )
