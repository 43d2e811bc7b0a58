"""Why a runner that never took a job has ended, in words."""

from dataclasses import replace

import pytest

from controller.containers import ContainerState
from controller.ending import explain_end, note_unasked
from controller.runners import LocalRunner
from controller.sizing import Verdict, receipt, unfit
from functions.routing.policy import OnError
from tests.fakes.examples import job, pending_runner

LOG = "2026-09-16T15:15:00Z √ Connected to GitHub\n2026-09-16T15:15:01Z An error occurred: Not configured\n"


def ended(exit_code: int, *, was_oom_killed: bool = False) -> ContainerState:
    return ContainerState("8f0e", "ry-1", {}, "exited", exit_code=exit_code, was_oom_killed=was_oom_killed)


@pytest.mark.parametrize(
    ("state", "log", "words"),
    [
        pytest.param(None, "", "the container was removed by somebody else before it took a job", id="removed"),
        pytest.param(
            ended(137, was_oom_killed=True),
            LOG,
            "the runner was killed for want of memory before it took a job: give its profile more",
            id="out of memory",
        ),
        pytest.param(
            ended(1),
            LOG,
            "the runner ended with exit code 1 before it took a job: "
            "√ Connected to GitHub | An error occurred: Not configured",
            id="an error, with what it said last",
        ),
        pytest.param(ended(78), "", "the runner ended with exit code 78 before it took a job", id="it said nothing"),
        pytest.param(ended(137), "", "the runner ended with exit code 137 before it took a job", id="killed by hand"),
        pytest.param(
            ended(0, was_oom_killed=True),
            "",
            "the runner ended with exit code 0 before it took a job",
            id="only a process of it ran out of memory",
        ),
        pytest.param(ended(0), "", "the runner ended with exit code 0 before it took a job", id="0 proves nothing"),
    ],
)
def test_an_end_without_a_job_is_explained(state: ContainerState | None, log: str, words: str) -> None:
    assert explain_end(state, log) == words


def test_a_runner_that_has_talked_too_much_is_quoted_briefly() -> None:
    log = "".join(f"2026-09-16T15:15:00Z {'x' * 5000}\n" for _ in range(100))
    assert len(explain_end(ended(1), log)) < 1200


def test_a_job_that_passed_the_gate_without_asking_is_marked() -> None:
    note = note_unasked(LocalRunner.of_claim(pending_runner()), job(1))
    assert note is not None
    assert (note.verdict, note.reason) == (Verdict.KEPT, "the job-started hook did not ask the gate")


def test_what_the_gate_has_said_stands_when_the_runner_ends() -> None:
    """A refused job has no runner, but a receipt, which may still be on its way to Firestore."""
    runner = LocalRunner.of_claim(pending_runner())
    refusal = unfit(None, "no room", OnError.CLOSED)
    note = receipt(refusal, made_for="small", profile=runner.own_profile, known_by="", known_ms=0, took_ms=0)
    assert note_unasked(runner, job(1, sizing=note)) is None
    assert note_unasked(replace(runner, has_asked=True), job(1)) is None
