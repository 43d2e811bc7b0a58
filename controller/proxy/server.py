"""The proxy's loop: one edge-triggered epoll set, one callback for each event, no task and no thread for a tunnel.

`head.py` understands requests, `rules.py` judges targets, `relay.py` moves bytes; here is what happens when.
"""

import errno
import logging
import os
import resource
import select
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from ..attribution import Attribution, AttributionTable, Egress
from .access_log import Access, format_access
from .head import BadHead, Head, parse_head
from .relay import MOST_PIPES, Flow, PipePool
from .resolver import Answer, Resolver, Waker
from .rules import Verdict, judge, refuse_target
from .usage import Usage

_log = logging.getLogger("runyard.proxy")

_READ = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
_READ_WRITE = _READ | select.EPOLLOUT
_BROKEN = select.EPOLLERR | select.EPOLLHUP
_TICK_S = 0.25
_LOG_DELAY_S = 0.02
_ACCEPTS_IN_A_TURN = 64
_DISCARDS_IN_A_TURN = 16
_OTHER_DESCRIPTORS = 256
_USAGES_KEPT = 256
"""of runners that are gone, until the controller has asked for them"""
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER, with no time to linger"""
_REASONS = {400: "Bad Request", 403: "Forbidden", 408: "Request Timeout", 431: "Request Header Fields Too Large"}
_REASONS |= {502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout"}


@dataclass(frozen=True)
class ProxyConfig:
    """What the proxy is told at start."""

    host_id: str
    port: int
    address: str = "0.0.0.0"  # noqa: S104 - every runner's bridge has a gateway address of its own; strangers are refused
    hosts: dict[str, str] = field(default_factory=dict)
    """names with fixed addresses"""
    private_targets: frozenset[str] = frozenset()
    """`host:port` that may have private addresses"""
    head_timeout_s: float = 10
    connect_timeout_s: float = 10
    idle_timeout_s: float = 900
    most_connections: int = 8000
    most_for_a_runner: int = 1000


@dataclass(eq=False, slots=True)
class Connection:
    """One client, from accept to the line in the log."""

    client: socket.socket
    peer: str
    """the client's address"""
    who: Attribution | None
    started: float
    touched: float
    """when something last happened"""
    deadline: float
    """for what it is doing now, in handshake or closing"""
    give_up_at: float = 0
    """when all addresses of the target must have been tried"""
    buffer: bytearray = field(default_factory=bytearray)
    head: Head | None = None
    addresses: list[str] = field(default_factory=list)
    """still to be tried"""
    upstream: socket.socket | None = None
    up: Flow | None = None
    down: Flow | None = None
    client_wants_write: bool = False
    is_closing: bool = False
    """answered with an error: waits for the client to read it"""
    decision: str = "failed"
    """so far"""
    reason: str = ""
    """for a refusal"""


