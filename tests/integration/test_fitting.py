"""Fitting real containers to jobs: every outcome that the policy's `sizing` can have."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from controller.cgroup import Limits, read_limits
from controller.containers import ContainerState
from controller.fitting import Fitting
from controller.networks import BridgePlan
from controller.runners import LocalRunner, Runners
from controller.sizing import Fit, Verdict
from functions.documents.workflow_job import DecisionRecord, RunnerEgress, RunnerProfile, SizingRules, WorkflowJob
from functions.routing.capacity import Size
from functions.routing.policy import EgressMode, NoRoom, OnError, SizingMode
from tests.fakes.examples import job, runner_plan
from tests.integration.container_tools import MIB, SMALL, Host

CAPACITY = Size(1000, 512 * MIB)


def profile(size: Size, pids: int = 32, **changes: Any) -> RunnerProfile:
    return RunnerProfile(name="large", cpu_millis=size.cpu_millis, memory_bytes=size.memory_bytes, pids=pids, **changes)


class Yard:
    """One host with one small runner, and perhaps a neighbour that takes room."""

    def __init__(self, host: Host, bridge: BridgePlan, script: str = "sleep 60", **rules: Any):
        self.host = host
        self.runners = Runners(CAPACITY)
        claimed = host.runner(sizing=SizingRules(**rules))
        self.state: ContainerState = host.start(script, bridge, claimed)
        self._name = claimed.runner_name
        runner = LocalRunner.of_claim(claimed)
        self.runners.put(replace(runner, container_id=self.state.container_id, pid=self.state.pid, bridge=bridge))

    @property
    def runner(self) -> LocalRunner:
        runner = self.runners.get(self._name)
        assert runner is not None
        return runner

    def add_neighbour(self, size: Size) -> None:
        self.runners.put(replace(self.runner, name="neighbour", size=size, container_id=""))

    def job(self, size: Size, **changes: Any) -> WorkflowJob:
        return job(1, plan=runner_plan(profile=profile(size, **changes), image=self.host.image))

    def fit(self, wanted: WorkflowJob) -> Fit:
        return asyncio.run(Fitting(self.runners, self.host.engine).fit(self.runner, wanted))

    @property
    def limits(self) -> tuple[int | None, int | None, int | None]:
        return _numbers(read_limits(self.state.pid))


def _numbers(limits: Limits | None) -> tuple[int | None, int | None, int | None]:
    assert limits is not None
    return limits.cpu_millis, limits.memory_bytes, limits.pids


UNCHANGED = (200, 64 * MIB, 64)


@pytest.mark.parametrize("size", [Size(400, 256 * MIB), Size(100, 48 * MIB), Size(1000, 512 * MIB)])
def test_cpu_memory_and_processes_follow_the_job_up_and_down(host: Host, bridge: BridgePlan, size: Size) -> None:
    yard = Yard(host, bridge)
    fit = yard.fit(yard.job(size))
    assert fit.verdict is Verdict.RESIZED
    assert _numbers(fit.before) == UNCHANGED
    assert _numbers(fit.after) == yard.limits == (size.cpu_millis, size.memory_bytes, 32)
    assert (yard.runner.profile, yard.runner.size) == ("large", size)
    assert yard.runners.ledger.free == CAPACITY - size
    assert fit.resize_ms > 0


def test_a_container_that_fits_is_left_alone(host: Host, bridge: BridgePlan) -> None:
    yard = Yard(host, bridge)
    own = RunnerProfile(name="small", cpu_millis=200, memory_bytes=64 * MIB, pids=64)
    assert yard.fit(job(1, plan=runner_plan(profile=own, image=host.image))).verdict is Verdict.FITS


def test_only_the_number_of_processes_may_differ(host: Host, bridge: BridgePlan) -> None:
    yard = Yard(host, bridge)
    assert yard.fit(yard.job(SMALL)).verdict is Verdict.RESIZED
    assert yard.limits == (200, 64 * MIB, 32)


def test_on_a_full_host_the_job_waits_until_another_one_ends(host: Host, bridge: BridgePlan) -> None:
    yard = Yard(host, bridge)
    yard.add_neighbour(Size(800, 64 * MIB))

    async def wait_for_the_neighbour() -> Fit:
        fitting = asyncio.create_task(
            Fitting(yard.runners, host.engine).fit(yard.runner, yard.job(Size(400, 64 * MIB)))
        )
        await asyncio.sleep(0.5)
        assert not fitting.done()
        # It waits with little: what it had may let another one run.
        assert yard.limits[0] == 50
        await yard.runners.remove("neighbour")
        return await fitting

    fit = asyncio.run(wait_for_the_neighbour())
    assert fit.verdict is Verdict.RESIZED
    assert fit.room_ms >= 450
    assert yard.limits == (400, 64 * MIB, 32)


@pytest.mark.parametrize("on_error", list(OnError))
def test_a_job_that_waited_in_vain_fails_whatever_holds_for_errors(
    host: Host, bridge: BridgePlan, on_error: OnError
) -> None:
    """`on_error: open` is for jobs that cannot be sized; on a full host `no_room` decides, and it says wait."""
    yard = Yard(host, bridge, wait_s=1, on_error=on_error)
    yard.add_neighbour(Size(800, 64 * MIB))
    fit = yard.fit(yard.job(Size(400, 64 * MIB)))
    assert (fit.verdict, fit.may_run) == (Verdict.REFUSED, False)
    assert "no room on this host within 1 s: 0.15 CPUs and" in fit.reason
    assert yard.limits[0] == 50
    assert yard.runners.ledger.free.cpu_millis == 150


def test_a_job_that_waited_and_cannot_be_sized_runs_on_what_its_runner_had_before(
    host: Host, bridge: BridgePlan
) -> None:
    """Not on what was left to it while it waited. The kernel takes no such number of processes."""
    yard = Yard(host, bridge, on_error=OnError.OPEN)
    yard.add_neighbour(Size(800, 64 * MIB))

    async def neighbour_ends() -> Fit:
        wanted = yard.job(Size(400, 64 * MIB), pids=1 << 23)
        fitting = asyncio.create_task(Fitting(yard.runners, host.engine).fit(yard.runner, wanted))
        await asyncio.sleep(0.5)
        assert yard.limits[0] == 50
        await yard.runners.remove("neighbour")
        return await fitting

    fit = asyncio.run(neighbour_ends())
    assert fit.verdict is Verdict.KEPT, fit
    assert yard.limits == UNCHANGED
    assert yard.runner.size == SMALL
    assert yard.runners.ledger.free == CAPACITY - SMALL


def test_a_job_that_runs_already_is_not_made_to_wait_for_room(host: Host, bridge: BridgePlan) -> None:
    yard = Yard(host, bridge)
    yard.add_neighbour(Size(800, 64 * MIB))
    wanted = yard.job(Size(400, 64 * MIB))
    fit = asyncio.run(Fitting(yard.runners, host.engine).fit(yard.runner, wanted, may_wait=False))
    assert not fit.may_run
    assert yard.limits == UNCHANGED


def test_runners_that_wait_for_room_do_not_wait_for_each_other(host: Host, bridge: BridgePlan) -> None:
    """Small ones that GitHub has given large jobs: none could grow if each kept what it was made with."""
    yard = Yard(host, bridge, wait_s=20)
    for number in range(4):
        yard.runners.put(replace(yard.runner, name=f"waits-{number}", size=Size(200, 32 * MIB), container_id=""))

    async def neighbours_are_parked() -> Fit:
        fitting = asyncio.create_task(
            Fitting(yard.runners, host.engine).fit(yard.runner, yard.job(Size(700, 64 * MIB)))
        )
        for number in range(4):
            await asyncio.sleep(0.1)
            assert not fitting.done()
            yard.runners.change(f"waits-{number}", size=Size(50, 16 * MIB))
            await yard.runners.room_has_changed()
        return await fitting

    assert asyncio.run(neighbours_are_parked()).verdict is Verdict.RESIZED


def test_with_no_room_fail_it_does_not_wait(host: Host, bridge: BridgePlan) -> None:
    yard = Yard(host, bridge, no_room=NoRoom.FAIL)
    yard.add_neighbour(Size(800, 64 * MIB))
    started = time.monotonic()
    assert yard.fit(yard.job(Size(400, 64 * MIB))).verdict is Verdict.REFUSED
    assert time.monotonic() - started < 60


def test_with_no_room_oversubscribe_it_gets_its_size_and_nothing_new_comes(host: Host, bridge: BridgePlan) -> None:
    yard = Yard(host, bridge, no_room=NoRoom.OVERSUBSCRIBE)
    yard.add_neighbour(Size(800, 64 * MIB))
    fit = yard.fit(yard.job(Size(400, 64 * MIB)))
    assert fit.verdict is Verdict.OVERSUBSCRIBED
    assert yard.limits == (400, 64 * MIB, 32)
    assert yard.runners.ledger.free.cpu_millis == -200
    assert not yard.runners.ledger.has_room_for("another", Size(10, MIB))


def test_a_job_larger_than_the_host_does_not_wait_for_what_cannot_come(host: Host, bridge: BridgePlan) -> None:
    yard = Yard(host, bridge, wait_s=3600)
    fit = yard.fit(yard.job(Size(2000, 64 * MIB)))
    assert fit.verdict is Verdict.REFUSED
    assert fit.reason == "this host has 1 CPUs and 512m in all"


@pytest.mark.parametrize(("on_error", "verdict"), [(OnError.CLOSED, Verdict.REFUSED), (OnError.OPEN, Verdict.KEPT)])
def test_memory_below_what_the_runner_uses_is_never_set(
    host: Host, bridge: BridgePlan, on_error: OnError, verdict: Verdict
) -> None:
    program = 'x = bytearray(40 << 20); print("ready", flush=True); import time; time.sleep(60)'
    yard = Yard(host, bridge, f"python3 -ISE -c '{program}'", on_error=on_error)
    deadline = time.monotonic() + 30
    while "ready" not in host.engine.read_log(yard.state.container_id, 10):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    fit = yard.fit(yard.job(Size(100, 32 * MIB)))
    assert fit.verdict is verdict
    assert "the runner itself uses" in fit.reason
    assert yard.limits == UNCHANGED
    assert host.engine.inspect(yard.state.container_id).is_running


@pytest.mark.parametrize(("on_error", "verdict"), [(OnError.CLOSED, Verdict.REFUSED), (OnError.OPEN, Verdict.KEPT)])
def test_another_image_cannot_be_given(host: Host, bridge: BridgePlan, on_error: OnError, verdict: Verdict) -> None:
    yard = Yard(host, bridge, on_error=on_error)
    fit = yard.fit(job(1, plan=runner_plan(profile=profile(SMALL), image="another:1")))
    assert fit.verdict is verdict
    assert "it needs image another:1" in fit.reason


@pytest.mark.parametrize(("on_error", "verdict"), [(OnError.CLOSED, Verdict.REFUSED), (OnError.OPEN, Verdict.KEPT)])
def test_what_the_engine_refuses_changes_nothing(
    host: Host, bridge: BridgePlan, on_error: OnError, verdict: Verdict
) -> None:
    """The engine gives no container less than 6 MiB."""
    yard = Yard(host, bridge, on_error=on_error)
    # A container that has hardly begun uses so little that our own margin does not stop it.
    fit = asyncio.run(Fitting(yard.runners, host.engine)._resize(yard.runner, profile(Size(100, 5 * MIB)), 0))
    assert fit.verdict is verdict
    assert "6MB" in fit.reason
    assert yard.limits == UNCHANGED
    assert yard.runner.size == SMALL


def test_a_container_that_is_gone_cannot_be_fitted(host: Host, bridge: BridgePlan) -> None:
    yard = Yard(host, bridge, on_error=OnError.OPEN)
    host.engine.remove(yard.state.container_id)
    fit = yard.fit(yard.job(Size(400, 64 * MIB)))
    assert (fit.verdict, fit.reason) == (Verdict.REFUSED, "the container is gone")
    assert yard.runner.size == SMALL


def test_in_observe_mode_nothing_is_changed_and_the_receipt_tells_what_was_needed(
    host: Host, bridge: BridgePlan
) -> None:
    yard = Yard(host, bridge, mode=SizingMode.OBSERVE)
    fit = yard.fit(yard.job(Size(400, 256 * MIB)))
    assert fit.verdict is Verdict.OBSERVED
    assert fit.may_run
    assert yard.limits == _numbers(fit.after) == UNCHANGED


def test_where_a_job_may_connect_to_follows_the_job_even_if_the_size_does_not(host: Host, bridge: BridgePlan) -> None:
    yard = Yard(host, bridge, mode=SizingMode.OBSERVE)
    rules = RunnerEgress(mode=EgressMode.ENFORCE, connections=7)
    yard.fit(yard.job(SMALL, egress=rules))
    assert yard.runner.egress == rules


def test_a_job_that_runs_in_another_image_may_connect_to_what_is_its_own_all_the_same(
    host: Host, bridge: BridgePlan
) -> None:
    yard = Yard(host, bridge, on_error=OnError.OPEN)
    own = profile(SMALL, egress=RunnerEgress(mode=EgressMode.ENFORCE))
    assert yard.fit(job(1, plan=runner_plan(profile=own, image="another:1"))).verdict is Verdict.KEPT
    assert yard.runner.egress.mode is EgressMode.ENFORCE


def test_of_a_job_whose_profile_alone_is_known_the_connections_are_known_too(host: Host, bridge: BridgePlan) -> None:
    yard = Yard(host, bridge)
    own = profile(SMALL, egress=RunnerEgress(mode=EgressMode.ENFORCE))
    fit = asyncio.run(Fitting(yard.runners, host.engine).fit_to_profile(yard.runner, own))
    assert fit.may_run
    assert yard.runner.egress.mode is EgressMode.ENFORCE


def test_a_job_without_a_profile_keeps_what_there_is(host: Host, bridge: BridgePlan) -> None:
    yard = Yard(host, bridge)
    fit = yard.fit(job(1, decision=DecisionRecord(outcome="ignored", reason="no route matches")))
    assert (fit.verdict, fit.may_run) == (Verdict.NOT_OURS, True)
    assert yard.limits == UNCHANGED


@pytest.mark.parametrize(("on_error", "verdict"), [(OnError.CLOSED, Verdict.REFUSED), (OnError.OPEN, Verdict.KEPT)])
def test_a_job_that_nobody_has_decided_about_cannot_be_sized(
    host: Host, bridge: BridgePlan, on_error: OnError, verdict: Verdict
) -> None:
    yard = Yard(host, bridge, on_error=on_error)
    assert yard.fit(job(1)).verdict is verdict
