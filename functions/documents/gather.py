"""What arrives while a group is under way goes together in the next one: one call to Firestore instead of many."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class _Waiting(Generic[Item, Answer]):
    item: Item
    answer: "asyncio.Future[Answer]"


class Gather(Generic[Item, Answer]):
    """Collects items, and settles them in groups, one group at a time.

    An item is never part of a group that was under way when it arrived: what is read for it is as new as it is.
    """

    def __init__(self, settle: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | Exception]]], most: int):
        """Settles at most `most` items at a time; `settle` gives the answer to each, or the exception."""
        self._settle = settle
        self._most = most
        self._waiting: list[_Waiting[Item, Answer]] = []
        self._worker: asyncio.Task[None] | None = None

    async def submit(self, item: Item) -> Answer:
        """The answer to one item.

        Raises:
            Exception: what `settle` gave for it, or raised.
        """
        waiting = _Waiting[Item, Answer](item, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await waiting.answer

    async def _work(self) -> None:
        # Items that came in the same turn of the loop gather first.
        await asyncio.sleep(0)
        while self._waiting:
            group = [waiting for waiting in self._waiting[: self._most] if not waiting.answer.cancelled()]
            del self._waiting[: self._most]
            try:
                answers = await self._settle([waiting.item for waiting in group])
            except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to those who wait for this group
                answers = [error] * len(group)
            for waiting, answer in zip(group, answers, strict=True):
                if waiting.answer.done():
                    continue
                if isinstance(answer, Exception):
                    waiting.answer.set_exception(answer)
                else:
                    waiting.answer.set_result(answer)
