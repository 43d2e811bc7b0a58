"""The proxy's loop: one edge-triggered epoll set, one callback for each event, no task and no thread for a tunnel.

`head.py` understands requests, `rules.py` judges targets, `relay.py` moves bytes; here is what happens when.
"""

import errno
import logging
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from ..attribution import Attribution, AttributionTable
from .access_log import Access, format_access
from .head import BadHead, Head, parse_head
from .relay import Flow, PipePool
from .resolver import Answer, Resolver, make_waker
from .rules import Verdict, judge
from .usage import Usage

_log = logging.getLogger("runyard.proxy")

_READ = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
_READ_WRITE = _READ | select.EPOLLOUT
_BROKEN = select.EPOLLERR | select.EPOLLHUP
_TICK_S = 0.25
_LOG_DELAY_S = 0.02
_ACCEPTS_IN_A_TURN = 64
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
    reason: str = ""


class ProxyServer:
    """Serves until `stop` is called. Not thread-safe: everything happens on the thread that runs it."""

    def __init__(self, config: ProxyConfig, write_log: Callable[[str], None]):
        self._config = config
        self._write_log = write_log
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._table = AttributionTable()
        self._connections: set[Connection] = set()
        self._in_handshake: set[Connection] = set()
        self._of_runner: dict[str, set[Connection]] = {}
        self._usage: dict[str, Usage] = {}
        self._again: deque[Connection] = deque()
        self._to_close: list[socket.socket] = []
        self._lines: list[str] = []
        self._pipes = PipePool()
        self._is_running = False
        self._is_accepting = True
        self._now = time.monotonic()
        waker, wake = make_waker()
        self._resolver = Resolver(config.hosts, wake)
        self.watch(waker, lambda _: self._on_wake(waker))
        self._listener = self._listen()
        self._epoll.register(self._listener.fileno(), select.EPOLLIN)
        self._callbacks[self._listener.fileno()] = lambda _: self._accept()

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def set_table(self, table: AttributionTable) -> None:
        """Replaces the runners that may connect. The tunnels of runners that are gone end now."""
        self._table = table
        known = {entry.runner_name for entry in table.entries()}
        for runner_name in [name for name in self._of_runner if name not in known]:
            for connection in list(self._of_runner[runner_name]):
                self._end(connection, connection.decision, "the runner is gone")

    def usage_of(self, runner_name: str) -> Usage:
        """What a runner has used so far, open tunnels included."""
        total = Usage()
        closed = self._usage.get(runner_name, Usage())
        total = Usage(closed.connections, closed.refused, closed.bytes_up, closed.bytes_down, dict(closed.targets))
        for connection in self._of_runner.get(runner_name, ()):
            target = connection.head.target if connection.head else ""
            total.add(target, _bytes(connection.up), _bytes(connection.down), was_refused=False)
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

    def stop(self) -> None:
        self._is_running = False

    def run(self) -> None:
        """Serves until stopped, then ends every tunnel."""
        self._is_running = True
        next_tick = time.monotonic() + _TICK_S
        flush_at = 0.0
        while self._is_running:
            timeout = 0 if self._again else _LOG_DELAY_S if self._lines else _TICK_S
            events = self._epoll.poll(timeout)
            self._now = time.monotonic()
            for descriptor, event in events:
                if (callback := self._callbacks.get(descriptor)) is not None:
                    callback(event)
            for _ in range(len(self._again)):
                self._pump(self._again.popleft())
            self._close_sockets()
            if self._now >= next_tick:
                next_tick = self._now + _TICK_S
                self._tick()
            if self._lines and self._now >= flush_at:
                flush_at = self._now + _LOG_DELAY_S
                self._flush_log()
        for connection in list(self._connections):
            self._end(connection, connection.decision, "the proxy stops")
        self._close_sockets()
        self._flush_log()
        self._listener.close()
        self._epoll.close()

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted sockets inherit it.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind((self._config.address, self._config.port))
        listener.listen(1024)
        return listener

    def _on_wake(self, waker: int) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(waker)
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
                    # Spinning on a listener that cannot be served would stop everything else.
                    self._pause_accepting()
                    return
                continue
            self._admit(client, peer[0])

    def _pause_accepting(self) -> None:
        _log.error("no more descriptors: accepting is paused with %d connections open", len(self._connections))
        self._is_accepting = False
        self._epoll.unregister(self._listener.fileno())

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
            self._pump(connection)
        elif connection.is_closing:
            self._discard_input(connection)
        elif connection.head is None:
            self._read_head(connection)
        elif event & _BROKEN:
            self._end(connection, "failed", "the client went away")

    def _read_head(self, connection: Connection) -> None:
        try:
            while connection.head is None:
                data = connection.client.recv(16 * 1024)
                if not data:
                    self._end(connection, "failed", "the client sent no whole request")
                    return
                connection.buffer += data
                connection.head = parse_head(connection.buffer)
        except BlockingIOError:
            return
        except BadHead as error:
            self._refuse(connection, error.status, error.reason)
            return
        except OSError as error:
            self._end(connection, "failed", f"the client went away: {error.strerror}")
            return
        connection.deadline = self._now + self._config.connect_timeout_s
        self._resolver.resolve(connection.head.host, lambda answer: self._on_resolved(connection, answer))

    # From the head to the target

    def _on_resolved(self, connection: Connection, answer: Answer) -> None:
        head = connection.head
        if head is None or connection.is_closing or connection not in self._connections:
            return
        if not answer:
            self._refuse(connection, 502, f"the name {head.host} does not resolve", decision="failed")
            return
        verdict: Verdict = judge(head.target, answer, self._config.private_targets)
        if not verdict.is_allowed:
            self._refuse(connection, 403, verdict.reason)
            return
        connection.addresses = list(verdict.addresses)
        self._connect(connection, "")

    def _connect(self, connection: Connection, why_again: str) -> None:
        """Tries the next address."""
        head = connection.head
        assert head is not None  # noqa: S101 - connecting comes after the head
        reason = why_again
        while connection.addresses:
            address = connection.addresses.pop(0)
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            try:
                upstream = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            except OSError as error:
                reason = f"no socket: {error.strerror}"
                break
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
            self._pump(connection)
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
        payload = bytes(connection.buffer[head.size :])
        connection.buffer = bytearray()
        connection.decision = "tunnel"
        self._in_handshake.discard(connection)
        reply = b"HTTP/1.1 200 Connection established\r\n\r\n" if head.is_connect else b""
        first = (head.origin_head or b"") + payload
        connection.up = Flow(connection.client, upstream, self._pipes, first, len(payload))
        connection.down = Flow(upstream, connection.client, self._pipes, reply, 0)
        self._pump(connection)

    # The tunnel

    def _pump(self, connection: Connection) -> None:
        up, down = connection.up, connection.down
        if up is None or down is None or connection not in self._connections:
            return
        try:
            # Both are pumped on every event: which of the four edges it was does not matter.
            wants_turn = up.pump() | down.pump()
        except OSError as error:
            self._end(connection, "tunnel", f"broken: {error.strerror}")
            return
        if up.is_done and down.is_done:
            self._end(connection, "tunnel", "")
        elif wants_turn:
            self._again.append(connection)
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
            self._end(connection, decision, reason)
            return
        self._discard_input(connection)

    def _discard_input(self, connection: Connection) -> None:
        """A socket that is closed with unread bytes resets, and the client loses our answer."""
        try:
            while connection.client.recv(64 * 1024):
                pass
        except BlockingIOError:
            return
        except OSError:
            pass
        self._end(connection, connection.decision, connection.reason)

    def _end(self, connection: Connection, decision: str, reason: str) -> None:
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        self._in_handshake.discard(connection)
        for flow in (connection.up, connection.down):
            if flow is not None:
                flow.close()
        self._drop(connection.client)
        if connection.upstream is not None:
            self._drop(connection.upstream)
        self._account(connection, decision, reason)

    def _drop(self, sock: socket.socket) -> None:
        """Closes after the batch of events: a number that is used again must not get a stale event."""
        self._callbacks.pop(sock.fileno(), None)
        self._to_close.append(sock)

    def _close_sockets(self) -> None:
        for sock in self._to_close:
            sock.close()
        self._to_close.clear()

    def _account(self, connection: Connection, decision: str, reason: str) -> None:
        who = connection.who
        target = connection.head.target if connection.head else ""
        bytes_up, bytes_down = _bytes(connection.up), _bytes(connection.down)
        if who is not None:
            siblings = self._of_runner[who.runner_name]
            siblings.discard(connection)
            if not siblings:
                del self._of_runner[who.runner_name]
            usage = self._usage.setdefault(who.runner_name, Usage())
            usage.add(target, bytes_up, bytes_down, was_refused=decision == "refused")
            # The runner may have got its job while the connection was open.
            now_who = self._table.find(who.gateway, who.address)
            if now_who is not None and now_who.runner_name == who.runner_name:
                who = now_who
        access = Access(
            kind="HTTP" if connection.head is not None and not connection.head.is_connect else "CONNECT",
            decision=decision,
            reason=reason,
            who=who,
            host_id=self._config.host_id,
            target=target,
            source_ip=connection.peer,
            bytes_up=bytes_up,
            bytes_down=bytes_down,
            duration_ms=round((self._now - connection.started) * 1000),
        )
        self._lines.append(format_access(access, time.time()))

    def _flush_log(self) -> None:
        if self._lines:
            self._write_log("\n".join(self._lines) + "\n")
            self._lines.clear()

    # Time

    def _tick(self) -> None:
        if not self._is_accepting:
            self._is_accepting = True
            self._epoll.register(self._listener.fileno(), select.EPOLLIN)
        for connection in [c for c in self._in_handshake if c.deadline <= self._now]:
            self._time_out(connection)
        idle_since = self._now - self._config.idle_timeout_s
        for connection in [c for c in self._connections if c.touched < idle_since]:
            self._end(connection, connection.decision, f"nothing for {self._config.idle_timeout_s:g} s")

    def _time_out(self, connection: Connection) -> None:
        if connection.is_closing:
            self._end(connection, connection.decision, connection.reason)
        elif connection.head is None:
            self._refuse(connection, 408, "the request's head did not come in time")
        else:
            if connection.upstream is not None:
                self._drop(connection.upstream)
                connection.upstream = None
            reason = f"{connection.head.target} did not answer in time"
            self._refuse(connection, 504, reason, decision="failed")


def _bytes(flow: Flow | None) -> int:
    return flow.bytes if flow is not None else 0
