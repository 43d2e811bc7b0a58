"""Idle runners, stolen and dead ones, with every part real but GitHub."""

import re
import time
from collections.abc import Callable
from typing import Any

from functions.documents.lifecycle import RunnerState
from functions.documents.pending_runner import PendingRunner
from functions.documents.workflow_job import WorkflowJob
from tests.e2e.conftest import Yard
from tests.e2e.test_jobs import HIGH, LIMITS, LOW

WARM = {"min_runners": 2, "warm_profile": "low-cpu", "idle_timeout": 5}
JOB_SECONDS = 2


def idle_at_github(yard: Yard) -> list[dict[str, Any]]:
    return [r for r in yard.stack.github_state()["runners"] if r["status"] == "online" and not r["busy"]]


def scheduled(yard: Yard) -> list[PendingRunner]:
    return [runner for runner in yard.runners().values() if runner.status is RunnerState.SCHEDULED]


def warm_up(yard: Yard) -> None:
    """The first job brings the policy to the ledger; afterwards two runners wait."""
    yard.dispatch("first")
    yard.wait_for_jobs(["first"])
    yard.wait("two idle runners", lambda: len(idle_at_github(yard)) == 2)


def limits_seen(yard: Yard, name: str) -> str:
    log: str = yard.github_jobs()[name]["log"]
    return log


def test_a_warm_runner_takes_any_job_grows_to_its_size_and_is_replaced_at_once(yard: Yard) -> None:
    yard.publish(**WARM)
    warm_up(yard)
    seen = yard.stack.github_state()["runners_seen"]
    waiting = {runner["name"] for runner in idle_at_github(yard)}
    yard.dispatch("high-cpu", script=LIMITS + f"sleep {JOB_SECONDS}")
    yard.wait("it runs", lambda: yard.github_jobs()["high-cpu"]["status"] == "in_progress", 5)
    assert yard.github_jobs()["high-cpu"]["runner_name"] in waiting
    yard.wait("a third runner is there", lambda: len(idle_at_github(yard)) == 2)
    assert yard.stack.github_state()["runners_seen"] == seen + 1
    yard.wait_for_jobs(["high-cpu"])
    job = yard.jobs()["high-cpu"]
    assert_size(yard, job, HIGH)
    assert job.sizing is not None
    assert (job.sizing.verdict, job.sizing.made_for_profile) == ("resized", "low-cpu")
    yard.wait("only the two are left", lambda: len(yard.leases()) == 2 and len(yard.containers()) == 2)


def assert_size(yard: Yard, job: WorkflowJob, expected: str) -> None:
    assert re.search(expected, limits_seen(yard, job.name), re.DOTALL), limits_seen(yard, job.name)


def test_idle_runners_beyond_the_minimum_go_and_the_minimum_stays(yard: Yard) -> None:
    yard.publish(**WARM)
    warm_up(yard)
    # Nobody is handed out until somebody else's runner has the job.
    yard.stack.control("POST", "/hand-out/swapped")
    (stolen,) = yard.dispatch("stolen")
    yard.wait("an idle runner is set aside for it, and replaced", lambda: len(yard.leases()) == 3)
    yard.stack.control("POST", f"/steal/{stolen}?seconds=1")
    yard.wait("a third runner waits", lambda: len(idle_at_github(yard)) == 3)
    yard.wait("it is given up", lambda: len(idle_at_github(yard)) == 2 and len(yard.containers()) == 2)
    time.sleep(8)
    assert len(idle_at_github(yard)) == len(yard.containers()) == len(yard.leases()) == 2
    given_up = [runner for runner in yard.runners().values() if runner.status is RunnerState.CANCELLED]
    assert [runner.reason for runner in given_up] == ["no job needs it"]


def test_a_runner_that_gets_no_job_is_stopped_and_leaves_nothing(yard: Yard) -> None:
    yard.publish(idle_timeout=5)
    (job_id,) = yard.dispatch("build")
    yard.wait("a runner is made", yard.runners)
    yard.stack.control("POST", f"/cancel/{job_id}")
    yard.wait("nothing left", lambda: not yard.leases() and not yard.containers())
    assert {runner.status for runner in yard.runners().values()} == {RunnerState.CANCELLED}
    yard.wait("nothing at GitHub", lambda: not yard.stack.github_state()["runners"])


