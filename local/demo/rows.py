"""What the demo's table shows, from what the documents, the job's own log and the proxy's lines say. Pure."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from functions.documents.lifecycle import JobState
from functions.documents.workflow_job import WorkflowJob
from functions.routing.policy import Policy
from functions.routing.units import format_cpus, format_memory

_LIMITS = re.compile(
    r"^limits quota_us=(?P<quota>\d+) period_us=(?P<period>\d+) memory_bytes=(?P<memory>\d+)$", re.MULTILINE
)
_FIELD = re.compile(r'(?P<key>\w+)=(?P<value>"(?:[^"\\]|\\.)*"|\S*)')


@dataclass(frozen=True)
class Row:
    """One job."""

    name: str
    profile: str = ""
    decision: str = ""
    runner: str = ""
    made_for: str = ""
    """profile of the job that the runner was made for, if it was another"""
    state: str = "queued"
    conclusion: str = ""
    cpu_millis: int | None = None
    """as the job itself read it"""
    memory_bytes: int | None = None
    connections: int = 0
    phases: tuple[tuple[str, float | None], ...] = ()
    """name and seconds"""

    @property
    def cpus(self) -> str:
        return "" if self.cpu_millis is None else format_cpus(self.cpu_millis)

    @property
    def memory(self) -> str:
        return "" if self.memory_bytes is None else format_memory(self.memory_bytes)

    @property
    def runner_in_words(self) -> str:
        return f"{self.runner} (made for {self.made_for})" if self.made_for else self.runner


def make_row(name: str, job: WorkflowJob | None, log: str, connections: int, runner_status: str = "") -> Row:
    """The row of a job of which the document, if it is there yet, its log and its connections are known.

    Between reservation and first step, the state is that of the runner which was made for the job.
    """
    if job is None:
        return Row(name)
    limits = _LIMITS.search(log)
    sizing = job.sizing
    is_swapped = sizing is not None and sizing.made_for_profile != sizing.profile
    return Row(
        name=name,
        profile=(job.decision.profile if job.decision else None) or "",
        decision=job.decision.outcome if job.decision else "",
        runner=job.runner.name if job.runner else "",
        made_for=sizing.made_for_profile if sizing is not None and is_swapped else "",
        state=runner_status if job.state is JobState.RESERVED and runner_status else job.state.name.lower(),
        conclusion=job.conclusion or "",
        cpu_millis=int(limits["quota"]) * 1000 // int(limits["period"]) if limits else None,
        memory_bytes=int(limits["memory"]) if limits else None,
        connections=connections,
        phases=_phases(job),
    )


def _phases(job: WorkflowJob) -> tuple[tuple[str, float | None], ...]:
    at = job.phases
    return (
        ("decide", _seconds(at.received_at, at.reserved_at)),
        ("token", _seconds(at.reserved_at, at.provisioned_at)),
        ("claim", _seconds(at.provisioned_at, at.claimed_at)),
        ("start", _seconds(at.claimed_at, at.launched_at)),
        ("listen", _seconds(at.launched_at, at.registered_at)),
        ("size", job.sizing.took_ms / 1000 if job.sizing else None),
        ("run", job.duration_seconds),
    )


def _seconds(begin: datetime | None, end: datetime | None) -> float | None:
    """None also when a runner that was there before took the job: then the phases are not this job's."""
    if begin is None or end is None or end < begin:
        return None
    return (end - begin).total_seconds()


@dataclass(frozen=True)
class Line:
    """One line of the proxy's log, as far as it is of interest here."""

    runner_name: str
    job_key: str
    decision: str


def read_lines(text: str) -> list[Line]:
    """The proxy's lines: logfmt after time, kind and decision."""
    lines = []
    for raw in text.splitlines():
        fields = {match["key"]: match["value"].strip('"') for match in _FIELD.finditer(raw)}
        lines.append(Line(fields.get("runner_name", ""), fields.get("job_id", ""), fields.get("decision", "")))
    return lines


def count_connections(lines: Iterable[Line]) -> dict[str, int]:
    """Connections for each job key."""
    counts: dict[str, int] = {}
    for line in lines:
        counts[line.job_key] = counts.get(line.job_key, 0) + 1
    return counts


