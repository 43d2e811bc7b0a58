"""Moving bytes between two sockets: one `Flow` for each direction of a tunnel.

Small amounts are copied; once a read comes back full, bytes go through a pipe inside the kernel (`splice`), which costs
a tenth. A pipe is held only while bytes are in it, so an idle tunnel owns nothing but its two sockets. Sockets are
edge-triggered: a flow is pumped until its source is empty or its target is full.
"""

import fcntl
import os
import socket
from contextlib import suppress

COPY_SIZE = 16 * 1024
SPLICE_SIZE = 1024 * 1024
ROUNDS = 8
"""reads and writes in one turn; then the other tunnels go first"""
MOST_PIPES = 64
"""an unprivileged user has 16,384 pipe pages: 64 pipes of 1 MiB; beyond them bytes are copied"""
_F_SETPIPE_SZ = 1031
_SPLICE_FLAGS = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE


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


class Flow:
    """One direction of a tunnel.

    Args:
        source: where bytes come from.
        target: where they go.
        pool: pipes to share with the other tunnels.
        first: what the target gets before anything else.
        counted: how much of that is payload.
        left: bytes of the source that are still to be passed on, what follows them is thrown away; None: all.
    """

    __slots__ = (
        "_bulk",
        "_in_pipe",
        "_left",
        "_pending",
        "_pipe",
        "_pool",
        "_source",
        "_target",
        "broken",
        "bytes",
        "ended",
        "is_done",
    )

    def __init__(
        self,
        source: socket.socket,
        target: socket.socket,
        pool: PipePool,
        first: bytes,
        counted: int,
        left: int | None = None,
    ):
        self._source = source
        self._target = target
        self._pool = pool
        self._pending = memoryview(first)
        self._pipe: tuple[int, int] | None = None
        self._in_pipe = 0
        self._left = left
        self._bulk = False
        self.bytes = counted
        """of payload so far"""
        self.ended = False
        """the source will send no more"""
        self.is_done = False
        """and all it sent has been passed on, or cannot be"""
        self.broken = ""
        """why it cannot"""

    @property
    def is_blocked(self) -> bool:
        """Bytes are waiting for the target to take them."""
        return self._in_pipe > 0 or self._pending.nbytes > 0

    def pump(self) -> bool:
        """Moves what can be moved now; True when there may be more but others should go first."""
        if self.is_done:
            return False
        try:
            return self._move()
        except OSError as error:
            self.break_off(error.strerror or str(error))
            return False

    def break_off(self, reason: str) -> None:
        """Ends this direction; what is under way is lost."""
        self.broken, self.is_done = reason, True
        self._pending = memoryview(b"")
        self.close()

    def close(self) -> None:
        """Lets go of the pipe."""
        self._in_pipe = 0
        if self._pipe is not None:
            self._pool.discard(self._pipe)
            self._pipe = None

    def _move(self) -> bool:
        for _ in range(ROUNDS):
            if self._pending.nbytes:
                moved = self._flush()
            elif self._in_pipe:
                moved = self._drain()
            elif self.ended:
                self._finish()
                return False
            else:
                moved = self._fill()
            if not moved:
                return False
        return True

    def _flush(self) -> bool:
        try:
            sent = self._target.send(self._pending)
        except BlockingIOError:
            return False
        self._pending = self._pending[sent:]
        return True

    def _drain(self) -> bool:
        assert self._pipe is not None  # noqa: S101 - bytes are in it
        try:
            self._in_pipe -= os.splice(self._pipe[0], self._target.fileno(), self._in_pipe, flags=_SPLICE_FLAGS)
        except BlockingIOError:
            return False
        if not self._in_pipe:
            self._pool.give_back(self._pipe)
            self._pipe = None
        return True

    def _fill(self) -> bool:
        if self._bulk and (pipe := self._pool.take()) is not None:
            return self._fill_pipe(pipe)
        try:
            data = self._source.recv(COPY_SIZE)
        except BlockingIOError:
            return False
        self.ended = not data
        # Where the end has to be found, bytes are copied: only plain HTTP's uploads pay for it.
        self._bulk = len(data) == COPY_SIZE and self._left is None
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        self._pending = memoryview(data)
        self.bytes += len(data)
        return True

    def _fill_pipe(self, pipe: tuple[int, int]) -> bool:
        # The pipe is empty, so "would block" can only mean that the source is.
        try:
            count = os.splice(self._source.fileno(), pipe[1], SPLICE_SIZE, flags=_SPLICE_FLAGS)
        except OSError as error:
            self._pool.give_back(pipe)
            if isinstance(error, BlockingIOError):
                return False
            raise
        if count == 0:
            self._pool.give_back(pipe)
            self.ended = True
            return True
        self._pipe, self._in_pipe = pipe, count
        self.bytes += count
        return True

    def _finish(self) -> None:
        """Passes the end on: only this direction ends, the other may still carry a reply."""
        self.is_done = True
        with suppress(OSError):
            self._target.shutdown(socket.SHUT_WR)
