"""One client of the proxy, from its request's head to the line in the log.

`head.py` understands the request, `rules.py` judges its target, `relay.py` moves the bytes; here is what happens when.
"""

import errno
import os
import select
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from ..attribution import Attribution, Egress
from .head import BadHead, Head, parse_head
from .loop import BROKEN, READ, READ_WRITE, Loop
from .relay import Flow, PipePool
from .resolver import Answer, Resolver
from .rules import judge, refuse_target

_CLOSES_WITHIN_S = 1.0
_DISCARDS_IN_A_TURN = 16
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER, with no time to linger"""
_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
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


@dataclass(frozen=True)
class Shared:
    """What all connections of a proxy share."""

    config: ProxyConfig
    loop: Loop
    resolver: Resolver
    pipes: PipePool
    in_handshake: "set[Connection]"
    """those whose deadline is watched"""
    on_end: "Callable[[Connection, str], None]"
    """told once of each, with the reason when it did not end by itself"""


class Connection:
    """One client. Its public fields are what the log wants to know."""

    __slots__ = (
        "_addresses",
        "_buffer",
        "_client",
        "_client_wants_write",
        "_give_up_at",
        "_head",
        "_is_closing",
        "_shared",
        "_upstream",
        "deadline",
        "decision",
        "down",
        "has_ended",
        "peer",
        "reason",
        "started",
        "touched",
        "up",
        "who",
    )

    def __init__(self, client: socket.socket, peer: str, who: Attribution | None, shared: Shared):
        self._shared = shared
        self._client = client
        self._upstream: socket.socket | None = None
        self._buffer = bytearray()
        self._head: Head | None = None
        self._addresses: list[str] = []
        """still to be tried"""
        self._give_up_at = 0.0
        """when all addresses of the target must have been tried"""
        self._client_wants_write = False
        self._is_closing = False
        """answered with an error: waits for the client to read it"""
        self.peer = peer
        """the client's address"""
        self.who = who
        self.started = self.touched = shared.loop.now
        self.deadline = self.started + shared.config.head_timeout_s
        """for what it is doing now, in handshake or closing"""
        self.up: Flow | None = None
        self.down: Flow | None = None
        self.decision = "failed"
        """so far"""
        self.reason = ""
        """for a refusal"""
        self.has_ended = False
        shared.in_handshake.add(self)
        shared.loop.watch(client.fileno(), self._on_client, READ)

    @property
    def target(self) -> str:
        """`host:port`; empty until it is known."""
        return self._head.target if self._head is not None else ""

    @property
    def kind(self) -> str:
        return "CONNECT" if self._head is None or self._head.is_connect else "HTTP"

    def time_out(self) -> None:
        """Its deadline is over."""
        if self._is_closing:
            self.end(self.reason)
        elif self._head is None:
            self.refuse(408, "the request's head did not come in time")
        else:
            self._drop_upstream()
            if self._addresses:
                self._connect("no answer in time")
            else:
                self.refuse(504, f"{self.target} did not answer in time", decision="failed")

    # From the request's head to the target

    def _on_client(self, event: int) -> None:
        self.touched = self._shared.loop.now
        if self.up is not None:
            self._pump(self.down if event & BROKEN else None)
        elif self._is_closing:
            self._discard_input()
        elif self._head is None:
            self._read_head()
        elif event & BROKEN:
            self.end("the client went away")

    def _read_head(self) -> None:
        try:
            while self._head is None:
                data = self._client.recv(16 * 1024)
                if not data:
                    self.end("the client sent no whole request")
                    return
                self._buffer += data
                self._head = parse_head(self._buffer)
        except BlockingIOError:
            return
        except BadHead as error:
            self.refuse(error.status, error.reason)
            return
        except OSError as error:
            self.end(f"the client went away: {error.strerror}")
            return
        self._look_up(self._head)

    def _look_up(self, head: Head) -> None:
        """Resolves the target's name, if the runner's profile lets it go there at all."""
        config = self._shared.config
        egress = self.who.egress if self.who is not None else Egress(is_enforced=True)
        reason = refuse_target(head.host, head.port, egress, tuple(config.private_targets))
        if reason is not None:
            self.refuse(403, reason)
            return
        self.deadline = self._give_up_at = self._shared.loop.now + config.connect_timeout_s
        self._shared.resolver.resolve(head.host, self._on_resolved)

    def _on_resolved(self, answer: Answer) -> None:
        head = self._head
        if head is None or self._is_closing or self.has_ended:
            return
        if not answer:
            self.refuse(502, f"the name {head.host} does not resolve", decision="failed")
            return
        verdict = judge(head.target, answer, self._shared.config.private_targets)
        if not verdict.is_allowed:
            self.refuse(403, verdict.reason)
            return
        self._addresses = list(verdict.addresses)
        self._connect("")

    def _connect(self, why_again: str) -> None:
        """Tries the next address, for its share of the time that is left: one dead address is no dead target."""
        head = self._head
        assert head is not None  # noqa: S101 - connecting comes after the head
        now, reason = self._shared.loop.now, why_again
        while self._addresses:
            self.deadline = now + (self._give_up_at - now) / len(self._addresses)
            address = self._addresses.pop(0)
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
            self._upstream = upstream
            self._shared.loop.watch(upstream.fileno(), self._on_upstream, READ_WRITE)
            return
        self.refuse(502, f"{head.target} cannot be reached: {reason}", decision="failed")

    def _on_upstream(self, event: int) -> None:
        self.touched = self._shared.loop.now
        if self.up is not None:
            self._pump(self.up if event & BROKEN else None)
            return
        upstream = self._upstream
        assert upstream is not None  # noqa: S101 - this is its event
        if code := upstream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._drop_upstream()
            self._connect(os.strerror(code))
        elif event & select.EPOLLOUT:
            self._begin_relay(upstream)

    def _begin_relay(self, upstream: socket.socket) -> None:
        head = self._head
        assert head is not None  # noqa: S101 - connecting comes after the head
        payload = bytes(self._buffer[head.size :])[: head.body_size]
        left = None if head.body_size is None else head.body_size - len(payload)
        self._buffer = bytearray()
        self.decision = "tunnel"
        self._shared.in_handshake.discard(self)
        reply = _ESTABLISHED if head.is_connect else b""
        first = (head.origin_head or b"") + payload
        self.up = Flow(self._client, upstream, self._shared.pipes, first, len(payload), left)
        self.down = Flow(upstream, self._client, self._shared.pipes, reply, 0)
        self._pump()

    # The tunnel

    def _pump(self, dead_end: Flow | None = None) -> None:
        """Moves bytes both ways, whichever of the four edges it was.

        Args:
            dead_end: the flow whose target was reset, or has ended both ways.
        """
        up, down = self.up, self.down
        if up is None or down is None:
            return
        wants_turn = up.pump() | down.pump()
        if dead_end is not None and not dead_end.is_done:
            # It may have nothing to pass on now, and would wait for it in vain.
            dead_end.break_off("the other side is gone")
        # Without the client all is over. Without the origin, the client still gets what has come.
        if down.broken or (up.is_done and down.is_done):
            broken = down.broken or up.broken
            self.end(broken and f"broken: {broken}")
        elif wants_turn:
            self._shared.loop.give_turn(self._take_turn)
        elif down.is_blocked and not self._client_wants_write:
            # Most clients are never slower than their origin. The upstream side has it from the start.
            self._client_wants_write = True
            self._shared.loop.change(self._client.fileno(), READ_WRITE)

    def _take_turn(self) -> None:
        if self.has_ended:
            return
        if self._is_closing:
            self._discard_input()
        else:
            self._pump()

    # The end

    def refuse(self, status: int, reason: str, decision: str = "refused") -> None:
        """Answers in plain words, and waits a moment so that the client gets to read them."""
        self.decision, self.reason, self._is_closing = decision, reason, True
        self.deadline = self._shared.loop.now + _CLOSES_WITHIN_S
        self._shared.in_handshake.add(self)
        body = f"runyard proxy: {reason}\n".encode()
        head = f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        head += f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        try:
            self._client.send(head.encode() + body)
            self._client.shutdown(socket.SHUT_WR)
        except OSError:
            self.end(reason)
            return
        self._discard_input()

    def _discard_input(self) -> None:
        """A socket that is closed with unread bytes resets, and the client loses our answer."""
        try:
            for _ in range(_DISCARDS_IN_A_TURN):
                if not self._client.recv(64 * 1024):
                    self.end(self.reason)
                    return
        except BlockingIOError:
            return
        except OSError:
            self.end(self.reason)
            return
        self._shared.loop.give_turn(self._take_turn)

    def end(self, reason: str) -> None:
        """Lets go of everything, and tells the log."""
        if self.has_ended:
            return
        self.has_ended = True
        self._shared.in_handshake.discard(self)
        self._cut_off()
        self._shared.loop.close_later(self._client)
        self._drop_upstream()
        self._shared.on_end(self, reason)

    def _cut_off(self) -> None:
        """Half a download must not look like a whole one: a tunnel that we end, and plain HTTP that breaks, is reset.

        In a broken tunnel the end stays an end: what is inside knows its own length, and a reset would overtake the
        bytes that the client has not read yet.
        """
        up, down, upstream, head = self.up, self.down, self._upstream, self._head
        if up is None or down is None or upstream is None or head is None:
            return
        up.close()
        down.close()
        is_broken = bool(up.broken or down.broken)
        is_whole = up.is_done and down.is_done and not is_broken
        if not is_whole and not (is_broken and head.is_connect):
            for sock in (self._client, upstream):
                with suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)

    def _drop_upstream(self) -> None:
        if self._upstream is not None:
            self._shared.loop.close_later(self._upstream)
            self._upstream = None
