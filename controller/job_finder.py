"""Looks up which job a runner has got: in the runner's output and in what the webhook has written."""

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import Protocol

from functions.documents.errors import StoreRefused, StoreUnavailable
from functions.documents.workflow_job import WorkflowJob

from .containers import DockerEngine
from .errors import EngineUnavailable
from .identity import NOT_KNOWN, Identity, identify, is_name_of
from .runner_log import RunnerProgress, read_progress
from .runners import LocalRunner
from .sizing import is_decided

_log = logging.getLogger("runyard.gate")
_LOG_LINES = 200
_FIRST_LOOK_AGAIN_S = 0.1
_LAST_LOOK_AGAIN_S = 1.0


class JobQueries(Protocol):
    """What is asked of the store."""

    async def find_jobs(self, org: str, run_id: int, name: str) -> list[WorkflowJob]: ...
    async def list_jobs_of_run(self, org: str, run_id: int) -> list[WorkflowJob]: ...
    async def find_jobs_of_runner(self, runner_name: str) -> list[WorkflowJob]: ...


@dataclass(frozen=True)
class Found:
    """What was found out about a runner's job, and how far the runner has come."""

    identity: Identity = NOT_KNOWN
    progress: RunnerProgress = field(default_factory=RunnerProgress)


class JobFinder:
    """Asks again and again, for a bounded time."""

    def __init__(self, engine: DockerEngine, store: JobQueries):
        self._engine = engine
        self._store = store

    async def find(self, runner: LocalRunner, run_id: int | None, run_attempt: int | None, within_s: float) -> Found:
        """The job of a runner that has just started one, and of which the policy has said what it needs.

        When that does not come about in time, what is known by then.
        """
        deadline = time.monotonic() + within_s
        pause_s = _FIRST_LOOK_AGAIN_S
        found = Found()
        while True:
            try:
                found = await self._look(runner, run_id, run_attempt)
                if found.identity.job is not None and is_decided(found.identity.job):
                    return found
            except (StoreUnavailable, StoreRefused, EngineUnavailable) as error:
                _log.warning("cannot look up the job of %s now: %s", runner.name, error)
            if time.monotonic() > deadline:
                return found
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LAST_LOOK_AGAIN_S)

    async def ask_webhook(self, runner_name: str) -> WorkflowJob | None:
        """The job that GitHub's webhook says a runner has; None while it says nothing, or nothing that is clear."""
        try:
            found = await self._store.find_jobs_of_runner(runner_name)
        except (StoreUnavailable, StoreRefused) as error:
            _log.warning("cannot look up the job of %s now: %s", runner_name, error)
            return None
        return found[0] if len(found) == 1 else None

    async def _look(self, runner: LocalRunner, run_id: int | None, run_attempt: int | None) -> Found:
        output = await asyncio.to_thread(self._engine.read_log, runner.container_id, _LOG_LINES)
        progress = read_progress(output)
        named: list[WorkflowJob] = []
        if progress.job_name is not None and run_id is not None:
            named = await self._find_named(runner.org, run_id, progress.job_name)
        identity = identify(named, (), runner.name, run_attempt)
        if identity.job is None:
            # Costs a read each time, and most jobs are the only ones of their name.
            of_runner = await self._store.find_jobs_of_runner(runner.name)
            identity = identify(named, of_runner, runner.name, run_attempt)
        return Found(identity, progress)

    async def _find_named(self, org: str, run_id: int, printed: str) -> list[WorkflowJob]:
        named = await self._store.find_jobs(org, run_id, printed)
        if named:
            return named
        return [job for job in await self._store.list_jobs_of_run(org, run_id) if is_name_of(printed, job.name)]
