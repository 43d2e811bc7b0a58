"""Which job a runner has got."""

import pytest

from controller.identity import BY_BOTH, BY_OUTPUT, BY_WEBHOOK, NOT_KNOWN, identify, is_name_of
from functions.documents.lifecycle import JobState
from functions.documents.workflow_job import RunnerRef, WorkflowJob
from tests.fakes.examples import job, runner_plan

OURS, THEIRS = RunnerRef(name="ry-1", id=1), RunnerRef(name="ry-2", id=2)


def test_the_only_job_of_the_printed_name_is_the_runners() -> None:
    found = identify([job(1)], [], "ry-1", 1)
    assert (found.job, found.known_by) == (job(1), BY_OUTPUT)


def test_the_webhook_alone_is_enough() -> None:
    known = job(1, runner=OURS)
    found = identify([], [known], "ry-1", 1)
    assert (found.job, found.known_by, found.disagreement) == (known, BY_WEBHOOK, "")


def test_both_may_say_the_same() -> None:
    known = job(1, runner=OURS)
    assert identify([known], [known], "ry-1", 1).known_by == BY_BOTH
    assert identify([known], [], "ry-1", 1).known_by == BY_BOTH


def test_where_they_disagree_the_webhook_wins_and_it_is_told() -> None:
    printed, real = job(1, "build"), job(2, "deploy", runner=OURS)
    found = identify([printed], [real], "ry-1", 1)
    assert (found.job, found.known_by) == (real, BY_WEBHOOK)
    assert found.disagreement == "the runner's output names acme_1_1, the webhook acme_1_2"


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(job(1, runner=THEIRS), id="another runner has it"),
        pytest.param(job(1, rank=JobState.COMPLETED), id="it has ended"),
        pytest.param(job(1, run_attempt=2), id="it belongs to another attempt"),
    ],
)
def test_a_job_of_the_name_that_cannot_be_the_runners_does_not_count(other: WorkflowJob) -> None:
    assert identify([other], [], "ry-1", 1) == NOT_KNOWN
    assert identify([other, job(2)], [], "ry-1", 1).job == job(2)


def test_without_an_attempt_every_attempt_may_be_meant() -> None:
    assert identify([job(1, run_attempt=3)], [], "ry-1", None).job is not None


def test_of_two_jobs_with_one_name_neither_is_taken_but_their_profile_may_be_known() -> None:
    plan = runner_plan()
    found = identify([job(1, plan=plan), job(2, plan=plan)], [], "ry-1", 1)
    assert (found.job, found.profile) == (None, plan.profile)
    assert identify([job(1, plan=plan), job(2, plan=runner_plan(cpus=4))], [], "ry-1", 1) == NOT_KNOWN
    assert identify([job(1, plan=plan), job(2)], [], "ry-1", 1) == NOT_KNOWN


def test_the_webhook_tells_two_jobs_with_one_name_apart() -> None:
    real = job(2, runner=OURS)
    assert identify([job(1), real], [real], "ry-1", 1).job == real


def test_a_runner_of_which_the_webhook_names_two_jobs_is_nobodys() -> None:
    assert identify([job(1)], [job(1, runner=OURS), job(2, runner=OURS)], "ry-1", 1) == NOT_KNOWN


LONG = "build (" + "x" * 120 + ")"
CUT = LONG[:97] + "..."


@pytest.mark.parametrize(
    ("printed", "name", "is_it"),
    [
        ("build", "build", True),
        ("build", "Build", False),
        ("build", "build 2", False),
        ("größer ✓ 構建", "größer ✓ 構建", True),
        ("build ", "build", True),
        ("first line", "first line\nsecond line", True),
        (CUT, LONG, True),
        (LONG, CUT, True),
        (CUT, CUT, True),
        (CUT, "build (" + "y" * 120 + ")", False),
        ("bui...", "build", False),
        (f"Caller / {CUT}", f"Caller / {LONG}", True),
        (f"Caller / {CUT}", f"Other / {LONG}", False),
        (f"{CUT} / Inner", f"{LONG} / Inner", True),
        ("a" * 97 + "...", "a" * 99 + " / Inner", True),
        ("", "build", False),
        ("", "", True),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_printed_name_is_a_jobs_whatever_was_cut_off(printed: str, name: str, is_it: bool) -> None:
    assert is_name_of(printed, name) is is_it
