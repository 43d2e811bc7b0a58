"""One call for many who ask."""

import asyncio
from collections.abc import Sequence

import pytest

from functions.documents.gather import Gather


class Source:
    """Something that is asked: it answers when it is let, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.value = "old"
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def read(self, items: Sequence[str]) -> list[str | Exception]:
        self.groups.append(list(items))
        value = self.value
        await self.may_answer.wait()
        return [KeyError(item) if item == "missing" else f"{item}: {value}" for item in items]


async def test_what_comes_at_the_same_time_goes_together() -> None:
    source = Source()
    gather = Gather(source.read, 10)
    assert await asyncio.gather(*(gather.submit(item) for item in "abc")) == ["a: old", "b: old", "c: old"]
    assert source.groups == [["a", "b", "c"]]


async def test_what_comes_while_a_group_is_under_way_goes_together_in_the_next_and_sees_what_is_true_then() -> None:
    source = Source()
    source.may_answer.clear()
    gather = Gather(source.read, 10)
    first = asyncio.create_task(gather.submit("a"))
    while not source.groups:
        await asyncio.sleep(0)
    later = [asyncio.create_task(gather.submit(item)) for item in ("a", "b")]
    await asyncio.sleep(0)
    source.value = "new"
    source.may_answer.set()
    assert await first == "a: old"
    assert await asyncio.gather(*later) == ["a: new", "b: new"]
    assert source.groups == [["a"], ["a", "b"]]


async def test_a_group_is_never_larger_than_it_may_be() -> None:
    source = Source()
    gather = Gather(source.read, 2)
    await asyncio.gather(*(gather.submit(item) for item in "abcde"))
    assert [len(group) for group in source.groups] == [2, 2, 1]


async def test_one_that_fails_fails_alone() -> None:
    gather = Gather(Source().read, 10)
    good, bad = await asyncio.gather(gather.submit("a"), gather.submit("missing"), return_exceptions=True)
    assert good == "a: old"
    assert isinstance(bad, KeyError)


async def test_a_call_that_fails_fails_for_its_group_and_for_nobody_after_it() -> None:
    source = Source()
    source.value = ""

    async def read_or_fail(items: Sequence[str]) -> list[str | Exception]:
        if not source.value:
            raise OSError("away")
        return await source.read(items)

    gather = Gather(read_or_fail, 10)
    failed = await asyncio.gather(gather.submit("a"), gather.submit("b"), return_exceptions=True)
    assert [str(error) for error in failed] == ["away", "away"]
    source.value = "back"
    assert await gather.submit("a") == "a: back"


async def test_whoever_has_given_up_is_left_out() -> None:
    source = Source()
    source.may_answer.clear()
    gather = Gather(source.read, 10)
    first = asyncio.create_task(gather.submit("a"))
    while not source.groups:
        await asyncio.sleep(0)
    impatient, patient = (asyncio.create_task(gather.submit(item)) for item in ("b", "c"))
    await asyncio.sleep(0)
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    source.may_answer.set()
    assert (await first, await patient) == ("a: old", "c: old")
    assert source.groups == [["a"], ["c"]]
