"""A connection that stands: bytes both ways between a client and its target, until both have said all."""

import select
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

from .bandwidth import Bandwidth
from .loop import BROKEN, ENDING, READ_WRITE, Loop
from .relay import Flow, Inspector, PipePool, Pumped

_MORE_THAN_INPUT = ENDING | select.EPOLLOUT
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER, with no time to linger"""


class Tunnel:
    """Moves bytes on every event of its two sockets; closing them is left to whoever made it.

    Args:
        client: the side that the runner is on; watched for input.
        upstream: the side that the target is on; watched for input and output.
        loop: calls back for both.
        pipes: to share with the other tunnels.
        up: what the target gets first, and how much of that is payload.
        left: payload that is still to come from the client; None: all that comes.
        answer: what the client gets first.
        bandwidth: what limits the runner's speed; None: nothing.
        inspect: sees what the client sends first, and may end all.
        on_end: told once, with the reason when it did not end by itself.
    """

    __slots__ = ("_bandwidth", "_client", "_client_wants_write", "_loop", "_on_end", "_upstream", "down", "up")

    def __init__(
        self,
        client: socket.socket,
        upstream: socket.socket,
        loop: Loop,
        pipes: PipePool,
        up: tuple[bytes, int],
        left: int | None,
        answer: bytes,
        bandwidth: Bandwidth | None,
        inspect: Inspector | None,
        on_end: Callable[[str], None],
    ):
        self._client = client
        self._upstream = upstream
        self._loop = loop
        self._on_end: Callable[[str], None] | None = on_end
        self._client_wants_write = False
        self._bandwidth = bandwidth
        bucket = bandwidth.bucket if bandwidth is not None else None
        self.up = Flow(client, upstream, pipes, *up, left, bucket, inspect)
        self.down = Flow(upstream, client, pipes, answer, 0, None, bucket)
        loop.replace(client.fileno(), self._on_client)
        loop.replace(upstream.fileno(), self._on_upstream)

    def start(self, may_read: bool) -> None:
        """Sends what both sides get first.

        Args:
            may_read: the target may have sent something already; else what it sends has an event.
        """
        if may_read or self.up.is_blocked:
            self._pump()
        elif self.down.start() is not Pumped.IDLE:
            self._settle()

    def cut_off(self, is_plain: bool) -> None:
        """Ends it now. Half a download must not look like a whole one, so what has not ended by itself is reset.

        In a broken tunnel the end stays an end: what is inside knows its own length, and a reset would overtake the
        bytes that the client has not read yet.

        Args:
            is_plain: where a broken connection may be all that tells of a broken download.
        """
        self._on_end = None
        self.up.close()
        self.down.close()
        is_broken = bool(self.up.broken or self.down.broken)
        is_whole = self.up.is_done and self.down.is_done and not is_broken
        if not is_whole and (is_plain or not is_broken):
            for sock in (self._client, self._upstream):
                with suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)

    def _on_client(self, event: int) -> None:
        up, down = self.up, self.down
        if event & ENDING:
            up.is_ending = True
        pumped = up.pump()
        if event & _MORE_THAN_INPUT or pumped is not Pumped.IDLE:
            if event & select.EPOLLOUT and down.is_blocked:
                pumped = _which_first(pumped, down.pump())
            if event & BROKEN and not down.is_done:
                # The flow may have nothing to pass on now, and would wait for its target in vain.
                down.break_off("the client is gone")
            self._settle(pumped)

    def _on_upstream(self, event: int) -> None:
        up, down = self.up, self.down
        if event & ENDING:
            down.is_ending = True
        pumped = down.pump()
        if event & ENDING or up.is_blocked or pumped is not Pumped.IDLE:
            # It is always told when it can be written to, and that is seldom news.
            if up.is_blocked:
                pumped = _which_first(pumped, up.pump())
            if event & BROKEN and not up.is_done:
                up.break_off("the target is gone")
            self._settle(pumped)

    def _pump(self) -> None:
        """Moves bytes both ways, as far as it goes."""
        if self._on_end is not None:
            self._settle(_which_first(self.up.pump(), self.down.pump()))

    def _settle(self, pumped: Pumped = Pumped.IDLE) -> None:
        """After bytes have been moved, as far as this: what next?"""
        up, down = self.up, self.down
        if self._on_end is None:
            # It was ended by what came out of it.
            return
        # Without the client all is over. Without the origin, the client still gets what has come.
        if down.broken or (up.is_done and down.is_done):
            broken = down.broken or up.broken
            self._on_end(broken and f"broken: {broken}")
        elif pumped is Pumped.MORE:
            self._loop.give_turn(self._pump)
        elif pumped is Pumped.SLOWED and self._bandwidth is not None:
            self._bandwidth.wait(self._pump)
        else:
            if up.is_done:
                up.pass_end_on()
            elif down.is_done:
                down.pass_end_on()
            if down.is_blocked and not self._client_wants_write:
                # Most clients are never slower than their origin. The upstream side has it from the start.
                self._client_wants_write = True
                self._loop.change(self._client.fileno(), READ_WRITE)


def _which_first(one: Pumped, other: Pumped) -> Pumped:
    """Of two flows the one for which there is more to do."""
    if Pumped.MORE in {one, other}:
        return Pumped.MORE
    return Pumped.SLOWED if Pumped.SLOWED in {one, other} else one
