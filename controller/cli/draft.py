"""Policies in files: reading, showing, comparing. No Firestore."""

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from functions.routing.classify import CompiledPolicy, Match, why_not
from functions.routing.job import JobFacts
from functions.routing.policy import Policy, PolicyError, Problem, Strategy
from functions.routing.prices import hosted_cost_usd
from functions.webhook.event import Action, JobEvent, MalformedPayload, parse_event


class UnreadableFile(Exception):
    """A file that is missing, or not what it should be; the message says which and why."""


def read_document(path: Path) -> Mapping[str, Any]:
    """The map in a YAML file, with the order of its profiles written down, which Firestore would lose.

    Raises:
        UnreadableFile: there is no such file, or it is not YAML.
        PolicyError: it holds something else than a map.
    """
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UnreadableFile(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UnreadableFile(f"{path} is not YAML: {error}") from None
    if not isinstance(document, dict):
        raise PolicyError((Problem("", "a policy is a map with profiles, scale_sets and routes"),))
    profiles = document.get("profiles")
    if isinstance(profiles, dict) and len(profiles) > 1 and "profile_order" not in document:
        document["profile_order"] = list(profiles)
    return document


def to_yaml(document: Mapping[str, Any]) -> str:
    """A policy as text, always in the same order: sections as in the reference, the rest by name."""
    sections = [name for name in Policy.model_fields if name in document]
    others = sorted(set(document) - set(sections))
    ordered = {name: document[name] for name in [*sections, *others]}
    return yaml.safe_dump(_sorted_maps(ordered, keep=True), sort_keys=False, allow_unicode=True, width=120)


def _sorted_maps(value: Any, *, keep: bool = False) -> Any:
    if isinstance(value, Mapping):
        keys = list(value) if keep else sorted(value)
        return {key: _sorted_maps(value[key]) for key in keys}
    if isinstance(value, list | tuple):
        return [_sorted_maps(item) for item in value]
    return value


def compare(old: Mapping[str, Any], new: Mapping[str, Any], old_name: str, new_name: str) -> str:
    """A unified diff of two policies; empty when they say the same."""
    before, after = to_yaml(old).splitlines(keepends=True), to_yaml(new).splitlines(keepends=True)
    return "".join(difflib.unified_diff(before, after, old_name, new_name))


@dataclass(frozen=True)
class RecordedJob:
    """A queued job to try a policy on."""

    source: str
    facts: JobFacts
    seconds: float | None = None
    """how long it ran, if that is known"""


def read_payloads(paths: Iterable[Path]) -> list[RecordedJob]:
    """The queued jobs in recorded webhooks, with their durations where the completed event is there, too.

    Raises:
        UnreadableFile: one of them is no JSON.
    """
    queued: dict[int, RecordedJob] = {}
    seconds: dict[int, float] = {}
    for path in paths:
        event = _read_event(path)
        if event is None:
            continue
        if event.action is Action.QUEUED:
            queued[event.job_id] = RecordedJob(path.name, event.facts)
        elif event.started_at is not None and event.completed_at is not None:
            seconds[event.job_id] = (event.completed_at - event.started_at).total_seconds()
    return [RecordedJob(recorded.source, recorded.facts, seconds.get(job_id)) for job_id, recorded in queued.items()]


def _read_event(path: Path) -> JobEvent | None:
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise UnreadableFile(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise UnreadableFile(f"{path} is not JSON: {error}") from None
    if isinstance(document, dict) and "payload" in document:
        document = document["payload"]
    try:
        event = parse_event("workflow_job", "application/json", json.dumps(document).encode())
    except MalformedPayload:
        # Recordings of other events lie in the same folder.
        return None
    return event if isinstance(event, JobEvent) else None


@dataclass(frozen=True)
class Verdict:
    """What a policy says of a job, capacity left aside."""

    outcome: str
    rule: str = ""
    profile: str = ""
    scale_set: str = ""
    cpu_millis: int = 0

    def __str__(self) -> str:
        if self.outcome != "self_hosted":
            return self.outcome + (f" by {self.rule}" if self.rule else "")
        return f"{self.scale_set} with {self.profile} by {self.rule}"


def judge(policy: CompiledPolicy, job: JobFacts) -> Verdict:
    """What a policy says of a job, capacity left aside."""
    match = policy.classify(job)
    if match is None:
        return Verdict("ignored")
    if match.route.strategy is Strategy.GITHUB_HOSTED:
        return Verdict("github_hosted", match.rule)
    return Verdict("self_hosted", match.rule, match.profile_name, match.scale_set_name, match.profile.cpu_millis)


@dataclass(frozen=True)
class Change:
    """A job that two policies treat differently."""

    job: RecordedJob
    before: Verdict
    after: Verdict
    hosted_usd: float
    """what moves to GitHub's bill, or away from it"""


def replay(
    before: CompiledPolicy, after: CompiledPolicy, jobs: Sequence[RecordedJob], assumed_seconds: float
) -> list[Change]:
    """The jobs whose decision changes. Routes that have only moved to another place are no change."""
    changes = []
    for job in jobs:
        old, new = judge(before, job.facts), judge(after, job.facts)
        if (old.outcome, old.profile, old.scale_set, old.cpu_millis) == (
            new.outcome,
            new.profile,
            new.scale_set,
            new.cpu_millis,
        ):
            continue
        seconds = job.seconds if job.seconds is not None else assumed_seconds
        cost = hosted_cost_usd(max(old.cpu_millis, new.cpu_millis, 1), seconds)
        here_before, here_after = old.outcome == "self_hosted", new.outcome == "self_hosted"
        changes.append(Change(job, old, new, cost * (int(here_before) - int(here_after))))
    return changes


@dataclass(frozen=True)
class RouteTried:
    """One route, and why it does not match; None when it does."""

    rule: str
    why_not: str | None


def explain(policy: CompiledPolicy, job: JobFacts) -> tuple[list[RouteTried], Match | None]:
    """Every route up to the first that matches, and what follows from it."""
    tried = []
    for number in range(len(policy.policy.routes)):
        reason = why_not(policy.policy, number, job)
        tried.append(RouteTried(f"routes[{number}]", reason))
        if reason is None:
            break
    return tried, policy.classify(job)
