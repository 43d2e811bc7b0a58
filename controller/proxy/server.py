"""The proxy: who may connect, how many at a time, and what is written down of them."""

import errno
import logging
import resource
import socket
import time
from collections.abc import Callable
from dataclasses import replace

from ..attribution import AttributionTable
from .access_log import Access, format_access
from .connection import Connection, ProxyConfig, Shared
from .loop import Loop
from .relay import MOST_PIPES, Flow, PipePool
from .resolver import Resolver, Waker
from .usage import Usage

_log = logging.getLogger("runyard.proxy")

_TICK_S = 0.25
_LOG_DELAY_S = 0.02
_ACCEPTS_IN_A_TURN = 64
_OTHER_DESCRIPTORS = 256
_USAGES_KEPT = 256
"""of runners that are gone, until the controller has asked for them"""


class ProxyServer:
    """Serves until `stop` is called. Not thread-safe: everything happens on the thread that runs it."""

    def __init__(self, config: ProxyConfig, write_log: Callable[[str], None]):
        self._config = config = replace(config, private_targets=frozenset(map(str.lower, config.private_targets)))
        self._write_log = write_log
        self.loop = Loop()
        self._table = AttributionTable()
        self._connections: set[Connection] = set()
        self._of_runner: dict[str, set[Connection]] = {}
        self._usage: dict[str, Usage] = {}
        self._lines: list[str] = []
        self._pipes = PipePool()
        self._waker = Waker()
        self._resolver = Resolver(config.hosts, self._waker.wake)
        self._shared = Shared(config, self.loop, self._resolver, self._pipes, set(), self._account)
        self.loop.watch(self._waker.descriptor, lambda _: self._on_wake())
        self._listener = self._listen()
        self.loop.watch(self._listener.fileno(), lambda _: self._accept())
        self.loop.call_later(_TICK_S, self._tick)

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def set_table(self, table: AttributionTable) -> None:
        """Replaces the runners that may connect. The tunnels of runners that are gone end now."""
        self._table = table
        known = {entry.runner_name for entry in table.entries()}
        for connection in [c for of_one in self._of_runner.values() for c in of_one]:
            who = connection.who
            assert who is not None  # noqa: S101 - it is a runner's
            if who.runner_name not in known:
                connection.end(connection.reason or "the runner is gone")
            elif (now_who := table.find(who.gateway, who.address)) and now_who.runner_name == who.runner_name:
                # It may have got its job while the connection was open.
                connection.who = now_who
        gone = [runner_name for runner_name in self._usage if runner_name not in known]
        for runner_name in gone[:-_USAGES_KEPT]:
            del self._usage[runner_name]

    def usage_of(self, runner_name: str) -> Usage:
        """What a runner has used so far, open tunnels included."""
        closed = self._usage.get(runner_name, Usage())
        total = Usage(closed.connections, closed.refused, closed.bytes_up, closed.bytes_down, dict(closed.targets))
        for connection in self._of_runner.get(runner_name, ()):
            _add_up(total, connection)
        return total

    def forget_usage(self, runner_name: str) -> None:
        self._usage.pop(runner_name, None)

    def stop(self) -> None:
        self.loop.stop()

    def run(self) -> None:
        """Serves until stopped, then ends every tunnel."""
        self._raise_descriptor_limit()
        self.loop.run()
        for connection in list(self._connections):
            connection.end(connection.reason or "the proxy stops")
        self._flush_log()
        self._pipes.close()
        self._resolver.close()
        self._waker.close()
        self._listener.close()
        self.loop.close()

    def _raise_descriptor_limit(self) -> None:
        """Many systems give a process 1,024 unless it asks for more."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 2 * self._config.most_connections + 2 * MOST_PIPES + _OTHER_DESCRIPTORS
        if soft < min(wanted, hard):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted sockets inherit it.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind((self._config.address, self._config.port))
        listener.listen(1024)
        return listener

    def _on_wake(self) -> None:
        self._waker.clear()
        self._resolver.deliver()

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_IN_A_TURN):
            try:
                client, peer = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                    _log.error("%s: accepting waits, %d connections are open", error.strerror, len(self._connections))
                    self.loop.pause(self._listener.fileno())
                    return
                continue
            self._admit(client, peer[0])

    def _admit(self, client: socket.socket, peer: str) -> None:
        client.setblocking(False)
        who = self._table.find(client.getsockname()[0], peer)
        connection = Connection(client, peer, who, self._shared)
        self._connections.add(connection)
        if who is None:
            connection.refuse(403, f"{peer} is not a runner of this host")
            return
        siblings = self._of_runner.setdefault(who.runner_name, set())
        siblings.add(connection)
        if len(siblings) > self._config.most_for_a_runner:
            connection.refuse(503, f"this runner has {self._config.most_for_a_runner} connections already")
        elif len(self._connections) > self._config.most_connections:
            connection.refuse(503, "the proxy has too many connections")

    def _account(self, connection: Connection, reason: str) -> None:
        """Writes a connection down that has ended."""
        self._connections.discard(connection)
        who = connection.who
        if who is not None:
            siblings = self._of_runner[who.runner_name]
            siblings.discard(connection)
            if not siblings:
                del self._of_runner[who.runner_name]
            _add_up(self._usage.setdefault(who.runner_name, Usage()), connection)
        access = Access(
            kind=connection.kind,
            decision=connection.decision,
            reason=reason,
            who=who,
            host_id=self._config.host_id,
            target=connection.target,
            source_ip=connection.peer,
            bytes_up=_bytes(connection.up),
            bytes_down=_bytes(connection.down),
            duration_ms=round((self.loop.now - connection.started) * 1000),
        )
        if not self._lines:
            self.loop.call_later(_LOG_DELAY_S, self._flush_log)
        self._lines.append(format_access(access, time.time()))

    def _flush_log(self) -> None:
        if not self._lines:
            return
        try:
            self._write_log("\n".join(self._lines) + "\n")
        except OSError as error:
            # A full disk, or a controller that is gone with the pipe's other end: no reason to cut off running jobs.
            _log.error("%d lines of the log are lost: %s", len(self._lines), error.strerror)
        self._lines.clear()

    def _tick(self) -> None:
        self.loop.call_later(_TICK_S, self._tick)
        now = self.loop.now
        for connection in [c for c in self._shared.in_handshake if c.deadline <= now]:
            connection.time_out()
        idle_since = now - self._config.idle_timeout_s
        for connection in [c for c in self._connections if c.touched < idle_since]:
            connection.end(f"nothing for {self._config.idle_timeout_s:g} s")


def _add_up(usage: Usage, connection: Connection) -> None:
    was_refused = connection.decision == "refused"
    usage.add(connection.target, _bytes(connection.up), _bytes(connection.down), was_refused=was_refused)


def _bytes(flow: Flow | None) -> int:
    return flow.bytes if flow is not None else 0
