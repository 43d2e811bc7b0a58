"""The runners of this host, and the ledger of what they take."""

import asyncio
import ipaddress

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from controller.container_spec import from_labels, to_labels
from controller.networks import plan_bridge
from controller.runners import LocalRunner, Runners, RunningJob
from functions.routing.capacity import NOTHING, Size
from tests.fakes.examples import NOW, pending_runner

CAPACITY = Size(4000, 8000)
NETWORK = ipaddress.IPv4Network("10.213.0.0/16")
NAMES = st.sampled_from(["ry-1", "ry-2", "ry-3", "ry-4"])
SIZES = st.builds(Size, st.integers(1, 3000), st.integers(1, 6000))


def local_runner(name: str = "ry-1", size: Size = NOTHING, slot: int | None = None) -> LocalRunner:
    return LocalRunner(
        name=name,
        org="acme",
        pool="default",
        made_for=RunningJob("acme_1_1", "build"),
        made_for_profile="small",
        profile="small",
        size=size,
        bridge=None if slot is None else plan_bridge(NETWORK, "runyard", slot),
    )


def runners_with(*sizes: Size) -> Runners:
    runners = Runners(CAPACITY)
    for number, size in enumerate(sizes, start=1):
        runners.put(local_runner(f"ry-{number}", size))
    return runners


