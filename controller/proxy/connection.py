"""One client of the proxy, from its request's head to the line in the log.

`head.py` understands the request, `rules.py` judges its target, `tunnel.py` moves the bytes; here is what happens when.
"""

import errno
import os
import select
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from functions.routing.globs import split_target

from .client_hello import read_first_words
from .head import BadHead, Head, parse_head
from .known_runner import KnownRunner
from .loop import BROKEN, READ, READ_WRITE, Loop
from .refusal import format_refusal
from .relay import COPY_SIZE, PipePool
from .resolver import Answer, Resolver
from .rules import Ruling, Verdict
from .tunnel import Tunnel
from .usage import Counts

_CLOSES_WITHIN_S = 1.0
_DISCARDS_IN_A_TURN = 16
_STREAM = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_CONNECTING = (0, errno.EINPROGRESS)
_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


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
    github_hosts_file: Path | None = None
    """read again whenever it changes; the built-in list when there is none"""
    head_timeout_s: float = 10
    connect_timeout_s: float = 10
    idle_timeout_s: float = 900
    log_format: str = "logfmt"
    """or `json`"""
    most_connections: int = 8000
    most_for_a_runner: int = 1000


@dataclass(frozen=True)
class Shared:
    """What all connections of a proxy share."""

    config: ProxyConfig
    loop: Loop
    resolver: Resolver
    pipes: PipePool
    judge: Callable[[str, Answer], Verdict]
    """whether a target may be connected to, by the addresses of its name"""
    in_handshake: "set[Connection]"
    """those whose deadline is watched"""
    on_end: "Callable[[Connection, str], None]"
    """told once of each, with the reason when it did not end by itself"""