def kill_containers(yard: Yard, *, of: str | None) -> None:
    for container in yard.containers():
        if container["Names"] == [f"/{of}"]:
            yard.api.kill(container["Id"])


def test_a_job_whose_runner_died_gets_exactly_one_other_within_seconds(make_yard: Callable[..., Yard]) -> None:
    yard = make_yard(hand_out="wrong")
    yard.start()
    yard.publish()
    yard.dispatch("low", script="true", size="low")
    yard.wait("its runner listens", lambda: len(idle_at_github(yard)) == 1)
    seen = yard.stack.github_state()["runners_seen"]
    (name,) = yard.leases()
    kill_containers(yard, of=name)
    died_at = time.monotonic()
    yard.wait("another runner is made", lambda: yard.stack.github_state()["runners_seen"] == seen + 1, 5)
    yard.wait("it listens", lambda: len(idle_at_github(yard)) == 1, 10)
    assert time.monotonic() - died_at < 15
    yard.stack.control("POST", "/hand-out/in_order")
    yard.wait_for_ends(["low"])
    assert yard.jobs()["low"].conclusion == "success"
    assert yard.stack.github_state()["runners_seen"] == seen + 1
    provisioning = yard.jobs()["low"].provisioning
    assert provisioning is not None
    assert provisioning.runners_lost == 1


def test_a_job_whose_runner_was_taken_and_whose_substitute_died_gets_another(make_yard: Callable[..., Yard]) -> None:
    yard = make_yard(hand_out="wrong")
    yard.start()
    yard.publish()
    yard.dispatch("high-cpu", script=LIMITS, size="high")
    yard.wait("its runner listens", lambda: len(idle_at_github(yard)) == 1)
    (own,) = yard.leases()
    # The other job takes it at once: it is of the wrong size.
    yard.dispatch("low", script=f"{LIMITS} sleep {JOB_SECONDS}", size="low")
    yard.wait("the other job has it", lambda: yard.github_jobs()["low"]["runner_name"] == own)
    yard.wait("the first job counts on the other's", lambda: runner_of(yard, "high-cpu") not in {own, None})
    other = runner_of(yard, "high-cpu")
    seen = yard.stack.github_state()["runners_seen"]
    yard.stack.control("POST", "/hand-out/swapped")
    yard.wait("its container is there", lambda: any(c["Names"] == [f"/{other}"] for c in yard.containers()))
    kill_containers(yard, of=other)
    yard.wait("exactly one more is made", lambda: yard.stack.github_state()["runners_seen"] == seen + 1, 8)
    yard.stack.control("POST", "/hand-out/in_order")
    yard.wait_for_ends(["high-cpu", "low"])
    assert_size(yard, yard.jobs()["high-cpu"], HIGH)
    assert_size(yard, yard.jobs()["low"], LOW)
    assert yard.stack.github_state()["runners_seen"] == seen + 1


def runner_of(yard: Yard, name: str) -> str | None:
    """The runner that a job counts on."""
    key = yard.jobs()[name].key
    return next((runner for runner, lease in yard.leases().items() if lease["jobKey"] == key), None)


def test_a_job_that_somebody_elses_runner_took_leaves_its_own_to_the_next(yard: Yard) -> None:
    yard.publish(idle_timeout=60)
    yard.stack.control("POST", "/hand-out/wrong")
    (stolen,) = yard.dispatch("stolen", size="low")
    yard.wait("its runner listens", lambda: len(idle_at_github(yard)) == 1)
    yard.stack.control("POST", f"/steal/{stolen}?seconds=1")
    yard.wait("the runner is idle", lambda: [lease for lease in yard.leases().values() if not lease["jobKey"]])
    seen = yard.stack.github_state()["runners_seen"]
    yard.stack.control("POST", "/hand-out/in_order")
    yard.dispatch("next")
    yard.wait_for_ends(["next"])
    assert yard.stack.github_state()["runners_seen"] == seen
