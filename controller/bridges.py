"""The runners' bridges: made ahead of time, used by one runner at a time, used again."""

import asyncio
import ipaddress
import logging
from collections.abc import Iterable

from .containers import DockerEngine
from .errors import EngineUnavailable
from .firewall import Firewall
from .networks import BridgePlan, BridgeTaken, NoBridgeLeft, lowest_free_slot, plan_bridge

_log = logging.getLogger("runyard.controller")
_MOST_FOREIGN = 64
"""bridges that somebody else has; with more, the whole range is probably not ours"""


class Bridges:
    """A pool of bridges."""

    def __init__(
        self, engine: DockerEngine, firewall: Firewall, network: ipaddress.IPv4Network, prefix: str, spare: int
    ):
        self._engine = engine
        self._firewall = firewall
        self._network = network
        self._prefix = prefix
        self._spare = spare
        self._used: set[int] = set()
        self._idle: set[int] = set()
        self._foreign: set[int] = set()
        """slots whose names or addresses somebody else uses"""
        self._filling: set[asyncio.Task[None]] = set()

    def plan(self, slot: int) -> BridgePlan:
        return plan_bridge(self._network, self._prefix, slot)

    def adopt(self, existing: Iterable[int], used: Iterable[int]) -> None:
        """Takes up the bridges that a controller before this one has left."""
        self._used = set(used)
        self._idle = set(existing) - self._used

    async def acquire(self) -> BridgePlan:
        """A bridge for one runner.

        Raises:
            EngineUnavailable: the engine does not make one.
            NoBridgeLeft: the range is used up.
        """
        if self._idle:
            slot = self._idle.pop()
            self._used.add(slot)
        else:
            slot = await self._make()
        self._fill()
        return self.plan(slot)

    async def release(self, slot: int) -> None:
        """Takes a bridge back; its container must be gone."""
        if len(self._idle) < self._spare:
            self._used.discard(slot)
            self._idle.add(slot)
            return
        try:
            await self._remove(slot)
        finally:
            # Not earlier: whoever made this bridge anew in the meantime would lose it again.
            self._used.discard(slot)

    async def remove_idle(self) -> None:
        """Removes every bridge that no runner uses."""
        for task in list(self._filling):
            await asyncio.wait([task])
        while self._idle:
            await self._remove(self._idle.pop())

    def _fill(self) -> None:
        """Makes the next ones in the background: a runner should not wait for its bridge."""
        if len(self._idle) + len(self._filling) < self._spare:
            task = asyncio.create_task(self._make_spare())
            self._filling.add(task)
            task.add_done_callback(self._filling.discard)

    async def _make_spare(self) -> None:
        try:
            slot = await self._make()
        except (EngineUnavailable, NoBridgeLeft) as error:
            _log.warning("no spare bridge: %s", error)
            return
        self._used.discard(slot)
        self._idle.add(slot)

    async def _make(self) -> int:
        while len(self._foreign) <= _MOST_FOREIGN:
            slot = lowest_free_slot(self._used | self._idle | self._foreign)
            plan = self.plan(slot)
            self._used.add(slot)
            try:
                await asyncio.to_thread(self._engine.create_bridge, plan)
                await asyncio.to_thread(self._firewall.switch_off_ipv6, plan.interface)
            except BridgeTaken as error:
                self._used.discard(slot)
                self._foreign.add(slot)
                _log.warning("bridge %s is left to somebody else: %s", plan.name, error)
            except BaseException:
                self._used.discard(slot)
                raise
            else:
                return slot
        raise NoBridgeLeft(f"networks of somebody else use {self._network}: give network.range addresses of its own")

    async def _remove(self, slot: int) -> None:
        await asyncio.to_thread(self._engine.remove_bridge, self.plan(slot).name)