class Connection:
    """One client; its public fields are what the log wants to know."""

    __slots__ = (
        "_addresses",
        "_buffer",
        "_client",
        "_give_up_at",
        "_head",
        "_is_closing",
        "_shared",
        "_tunnel",
        "_upstream",
        "counted",
        "deadline",
        "decision",
        "has_ended",
        "idle_since",
        "is_counted",
        "kind",
        "peer",
        "reason",
        "ruling",
        "runner",
        "server_name",
        "started",
        "target",
    )

    def __init__(self, client: socket.socket, peer: str, runner: KnownRunner | None, shared: Shared):
        self._shared = shared
        self._client = client
        self._upstream: socket.socket | None = None
        self._buffer = b""
        """what has come of the head; then what has come behind it"""
        self._head: Head | None = None
        """until the target is connected"""
        self._addresses: Sequence[str] = ()
        """still to be tried"""
        self._tunnel: Tunnel | None = None
        self._is_closing = False
        """answered with an error: waits for the client to read it"""
        self.peer = peer
        """the client's address"""
        self.runner = runner
        self.kind = "CONNECT"
        self.target = ""
        """`host:port`, once it is known"""
        self.started = self.idle_since = shared.loop.now
        self.deadline = self.started + shared.config.head_timeout_s
        """for what it is doing now, in handshake or closing"""
        self.counted = (0, 0)
        """bytes up and down that are in its runner's usage already"""
        self.is_counted = False
        """and so is the connection itself"""
        self.decision = "failed"
        """so far"""
        self.reason = ""
        """for a refusal"""
        self.server_name = ""
        """that a TLS client has asked for"""
        self.ruling: Ruling | None = None
        """what the profile's rules say of the target"""
        self.has_ended = False
        shared.in_handshake.add(self)
        shared.loop.watch(client.fileno(), self._read_head, READ)

    @property
    def bytes_up(self) -> int:
        return self._tunnel.up.bytes if self._tunnel is not None else 0

    @property
    def bytes_down(self) -> int:
        return self._tunnel.down.bytes if self._tunnel is not None else 0

    def take_counts(self) -> Counts:
        """What is not in its runner's usage yet, and from now on is."""
        counts = self.peek_counts()
        self.counted, self.is_counted = (self.bytes_up, self.bytes_down), True
        return counts

    def peek_counts(self) -> Counts:
        """What is not in its runner's usage yet."""
        up, down = self.counted
        return Counts(
            connections=not self.is_counted,
            refused=self.decision == "refused",
            unlisted=not self.is_counted and self.ruling is not None and not self.ruling.is_allowed,
            bytes_up=self.bytes_up - up,
            bytes_down=self.bytes_down - down,
        )

    def time_out(self) -> None:
        """Its deadline is over."""
        if self._is_closing:
            self.end(self.reason)
        elif self._head is None:
            self.refuse(408, "the request's head did not come in time")
        else:
            self._drop_upstream()
            if self._addresses:
                self._connect(self._head, "no answer in time")
            else:
                self.refuse(504, f"{self.target} did not answer in time", decision="failed")

    def judge_again(self) -> None:
        """The profile's rules have changed: what they refuse now ends."""
        if self.ruling is None or self.runner is None or self.ruling.refusal:
            return
        self.ruling = self.runner.rules.judge(*self._host_and_port)
        if self.ruling.refusal:
            self.decision, self.reason = "refused", f"the rules have changed: {self.ruling.refusal}"
            self.end(self.reason)

    @property
    def _host_and_port(self) -> tuple[str, int]:
        host, port = split_target(self.target)
        return host.strip("[]"), int(port)

    # From the request's head to the target

    def _read_head(self, event: int) -> None:
        if self._head is not None:
            # The target is being looked for.
            if event & BROKEN:
                self.end("the client went away")
            return
        try:
            head = None
            while head is None:
                data = self._client.recv(COPY_SIZE)
                if not data:
                    self.end("the client sent no whole request")
                    return
                self._buffer += data
                head = parse_head(self._buffer)
        except BlockingIOError:
            return
        except BadHead as error:
            self.refuse(error.status, error.reason)
            return
        except OSError as error:
            self.end(f"the client went away: {error.strerror}")
            return
        self._buffer = self._buffer[head.size :]
        self._look_up(head)

    def _look_up(self, head: Head) -> None:
        """Resolves the target's name, if the runner's profile lets it go there at all."""
        shared = self._shared
        self._head, self.target = head, head.target
        if not head.is_connect:
            self.kind = "HTTP"
        assert self.runner is not None  # noqa: S101 - others are refused at once
        ruling = self.ruling = self.runner.rules.judge(head.host, head.port)
        if ruling.refusal:
            self.refuse(403, ruling.refusal)
            return
        self.deadline = self._give_up_at = shared.loop.now + shared.config.connect_timeout_s
        answer = shared.resolver.find(head.host)
        if answer is None:
            shared.resolver.ask(head.host, self._on_resolved)
        else:
            self._on_resolved(answer)

    def _on_resolved(self, answer: Answer) -> None:
        head = self._head
        if head is None or self._is_closing or self.has_ended:
            return
        if not answer:
            self.refuse(502, f"the name {head.host} does not resolve", decision="failed")
            return
        verdict = self._shared.judge(self.target, answer)
        if not verdict.is_allowed:
            self.refuse(403, verdict.reason)
            return
        self._addresses = verdict.addresses
        self._connect(head, "")

    def _connect(self, head: Head, why_again: str) -> None:
        """Tries the next address, for its share of the time that is left: one dead address is no dead target."""
        now, reason = self._shared.loop.now, why_again
        while self._addresses:
            self.deadline = now + (self._give_up_at - now) / len(self._addresses)
            address, *self._addresses = self._addresses
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            try:
                upstream = socket.socket(family, _STREAM)
            except OSError as error:
                reason = f"no socket: {error.strerror}"
                continue
            upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            code = upstream.connect_ex((address, head.port))
            if code not in _CONNECTING:
                upstream.close()
                reason = os.strerror(code)
                continue
            self._upstream = upstream
            self._shared.loop.watch(upstream.fileno(), self._on_connected, READ_WRITE)
            return
        self.refuse(502, f"{self.target} cannot be reached: {reason}", decision="failed")

    def _on_connected(self, event: int) -> None:
        upstream, head = self._upstream, self._head
        assert upstream is not None  # noqa: S101 - this is its event
        assert head is not None  # noqa: S101 - connecting comes after the head
        if event & BROKEN and (code := upstream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
            self._drop_upstream()
            self._connect(head, os.strerror(code))
        elif event & select.EPOLLOUT:
            self._begin_tunnel(head, upstream, may_read=bool(event & select.EPOLLIN))

    def _begin_tunnel(self, head: Head, upstream: socket.socket, may_read: bool) -> None:
        shared, runner = self._shared, self.runner
        payload, self._buffer = self._buffer[: head.body_size], b""
        inspect, left = None, None
        if head.is_connect:
            answer, inspect = _ESTABLISHED, self._inspect
            first = inspect(payload) if payload else None
            if first is not None:
                inspect = None
            if self._is_closing or self.has_ended:
                return
            up = (first or b"", len(first or b""))
        else:
            answer, up = b"", ((head.origin_head or b"") + payload, len(payload))
            left = None if head.body_size is None else head.body_size - len(payload)
        self._head, self.decision = None, "tunnel"
        shared.in_handshake.discard(self)
        bandwidth = runner.bandwidth if runner is not None else None
        self._tunnel = Tunnel(
            self._client, upstream, shared.loop, shared.pipes, up, left, answer, bandwidth, inspect, self.end
        )
        self._tunnel.start(may_read)

    def _inspect(self, data: bytes) -> bytes | None:
        """Looks at what the client says first: a TLS client must ask for the name that the rules have judged."""
        self._buffer += data
        words = read_first_words(self._buffer)
        if words is None and data:
            return None
        first, self._buffer = self._buffer, b""
        if words is not None and self.runner is not None:
            self.server_name = words.server_name
            ruling = self.runner.rules.judge_server_name(self._host_and_port[0], words.server_name)
            if ruling is not None:
                self.ruling = ruling
                if ruling.refusal and self._tunnel is None:
                    self._drop_upstream()
                    self.refuse(403, ruling.refusal)
                    return None
                if ruling.refusal:
                    self.decision, self.reason = "refused", ruling.refusal
                    self.end(self.reason)
                    return None
        return first

    # The end

    def refuse(self, status: int, reason: str, decision: str = "refused") -> None:
        """Answers in plain words, and waits a moment so that the client gets to read them."""
        self.decision, self.reason, self._is_closing = decision, reason, True
        self.deadline = self._shared.loop.now + _CLOSES_WITHIN_S
        self._shared.in_handshake.add(self)
        self._shared.loop.replace(self._client.fileno(), self._on_client_while_closing)
        try:
            self._client.send(format_refusal(status, reason))
            self._client.shutdown(socket.SHUT_WR)
        except OSError:
            self.end(reason)
            return
        self._discard_input()

    def _on_client_while_closing(self, _: int) -> None:
        self._discard_input()

    def _discard_input(self) -> None:
        """A socket that is closed with unread bytes resets, and the client loses our answer."""
        if self.has_ended:
            return
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
        self._shared.loop.give_turn(self._discard_input)

    def end(self, reason: str) -> None:
        """Lets go of everything, and tells the log."""
        if self.has_ended:
            return
        self.has_ended = True
        self._shared.in_handshake.discard(self)
        if reason and self._tunnel is not None:
            self._tunnel.cut_off(is_plain=self.kind == "HTTP")
        self._shared.loop.close_later(self._client)
        self._drop_upstream()
        self._shared.on_end(self, reason)

    def _drop_upstream(self) -> None:
        if self._upstream is not None:
            self._shared.loop.close_later(self._upstream)
            self._upstream = None
