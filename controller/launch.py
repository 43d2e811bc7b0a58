"""From a claim to a running container, or to a document that says why not."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime

from pydantic import SecretStr

from functions.documents.lifecycle import RunnerEvent, RunnerState, move_runner
from functions.documents.pending_runner import PendingRunner
from functions.documents.sealing import CannotOpen, unseal
from functions.log import canonical

from .background import Background
from .bridges import Bridges
from .container_spec import HostFacts, specify
from .containers import ContainerState, DockerEngine
from .errors import CannotStart, EngineUnavailable
from .failure import note_failure
from .firestore import ControllerStore
from .health import Health
from .networks import NoBridgeLeft
from .proxy_client import ProxyUnavailable
from .runners import LocalRunner, Runners

_log = logging.getLogger("runyard.controller")


class Launcher:
    """Starts the containers of claimed runners."""

    def __init__(
        self,
        store: ControllerStore,
        engine: DockerEngine,
        bridges: Bridges,
        runners: Runners,
        background: Background,
        host: HostFacts,
        private_key: bytes,
        publish: Callable[[], Awaitable[None]],
        starts_at_once: int,
        now: Callable[[], datetime],
    ):
        self._store = store
        self._engine = engine
        self._bridges = bridges
        self._runners = runners
        self._background = background
        self._host = host
        self._private_key = private_key
        self._publish = publish
        self._starts = asyncio.Semaphore(starts_at_once)
        self._now = now
        self.health = Health()
        self.on_launched: Callable[[str], None] = lambda _: None
        """is told the name of each runner that has been launched"""
        self.is_stopping = False
        """what has not begun is handed back instead of started"""

    def begin(self, runner: PendingRunner) -> None:
        """Starts a claimed runner in the background."""
        self._runners.put(LocalRunner.of_claim(runner))
        self._background.spawn(self._launch(runner))

    async def _launch(self, runner: PendingRunner) -> None:
        try:
            async with self._starts:
                if self.is_stopping:
                    await self._hand_back(runner)
                    return
                state = await self._start(runner, self._unseal(runner))
        except (CannotStart, CannotOpen, EngineUnavailable, NoBridgeLeft, ProxyUnavailable) as error:
            self.health = self.health.after_failure(str(error), self._now())
            await self.fail(runner.runner_name, runner.pool, str(error))
            return
        self.health = self.health.after_start()
        self._launched(runner, state)

    def _unseal(self, runner: PendingRunner) -> SecretStr:
        if runner.sealed_config is None:
            raise CannotOpen("the document holds no JIT config")
        return unseal(runner.sealed_config, self._host.host_id, self._private_key)

    async def _start(self, runner: PendingRunner, secret: SecretStr) -> ContainerState:
        bridge = await self._bridges.acquire()
        self._runners.change(runner.runner_name, bridge=bridge)
        # Attributed before it exists: its first packet has a name.
        await self._publish()
        return await asyncio.to_thread(self._engine.start, specify(runner, bridge, self._host), secret)

    def _launched(self, runner: PendingRunner, state: ContainerState) -> None:
        name = runner.runner_name
        launched_at = state.started_at or self._now()
        self._runners.change(name, container_id=state.container_id, pid=state.pid, launched_at=launched_at)
        canonical(
            _log,
            logging.INFO,
            "launch",
            runner_name=name,
            job=runner.job_key,
            profile=runner.profile.name,
            since_claim_ms=round((launched_at - (runner.claimed_at or launched_at)).total_seconds() * 1000),
        )
        status = move_runner(RunnerState.SCHEDULING, RunnerEvent.START)
        self._background.persist(lambda: self._store.update_runner(name, {"status": status, "launchedAt": launched_at}))
        self.on_launched(name)

    async def _hand_back(self, runner: PendingRunner) -> None:
        """Another host may have what this one has not begun."""
        await self.forget(runner.runner_name)
        sealed = runner.sealed_config.to_firestore() if runner.sealed_config else None
        fields = {
            "status": move_runner(RunnerState.SCHEDULING, RunnerEvent.HAND_BACK),
            "sealedConfig": sealed,
            "claim": None,
        }
        self._background.persist(lambda: self._store.update_runner(runner.runner_name, fields))

    async def fail(self, name: str, pool: str, reason: str) -> None:
        """A runner that never ran: its document says why, and the functions find its job another."""
        canonical(_log, logging.ERROR, "launch", runner_name=name, reason=reason)
        await self.forget(name)
        fields, command = note_failure(RunnerState.SCHEDULING, name, pool, self._host.host_id, reason, self._now())
        self._background.persist(lambda: self._store.fail_runner(name, fields, command))

    async def forget(self, name: str) -> None:
        """A runner whose container is gone gives its bridge and its room back."""
        runner = self._runners.get(name)
        await self._runners.remove(name)
        # The proxy ends what the runner left open, before anybody else gets the bridge.
        with suppress(ProxyUnavailable):
            await self._publish()
        if runner is not None and runner.bridge is not None:
            try:
                await self._bridges.release(runner.bridge.slot)
            except EngineUnavailable as error:
                _log.warning("bridge %d stays: %s", runner.bridge.slot, error)