@dataclass(frozen=True)
class Leftovers:
    """What is still there after the last job."""

    containers: int
    networks: int
    github_runners: int
    places: int

    def in_words(self) -> str:
        return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in vars(self).items())


@dataclass(frozen=True)
class Check:
    """One part of the verdict."""

    claim: str
    holds: bool
    detail: str


def judge(rows: Iterable[Row], lines: Iterable[Line], policy: Policy, leftovers: Leftovers) -> list[Check]:
    """Whether the demo has shown what it promises."""
    rows, lines = list(rows), list(lines)
    wrong_size = [row.name for row in rows if not _has_its_size(row, policy)]
    failed = [f"{row.name}: {row.conclusion or row.state}" for row in rows if row.conclusion != "success"]
    nameless = [line for line in lines if not line.runner_name or not line.job_key or line.decision != "tunnel"]
    silent = [row.name for row in rows if not row.connections]
    swaps = sum(bool(row.made_for) for row in rows)
    return [
        Check("every job succeeded", not failed, ", ".join(failed) or f"{len(rows)} of {len(rows)}"),
        Check(
            "every job saw the CPU and memory of its profile",
            not wrong_size,
            ", ".join(wrong_size) or f"{len(rows)} of {len(rows)}; {swaps} ran on a runner made for another profile",
        ),
        Check(
            "every connection is attributed to a runner and a job",
            not nameless and not silent,
            f"{len(lines) - len(nameless)} of {len(lines)}" + (f"; none from {', '.join(silent)}" if silent else ""),
        ),
        Check("nothing is left over", not any(vars(leftovers).values()), leftovers.in_words()),
    ]


def judge_observed(rows: Iterable[Row], policy: Policy) -> list[Check]:
    """What the same scenario looks like when nothing is resized."""
    rows = list(rows)
    ended = [row for row in rows if row.state == "completed"]
    wrong_size = [row for row in rows if not _has_its_size(row, policy)]
    return [
        Check("every job ran", len(ended) == len(rows), f"{len(ended)} of {len(rows)}"),
        Check(
            "without sizing, jobs run on whatever runner they get",
            len(wrong_size) == len(rows),
            f"{len(wrong_size)} of {len(rows)} on the wrong size",
        ),
    ]


def judge_swaps(rows: Iterable[Row]) -> Check:
    """Whether the adversary has done its worst."""
    rows = list(rows)
    swapped = [row for row in rows if row.made_for]
    return Check(
        "every job was handed to a runner of another profile",
        len(swapped) == len(rows),
        f"{len(swapped)} of {len(rows)}",
    )


def _has_its_size(row: Row, policy: Policy) -> bool:
    profile = policy.profiles.get(row.profile)
    return profile is not None and (row.cpu_millis, row.memory_bytes) == (profile.cpu_millis, profile.memory_bytes)


def to_markdown(title: str, rows: Iterable[Row], checks: Iterable[Check], seconds: float) -> str:
    """The final table and the verdict of one scenario."""
    rows = list(rows)
    # A job without a document has no phases.
    phases = next(([name for name, _ in row.phases] for row in rows if row.phases), [])
    heading = ["job", "profile", "decision", "runner", "result", "CPUs", "memory", "connections"]
    heading += [f"{name} s" for name in phases]
    table = [heading, ["---"] * len(heading)]
    table += [
        [
            row.name,
            row.profile,
            row.decision,
            row.runner_in_words,
            row.conclusion or row.state,
            row.cpus,
            row.memory,
            str(row.connections),
            *(format_seconds(dict(row.phases).get(name)) for name in phases),
        ]
        for row in rows
    ]
    lines = [f"## {title}", "", *("| " + " | ".join(cells) + " |" for cells in table), ""]
    lines += [f"- {'✔' if check.holds else '✘'} {check.claim}: {check.detail}" for check in checks]
    return "\n".join([*lines, "", f"From dispatch to the last container's end: {seconds:.1f} s", ""])


def format_seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def as_jobs(documents: Mapping[str, Mapping[str, Any]]) -> dict[str, WorkflowJob]:
    """Job documents by the job's name."""
    jobs = (WorkflowJob.from_firestore(dict(fields)) for fields in documents.values())
    return {job.name: job for job in jobs}
