"""Does a runner's container fit the job that it got?"""

import pytest

from controller.cgroup import Limits
from controller.sizing import Verdict, differs, find_mismatch, receipt
from functions.documents.workflow_job import RunnerPlan, RunnerProfile
from functions.routing.capacity import Size
from tests.fakes.examples import job, runner_plan

MIB = 1 << 20


@pytest.mark.parametrize(
    ("limits", "size", "is_different"),
    [
        pytest.param(Limits(1500, 64 * MIB, 0), Size(1500, 64 * MIB), False, id="both as asked"),
        pytest.param(Limits(1500, 64 * MIB, None), Size(1500, 64 * MIB), False, id="what is used does not matter"),
        pytest.param(Limits(1500, 64 * MIB, 0), Size(1500, 64 * MIB + 4095), False, id="memory in whole pages"),
        pytest.param(Limits(10, 64 * MIB, 0), Size(1, 64 * MIB), False, id="the least CPU that the engine gives"),
        pytest.param(Limits(1500, 64 * MIB, 0), Size(1500, 64 * MIB + 4096), True, id="a page more"),
        pytest.param(Limits(1500, 64 * MIB + 4096, 0), Size(1500, 64 * MIB), True, id="a page less"),
        pytest.param(Limits(1499, 64 * MIB, 0), Size(1500, 64 * MIB), True, id="less CPU than asked"),
        pytest.param(Limits(1501, 64 * MIB, 0), Size(1500, 64 * MIB), True, id="more CPU than asked"),
        pytest.param(Limits(None, 64 * MIB, 0), Size(1500, 64 * MIB), True, id="CPU without a limit"),
        pytest.param(Limits(1500, None, 0), Size(1500, 64 * MIB), True, id="memory without a limit"),
        pytest.param(None, Size(1500, 64 * MIB), True, id="limits that cannot be read"),
    ],
)
def test_the_kernels_limits_are_compared_as_they_are_rounded(
    limits: Limits | None, size: Size, is_different: bool
) -> None:
    assert differs(limits, size) is is_different


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
    note = receipt(
        Verdict.RESIZED,
        made_for="small",
        profile="large",
        asked=Size(4000, 8 * MIB),
        before=Limits(1000, 2 * MIB, 7),
        after=Limits(4000, 8 * MIB, 7),
        known_by="webhook",
        took_ms=12.345,
    )
    assert note.to_firestore() == {
        "verdict": "resized",
        "profile": "large",
        "madeForProfile": "small",
        "askedCpuMillis": 4000,
        "askedMemoryBytes": 8 * MIB,
        "beforeCpuMillis": 1000,
        "beforeMemoryBytes": 2 * MIB,
        "readCpuMillis": 4000,
        "readMemoryBytes": 8 * MIB,
        "knownBy": "webhook",
        "reason": "",
        "tookMs": 12.3,
    }


def test_the_receipt_leaves_out_what_could_not_be_read() -> None:
    note = receipt(
        Verdict.REFUSED,
        made_for="small",
        profile="large",
        asked=Size(4000, 8 * MIB),
        before=None,
        after=None,
        known_by="webhook",
        reason="the container is gone",
        took_ms=1,
    )
    assert not {"beforeCpuMillis", "beforeMemoryBytes", "readCpuMillis", "readMemoryBytes"} & set(note.to_firestore())
