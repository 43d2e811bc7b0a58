"""A job has started on a runner: which job is it, and does the container fit it? The answer lets it go on."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from functions.documents.lifecycle import JobState
from functions.documents.workflow_job import RunnerProfile, SizingReceipt, WorkflowJob
from functions.log import canonical
from functions.routing.capacity import Size

from .background import Background
from .cgroup import read_limits
from .fitting import Fitting
from .gate import Answer, Question
from .identity import BY_OUTPUT, BY_WEBHOOK
from .job_finder import Found, JobFinder
from .proxy_client import ProxyUnavailable
from .runner_log import RunnerProgress
from .runners import LocalRunner, Runners, RunningJob
from .sizing import Fit, Verdict, receipt, unfit

_log = logging.getLogger("runyard.gate")
_CONFIRM_AFTER_S = 10.0
"""by then the webhook has come, if it comes at all"""
_LEARN_LATE_AFTER_S = (2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""when the webhook is asked again about a job that runs without being known"""
_TELL_PROXY_AGAIN_S = (0.5, 1.0, 2.0, 4.0)


class ReceiptStore(Protocol):
    """Where receipts are written."""

    async def merge_job(self, job_key: str, fields: Mapping[str, Any], rank: int) -> None: ...


@dataclass(frozen=True)
class _Known:
    """A job that was let go, and how that came about."""

    fit: Fit
    profile: RunnerProfile
    known_by: str
    known_ms: float
    took_ms: float

    def receipt(self, made_for: str) -> SizingReceipt:
        return receipt(
            self.fit,
            made_for=made_for,
            profile=self.profile,
            known_by=self.known_by,
            known_ms=self.known_ms,
            took_ms=self.took_ms,
        )


