"""A job has started on a runner: which job is it, and does the container fit it? The answer lets it go on."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, Protocol

from functions.documents.errors import StoreUnavailable
from functions.documents.lifecycle import JobState
from functions.documents.workflow_job import RunnerProfile, SizingReceipt, WorkflowJob
from functions.log import canonical
from functions.routing.capacity import Size
from functions.routing.units import format_cpus, format_memory

from .attribution import Egress
from .background import Background
from .cgroup import Limits, read_limits
from .containers import DockerEngine
from .errors import CannotResize, ContainerGone, EngineUnavailable
from .gate import Answer, Question
from .runner_log import RunnerProgress, read_progress
from .runners import LocalRunner, Runners, RunningJob
from .settings import Gate
from .sizing import Verdict, differs, find_memory_shortage, find_mismatch, receipt

_log = logging.getLogger("runyard.gate")
_LOG_LINES = 200
_FIRST_LOOK_AGAIN_S = 0.1
_LAST_LOOK_AGAIN_S = 1.0


class JobStore(Protocol):
    """What is wanted of the store."""

    async def find_jobs(self, org: str, run_id: int, name: str) -> list[WorkflowJob]: ...
    async def find_jobs_of_runner(self, runner_name: str) -> list[WorkflowJob]: ...
    async def merge_job(self, job_key: str, fields: Mapping[str, Any], rank: int) -> None: ...


class JobStart:
    """Answers the gate's questions."""

    def __init__(
        self,
        runners: Runners,
        engine: DockerEngine,
        store: JobStore,
        background: Background,
        publish: Callable[[], Awaitable[None]],
        settings: Gate,
        now: Callable[[], datetime],
    ):
        self._runners = runners
        self._engine = engine
        self._store = store
        self._background = background
        self._publish = publish
        self._known_within_s = settings.known_within_s
        self._room_within_s = settings.room_within_s
        self._now = now

    async def decide(self, question: Question) -> Answer | None:
        """Lets the job go on once its container has its size; None for whoever is not a runner."""
        runner = self._runners.find(question.gateway, question.address)
        if runner is None:
            return None
        if runner.job is not None:
            return Answer(True, f"{runner.job.name} has its size already")
        started = time.monotonic()
        job, known_by, progress = await self._identify(runner, question)
        if job is None:
            reason = f"no job of this runner became known within {self._known_within_s:g} s"
            canonical(_log, logging.ERROR, "gate", runner_name=runner.name, verdict="unknown_job", reason=reason)
            return Answer(False, reason)
        note = await self._fit(runner, job, known_by, started)
        answered = Answer(note.verdict != Verdict.REFUSED, _in_words(note))
        if answered.may_run:
            timeout_s = job.plan.profile.timeout_s if job.plan is not None else None
            self._runners.change(
                runner.name, job=RunningJob(job.key, job.name), job_started_at=self._now(), timeout_s=timeout_s
            )
            await self._publish()
        self._write(runner, job, note, progress)
        return answered

    async def _identify(
        self, runner: LocalRunner, question: Question
    ) -> tuple[WorkflowJob | None, str, RunnerProgress]:
        """The runner prints the job's name before it runs the hook, and GitHub's webhook names the runner.

        Whichever is known first decides, unless the name fits several jobs of the run.
        """
        deadline = time.monotonic() + self._known_within_s
        pause_s = _FIRST_LOOK_AGAIN_S
        progress = RunnerProgress()
        while True:
            try:
                progress = read_progress(
                    await asyncio.to_thread(self._engine.read_log, runner.container_id, _LOG_LINES)
                )
                if progress.job_name is not None and question.run_id is not None:
                    found = await self._store.find_jobs(runner.org, question.run_id, progress.job_name)
                    candidates = [job for job in found if question.run_attempt in {None, job.run_attempt}]
                    if len(candidates) == 1:
                        return candidates[0], "runner output", progress
                found = await self._store.find_jobs_of_runner(runner.name)
                if len(found) == 1:
                    return found[0], "webhook", progress
            except (StoreUnavailable, EngineUnavailable) as error:
                _log.warning("cannot look up the job of %s now: %s", runner.name, error)
            if time.monotonic() > deadline:
                return None, "", progress
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LAST_LOOK_AGAIN_S)

    async def _fit(self, runner: LocalRunner, job: WorkflowJob, known_by: str, started: float) -> SizingReceipt:
        before = read_limits(runner.pid)
        wanted = job.plan.profile if job.plan is not None else None

        def note(verdict: Verdict, after: Limits | None, reason: str = "") -> SizingReceipt:
            return receipt(
                verdict,
                made_for=runner.made_for_profile,
                profile=wanted.name if wanted is not None else runner.profile,
                asked=wanted.size if wanted is not None else runner.size,
                before=before,
                after=after,
                known_by=known_by,
                reason=reason,
                took_ms=(time.monotonic() - started) * 1000,
            )

        if wanted is None:
            return note(Verdict.NOT_OURS, before, "no policy gives this job a profile: the container keeps its size")
        if (mismatch := find_mismatch(job, runner.image, runner.privileges)) is not None:
            return note(Verdict.REFUSED, before, mismatch)
        if runner.profile == wanted.name and runner.size == wanted.size and not differs(before, wanted.size):
            return note(Verdict.FITS, before)
        if (shortage := find_memory_shortage(before, wanted.size)) is not None:
            return note(Verdict.REFUSED, before, shortage)
        if not await self._runners.reserve(runner.name, wanted.size, self._room_within_s):
            return note(Verdict.REFUSED, before, f"no room on this host within {self._room_within_s:g} s")
        try:
            return await self._resize(runner, wanted, note)
        finally:
            await self._runners.settle(runner.name)

    async def _resize(
        self, runner: LocalRunner, wanted: RunnerProfile, note: Callable[[Verdict, Limits | None, str], SizingReceipt]
    ) -> SizingReceipt:
        try:
            await asyncio.to_thread(self._engine.resize, runner.container_id, wanted.size, wanted.pids)
        except (CannotResize, EngineUnavailable) as error:
            return note(Verdict.REFUSED, read_limits(runner.pid), str(error))
        except ContainerGone:
            return note(Verdict.REFUSED, None, "the container is gone")
        after = read_limits(runner.pid)
        if differs(after, wanted.size):
            return note(Verdict.REFUSED, after, "the kernel has other limits than were asked for")
        self._runners.change(runner.name, size=wanted.size, profile=wanted.name, egress=Egress.of_profile(wanted))
        return note(Verdict.RESIZED, after, "")

    def _write(self, runner: LocalRunner, job: WorkflowJob, note: SizingReceipt, progress: RunnerProgress) -> None:
        phases = {
            "provisionedAt": runner.provisioned_at,
            "claimedAt": runner.claimed_at,
            "launchedAt": runner.launched_at,
            "registeredAt": progress.listening_since,
        }
        fields = {
            "sizing": note.to_firestore(),
            "phases": {name: value for name, value in phases.items() if value is not None},
        }
        self._background.persist(lambda: self._store.merge_job(job.key, fields, JobState.REGISTERED))
        canonical(
            _log,
            logging.WARNING if note.verdict == Verdict.REFUSED else logging.INFO,
            "gate",
            runner_name=runner.name,
            job=job.key,
            job_name=job.name,
            **note.to_firestore(),
        )


def _in_words(note: SizingReceipt) -> str:
    wanted = Size(note.asked_cpu_millis, note.asked_memory_bytes)
    size = f"{format_cpus(wanted.cpu_millis)} CPUs and {format_memory(wanted.memory_bytes)}"
    match note.verdict:
        case Verdict.FITS:
            return f"profile {note.profile}: {size}, as made"
        case Verdict.RESIZED:
            return f"profile {note.profile}: resized to {size} (made for {note.made_for_profile})"
        case Verdict.NOT_OURS:
            return note.reason
        case _:
            return f"profile {note.profile} needs {size}: {note.reason}"
