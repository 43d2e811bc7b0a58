"""From what jobs used to a list that allows it. Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import yaml

from functions.documents.workflow_job import WorkflowJob, job_key
from functions.routing.globs import matches, split_target

_RUN_URL = re.compile(
    r"https?://[^/]+/(?P<owner>[^/]+)/[^/]+/actions/runs/(?P<run>\d+)(/attempts/\d+)?(/job/(?P<job>\d+))?/?"
)


@dataclass(frozen=True)
class RunOfJobs:
    """All jobs of a workflow run."""

    org: str
    run_id: int


def parse_job(text: str) -> str | RunOfJobs:
    """A job's document id, from the id itself or from GitHub's address of the job; or a whole run, from its address.

    Raises:
        ValueError: it is none of these.
    """
    if (url := _RUN_URL.match(text)) is not None:
        owner, run_id = url["owner"], int(url["run"])
        return RunOfJobs(owner.lower(), run_id) if url["job"] is None else job_key(owner, run_id, int(url["job"]))
    if re.fullmatch(r"[^/\s]+_\d+_\d+", text) is None:
        raise ValueError(f"'{text}' is no job: write ORG_RUN_JOB, or the address of a job or of a run at GitHub")
    return text.lower()


@dataclass(frozen=True)
class Learned:
    """What jobs connected to."""

    allow: tuple[str, ...]
    """targets, in alphabetical order, without GitHub's own"""
    jobs: tuple[str, ...]
    """that it was learnt from"""
    without_summary: tuple[str, ...] = ()
    """jobs that have not ended, or did not run here"""
    left_out: int = 0
    """connections to targets that their documents do not list"""


def learn(jobs: Iterable[WorkflowJob], github_hosts: Sequence[str]) -> Learned:
    """The targets that were reached. What was only ever refused is none of them."""
    found: set[str] = set()
    learnt, without, left_out = [], [], 0
    for job in jobs:
        if job.egress is None:
            without.append(job.key)
            continue
        learnt.append(job.key)
        left_out += job.egress.connections_to_others
        found |= {one.target for one in job.egress.targets if one.connections > one.refused}
    allow = sorted(target for target in found if not _is_github(target, github_hosts))
    return Learned(tuple(allow), tuple(learnt), tuple(without), left_out)


def _is_github(target: str, github_hosts: Sequence[str]) -> bool:
    host, port = split_target(target)
    return port == "443" and any(matches(glob, host) for glob in github_hosts)


def to_policy(learned: Learned) -> str:
    """The part of a profile, as YAML."""
    egress: Mapping[str, object] = {"mode": "enforce", "allow": list(learned.allow)}
    lines = [f"# what {len(learned.jobs)} jobs used; GitHub's own hosts are always allowed"]
    return "\n".join([*lines, yaml.safe_dump({"egress": egress}, sort_keys=False, allow_unicode=True)])
