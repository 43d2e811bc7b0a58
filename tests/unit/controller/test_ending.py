"""Why a runner that never took a job has ended, in words."""

import pytest

from controller.containers import ContainerState
from controller.ending import explain_end

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
