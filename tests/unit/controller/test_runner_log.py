"""What the runner program says on its standard output."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.runner_log import RunnerProgress, read_progress, tail_in_words

LISTENS = "2026-09-16 15:14:46Z: Listening for Jobs"
RUNS = "2026-09-16 15:15:02Z: Running job: "
BEFORE = ["√ Connected to GitHub", "", "Current runner version: '2.336.0'"]
AFTER = [
    "√ Removed .credentials",
    "√ Removed .runner",
    "Runner listener exit with 0 return code, stop the service, no retry needed.",
    "Exiting runner...",
]


def engine_log(*lines: str) -> str:
    """As the engine gives it: its own time before each line, one second after the other."""
    return "".join(f"2026-09-16T15:15:{second:02}.123456789Z {line}\n" for second, line in enumerate(lines))


def at(second: int) -> datetime:
    return datetime(2026, 9, 16, 15, 15, second, 123456, tzinfo=UTC)


def official_image(lines: list[str]) -> list[str]:
    """Each line twice, as ACTIONS_RUNNER_PRINT_LOG_TO_STDOUT makes it."""
    prefix = "[RUNNER 2026-09-16 15:15:02Z INFO Terminal] WRITE LINE: "
    return [again for line in lines for again in (prefix + line, line)]


def whole_log(name: str) -> list[str]:
    return [*BEFORE, LISTENS, RUNS + name, f"2026-09-16 15:16:40Z: Job {name} completed with result: Succeeded", *AFTER]


@pytest.mark.parametrize(
    ("lines", "progress"),
    [
        pytest.param([], RunnerProgress(), id="nothing yet"),
        pytest.param(BEFORE, RunnerProgress(), id="not yet listening"),
        pytest.param([*BEFORE, LISTENS], RunnerProgress(at(3)), id="listening"),
        pytest.param([LISTENS, LISTENS], RunnerProgress(at(0)), id="listening again after a lost connection"),
        pytest.param(
            [LISTENS, RUNS + "build (ubuntu, 3.12)"],
            RunnerProgress(at(0), "build (ubuntu, 3.12)", at(1)),
            id="a job of a matrix",
        ),
        pytest.param([RUNS + "build"], RunnerProgress(None, "build", at(0)), id="the beginning is cut off"),
        pytest.param(
            [RUNS + "build", RUNS + "another"],
            RunnerProgress(None, "build", at(0)),
            id="a job cannot name itself anew",
        ),
        pytest.param(
            [f"[WORKER 2026-09-16 15:15:02Z INFO Worker] {RUNS}build"], RunnerProgress(), id="a trace of the worker"
        ),
        pytest.param([f" {LISTENS}", f" {RUNS}build"], RunnerProgress(), id="indented output"),
        pytest.param(["Running job: build"], RunnerProgress(), id="a line without the runner's time"),
        pytest.param([LISTENS + "."], RunnerProgress(), id="a line that only begins like it"),
        pytest.param(
            ["2026-09-16 15:15:02Z: Runner reconnected."], RunnerProgress(), id="another line of the runner's"
        ),
    ],
)
def test_progress_is_what_the_runners_own_lines_say(lines: list[str], progress: RunnerProgress) -> None:
    assert read_progress(engine_log(*lines)) == progress


NAMES = [
    pytest.param("build (ubuntu, 3.12)", id="a matrix"),
    pytest.param("Caller (a, b) / Inner / Innermost", id="a reusable workflow"),
    pytest.param("Job build completed with result: Failed", id="the words of another line"),
    pytest.param(LISTENS, id="the whole of another line"),
    pytest.param(RUNS + "other", id="the same line once more"),
    pytest.param("[RUNNER 2026-09-16 15:15:02Z INFO Terminal] WRITE LINE: x", id="the prefix of the official image"),
    pytest.param("déploiement 🚀 в прод 部署", id="any script"),
    pytest.param("a\u2028b\u0085c\x0bd\x0ce\x1cf", id="line ends of Unicode that are none here"),
    pytest.param("a\rb", id="a carriage return inside"),
    pytest.param("  padded  ", id="spaces around"),
    pytest.param("", id="nothing"),
    pytest.param("\x1b[31mred\x1b[0m", id="escape sequences"),
    pytest.param("x" * 10_000, id="10 kB"),
]


@pytest.mark.parametrize("name", NAMES)
def test_the_jobs_name_is_read_whole_whatever_it_is(name: str) -> None:
    assert read_progress(engine_log(*whole_log(name))) == RunnerProgress(at(3), name, at(4))


@pytest.mark.parametrize("name", NAMES)
def test_the_doubled_lines_of_the_official_image_change_nothing(name: str) -> None:
    assert read_progress(engine_log(*official_image(whole_log(name)))) == RunnerProgress(at(7), name, at(9))


@settings(deadline=None)
@given(st.text(st.characters(exclude_characters="\n\r", codec="utf-8")))
def test_any_name_of_one_line_is_read_whole(name: str) -> None:
    assert read_progress(engine_log(*official_image(whole_log(name)))).job_name == name


def test_lines_may_end_with_a_carriage_return() -> None:
    log = engine_log(*whole_log("build")).replace("\n", "\r\n")
    assert read_progress(log) == RunnerProgress(at(3), "build", at(4))


def test_a_name_of_several_lines_cannot_pass_for_another_job() -> None:
    assert read_progress(engine_log(*f"{RUNS}build\n{RUNS}large".split("\n"))).job_name == "build"


@settings(deadline=None)
@given(st.text())
def test_any_output_at_all_can_be_read(log: str) -> None:
    assert read_progress(log).job_name is None or "Running job: " in log
    assert len(tail_in_words(log)) <= 1000


def test_a_time_that_the_engine_does_not_give_is_unknown() -> None:
    assert read_progress(f"yesterday {LISTENS}\nyesterday {RUNS}build\n") == RunnerProgress(None, "build", None)


@pytest.mark.parametrize(
    ("log", "tail"),
    [
        pytest.param("", "", id="nothing"),
        pytest.param(engine_log("one"), "one", id="one line"),
        pytest.param(engine_log(*"abcdefg"), "c | d | e | f | g", id="the last five lines"),
        pytest.param(engine_log("a", "", "b"), "a | b", id="empty lines are left out"),
        pytest.param(engine_log("a\r", "b\r"), "a | b", id="carriage returns at the end"),
        pytest.param(engine_log("x" * 5000), "x" * 1000, id="no more than 1000 characters"),
        pytest.param("no-time\n", "", id="a line that is not the engine's"),
    ],
)
def test_the_end_of_a_log_is_told_in_one_line(log: str, tail: str) -> None:
    assert tail_in_words(log) == tail
