"""What the runner program says on its standard output. Pure.

Lines: actions/runner, JobDispatcher.cs and Runner.cs; times are UTC.
Each line here has the engine's own time before it.
"""

import re
from dataclasses import dataclass
from datetime import datetime

_LINE = re.compile(r"(?P<at>\S+) (?P<text>.*)")
_RUNNER_TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ: "
_LISTENING = re.compile(_RUNNER_TIME + r"Listening for Jobs")
# The name is anybody's text and goes to the end of the line.
_RUNNING = re.compile(_RUNNER_TIME + r"Running job: (?P<name>.*)")


@dataclass(frozen=True)
class RunnerProgress:
    """How far a runner program has come."""

    listening_since: datetime | None = None
    job_name: str | None = None
    running_since: datetime | None = None


def read_progress(log: str) -> RunnerProgress:
    """What a log with the engine's times tells. The official image repeats each line in a longer form: skipped."""
    listening: datetime | None = None
    job_name: str | None = None
    running: datetime | None = None
    for raw in log.split("\n"):
        line = _LINE.fullmatch(raw.rstrip("\r"))
        if line is None:
            continue
        if _LISTENING.fullmatch(line["text"]):
            listening = listening or _time(line["at"])
        elif job_name is None and (match := _RUNNING.fullmatch(line["text"])) is not None:
            # The first: a runner has one job, and whatever comes after it may be of the job's making.
            job_name, running = match["name"], _time(line["at"])
    return RunnerProgress(listening, job_name, running)


def tail_in_words(log: str, lines: int = 5) -> str:
    """The end of a log for a reason in a document, without the engine's times."""
    texts = [line["text"] for raw in log.split("\n") if (line := _LINE.fullmatch(raw.rstrip("\r"))) is not None]
    return " | ".join(text for text in texts[-lines:] if text)[:1000]


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
