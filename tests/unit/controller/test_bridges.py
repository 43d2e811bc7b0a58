"""The runners' bridges: made ahead of time, used by one runner at a time, used again."""

import asyncio
import ipaddress
import threading
from typing import Any

import pytest

from controller.bridges import Bridges
from controller.errors import EngineUnavailable
from controller.networks import BridgePlan, BridgeTaken, NoBridgeLeft


class MemoryHost:
    """An engine's networks and the interfaces on which IPv6 is off."""

    def __init__(self, *networks: str):
        self.networks = set(networks)
        self.made = 0
        self.without_ipv6: set[str] = set()
        self.answers = True
        self.is_removing = threading.Event()
        self.may_remove = threading.Event()
        self.may_remove.set()
        self.foreign: set[str] = set()

    def create_bridge(self, plan: BridgePlan) -> None:
        self._check()
        if plan.name in self.foreign or "all" in self.foreign:
            raise BridgeTaken(f"network with name {plan.name} already exists")
        self.made += plan.name not in self.networks
        self.networks.add(plan.name)

    def remove_bridge(self, name: str) -> None:
        self._check()
        self.is_removing.set()
        self.may_remove.wait(5)
        self.networks.discard(name)

    def switch_off_ipv6(self, interface: str) -> None:
        self.without_ipv6.add(interface)

    def _check(self) -> None:
        if not self.answers:
            raise EngineUnavailable("no Docker engine answers")


@pytest.fixture
def host() -> MemoryHost:
    return MemoryHost()


def bridges_on(host: Any, spare: int = 0, network: str = "10.213.0.0/16") -> Bridges:
    return Bridges(host, host, ipaddress.IPv4Network(network), "runyard", spare)


async def test_runners_that_come_together_get_different_bridges_that_are_there(host: MemoryHost) -> None:
    bridges = bridges_on(host, spare=2)
    plans = await asyncio.gather(*(bridges.acquire() for _ in range(20)))
    await bridges.remove_idle()
    assert len({plan.slot for plan in plans}) == 20
    assert {plan.name for plan in plans} == host.networks


async def test_ipv6_is_off_on_a_bridge_that_a_runner_gets(host: MemoryHost) -> None:
    plan = await bridges_on(host).acquire()
    assert host.without_ipv6 == {plan.interface}


async def test_a_bridge_that_comes_back_is_used_again(host: MemoryHost) -> None:
    bridges = bridges_on(host, spare=1)
    bridges.adopt([0, 1], [0, 1])
    await bridges.release(1)
    assert (await bridges.acquire()).slot == 1
    await bridges.remove_idle()


async def test_the_next_runners_bridge_is_made_ahead_of_time(host: MemoryHost) -> None:
    bridges = bridges_on(host, spare=1)
    plan = await bridges.acquire()
    await bridges.remove_idle()
    assert host.made == 2
    assert host.networks == {plan.name}


async def test_a_spare_is_made_beside_those_that_are_idle_already(host: MemoryHost) -> None:
    bridges = bridges_on(host, spare=2)
    bridges.adopt([0, 1], [])
    first = await bridges.acquire()
    await bridges.remove_idle()
    assert host.without_ipv6 == {"runyard2"}
    assert first.slot in {0, 1}


async def test_no_more_bridges_are_kept_than_are_to_be_spare() -> None:
    host = MemoryHost(*(f"runyard-{slot}" for slot in range(10)))
    bridges = bridges_on(host, spare=2)
    bridges.adopt(range(10), range(10))
    for slot in range(10):
        await bridges.release(slot)
    assert host.networks == {"runyard-0", "runyard-1"}


async def test_bridges_in_use_outlive_the_removal_of_the_idle_ones() -> None:
    host = MemoryHost("runyard-0", "runyard-1", "runyard-2")
    bridges = bridges_on(host)
    bridges.adopt([0, 1, 2], [1])
    await bridges.remove_idle()
    assert host.networks == {"runyard-1"}


@pytest.mark.parametrize(
    ("existing", "used", "slots"),
    [
        pytest.param([0, 1, 2], [0, 2], [1, 3, 4], id="one is idle, which goes first"),
        pytest.param([0, 1], [0, 1], [2, 3, 4], id="none is idle"),
        pytest.param([], [0], [1, 2, 3], id="a runner's network is missing"),
        pytest.param([], [], [0, 1, 2], id="nothing was left"),
    ],
)
async def test_a_bridge_that_a_runner_had_before_a_restart_is_not_given_away(
    host: MemoryHost, existing: list[int], used: list[int], slots: list[int]
) -> None:
    bridges = bridges_on(host)
    bridges.adopt(existing, used)
    assert [(await bridges.acquire()).slot for _ in slots] == slots


async def test_a_number_is_free_again_when_its_bridge_could_not_be_made(host: MemoryHost) -> None:
    bridges = bridges_on(host)
    host.answers = False
    with pytest.raises(EngineUnavailable):
        await bridges.acquire()
    host.answers = True
    assert (await bridges.acquire()).slot == 0


async def test_a_spare_that_cannot_be_made_harms_nobody(host: MemoryHost) -> None:
    bridges = bridges_on(host, spare=1)
    bridges.adopt([0], [])
    host.answers = False
    assert (await bridges.acquire()).slot == 0
    await bridges.remove_idle()
    host.answers = True
    assert (await bridges.acquire()).slot == 1
    await bridges.remove_idle()


async def test_a_range_that_is_used_up_is_told_and_can_be_used_again(host: MemoryHost) -> None:
    bridges = bridges_on(host, network="10.213.0.0/28")
    await bridges.acquire()
    await bridges.acquire()
    with pytest.raises(NoBridgeLeft):
        await bridges.acquire()
    await bridges.release(1)
    assert (await bridges.acquire()).slot == 1


async def test_nobody_gets_a_bridge_that_is_just_being_removed(host: MemoryHost) -> None:
    bridges = bridges_on(host)
    old = await bridges.acquire()
    host.may_remove.clear()
    removal = asyncio.create_task(bridges.release(old.slot))
    await asyncio.to_thread(host.is_removing.wait, 5)
    new = await bridges.acquire()
    host.may_remove.set()
    await removal
    assert host.networks == {new.name}


async def test_a_bridge_that_could_not_be_removed_can_be_used_again(host: MemoryHost) -> None:
    bridges = bridges_on(host)
    old = await bridges.acquire()
    host.answers = False
    with pytest.raises(EngineUnavailable):
        await bridges.release(old.slot)
    host.answers = True
    assert await bridges.acquire() == old
    assert host.made == 1


async def test_a_bridge_that_is_somebody_elses_is_left_alone(host: MemoryHost) -> None:
    host.foreign = {"runyard-0", "runyard-2"}
    bridges = bridges_on(host)
    assert [(await bridges.acquire()).slot for _ in range(3)] == [1, 3, 4]


async def test_a_range_that_is_somebody_elses_is_told(host: MemoryHost) -> None:
    host.foreign = {"all"}
    with pytest.raises(NoBridgeLeft, match=r"give network\.range addresses"):
        await bridges_on(host).acquire()
