"""Finds pending runners and claims those that this host should have."""

import asyncio
import logging
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import datetime

from functions.documents.errors import StoreRefused, StoreUnavailable
from functions.documents.pending_runner import PendingRunner

from .claim import Claimed, claim_runners
from .firestore import ControllerStore, PendingWatch, Seen
from .placement import GRACE, choose
from .runners import LocalRunner, Runners

_log = logging.getLogger("runyard.controller")
_LOOK_AFTER_LISTENER_S = 1.0
_POLL_EVERY_S = 20.0


class PendingRunners:
    """What waits for a host, and which of it becomes ours."""

    def __init__(
        self,
        store: ControllerStore,
        runners: Runners,
        host_id: str,
        pool: str,
        now: Callable[[], datetime],
        launch: Callable[[PendingRunner], None],
        most_claims: Callable[[], int | None],
    ):
        self._store = store
        self._runners = runners
        self._host_id = host_id
        self._pool = pool
        self._now = now
        self._launch = launch
        self._most_claims = most_claims
        self._pending: dict[str, Seen] = {}
        self._doorbell = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.hosts: Collection[str] = ()
        """the pool's hosts that are alive"""

    async def watch(self) -> None:
        """A listener, and a slow poll beside it: a listener can die, or go deaf, without a word."""
        watch: PendingWatch | None = None
        polled_at = self._loop.time()
        try:
            while True:
                if watch is None or not watch.is_active:
                    if watch is not None:
                        _log.warning("the listener on pending runners has died: starting another")
                        watch.close()
                    watch = self._store.watch_pending(self._pool, self._on_change)
                if self._loop.time() - polled_at > _POLL_EVERY_S:
                    polled_at = self._loop.time()
                    await self._poll()
                await asyncio.sleep(_LOOK_AFTER_LISTENER_S)
        finally:
            if watch is not None:
                watch.close()

    async def _poll(self) -> None:
        try:
            self._see(await self._store.list_pending(self._pool))
        except (StoreUnavailable, StoreRefused) as error:
            _log.error("cannot look for pending runners: %s", error)

    def _on_change(self, seen: list[Seen]) -> None:
        """Called on the listener's thread, which may outlive the loop for a moment."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._see, seen)

    def _see(self, seen: list[Seen]) -> None:
        self._pending = {one.runner.runner_name: one for one in seen}
        self._doorbell.set()

    async def claim(self) -> None:
        """Claims for ever: when something comes, when room comes free, and when another host's grace is over."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._doorbell.wait(), GRACE.total_seconds())
            self._doorbell.clear()
            candidates = [one.runner for name, one in self._pending.items() if name not in self._runners]
            chosen = choose(candidates, self._runners.ledger_for_claims, self._host_id, self.hosts, self._now())
            chosen = chosen[: self._most_claims()]
            if chosen:
                await self._claim([self._pending[runner.runner_name] for runner in chosen])

    async def _claim(self, seen: list[Seen]) -> None:
        # Their room is taken before the commit is under way: nothing else may be given it meanwhile.
        for one in seen:
            self._runners.put(LocalRunner.of_claim(one.runner))
        won: set[str] = set()
        try:
            for result in await claim_runners(self._store, seen, self._host_id, self._now):
                if isinstance(result, Claimed):
                    won.add(result.runner.runner_name)
                    self._launch(result.runner)
            for one in seen:
                self._pending.pop(one.runner.runner_name, None)
        except (StoreUnavailable, StoreRefused) as error:
            _log.error("cannot claim: %s", error)
        for one in seen:
            if one.runner.runner_name not in won:
                await self._runners.remove(one.runner.runner_name)
