"""Function instances that die at any call they make: before it has an effect, or after."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any


class Crashed(BaseException):
    """The instance is gone. Nothing in it may catch this, or clean up."""


class Fuse:
    """Burns down by one with each call, and twice a call: before its effect and after it."""

    def __init__(self) -> None:
        self.left: int | None = None
        """None: the instance lives on"""
        self.has_blown = asyncio.Event()

    def burn(self) -> None:
        if self.left is None:
            return
        if self.left <= 0:
            self.has_blown.set()
            raise Crashed
        self.left -= 1


class Fragile:
    """Somebody whose every call burns the fuse."""

    def __init__(self, target: Any, fuse: Fuse):
        self._target = target
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if not asyncio.iscoroutinefunction(found):
            return found
        call = _burning(found, self._fuse)
        setattr(self, name, call)
        return call


def _burning(call: Callable[..., Awaitable[Any]], fuse: Fuse) -> Callable[..., Awaitable[Any]]:
    async def burning(*arguments: Any, **options: Any) -> Any:
        fuse.burn()
        result = await call(*arguments, **options)
        fuse.burn()
        return result

    return burning


async def until_crash(work: Awaitable[Any], fuse: Fuse, crash_at: int | None) -> bool:
    """Does some work; False when the instance has died of it, with everything that was going on in it."""
    fuse.left = crash_at
    before = asyncio.all_tasks()
    task = asyncio.ensure_future(work)
    if crash_at is None:
        await task
        return True
    blown = asyncio.ensure_future(fuse.has_blown.wait())
    await asyncio.wait([task, blown], return_when=asyncio.FIRST_COMPLETED)
    has_survived = not fuse.has_blown.is_set()
    blown.cancel()
    if has_survived:
        fuse.left = None
        await task
        return True
    left = asyncio.all_tasks() - before
    for one in left:
        one.cancel()
    await asyncio.gather(task, blown, *left, return_exceptions=True)
    return False