class LedgerMachine(RuleBasedStateMachine):
    """Claims, resizings and ends in any order, each admitted as the controller admits it."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.runners = Runners(CAPACITY)
        self.sizes: dict[str, Size] = {}
        self.growing: dict[str, Size] = {}

    @rule(name=NAMES, size=SIZES)
    def claim(self, name: str, size: Size) -> None:
        if name not in self.runners and self.runners.ledger.has_room_for(name, size):
            self.runners.put(local_runner(name, size))
            self.sizes[name] = size

    @rule(name=NAMES, size=SIZES)
    def reserve(self, name: str, size: Size) -> None:
        if name in self.sizes and name not in self.growing:
            has_room = self.runners.ledger.has_room_for(name, size)
            assert self.loop.run(self.runners.reserve(name, size, 0)) is has_room
            if has_room:
                self.growing[name] = size

    @rule(name=NAMES)
    def resize(self, name: str) -> None:
        changed = self.runners.change(name, size=self.growing.get(name, self.sizes.get(name)))
        assert (changed is not None) is (name in self.sizes)
        if name in self.growing:
            self.sizes[name] = self.growing[name]

    @rule(name=NAMES)
    def settle(self, name: str) -> None:
        self.loop.run(self.runners.settle(name))
        self.growing.pop(name, None)

    @precondition(lambda self: self.sizes)
    @rule(name=NAMES)
    def end(self, name: str) -> None:
        self.loop.run(self.runners.remove(name))
        self.sizes.pop(name, None)
        # Whoever resizes it settles all the same.
        if self.growing.pop(name, None) is not None:
            self.loop.run(self.runners.settle(name))

    @invariant()
    def gives_away_no_more_than_there_is(self) -> None:
        assert NOTHING.fits_into(self.runners.ledger.free)

    @invariant()
    def counts_each_runner_with_the_larger_of_its_sizes(self) -> None:
        expected = {}
        for name, size in self.sizes.items():
            growing = self.growing.get(name, size)
            expected[name] = Size(
                max(size.cpu_millis, growing.cpu_millis), max(size.memory_bytes, growing.memory_bytes)
            )
        assert dict(self.runners.ledger.taken) == expected

    @invariant()
    def knows_the_runners_that_have_not_ended(self) -> None:
        assert {runner.name for runner in self.runners} == set(self.sizes)
        assert len(self.runners) == len(self.sizes)

    def teardown(self) -> None:
        self.loop.close()


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


async def test_room_is_set_aside_until_it_is_settled() -> None:
    runners = runners_with(Size(1000, 1000))
    assert await runners.reserve("ry-1", Size(3000, 500), 0)
    # Both the CPU that it is to get and the memory that it still has.
    assert runners.ledger.free == Size(1000, 7000)
    await runners.settle("ry-1")
    assert runners.ledger.free == Size(3000, 7000)


async def test_what_a_runner_gives_back_is_free_only_when_it_has_given_it_back() -> None:
    runners = runners_with(Size(3000, 3000))
    assert await runners.reserve("ry-1", Size(1000, 1000), 0)
    assert runners.ledger.free == Size(1000, 5000)
    runners.change("ry-1", size=Size(1000, 1000))
    assert runners.ledger.free == Size(3000, 7000)


@pytest.mark.parametrize("how", ["ends", "shrinks"])
async def test_a_runner_that_waits_for_room_gets_it_when_a_neighbour_gives_it_back(how: str) -> None:
    runners = runners_with(Size(1000, 1000), Size(3000, 1000))
    waiting = asyncio.create_task(runners.reserve("ry-1", Size(2000, 1000), 60))
    await asyncio.sleep(0)
    assert not waiting.done()
    if how == "ends":
        await runners.remove("ry-2")
    else:
        runners.change("ry-2", size=Size(1000, 1000))
        await runners.settle("ry-2")
    assert await waiting


async def test_of_two_that_wait_for_the_same_room_one_gets_it() -> None:
    runners = runners_with(Size(1000, 1), Size(1000, 1), Size(2000, 1))
    waiting = [asyncio.create_task(runners.reserve(name, Size(3000, 1), 60)) for name in ("ry-1", "ry-2")]
    await asyncio.sleep(0)
    await runners.remove("ry-3")
    done, waits_on = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert (len(done), len(waits_on)) == (1, 1)
    assert runners.ledger.free == Size(0, 7998)
    waits_on.pop().cancel()


async def test_a_job_that_waits_for_room_comes_before_new_runners() -> None:
    runners = runners_with(Size(50, 50), Size(1000, 1000), Size(1000, 1000), Size(1000, 1000))
    waiting = asyncio.create_task(runners.reserve("ry-1", Size(3000, 3000), 60))
    await asyncio.sleep(0)
    for number in (2, 3):
        assert not runners.ledger_for_claims.has_room_for("new", Size(1000, 1000))
        await runners.remove(f"ry-{number}")
    assert await waiting
    assert runners.ledger_for_claims.free == runners.ledger.free == Size(0, 4000)


async def test_whoever_waits_in_vain_or_has_ended_keeps_nobody_away() -> None:
    runners = runners_with(Size(1000, 1000), Size(3000, 1000), Size(10, 10))
    assert not await runners.reserve("ry-1", Size(2000, 1000), 0.01)
    assert runners.ledger_for_claims == runners.ledger
    waiting = asyncio.create_task(runners.reserve("ry-3", Size(2000, 1000), 60))
    await asyncio.sleep(0)
    assert runners.ledger_for_claims != runners.ledger
    await runners.remove("ry-3")
    assert runners.ledger_for_claims == runners.ledger
    waiting.cancel()


async def test_whoever_gets_no_room_in_time_takes_none() -> None:
    runners = runners_with(Size(1000, 1000), Size(3000, 1000))
    assert not await runners.reserve("ry-1", Size(2000, 1000), 0)
    assert runners.ledger.free == Size(0, 6000)


async def test_a_runner_is_found_by_its_addresses_only() -> None:
    runners = Runners(CAPACITY)
    for slot in range(2):
        runners.put(local_runner(f"ry-{slot}", slot=slot))
    runners.put(local_runner("ry-without-bridge"))
    found = runners.find("10.213.0.9", "10.213.0.10")
    assert found is not None
    assert found.name == "ry-1"
    assert runners.find("10.213.0.9", "10.213.0.2") is None
    assert runners.find("", "") is None


async def test_runners_may_end_while_they_are_gone_through() -> None:
    runners = runners_with(NOTHING, NOTHING)
    for runner in runners:
        await runners.remove(runner.name)
    assert len(runners) == 0


async def test_what_is_gone_cannot_be_changed_or_ended_again() -> None:
    runners = runners_with(NOTHING)
    await runners.remove("ry-1")
    await runners.remove("ry-1")
    assert runners.change("ry-1", pid=7) is None
    assert "ry-1" not in runners
    assert runners.get("ry-1") is None


def test_a_runner_without_a_bridge_has_no_connections_to_attribute() -> None:
    assert local_runner().attribution is None


def test_connections_are_called_by_the_job_that_the_runner_was_made_for_until_it_has_one() -> None:
    before = local_runner(slot=1).attribution
    assert before is not None
    assert (before.gateway, before.address) == ("10.213.0.9", "10.213.0.10")
    assert (before.job_key, before.job_name, before.has_job) == ("acme_1_1", "build", False)


def test_connections_are_called_by_the_job_that_the_runner_really_got() -> None:
    runners = Runners(CAPACITY)
    runners.put(local_runner(slot=1))
    changed = runners.change("ry-1", job=RunningJob("acme_1_2", "deploy"), profile="large")
    assert changed is not None
    after = changed.attribution
    assert after is not None
    assert (after.job_key, after.job_name, after.profile, after.has_job) == ("acme_1_2", "deploy", "large", True)


def test_a_runner_is_the_same_after_a_claim_and_after_a_restart() -> None:
    claimed = pending_runner(claimed_at=NOW)
    bridge = plan_bridge(NETWORK, "runyard", 3)
    adopted = from_labels(to_labels(claimed, bridge, "host-1"))
    assert adopted is not None
    before = Runners(CAPACITY)
    before.put(LocalRunner.of_claim(claimed))
    launched = before.change("ry-1", bridge=bridge, container_id="8f0e", pid=42, launched_at=NOW)
    assert launched is not None
    assert LocalRunner.of_container(adopted, launched.size, bridge, "8f0e", 42, NOW) == launched
