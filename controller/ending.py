"""The end of a runner: noticed by the engine's events or by a sweep, written down, cleaned up."""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from functions.documents.lifecycle import RunnerEvent, RunnerState, move_runner
from functions.documents.pending_runner import KEPT_FOR
from functions.documents.workflow_job import SizingReceipt, WorkflowJob
from functions.log import canonical
from functions.routing.policy import OnError

from .background import Background
from .containers import ContainerState, DockerEngine
from .errors import ContainerGone, EngineUnavailable
from .failure import note_failure
from .firestore import ControllerStore
from .identity import BY_WEBHOOK
from .job_finder import JobFinder
from .proxy_client import ProxyClient, ProxyUnavailable
from .runner_log import read_progress, tail_in_words
from .runners import LocalRunner, Runners
from .sizing import receipt, unfit

_log = logging.getLogger("runyard.controller")
_SWEEP_EVERY_S = 5.0
_TRY_AGAIN_S = 2.0
_LOG_LINES = 200
_STOP_WAIT_S = 10


class Endings:
    """Watches for containers that end, and runners that wait for ever."""

    def __init__(
        self,
        store: ControllerStore,
        engine: DockerEngine,
        proxy: ProxyClient,
        runners: Runners,
        background: Background,
        forget: Callable[[str], Awaitable[None]],
        finder: JobFinder,
        host_id: str,
        now: Callable[[], datetime],
    ):
        self._store = store
        self._engine = engine
        self._proxy = proxy
        self._runners = runners
        self._background = background
        self._forget = forget
        self._finder = finder
        self._host_id = host_id
        self._now = now
        self._ending: set[str] = set()
        self._died_early: set[str] = set()
        """whose containers ended while they were being launched"""
        self._loop = asyncio.get_running_loop()

    def watch_events(self) -> None:
        """Starts a thread on which the engine tells of every end at once."""
        threading.Thread(target=self._follow_events, name="container-ends", daemon=True).start()

    def _follow_events(self) -> None:
        while True:
            try:
                for name in self._engine.watch_deaths():
                    self._loop.call_soon_threadsafe(self._begin, name)
            except EngineUnavailable as error:
                _log.error("no events from the engine: %s", error)
            except RuntimeError:
                # The loop is closed: the controller has left.
                return
            time.sleep(_TRY_AGAIN_S)

    async def sweep(self) -> None:
        """What the events did not tell."""
        while True:
            await asyncio.sleep(_SWEEP_EVERY_S)
            try:
                containers = await asyncio.to_thread(self._engine.list_runners)
            except EngineUnavailable as error:
                _log.error("cannot look at the containers: %s", error)
                continue
            running = {container.name for container in containers if container.is_running}
            for runner in self._runners:
                if runner.container_id and runner.name not in running:
                    self._begin(runner.name)
                elif self._has_timed_out(runner):
                    self._background.spawn(self._stop_job(runner))

    def _has_timed_out(self, runner: LocalRunner) -> bool:
        if runner.job_started_at is None or runner.timeout_s is None:
            return False
        return self._now() - runner.job_started_at > timedelta(seconds=runner.timeout_s)

    async def _stop_job(self, runner: LocalRunner) -> None:
        _log.warning("the job of runner %s has run for %s s: stopping it", runner.name, runner.timeout_s)
        with suppress(EngineUnavailable):
            await asyncio.to_thread(self._engine.stop, runner.container_id, _STOP_WAIT_S)

    def launched(self, name: str) -> None:
        """A container has been launched; it may have ended before anybody knew that it was there."""
        if name in self._died_early:
            self._died_early.discard(name)
            self._begin(name)

    def _begin(self, name: str) -> None:
        runner = self._runners.get(name)
        if runner is not None and not runner.container_id:
            self._died_early.add(name)
        if runner is not None and runner.container_id and name not in self._ending:
            self._ending.add(name)
            self._background.spawn(self._end(runner))

    async def _end(self, runner: LocalRunner) -> None:
        try:
            try:
                state = await asyncio.to_thread(self._engine.inspect, runner.container_id)
                log = await asyncio.to_thread(self._engine.read_log, runner.container_id, _LOG_LINES)
            except ContainerGone:
                state, log = None, ""
            if state is not None and state.is_running:
                return
            # Written down first: a controller that is killed in between does it again.
            await self._write_down(self._runners.get(runner.name) or runner, state, log)
            await asyncio.to_thread(self._engine.remove, runner.container_id)
            with suppress(ProxyUnavailable):
                await self._proxy.usage_of(runner.name, forget=True)
            await self._forget(runner.name)
        except EngineUnavailable as error:
            _log.warning("runner %s has ended, but cannot be removed now: %s", runner.name, error)
        finally:
            self._ending.discard(runner.name)

    async def _write_down(self, runner: LocalRunner, state: ContainerState | None, log: str) -> None:
        had_job = runner.job is not None or read_progress(log).job_name is not None
        reason = None if had_job else runner.retired or explain_end(state, log)
        canonical(
            _log,
            logging.INFO if had_job or runner.retired else logging.ERROR,
            "ended",
            runner_name=runner.name,
            job=runner.job.key if runner.job is not None else None,
            job_name=runner.job.name if runner.job is not None else None,
            exit_code=state.exit_code if state is not None else None,
            reason=reason,
        )
        if reason is None:
            await self._write_job(runner)
        else:
            self._write_without_job(runner, reason, state)

    async def _write_job(self, runner: LocalRunner) -> None:
        job_key = runner.job.key if runner.job is not None else None
        about_job = await self._egress_of(runner)
        if runner.job is None and (job := await self._finder.ask_webhook(runner.name)) is not None:
            job_key = job.key
            if (note := note_unasked(runner, job)) is not None:
                about_job |= {"sizing": note.to_firestore()}
        self._background.persist(lambda: self._store.end_runner(runner.name, job_key, about_job))

    def _write_without_job(self, runner: LocalRunner, reason: str, state: ContainerState | None) -> None:
        exit_code = {"exitCode": state.exit_code if state is not None else None}
        now = self._now()
        if runner.retired:
            status = move_runner(RunnerState.SCHEDULED, RunnerEvent.CANCEL)
            retired = {"status": status, "reason": reason, "endedAt": now, "expireAt": now + KEPT_FOR}
            self._background.persist(lambda: self._store.update_runner(runner.name, retired | exit_code))
            return
        fields, command = note_failure(RunnerState.SCHEDULED, runner.name, runner.pool, self._host_id, reason, now)
        self._background.persist(lambda: self._store.fail_runner(runner.name, fields | exit_code, command))

    async def _egress_of(self, runner: LocalRunner) -> dict[str, Any]:
        try:
            return {"egress": (await self._proxy.usage_of(runner.name, forget=False)).to_firestore()}
        except ProxyUnavailable as error:
            _log.warning("no egress summary for %s: %s", runner.name, error)
            return {}


def note_unasked(runner: LocalRunner, job: WorkflowJob) -> SizingReceipt | None:
    """For a job whose hook found no way to ask the gate; None where the gate has spoken, now or before a restart."""
    if runner.has_asked or job.sizing is not None:
        return None
    fit = unfit(None, "the job-started hook did not ask the gate", OnError.OPEN)
    profile = job.plan.profile if job.plan is not None else runner.own_profile
    return receipt(fit, made_for=runner.made_for_profile, profile=profile, known_by=BY_WEBHOOK, known_ms=0, took_ms=0)


def explain_end(state: ContainerState | None, log: str) -> str:
    """Why a runner that never took a job has ended, in words for an operator."""
    if state is None:
        return "the container was removed by somebody else before it took a job"
    if state.exit_code == 137 and state.was_oom_killed:
        return "the runner was killed for want of memory before it took a job: give its profile more"
    tail = tail_in_words(log)
    return f"the runner ended with exit code {state.exit_code} before it took a job" + (f": {tail}" if tail else "")
