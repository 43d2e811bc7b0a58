"""Moving bytes between two sockets: one `Flow` for each direction of a tunnel.

Small amounts are copied; once a read comes back full, bytes go through a pipe inside the kernel (`splice`), which costs
a tenth. A pipe is held only while bytes are in it, so an idle tunnel owns nothing but its two sockets. Sockets are
edge-triggered: a flow is pumped until its source is empty or its target is full.
"""

import fcntl
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from enum import Enum

from .bandwidth import Bucket

COPY_SIZE = 16 * 1024
SPLICE_SIZE = 1024 * 1024
ROUNDS = 8
"""reads and writes in one turn; then the other tunnels go first"""
MOST_PIPES = 64
"""an unprivileged user has 16,384 pipe pages: 64 pipes of 1 MiB; beyond them bytes are copied"""
_F_SETPIPE_SZ = 1031
_SPLICE_FLAGS = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE


class Pumped(Enum):
    """How far a flow has come."""

    IDLE = "the source is empty"
    BLOCKED = "the target is full"
    MORE = "there may be more, but others should go first"
    SLOWED = "there may be more, but the runner has used up its bandwidth"
    DONE = "all has been passed on, or cannot be"


class _Stage(Enum):
    """What a flow does next."""

    COPY = "read some, and write it"
    FLUSH = "write what was read before"
    FILL = "move some from the source into a pipe"
    DRAIN = "move what is in the pipe to the target"
    DONE = "nothing"


_COPY, _FLUSH, _FILL, _DRAIN, _DONE = _Stage


class PipePool:
    """Pipes for splicing, made when first needed and used again."""

    def __init__(self, most: int = MOST_PIPES):
        self._most = most
        self._made = 0
        self._free: list[tuple[int, int]] = []

    def take(self) -> tuple[int, int] | None:
        """An empty pipe (read end, write end); None when all are in use."""
        if self._free:
            return self._free.pop()
        if self._made >= self._most:
            return None
        try:
            pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        with suppress(OSError):
            fcntl.fcntl(pipe[0], _F_SETPIPE_SZ, SPLICE_SIZE)
        self._made += 1
        return pipe

    def give_back(self, pipe: tuple[int, int]) -> None:
        """Takes an empty pipe back."""
        self._free.append(pipe)

    def discard(self, pipe: tuple[int, int]) -> None:
        """Closes a pipe that still holds bytes of a broken tunnel."""
        os.close(pipe[0])
        os.close(pipe[1])
        self._made -= 1

    def close(self) -> None:
        """Closes the pipes that nobody holds."""
        while self._free:
            self.discard(self._free.pop())


Inspector = Callable[[bytes], bytes | None]
"""Is called with what has come, no bytes at its end; returns all of it once that may be passed on, None until then."""


