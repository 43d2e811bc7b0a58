"""Gives a running container the size of its job's profile, as the policy's `sizing` has it."""

import asyncio
import logging
import time
from dataclasses import replace

from functions.documents.workflow_job import RunnerProfile, WorkflowJob
from functions.routing.capacity import Size
from functions.routing.policy import NoRoom, SizingMode

from .cgroup import Limits, read_limits
from .containers import DockerEngine
from .errors import CannotResize, ContainerGone, EngineUnavailable
from .runners import LocalRunner, Runners
from .sizing import Fit, Verdict, differs, find_memory_shortage, find_mismatch, is_decided, park, unfit

_log = logging.getLogger("runyard.gate")
_TRY_AGAIN_S = 1.0


class Fitting:
    """Resizes containers, within what this host has."""

    def __init__(self, runners: Runners, engine: DockerEngine):
        self._runners = runners
        self._engine = engine

    async def fit(self, runner: LocalRunner, job: WorkflowJob, *, may_wait: bool = True) -> Fit:
        """Fits a runner's container to its job; every way in which that can end is a verdict.

        Args:
            runner: as it is now.
            job: that it has got.
            may_wait: False for a job that runs already: waiting for room would take from it what it uses.
        """
        limits = read_limits(runner.pid)
        if not is_decided(job):
            return unfit(limits, "nobody has decided about this job yet: its webhooks are late", runner.sizing.on_error)
        if job.plan is None:
            reason = "no policy gives this job a profile: the container keeps its size"
            return Fit(Verdict.NOT_OURS, limits, limits, reason)
        mismatch = find_mismatch(job, runner.image, runner.privileges)
        if mismatch is None:
            return await self.fit_to_profile(runner, job.plan.profile, may_wait=may_wait)
        fit = unfit(limits, mismatch, runner.sizing.on_error)
        if fit.may_run:
            self.connect_as(runner.name, job.plan.profile)
        return fit

    async def fit_to_profile(self, runner: LocalRunner, profile: RunnerProfile, *, may_wait: bool = True) -> Fit:
        """The same for a job of which no more is known than its profile."""
        fit = await self._fit_size(runner, profile, may_wait)
        if fit.may_run:
            self.connect_as(runner.name, profile)
        return fit

    def connect_as(self, runner_name: str, profile: RunnerProfile) -> None:
        """Where a job may connect to is the job's business, whatever size it runs on."""
        self._runners.change(runner_name, egress=profile.egress)

    async def _fit_size(self, runner: LocalRunner, profile: RunnerProfile, may_wait: bool) -> Fit:
        limits, rules = read_limits(runner.pid), runner.sizing
        if runner.profile == profile.name and runner.size == profile.size and not differs(limits, profile):
            return Fit(Verdict.FITS, limits, limits)
        if rules.mode is SizingMode.OBSERVE:
            return Fit(Verdict.OBSERVED, limits, limits, "sizing.mode is observe: nothing was changed")
        if (shortage := find_memory_shortage(limits, profile.memory_bytes)) is not None:
            return unfit(limits, shortage, rules.on_error)
        started = time.monotonic()
        has_room = await self._runners.reserve(runner.name, profile.size, 0)
        waits = not has_room and may_wait and rules.no_room is NoRoom.WAIT
        if waits and self._runners.could_ever_hold(profile.size):
            await self._park(runner, limits)
            has_room = await self._runners.reserve(runner.name, profile.size, rules.wait_s)
        room_ms = (time.monotonic() - started) * 1000
        if not has_room and rules.no_room is not NoRoom.OVERSUBSCRIBE:
            return Fit(Verdict.REFUSED, limits, limits, self._explain_shortage(profile, room_ms), room_ms)
        if not has_room:
            self._runners.oversubscribe(runner.name, profile.size)
        try:
            fit = await self._resize(runner, profile, started + rules.wait_s)
            if waits and fit.verdict is Verdict.KEPT:
                fit = await self._unpark(runner, fit)
        finally:
            await self._runners.settle(runner.name)
        verdict = Verdict.OVERSUBSCRIBED if fit.verdict is Verdict.RESIZED and not has_room else fit.verdict
        return replace(fit, verdict=verdict, before=limits, room_ms=room_ms)

    async def _park(self, runner: LocalRunner, limits: Limits | None) -> None:
        """A runner that waits for room needs next to none itself: what it has may let another one run.

        Otherwise small runners that GitHub has given large jobs could wait for each other.
        """
        if limits is None:
            return
        size = park(runner.size, limits)
        try:
            await asyncio.to_thread(self._engine.resize, runner.container_id, size, runner.pids)
        except (ContainerGone, CannotResize, EngineUnavailable) as error:
            _log.warning("runner %s waits with all that it has: %s", runner.name, error)
            return
        self._runners.change(runner.name, size=size)
        await self._runners.room_has_changed()

    async def _unpark(self, runner: LocalRunner, kept: Fit) -> Fit:
        """What the policy lets it run on is the size that its runner had, not what it was left while it waited."""
        try:
            await asyncio.to_thread(self._engine.resize, runner.container_id, runner.size, runner.pids)
        except (ContainerGone, CannotResize, EngineUnavailable) as error:
            reason = f"{kept.reason}; nor can it have back what it had before it waited: {error}"
            return replace(kept, verdict=Verdict.REFUSED, reason=reason)
        self._runners.change(runner.name, size=runner.size)
        return replace(kept, after=read_limits(runner.pid))

    def _explain_shortage(self, profile: RunnerProfile, waited_ms: float) -> str:
        ledger = self._runners.ledger
        if not self._runners.could_ever_hold(profile.size):
            return f"this host has {ledger.capacity} in all"
        return f"no room on this host within {waited_ms / 1000:.0f} s: {ledger.free} are left"

    async def _resize(self, runner: LocalRunner, profile: RunnerProfile, give_up_at: float) -> Fit:
        """Resizes, and reads back what the kernel has now: the engine only repeats what was asked for."""
        started = time.monotonic()
        on_error = runner.sizing.on_error
        while True:
            try:
                await asyncio.to_thread(self._engine.resize, runner.container_id, profile.size, profile.pids)
                break
            except ContainerGone:
                return Fit(Verdict.REFUSED, None, None, "the container is gone")
            except CannotResize as error:
                return unfit(read_limits(runner.pid), str(error), on_error)
            except EngineUnavailable as error:
                if time.monotonic() > give_up_at:
                    return unfit(read_limits(runner.pid), str(error), on_error)
                await asyncio.sleep(_TRY_AGAIN_S)
        limits = read_limits(runner.pid)
        if differs(limits, profile):
            if limits is not None:
                now = Size(limits.cpu_millis or runner.size.cpu_millis, limits.memory_bytes or runner.size.memory_bytes)
                self._runners.change(runner.name, size=now)
            return unfit(limits, "the kernel has other limits than were asked for", on_error)
        self._runners.change(runner.name, size=profile.size, profile=profile.name)
        return Fit(Verdict.RESIZED, None, limits, resize_ms=(time.monotonic() - started) * 1000)
