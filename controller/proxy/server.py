"""The proxy: who may connect, how many at a time, and what is written down of them."""

import errno
import gc
import logging
import resource
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial

from ..attribution import AttributionTable
from .access_log import describe, format_line, format_time
from .connection import Connection, ProxyConfig, Shared
from .known_runner import KnownRunner
from .loop import Loop
from .relay import MOST_PIPES, PipePool
from .resolver import Resolver, Waker
from .rules import judge
from .usage import Usage

_log = logging.getLogger("runyard.proxy")

_TICK_S = 0.25
_SWEEPS = 10
"""in the time after which a tunnel is idle"""
_LOG_DELAY_S = 0.02
_ACCEPTS_IN_A_TURN = 64
_OTHER_DESCRIPTORS = 256
_GONE_RUNNERS_KEPT = 256
_VERDICTS_KEPT = 4096


class ProxyServer:
    """Serves until `stop` is called. Not thread-safe: everything happens on the thread that runs it."""

    def __init__(self, config: ProxyConfig, write_log: Callable[[str], None]):
        self._config = config = replace(config, private_targets=frozenset(map(str.lower, config.private_targets)))
        self._write_log = write_log
        self.loop = Loop()
        self._table = AttributionTable()
        self._runners: dict[str, KnownRunner] = {}
        """by name; those that are gone, too, until the controller has asked for what they used"""
        self._connections: set[Connection] = set()
        self._lines: list[str] = []
        self._line_time_at, self._line_time = 0.0, ""
        """what ends in the same batch of events has ended at the same time"""
        self._pipes = PipePool()
        self._waker = Waker()
        self._resolver = Resolver(config.hosts, self._waker.wake)
        self._shared = Shared(
            config=config,
            loop=self.loop,
            resolver=self._resolver,
            pipes=self._pipes,
            judge=lru_cache(_VERDICTS_KEPT)(partial(judge, private_targets=config.private_targets)),
            in_handshake=set(),
            on_end=self._account,
        )
        self.loop.watch(self._waker.descriptor, lambda _: self._on_wake())
        self._listener = self._listen()
        self.loop.watch(self._listener.fileno(), lambda _: self._accept())
        self.loop.call_later(_TICK_S, self._tick)
        self.loop.call_later(config.idle_timeout_s / _SWEEPS, self._sweep)

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def set_table(self, table: AttributionTable) -> None:
        """Replaces the runners that may connect. The tunnels of runners that are gone end now."""
        self._table = table
        always, host_id = self._config.private_targets, self._config.host_id
        for entry in table.entries():
            if (known := self._runners.get(entry.runner_name)) is None:
                self._runners[entry.runner_name] = KnownRunner(entry, always, host_id)
            elif known.attribution != entry:
                known.update(entry, always, host_id)
        names = {entry.runner_name for entry in table.entries()}
        for connection in list(self._connections):
            if connection.runner is not None and connection.runner.name not in names:
                connection.end(connection.reason or "the runner is gone")
        gone = [name for name in self._runners if name not in names]
        for name in gone[:-_GONE_RUNNERS_KEPT]:
            del self._runners[name]

    def usage_of(self, runner_name: str) -> Usage:
        """What a runner has used so far, open tunnels included."""
        if (known := self._runners.get(runner_name)) is None:
            return Usage()
        closed = known.usage
        total = Usage(closed.connections, closed.refused, closed.bytes_up, closed.bytes_down, dict(closed.targets))
        for connection in self._connections:
            if connection.runner is known:
                _add_up(total, connection)
        return total

    def forget_usage(self, runner_name: str) -> None:
        """The controller has written it down."""
        if (known := self._runners.get(runner_name)) is not None:
            known.usage = Usage()

    def stop(self) -> None:
        self.loop.stop()

    def run(self) -> None:
        """Serves until stopped, then ends every tunnel."""
        self._raise_descriptor_limit()
        # What is there now stays: the collector need not look at it again.
        gc.freeze()
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
        runner = None if who is None else self._runners[who.runner_name]
        connection = Connection(client, peer, runner, self._shared)
        self._connections.add(connection)
        if runner is None:
            connection.refuse(403, f"{peer} is not a runner of this host")
            return
        runner.open_connections += 1
        if runner.open_connections > self._config.most_for_a_runner:
            connection.refuse(503, f"this runner has {self._config.most_for_a_runner} connections already")
        elif len(self._connections) > self._config.most_connections:
            connection.refuse(503, "the proxy has too many connections")

    def _account(self, connection: Connection, reason: str) -> None:
        """Writes a connection down that has ended."""
        self._connections.discard(connection)
        runner = connection.runner
        if runner is not None:
            runner.open_connections -= 1
            _add_up(runner.usage, connection)
        if not self._lines:
            self.loop.call_later(_LOG_DELAY_S, self._flush_log)
        if self._line_time_at != self.loop.now:
            self._line_time_at, self._line_time = self.loop.now, format_time(time.time())
        self._lines.append(
            format_line(
                self._line_time,
                connection.kind,
                connection.decision,
                describe(None, connection.peer, self._config.host_id) if runner is None else runner.log_subject,
                connection.target,
                reason,
                connection.bytes_up,
                connection.bytes_down,
                round((self.loop.now - connection.started) * 1000),
            )
        )

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

    def _sweep(self) -> None:
        """Ends the tunnels in which nothing has moved for too long, also those where nobody reads."""
        self.loop.call_later(self._config.idle_timeout_s / _SWEEPS, self._sweep)
        now, idle_since = self.loop.now, self.loop.now - self._config.idle_timeout_s
        for connection in list(self._connections):
            moved = connection.bytes_up + connection.bytes_down
            if moved != connection.moved:
                connection.moved, connection.idle_since = moved, now
            elif connection.idle_since <= idle_since:
                connection.end(f"nothing for {self._config.idle_timeout_s:g} s")


def _add_up(usage: Usage, connection: Connection) -> None:
    was_refused = connection.decision == "refused"
    usage.add(connection.target, connection.bytes_up, connection.bytes_down, was_refused=was_refused)
