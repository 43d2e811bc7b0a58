"""Runners that wait for a job: after a while it is asked whether they are still needed.

Only the functions can tell, and only GitHub can promise that no job comes any more: a runner is stopped when it is no
longer registered, never before. A function that does not answer stops nobody.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta

from functions.documents.command import Answer, CommandKind
from functions.documents.errors import StoreRefused, StoreUnavailable

from .background import Background
from .containers import DockerEngine
from .errors import EngineUnavailable
from .failure import make_command
from .firestore import ControllerStore
from .runner_log import read_progress
from .runners import LocalRunner, Runners

_log = logging.getLogger("runyard.controller")
_LOOK_EVERY_S = 1.0
_LOG_LINES = 200
_STOP_WAIT_S = 10
_ANSWER_PAUSES_S = (0.5, 0.5, 1, 2, 4, 8, 16)


class IdleRunners:
    """Watches over the runners of this host that have no job."""

    def __init__(
        self,
        store: ControllerStore,
        engine: DockerEngine,
        runners: Runners,
        background: Background,
        host_id: str,
        now: Callable[[], datetime],
    ):
        self._store = store
        self._engine = engine
        self._runners = runners
        self._background = background
        self._host_id = host_id
        self._now = now
        self._asked_at: dict[str, datetime] = {}

    async def watch(self) -> None:
        """Asks about each of them whenever its time is up."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            known = {runner.name for runner in self._runners}
            self._asked_at = {name: at for name, at in self._asked_at.items() if name in known}
            for runner in self._runners:
                if self._is_due(runner):
                    self._asked_at[runner.name] = self._now()
                    self._background.watch(self._ask(runner))

    def _is_due(self, runner: LocalRunner) -> bool:
        if runner.job is not None or runner.launched_at is None or runner.retired:
            return False
        since = max(runner.launched_at, self._asked_at.get(runner.name, runner.launched_at))
        return self._now() - since > timedelta(seconds=runner.idle_timeout_s)

    async def _ask(self, runner: LocalRunner) -> None:
        try:
            log = await asyncio.to_thread(self._engine.read_log, runner.container_id, _LOG_LINES)
            if read_progress(log).job_name is not None:
                return
            answer = await self._ask_functions(runner)
            if answer is not None and answer.may_stop:
                _log.info("runner %s is not needed: %s", runner.name, answer.reason)
                self._runners.change(runner.name, retired=answer.reason)
                await asyncio.to_thread(self._engine.stop, runner.container_id, _STOP_WAIT_S)
        except (EngineUnavailable, StoreUnavailable, StoreRefused) as error:
            _log.warning("cannot ask whether runner %s is still needed: %s", runner.name, error)

    async def _ask_functions(self, runner: LocalRunner) -> Answer | None:
        command_id = f"{runner.name}-{CommandKind.RETIRE}-{secrets.token_hex(3)}"
        command = make_command(CommandKind.RETIRE, runner.name, runner.pool, self._host_id, self._now())
        await self._store.write_command(command_id, command)
        for pause_s in _ANSWER_PAUSES_S:
            await asyncio.sleep(pause_s)
            if (answer := await self._store.read_answer(command_id)) is not None:
                return answer
        _log.warning("nobody says whether runner %s is still needed: it stays", runner.name)
        return None
