"""Does a runner's container fit the job that it got?"""

import pytest

from controller.cgroup import Limits
from controller.sizing import (
    MEMORY_MARGIN_BYTES,
    Fit,
    Verdict,
    differs,
    find_memory_shortage,
    find_mismatch,
    park,
    receipt,
    unfit,
)
from functions.documents.workflow_job import RunnerPlan, RunnerProfile
from functions.routing.capacity import Size
from functions.routing.policy import OnError
from tests.fakes.examples import job, runner_plan

MIB = 1 << 20


def profile(cpu_millis: int = 1500, memory_bytes: int = 64 * MIB, pids: int = 100) -> RunnerProfile:
    return RunnerProfile(name="large", cpu_millis=cpu_millis, memory_bytes=memory_bytes, pids=pids)


@pytest.mark.parametrize(
    ("limits", "wanted", "is_different"),
    [
        pytest.param(Limits(1500, 64 * MIB, 0, 100), profile(), False, id="all as asked"),
        pytest.param(Limits(1500, 64 * MIB, None, 100), profile(), False, id="what is used does not matter"),
        pytest.param(Limits(1500, 64 * MIB, 0, 100), profile(memory_bytes=64 * MIB + 4095), False, id="whole pages"),
        pytest.param(Limits(10, 64 * MIB, 0, 100), profile(1), False, id="the least CPU that the engine gives"),
        pytest.param(Limits(1500, 64 * MIB, 0, 100), profile(memory_bytes=64 * MIB + 4096), True, id="a page more"),
        pytest.param(Limits(1500, 64 * MIB + 4096, 0, 100), profile(), True, id="a page less"),
        pytest.param(Limits(1499, 64 * MIB, 0, 100), profile(), True, id="less CPU than asked"),
        pytest.param(Limits(1501, 64 * MIB, 0, 100), profile(), True, id="more CPU than asked"),
        pytest.param(Limits(1500, 64 * MIB, 0, 101), profile(), True, id="more processes than asked"),
        pytest.param(Limits(None, 64 * MIB, 0, 100), profile(), True, id="CPU without a limit"),
        pytest.param(Limits(1500, None, 0, 100), profile(), True, id="memory without a limit"),
        pytest.param(Limits(1500, 64 * MIB, 0, None), profile(), True, id="processes without a limit"),
        pytest.param(None, profile(), True, id="limits that cannot be read"),
    ],
)
def test_the_kernels_limits_are_compared_as_they_are_rounded(
    limits: Limits | None, wanted: RunnerProfile, is_different: bool
) -> None:
    assert differs(limits, wanted) is is_different


@pytest.mark.parametrize(
    ("used", "is_short"),
    [(0, False), (64 * MIB - MEMORY_MARGIN_BYTES, False), (64 * MIB - MEMORY_MARGIN_BYTES + 1, True), (None, False)],
)
def test_memory_is_not_lowered_below_what_is_used_and_a_margin(used: int | None, is_short: bool) -> None:
    assert (find_memory_shortage(Limits(1500, 128 * MIB, used, 100), 64 * MIB) is not None) is is_short


@pytest.mark.parametrize(
    ("used", "parked"),
    [
        (8 * MIB, Size(50, 24 * MIB)),
        (60 * MIB, Size(50, 64 * MIB)),
        (None, Size(50, 64 * MIB)),
    ],
)
def test_a_runner_that_waits_keeps_what_it_uses_and_little_more(used: int | None, parked: Size) -> None:
    assert park(Size(1500, 64 * MIB), Limits(1500, 64 * MIB, used, 100)) == parked
    assert park(Size(20, MIB), Limits(20, MIB, 8 * MIB, 100)) == Size(20, MIB)


def test_a_job_that_cannot_be_sized_fails_unless_the_policy_lets_it_run() -> None:
    limits = Limits(1500, 64 * MIB, 0, 100)
    assert unfit(limits, "why", OnError.CLOSED) == Fit(Verdict.REFUSED, limits, limits, "why")
    assert unfit(limits, "why", OnError.OPEN) == Fit(Verdict.KEPT, limits, limits, "why")
    assert [verdict for verdict in Verdict if not Fit(verdict, None, None).may_run] == [Verdict.REFUSED]


@pytest.mark.parametrize(
    ("plan", "mismatch"),
    [
        (runner_plan(), None),
        (runner_plan(cpus=64, gib=512), None),
        (runner_plan(image="runner:2"), "it needs image runner:2, and this runner was made of runner:1"),
        (
            runner_plan(profile=RunnerProfile(name="x", cpu_millis=1, memory_bytes=1, pids=1, privileges="sudo")),
            "it needs privileges sudo, and this runner was made with none",
        ),
        (None, None),
    ],
    ids=["the same", "another size", "another image", "other privileges", "nothing decided"],
)
def test_image_and_privileges_are_what_no_running_container_can_be_given(
    plan: RunnerPlan | None, mismatch: str | None
) -> None:
    found = find_mismatch(job(1, plan=plan), "runner:1", "none")
    assert (found is None) if mismatch is None else (found is not None and found.startswith(mismatch))


def test_the_receipt_tells_what_was_asked_what_there_was_and_what_the_kernel_has_now() -> None:
    fit = Fit(
        Verdict.RESIZED, Limits(1000, 2 * MIB, 7, 64), Limits(4000, 8 * MIB, 7, 128), room_ms=2.04, resize_ms=19.06
    )
    wanted = profile(4000, 8 * MIB, 128)
    note = receipt(fit, made_for="small", profile=wanted, known_by="webhook", known_ms=3.21, took_ms=12.345)
    assert note.to_firestore() == {
        "verdict": "resized",
        "profile": "large",
        "madeForProfile": "small",
        "askedCpuMillis": 4000,
        "askedMemoryBytes": 8 * MIB,
        "askedPids": 128,
        "beforeCpuMillis": 1000,
        "beforeMemoryBytes": 2 * MIB,
        "beforePids": 64,
        "readCpuMillis": 4000,
        "readMemoryBytes": 8 * MIB,
        "readPids": 128,
        "knownBy": "webhook",
        "reason": "",
        "knownMs": 3.2,
        "roomMs": 2.0,
        "resizeMs": 19.1,
        "tookMs": 12.3,
    }


def test_the_receipt_leaves_out_what_could_not_be_read() -> None:
    fit = Fit(Verdict.REFUSED, None, None, "the container is gone")
    note = receipt(fit, made_for="small", profile=profile(), known_by="webhook", known_ms=1, took_ms=1)
    assert not [name for name in note.to_firestore() if name.startswith(("before", "read"))]
