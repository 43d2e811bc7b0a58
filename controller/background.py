"""Work that nobody waits for, but that must be done before the controller leaves."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from functions.documents.errors import Moved, StoreRefused, StoreUnavailable

_log = logging.getLogger("runyard.controller")
_TRY_AGAIN_S = 2.0


class Background:
    """Keeps tasks alive until they are done."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._watching: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def watch(self, work: Coroutine[Any, Any, None]) -> None:
        """Work that may as well not be done: it is given up when the controller leaves."""
        task = asyncio.create_task(work)
        self._watching.add(task)
        task.add_done_callback(self._finished)

    def persist(self, write: Callable[[], Awaitable[None]]) -> None:
        """Writes to Firestore again and again until it is written: it may be away for a while."""
        self.spawn(_write_until_done(write))

    async def finish(self, within_s: float) -> int:
        """Waits for everything, also what is begun meanwhile; how much is left when the time is up."""
        for task in self._watching:
            task.cancel()
        deadline = asyncio.get_running_loop().time() + within_s
        while self._tasks:
            left_s = deadline - asyncio.get_running_loop().time()
            if left_s <= 0:
                break
            await asyncio.wait(self._tasks, timeout=left_s)
        return len(self._tasks)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self._watching.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a background task failed", exc_info=error)


async def _write_until_done(write: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await write()
            return
        except StoreUnavailable as error:
            _log.error("will be written later: %s", error)
            await asyncio.sleep(_TRY_AGAIN_S)
        except (StoreRefused, Moved) as error:
            _log.error("cannot be written: %s", error)
            return
