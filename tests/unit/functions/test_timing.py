"""How long a request has waited for GitHub, however its calls overlap."""

import asyncio
from contextlib import suppress

import pytest

from functions import timing
from functions.timing import Stopwatch, waiting_for_github, watch_github


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(timing, "time", fake)
    return fake


def test_nothing_waited_for_is_no_time(clock: Clock) -> None:
    assert Stopwatch().milliseconds == 0


def test_waits_one_after_the_other_add_up_and_what_is_between_them_does_not(clock: Clock) -> None:
    stopwatch = Stopwatch()
    for _ in range(2):
        with stopwatch.running():
            clock.now_s += 0.1
        clock.now_s += 5
    assert stopwatch.milliseconds == 200


def test_waits_at_the_same_time_count_once(clock: Clock) -> None:
    stopwatch = Stopwatch()
    with stopwatch.running():
        clock.now_s += 0.1
        with stopwatch.running():
            clock.now_s += 0.1
        clock.now_s += 0.1
    assert stopwatch.milliseconds == 300


def test_a_wait_that_fails_counts_too(clock: Clock) -> None:
    stopwatch = Stopwatch()
    with suppress(OSError), stopwatch.running():
        clock.now_s += 0.25
        raise OSError("away")
    assert stopwatch.milliseconds == 250


async def test_a_request_is_told_of_the_waits_of_its_own_tasks_and_of_nobody_elses(clock: Clock) -> None:
    async def call(seconds: float) -> None:
        with waiting_for_github():
            clock.now_s += seconds

    async def request(*seconds: float) -> float:
        stopwatch = watch_github()
        for one in seconds:
            await asyncio.create_task(call(one))
        return stopwatch.milliseconds

    assert await asyncio.create_task(request(0.1, 0.2)) == 300
    assert await asyncio.create_task(request()) == 0


async def test_who_watches_nothing_may_still_call(clock: Clock) -> None:
    with waiting_for_github():
        clock.now_s += 1