class JobStart:
    """Answers the gate's questions."""

    def __init__(
        self,
        runners: Runners,
        finder: JobFinder,
        fitting: Fitting,
        store: ReceiptStore,
        background: Background,
        publish: Callable[[], Awaitable[None]],
        known_within_s: float,
        now: Callable[[], datetime],
    ):
        self._runners = runners
        self._finder = finder
        self._fitting = fitting
        self._store = store
        self._background = background
        self._publish = publish
        self._known_within_s = known_within_s
        self._now = now
        self._under_way: dict[str, asyncio.Task[Answer]] = {}

    async def decide(self, question: Question) -> Answer | None:
        """Lets the job go on once its container has its size; None for whoever is not a runner."""
        runner = self._runners.find(question.gateway, question.address)
        if runner is None:
            return None
        if runner.job is not None:
            return Answer(True, f"{runner.job.name} has its size already")
        # A hook whose connection broke asks again: both get the one answer.
        if runner.name not in self._under_way:
            self._runners.change(runner.name, has_asked=True)
            task = asyncio.create_task(self._answer(runner, question))
            task.add_done_callback(lambda _: self._under_way.pop(runner.name, None))
            self._under_way[runner.name] = task
        return await asyncio.shield(self._under_way[runner.name])

    async def _answer(self, runner: LocalRunner, question: Question) -> Answer:
        try:
            return await self._decide(runner, question)
        except Exception as error:  # noqa: BLE001 - a fault of ours is a way of not being able to size the job
            _log.exception("cannot decide about the job of %s", runner.name)
            fit = unfit(read_limits(runner.pid), f"a fault in the controller: {error}", runner.sizing.on_error)
            return Answer(fit.may_run, fit.reason)

    async def _decide(self, runner: LocalRunner, question: Question) -> Answer:
        started = time.monotonic()
        found = await self._finder.find(runner, question.run_id, question.run_attempt, self._known_within_s)
        known_ms = (time.monotonic() - started) * 1000
        job = found.identity.job
        if job is None:
            return await self._go_on_unknown(runner, found, known_ms)
        if found.identity.disagreement:
            _log.warning("runner %s: %s; the webhook counts", runner.name, found.identity.disagreement)
        fit = await self._fitting.fit(runner, job)
        profile = job.plan.profile if job.plan is not None else runner.own_profile
        took_ms = (time.monotonic() - started) * 1000
        known = _Known(fit, profile, found.identity.known_by, known_ms, took_ms)
        await self._let_go(runner, job, known, found.progress)
        if fit.may_run and known.known_by == BY_OUTPUT:
            self._background.watch(self._confirm(runner.name, job.key))
        return Answer(fit.may_run, in_words(known.receipt(runner.made_for_profile)))

    async def _go_on_unknown(self, runner: LocalRunner, found: Found, known_ms: float) -> Answer:
        """The job is not known, or one of several: what can be said of its size decides, else the policy."""
        profile = found.identity.profile
        if profile is not None:
            fit = await self._fitting.fit_to_profile(runner, profile)
        else:
            reason = f"no job of this runner became known within {self._known_within_s:g} s"
            fit = unfit(read_limits(runner.pid), reason, runner.sizing.on_error)
        known = _Known(fit, profile or runner.own_profile, BY_WEBHOOK, known_ms, known_ms)
        note = known.receipt(runner.made_for_profile)
        level = logging.WARNING if fit.may_run else logging.ERROR
        canonical(_log, level, "gate", runner_name=runner.name, job="unknown", **note.to_firestore())
        if fit.may_run:
            await self._tell_proxy(runner.name)
            self._background.watch(self._learn_late(runner.name, known, found.progress))
        return Answer(fit.may_run, in_words(note))

    async def _let_go(self, runner: LocalRunner, job: WorkflowJob, known: _Known, progress: RunnerProgress) -> None:
        """From here on the runner is this job's: connections, limits of time, receipt."""
        if known.fit.may_run:
            await self._give_to(runner, job)
        self._write(runner, job, known.receipt(runner.made_for_profile), progress)

    async def _give_to(self, runner: LocalRunner, job: WorkflowJob) -> None:
        timeout_s = job.plan.profile.timeout_s if job.plan is not None else None
        running = RunningJob(job.key, job.name)
        self._runners.change(runner.name, job=running, job_started_at=self._now(), timeout_s=timeout_s)
        await self._tell_proxy(runner.name)

    async def _tell_proxy(self, runner_name: str) -> None:
        """A proxy that is just being restarted fails no job: it gets its table when it is back."""
        for pause_s in _TELL_PROXY_AGAIN_S:
            try:
                await self._publish()
                return
            except ProxyUnavailable as error:
                _log.warning("the proxy does not know yet what runner %s does: %s", runner_name, error)
                await asyncio.sleep(pause_s)

    async def _confirm(self, runner_name: str, job_key: str) -> None:
        """Asks the webhook about a job that only the runner's output has named. If they disagree, the webhook wins."""
        await asyncio.sleep(_CONFIRM_AFTER_S)
        job = await self._finder.ask_webhook(runner_name)
        runner = self._runners.get(runner_name)
        if job is None or runner is None or job.key == job_key:
            return
        _log.warning("runner %s: its output named %s, the webhook says %s, and counts", runner_name, job_key, job.key)
        started = time.monotonic()
        fit = await self._fitting.fit(runner, job, may_wait=False)
        if not fit.may_run:
            # Too late to refuse it.
            fit = replace(fit, verdict=Verdict.KEPT)
            self._connect_as(runner, job)
        profile = job.plan.profile if job.plan is not None else runner.own_profile
        known = _Known(fit, profile, f"{BY_WEBHOOK}, against the output", 0, (time.monotonic() - started) * 1000)
        await self._let_go(runner, job, known, RunnerProgress())
        mistaken = {
            "sizing": {"verdict": Verdict.MISTAKEN, "reason": f"the webhook says that {job.key} had the runner"}
        }
        self._background.persist(lambda: self._store.merge_job(job_key, mistaken, JobState.QUEUED))

    def take_up(self, runner_name: str) -> None:
        """A runner that a controller before this one has let go, with a job of which the webhook is still to come."""
        self._background.watch(self._learn_late(runner_name, None, RunnerProgress()))

    async def _learn_late(self, runner_name: str, known: _Known | None, progress: RunnerProgress) -> None:
        for pause_s in _LEARN_LATE_AFTER_S:
            await asyncio.sleep(pause_s)
            runner = self._runners.get(runner_name)
            if runner is None or runner.job is not None:
                return
            job = await self._finder.ask_webhook(runner_name)
            if job is not None:
                self._connect_as(runner, job)
                if known is None:
                    await self._give_to(runner, job)
                else:
                    await self._let_go(runner, job, known, progress)
                return

    def _connect_as(self, runner: LocalRunner, job: WorkflowJob) -> None:
        if job.plan is not None:
            self._fitting.connect_as(runner.name, job.plan.profile)

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
            logging.INFO if note.verdict in {Verdict.FITS, Verdict.RESIZED, Verdict.NOT_OURS} else logging.WARNING,
            "gate",
            runner_name=runner.name,
            job=job.key,
            job_name=job.name,
            **note.to_firestore(),
        )


def in_words(note: SizingReceipt) -> str:
    """A line for the job's own log."""
    wanted = f"profile {note.profile}: {Size(note.asked_cpu_millis, note.asked_memory_bytes)}"
    match note.verdict:
        case Verdict.FITS:
            return f"{wanted}, as made"
        case Verdict.RESIZED:
            return f"{wanted}, resized (made for {note.made_for_profile})"
        case Verdict.OVERSUBSCRIBED:
            return f"{wanted}, resized on a full host (made for {note.made_for_profile})"
        case Verdict.OBSERVED | Verdict.KEPT:
            return f"{wanted} wanted, {note.made_for_profile} kept: {note.reason}"
        case Verdict.NOT_OURS:
            return note.reason
        case _:
            return f"{wanted} are needed: {note.reason}"