class ProxyServer:
    """Serves until `stop` is called. Not thread-safe: everything happens on the thread that runs it."""

    def __init__(self, config: ProxyConfig, write_log: Callable[[str], None]):
        self._config = config
        self._write_log = write_log
        self._private_targets = frozenset(target.lower() for target in config.private_targets)
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._table = AttributionTable()
        self._connections: set[Connection] = set()
        self._in_handshake: set[Connection] = set()
        self._of_runner: dict[str, set[Connection]] = {}
        self._usage: dict[str, Usage] = {}
        self._again: dict[Connection, None] = {}
        """in the order of their turns"""
        self._paused: list[int] = []
        self._to_close: list[socket.socket] = []
        self._lines: list[str] = []
        self._pipes = PipePool()
        self._is_running = True
        self._now = time.monotonic()
        self._waker = Waker()
        self._resolver = Resolver(config.hosts, self._waker.wake)
        self.watch(self._waker.descriptor, lambda _: self._on_wake())
        self._listener = self._listen()
        self.watch(self._listener.fileno(), lambda _: self._accept())

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
                self._end(connection, connection.reason or "the runner is gone")
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

    def watch(self, descriptor: int, callback: Callable[[int], None]) -> None:
        """Calls back whenever a descriptor is readable."""
        self._callbacks[descriptor] = callback
        self._epoll.register(descriptor, select.EPOLLIN)

    def unwatch(self, descriptor: int) -> None:
        self._callbacks.pop(descriptor, None)
        with suppress(OSError):
            self._epoll.unregister(descriptor)

    def pause(self, descriptor: int) -> None:
        """Looks away from a watched descriptor for a moment: one that cannot be served now would spin the loop."""
        self._epoll.unregister(descriptor)
        self._paused.append(descriptor)

    def stop(self) -> None:
        self._is_running = False

    def run(self) -> None:
        """Serves until stopped, then ends every tunnel."""
        self._raise_descriptor_limit()
        next_tick = time.monotonic() + _TICK_S
        flush_at = 0.0
        while self._is_running:
            self._serve(self._epoll.poll(0 if self._again else _LOG_DELAY_S if self._lines else _TICK_S))
            if self._now >= next_tick:
                next_tick = self._now + _TICK_S
                self._tick()
            if self._lines and self._now >= flush_at:
                flush_at = self._now + _LOG_DELAY_S
                self._flush_log()
        self._close()

    def _serve(self, events: list[tuple[int, int]]) -> None:
        self._now = time.monotonic()
        for descriptor, event in events:
            if (callback := self._callbacks.get(descriptor)) is not None:
                try:
                    callback(event)
                except Exception:  # noqa: BLE001 - see below
                    # From a fault of ours one connection may suffer, until its time is out: the others carry jobs.
                    _log.exception("a fault in the proxy")
        again, self._again = self._again, {}
        for connection in again:
            self._take_turn(connection)
        self._close_sockets()

    def _close(self) -> None:
        for connection in list(self._connections):
            self._end(connection, connection.reason or "the proxy stops")
        self._close_sockets()
        self._flush_log()
        self._pipes.close()
        self._resolver.close()
        self._waker.close()
        self._listener.close()
        self._epoll.close()

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

    # From accept to the request's head

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_IN_A_TURN):
            try:
                client, peer = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                    _log.error("%s: accepting waits, %d connections are open", error.strerror, len(self._connections))
                    self.pause(self._listener.fileno())
                    return
                continue
            self._admit(client, peer[0])

    def _admit(self, client: socket.socket, peer: str) -> None:
        client.setblocking(False)
        who = self._table.find(client.getsockname()[0], peer)
        connection = Connection(client, peer, who, self._now, self._now, self._now + self._config.head_timeout_s)
        self._connections.add(connection)
        self._in_handshake.add(connection)
        self._callbacks[client.fileno()] = lambda event: self._on_client(connection, event)
        self._epoll.register(client.fileno(), _READ)
        if connection.who is None:
            self._refuse(connection, 403, f"{peer} is not a runner of this host")
            return
        siblings = self._of_runner.setdefault(connection.who.runner_name, set())
        siblings.add(connection)
        if len(siblings) > self._config.most_for_a_runner:
            self._refuse(connection, 503, f"this runner has {self._config.most_for_a_runner} connections already")
        elif len(self._connections) > self._config.most_connections:
            self._refuse(connection, 503, "the proxy has too many connections")

    def _on_client(self, connection: Connection, event: int) -> None:
        connection.touched = self._now
        if connection.up is not None:
            self._pump(connection, connection.down if event & _BROKEN else None)
        elif connection.is_closing:
            self._discard_input(connection)
        elif connection.head is None:
            self._read_head(connection)
        elif event & _BROKEN:
            self._end(connection, "the client went away")

    def _read_head(self, connection: Connection) -> None:
        try:
            while connection.head is None:
                data = connection.client.recv(16 * 1024)
                if not data:
                    self._end(connection, "the client sent no whole request")
                    return
                connection.buffer += data
                connection.head = parse_head(connection.buffer)
        except BlockingIOError:
            return
        except BadHead as error:
            self._refuse(connection, error.status, error.reason)
            return
        except OSError as error:
            self._end(connection, f"the client went away: {error.strerror}")
            return
        self._look_up(connection, connection.head)

    def _look_up(self, connection: Connection, head: Head) -> None:
        """Resolves the target's name, if the runner's profile lets it go there at all."""
        who = connection.who
        egress = who.egress if who is not None else Egress(is_enforced=True)
        reason = refuse_target(head.host, head.port, egress, tuple(self._private_targets))
        if reason is not None:
            self._refuse(connection, 403, reason)
            return
        connection.deadline = connection.give_up_at = self._now + self._config.connect_timeout_s
        self._resolver.resolve(head.host, lambda answer: self._on_resolved(connection, answer))

    # From the head to the target

    def _on_resolved(self, connection: Connection, answer: Answer) -> None:
        head = connection.head
        if head is None or connection.is_closing or connection not in self._connections:
            return
        if not answer:
            self._refuse(connection, 502, f"the name {head.host} does not resolve", decision="failed")
            return
        verdict: Verdict = judge(head.target, answer, self._private_targets)
        if not verdict.is_allowed:
            self._refuse(connection, 403, verdict.reason)
            return
        connection.addresses = list(verdict.addresses)
        self._connect(connection, "")

    def _connect(self, connection: Connection, why_again: str) -> None:
        """Tries the next address, for its share of the time that is left: one dead address is no dead target."""
        head = connection.head
        assert head is not None  # noqa: S101 - connecting comes after the head
        reason = why_again
        while connection.addresses:
            connection.deadline = self._now + (connection.give_up_at - self._now) / len(connection.addresses)
            address = connection.addresses.pop(0)
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            try:
                upstream = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            except OSError as error:
                reason = f"no socket: {error.strerror}"
                continue
            upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            code = upstream.connect_ex((address, head.port))
            if code not in {0, errno.EINPROGRESS}:
                upstream.close()
                reason = os.strerror(code)
                continue
            connection.upstream = upstream
            self._callbacks[upstream.fileno()] = lambda event: self._on_upstream(connection, event)
            self._epoll.register(upstream.fileno(), _READ_WRITE)
            return
        self._refuse(connection, 502, f"{head.target} cannot be reached: {reason}", decision="failed")

    def _on_upstream(self, connection: Connection, event: int) -> None:
        connection.touched = self._now
        if connection.up is not None:
            self._pump(connection, connection.up if event & _BROKEN else None)
            return
        upstream = connection.upstream
        assert upstream is not None  # noqa: S101 - this is its event
        if code := upstream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._drop(upstream)
            connection.upstream = None
            self._connect(connection, os.strerror(code))
        elif event & select.EPOLLOUT:
            self._begin_relay(connection, upstream)

    def _begin_relay(self, connection: Connection, upstream: socket.socket) -> None:
        head = connection.head
        assert head is not None  # noqa: S101 - connecting comes after the head
        payload = bytes(connection.buffer[head.size :])[: head.body_size]
        left = None if head.body_size is None else head.body_size - len(payload)
        connection.buffer = bytearray()
        connection.decision = "tunnel"
        self._in_handshake.discard(connection)
        reply = b"HTTP/1.1 200 Connection established\r\n\r\n" if head.is_connect else b""
        first = (head.origin_head or b"") + payload
        connection.up = Flow(connection.client, upstream, self._pipes, first, len(payload), left)
        connection.down = Flow(upstream, connection.client, self._pipes, reply, 0)
        self._pump(connection)

    # The tunnel

    def _take_turn(self, connection: Connection) -> None:
        if connection not in self._connections:
            return
        if connection.is_closing:
            self._discard_input(connection)
        else:
            self._pump(connection)

    def _pump(self, connection: Connection, dead_end: Flow | None = None) -> None:
        """Moves bytes both ways, whichever of the four edges it was.

        Args:
            connection: a tunnel.
            dead_end: the flow whose target was reset, or has ended both ways.
        """
        up, down = connection.up, connection.down
        if up is None or down is None:
            return
        wants_turn = up.pump() | down.pump()
        if dead_end is not None and not dead_end.is_done:
            # It may have nothing to pass on now, and would wait for it in vain.
            dead_end.break_off("the other side is gone")
        # Without the client all is over. Without the origin, the client still gets what has come.
        if down.broken or (up.is_done and down.is_done):
            broken = down.broken or up.broken
            self._end(connection, broken and f"broken: {broken}")
        elif wants_turn:
            self._again[connection] = None
        elif down.is_blocked and not connection.client_wants_write:
            # Most clients are never slower than their origin. The upstream side has it from the start.
            connection.client_wants_write = True
            self._epoll.modify(connection.client.fileno(), _READ_WRITE)

    # The end

    def _refuse(self, connection: Connection, status: int, reason: str, decision: str = "refused") -> None:
        """Answers in plain words, and waits a moment so that the client gets to read them."""
        connection.decision, connection.reason, connection.is_closing = decision, reason, True
        connection.deadline = self._now + 1.0
        self._in_handshake.add(connection)
        body = f"runyard proxy: {reason}\n".encode()
        head = f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        head += f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        try:
            connection.client.send(head.encode() + body)
            connection.client.shutdown(socket.SHUT_WR)
        except OSError:
            self._end(connection, reason)
            return
        self._discard_input(connection)

    def _discard_input(self, connection: Connection) -> None:
        """A socket that is closed with unread bytes resets, and the client loses our answer."""
        try:
            for _ in range(_DISCARDS_IN_A_TURN):
                if not connection.client.recv(64 * 1024):
                    self._end(connection, connection.reason)
                    return
        except BlockingIOError:
            return
        except OSError:
            self._end(connection, connection.reason)
            return
        self._again[connection] = None

    def _end(self, connection: Connection, reason: str) -> None:
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        self._in_handshake.discard(connection)
        self._cut_off(connection)
        self._drop(connection.client)
        if connection.upstream is not None:
            self._drop(connection.upstream)
        self._account(connection, reason)

    def _cut_off(self, connection: Connection) -> None:
        """Half a download must not look like a whole one: a tunnel that we end, and plain HTTP that breaks, is reset.

        In a broken tunnel the end stays an end: what is inside knows its own length, and a reset would overtake the
        bytes that the client has not read yet.
        """
        up, down, upstream, head = connection.up, connection.down, connection.upstream, connection.head
        if up is None or down is None or upstream is None or head is None:
            return
        up.close()
        down.close()
        is_broken = bool(up.broken or down.broken)
        is_whole = up.is_done and down.is_done and not is_broken
        if not is_whole and not (is_broken and head.is_connect):
            for sock in (connection.client, upstream):
                with suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)

    def _drop(self, sock: socket.socket) -> None:
        """Closes after the batch of events: a number that is used again must not get a stale event."""
        self._callbacks.pop(sock.fileno(), None)
        self._to_close.append(sock)

    def _close_sockets(self) -> None:
        for sock in self._to_close:
            sock.close()
        self._to_close.clear()

    def _account(self, connection: Connection, reason: str) -> None:
        who, head = connection.who, connection.head
        if who is not None:
            siblings = self._of_runner[who.runner_name]
            siblings.discard(connection)
            if not siblings:
                del self._of_runner[who.runner_name]
            _add_up(self._usage.setdefault(who.runner_name, Usage()), connection)
        access = Access(
            kind="CONNECT" if head is None or head.is_connect else "HTTP",
            decision=connection.decision,
            reason=reason,
            who=who,
            host_id=self._config.host_id,
            target=head.target if head else "",
            source_ip=connection.peer,
            bytes_up=_bytes(connection.up),
            bytes_down=_bytes(connection.down),
            duration_ms=round((self._now - connection.started) * 1000),
        )
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

    # Time

    def _tick(self) -> None:
        for descriptor in self._paused:
            self._epoll.register(descriptor, select.EPOLLIN)
        self._paused.clear()
        for connection in [c for c in self._in_handshake if c.deadline <= self._now]:
            self._time_out(connection)
        idle_since = self._now - self._config.idle_timeout_s
        for connection in [c for c in self._connections if c.touched < idle_since]:
            self._end(connection, f"nothing for {self._config.idle_timeout_s:g} s")

    def _time_out(self, connection: Connection) -> None:
        if connection.is_closing:
            self._end(connection, connection.reason)
        elif connection.head is None:
            self._refuse(connection, 408, "the request's head did not come in time")
        else:
            if connection.upstream is not None:
                self._drop(connection.upstream)
                connection.upstream = None
            if connection.addresses:
                self._connect(connection, "no answer in time")
            else:
                reason = f"{connection.head.target} did not answer in time"
                self._refuse(connection, 504, reason, decision="failed")


def _add_up(usage: Usage, connection: Connection) -> None:
    target = connection.head.target if connection.head else ""
    was_refused = connection.decision == "refused"
    usage.add(target, _bytes(connection.up), _bytes(connection.down), was_refused=was_refused)


def _bytes(flow: Flow | None) -> int:
    return flow.bytes if flow is not None else 0
