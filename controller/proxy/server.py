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
from .access_log import FORMATS, Event, format_time
from .connection import Connection, ProxyConfig, Shared
from .github_hosts import BUILT_IN, GithubHosts
from .journal import Journal
from .known_runner import HostRules, KnownRunner
from .loop import Loop
from .relay import MOST_PIPES, PipePool
from .resolver import Resolver, Waker
from .rules import judge
from .usage import Usage

_log = logging.getLogger("runyard.proxy")

_TICK_S = 0.25
_SWEEP_EVERY_S = 5.0
"""at least: a proxy that is killed knows less by so much of the tunnels that were open"""
_LOOK_AT_FILE_EVERY_S = 10.0
_FLUSH_DELAY_S = 0.02
_ACCEPTS_IN_A_TURN = 64
_OTHER_DESCRIPTORS = 256
_GONE_RUNNERS_KEPT = 256
_VERDICTS_KEPT = 4096


class ProxyServer:
    """Serves until `stop` is called. Not thread-safe: everything happens on the thread that runs it."""

    def __init__(self, config: ProxyConfig, write_log: Callable[[str], None], journal: Journal):
        self._config = config = replace(config, private_targets=frozenset(map(str.lower, config.private_targets)))
        self._write_log = write_log
        self.loop = Loop()
        self._format = FORMATS[config.log_format](config.host_id)
        self._host_rules = HostRules(self._format, BUILT_IN.hosts, config.private_targets)
        self._hosts_file_version = 0
        self._table = AttributionTable()
        self._runners: dict[str, KnownRunner] = {}
        """by name"""
        self._journal = journal
        self._usages = journal.load()
        """by runner; of those that are gone, too, until the controller has asked"""
        self._connections: set[Connection] = set()
        self._is_flush_due = False
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
        self._read_github_hosts()
        self.loop.watch(self._waker.descriptor, lambda _: self._on_wake())
        self._listener = self._listen()
        self.loop.watch(self._listener.fileno(), lambda _: self._accept())
        self.loop.call_later(_TICK_S, self._tick)
        self._sweep_every_s = min(_SWEEP_EVERY_S, config.idle_timeout_s / 10)
        self.loop.call_later(self._sweep_every_s, self._sweep)

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def set_table(self, table: AttributionTable) -> None:
        """Replaces the runners that may connect. The tunnels of runners that are gone end now."""
        self._table = table
        changed = set()
        for entry in table.entries():
            if (known := self._runners.get(entry.runner_name)) is None:
                usage = self._usages.setdefault(entry.runner_name, Usage())
                self._runners[entry.runner_name] = KnownRunner(entry, usage, self._host_rules, self.loop)
            elif known.attribution != entry:
                if known.attribution.egress != entry.egress:
                    changed.add(known)
                known.update(entry, self._host_rules, self.loop)
        names = {entry.runner_name for entry in table.entries()}
        for connection in list(self._connections):
            if connection.runner is not None and connection.runner.name not in names:
                connection.end(connection.reason or "the runner is gone")
            elif connection.runner in changed:
                connection.judge_again()
        self._runners = {name: known for name, known in self._runners.items() if name in names}
        gone = [name for name in self._usages if name not in names]
        for name in gone[:-_GONE_RUNNERS_KEPT]:
            self.forget_usage(name)

    def _read_github_hosts(self) -> None:
        """Takes up another list of GitHub's hosts. A file that is not usable changes nothing."""
        path = self._config.github_hosts_file
        if path is None:
            return
        self.loop.call_later(_LOOK_AT_FILE_EVERY_S, self._read_github_hosts)
        try:
            version = path.stat().st_mtime_ns
            if version == self._hosts_file_version:
                return
            self._hosts_file_version = version
            found = GithubHosts.model_validate_json(path.read_bytes())
        except (OSError, ValueError) as error:
            _log.error("%s: GitHub's hosts stay those that were known: %s", path, error)
            return
        _log.info("%s: %d hosts of GitHub's as of %s", path, len(found.hosts), found.as_of)
        self._host_rules = replace(self._host_rules, github_hosts=found.hosts)
        for known in self._runners.values():
            known.update(known.attribution, self._host_rules, self.loop)

    def usage_of(self, runner_name: str) -> Usage:
        """What a runner has used so far, open tunnels included."""
        usage = self._usages.get(runner_name, Usage()).copy()
        for connection in self._connections:
            if (runner := connection.runner) is not None and runner.name == runner_name:
                usage.add(connection.target, connection.peek_counts(), runner.most_targets)
        return usage

    def forget_usage(self, runner_name: str) -> None:
        """The controller has written it down."""
        self._usages.pop(runner_name, None)
        self._journal.forget(runner_name)
        self._flush_later()
        if (known := self._runners.get(runner_name)) is not None:
            known.usage = self._usages[runner_name] = Usage()

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
        self._flush()
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
        most = runner.attribution.egress.connections or self._config.most_for_a_runner
        if runner.open_connections > most:
            connection.refuse(503, f"this runner has {most} connections already")
        elif len(self._connections) > self._config.most_connections:
            connection.refuse(503, "the proxy has too many connections")

    def _account(self, connection: Connection, reason: str) -> None:
        """Writes a connection down that has ended."""
        self._connections.discard(connection)
        runner = connection.runner
        if runner is not None:
            runner.open_connections -= 1
            self._count(connection, runner)
        self._flush_later()
        if self._line_time_at != self.loop.now:
            self._line_time_at, self._line_time = self.loop.now, format_time(time.time())
        self._lines.append(
            self._format.line(
                Event(
                    self._line_time,
                    connection.kind,
                    connection.decision,
                    runner.log_subject if runner is not None else self._format.describe(None, connection.peer),
                    connection.target,
                    reason,
                    connection.ruling,
                    connection.server_name,
                    connection.bytes_up,
                    connection.bytes_down,
                    round((self.loop.now - connection.started) * 1000),
                )
            )
        )

    def _count(self, connection: Connection, runner: KnownRunner) -> None:
        """Adds what is new of a connection to its runner's usage."""
        counts = connection.take_counts()
        target = runner.usage.add(connection.target, counts, runner.most_targets)
        self._journal.note(runner.name, target, counts)

    def _flush_later(self) -> None:
        if not self._is_flush_due:
            self._is_flush_due = True
            self.loop.call_later(_FLUSH_DELAY_S, self._flush)

    def _flush(self) -> None:
        """Writes the log and the journal."""
        self._is_flush_due = False
        self._journal.flush(self._usages.items())
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
        """Counts what has moved, and ends the tunnels in which nothing has for too long, also where nobody reads."""
        self.loop.call_later(self._sweep_every_s, self._sweep)
        now, idle_since = self.loop.now, self.loop.now - self._config.idle_timeout_s
        for connection in list(self._connections):
            if (connection.bytes_up, connection.bytes_down) != connection.counted:
                connection.idle_since = now
                if connection.runner is not None:
                    self._count(connection, connection.runner)
                    self._flush_later()
            elif connection.idle_since <= idle_since:
                connection.end(f"nothing for {self._config.idle_timeout_s:g} s")