class Flow:
    """One direction of a tunnel.

    Args:
        source: where bytes come from.
        target: where they go.
        pool: pipes to share with the other tunnels.
        first: what the target gets before anything else.
        counted: how much of that is payload.
        left: bytes of the source that are still to be passed on, what follows them is thrown away; None: all.
        bucket: what limits its speed; None: nothing.
        inspect: gets what comes first, until it says that it has seen enough; None: nobody looks.
    """

    __slots__ = (
        "_bucket",
        "_has_passed_end_on",
        "_in_pipe",
        "_inspect",
        "_left",
        "_pending",
        "_pipe",
        "_pool",
        "_source",
        "_stage",
        "_target",
        "broken",
        "bytes",
        "is_ending",
    )

    def __init__(
        self,
        source: socket.socket,
        target: socket.socket,
        pool: PipePool,
        first: bytes,
        counted: int,
        left: int | None = None,
        bucket: Bucket | None = None,
        inspect: Inspector | None = None,
    ):
        self._source = source
        self._target = target
        self._pool = pool
        self._stage = _FLUSH if first else _COPY
        self._pending = first
        self._pipe: tuple[int, int] | None = None
        self._in_pipe = 0
        self._left = left
        self._bucket = bucket
        self._inspect = inspect
        self._has_passed_end_on = False
        self.bytes = counted
        """of payload so far"""
        self.is_ending = False
        """the kernel has told of the source's end, which may still have bytes before it"""
        self.broken = ""
        """why what the source sends cannot be passed on"""

    @property
    def is_done(self) -> bool:
        """The source has ended, and all it sent has been passed on, or cannot be."""
        return self._stage is _DONE

    @property
    def is_blocked(self) -> bool:
        """Bytes are waiting for the target to take them."""
        return self._stage is _FLUSH or self._stage is _DRAIN

    def pump(self) -> Pumped:
        """Moves what can be moved now."""
        try:
            for _ in range(ROUNDS):
                if self._stage is _COPY:
                    pumped = self._copy()
                elif self._stage is _FLUSH:
                    pumped = self._flush()
                elif self._stage is _FILL:
                    pumped = self._fill()
                elif self._stage is _DRAIN:
                    pumped = self._drain()
                else:
                    return Pumped.DONE
                if pumped is not Pumped.MORE:
                    return pumped
        except OSError as error:
            self.break_off(error.strerror or str(error))
            return Pumped.DONE
        return Pumped.MORE

    def break_off(self, reason: str) -> None:
        """Ends this direction; what is under way is lost."""
        self.broken, self._stage, self._pending = reason, _DONE, b""
        self.close()

    def close(self) -> None:
        """Lets go of the pipe."""
        if self._pipe is not None:
            self._pool.discard(self._pipe)
            self._pipe = None

    def pass_end_on(self) -> None:
        """Tells the target that this was all; the other direction may still carry a reply."""
        if not self._has_passed_end_on:
            self._has_passed_end_on = True
            with suppress(OSError):
                self._target.shutdown(socket.SHUT_WR)

    def start(self) -> Pumped:
        """Writes what the flow begins with, and reads nothing: for when it is known that nothing has come."""
        try:
            pumped = self._flush()
        except OSError as error:
            self.break_off(error.strerror or str(error))
            return Pumped.DONE
        return Pumped.IDLE if pumped is Pumped.MORE else pumped

    def _copy(self) -> Pumped:
        wanted = COPY_SIZE if self._bucket is None else min(COPY_SIZE, self._bucket.level)
        if wanted <= 0:
            return Pumped.SLOWED
        try:
            data = self._source.recv(wanted)
        except BlockingIOError:
            return Pumped.IDLE
        size = len(data)
        if self._inspect is not None:
            return self._pass_inspection(self._inspect, data)
        if not size:
            self._stage = _DONE
            return Pumped.DONE
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        elif size == COPY_SIZE:
            # Where the end has to be found, bytes are copied: only plain HTTP's uploads pay for it.
            self._stage = _FILL
        self._count(len(data))
        try:
            sent = self._target.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self._stage, self._pending = _FLUSH, data[sent:]
            return Pumped.BLOCKED
        # A short read has emptied the socket; but with its end behind it, no further event would tell of that.
        return Pumped.MORE if size == wanted or self.is_ending else Pumped.IDLE

    def _pass_inspection(self, inspect: Inspector, data: bytes) -> Pumped:
        """What comes first is held back until it has been seen: nobody gets it who should not."""
        passed = inspect(data)
        if passed is None:
            # As after any short read: with the end behind it, no further event would tell of that.
            return Pumped.MORE if self.is_ending and data else Pumped.IDLE
        self._inspect = None
        self._count(len(passed))
        self._pending, self._stage = passed, _FLUSH if passed else _COPY
        # What has been read need not be all; and if it was the end, that is found once more.
        return Pumped.MORE

    def _count(self, size: int) -> None:
        self.bytes += size
        if self._bucket is not None:
            self._bucket.spend(size)

    def _flush(self) -> Pumped:
        try:
            sent = self._target.send(self._pending)
        except BlockingIOError:
            return Pumped.BLOCKED
        self._pending = self._pending[sent:]
        if self._pending:
            return Pumped.BLOCKED
        self._stage = _COPY
        return Pumped.MORE

    def _fill(self) -> Pumped:
        wanted = SPLICE_SIZE if self._bucket is None else min(SPLICE_SIZE, self._bucket.level)
        pipe = self._pool.take() if wanted > 0 else None
        if pipe is None:
            return self._copy()
        # The pipe is empty, so "would block" can only mean that the source is.
        try:
            count = os.splice(self._source.fileno(), pipe[1], wanted, flags=_SPLICE_FLAGS)
        except OSError as error:
            self._pool.give_back(pipe)
            if isinstance(error, BlockingIOError):
                return Pumped.IDLE
            raise
        if count == 0:
            self._pool.give_back(pipe)
            self._stage = _DONE
            return Pumped.DONE
        self._pipe, self._in_pipe, self._stage = pipe, count, _DRAIN
        self._count(count)
        return Pumped.MORE

    def _drain(self) -> Pumped:
        assert self._pipe is not None  # noqa: S101 - bytes are in it
        try:
            self._in_pipe -= os.splice(self._pipe[0], self._target.fileno(), self._in_pipe, flags=_SPLICE_FLAGS)
        except BlockingIOError:
            return Pumped.BLOCKED
        if not self._in_pipe:
            self._pool.give_back(self._pipe)
            self._pipe, self._stage = None, _FILL
        return Pumped.MORE
