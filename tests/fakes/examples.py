"""Small valid values for tests, each differing from the next only where the test says so."""

from datetime import UTC, datetime, timedelta
from typing import Any

from functions.admission.requests import Admit
from functions.documents.host import Host
from functions.documents.pending_runner import PendingRunner
from functions.documents.sealing import new_host_key, public_key_of
from functions.documents.workflow_job import RunnerPlan, RunnerProfile, WorkflowJob
from functions.routing.classify import CompiledPolicy
from functions.routing.job import JobFacts
from functions.routing.policy import Policy, parse_policy

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
GIB = 1 << 30
HOST_KEY = new_host_key()


def policy_document(**changes: Any) -> dict[str, Any]:
    """Two profiles, one scale set of ten places, one route."""
    document: dict[str, Any] = {
        "version": 1,
        "profiles": {
            "large": {"cpus": "4", "memory": "8g", "match_patterns": ["large*"]},
            "small": {"cpus": "1", "memory": "2g"},
        },
        "default_profile": "small",
        "scale_sets": {"ci": {"max_runners": 10, "image": "runner:1"}},
        "routes": [{"label_match": "ci", "strategy": "self_hosted_only", "overflow": "hold"}],
    }
    return document | changes


def policy(**changes: Any) -> Policy:
    return parse_policy(policy_document(**changes))


def runner_plan(cpus: float = 1, gib: float = 2, **changes: Any) -> RunnerPlan:
    """The runner that a job needs."""
    profile = RunnerProfile(name="small", cpu_millis=int(cpus * 1000), memory_bytes=int(gib * GIB), pids=100)
    fields: dict[str, Any] = {
        "profile": profile,
        "image": "runner:1",
        "labels": ("ci",),
        "scale_set": "ci",
        "runner_group": "default",
        "scope": "/orgs/acme",
    }
    return RunnerPlan(**(fields | changes))


def job(number: int, name: str = "build", **changes: Any) -> WorkflowJob:
    """The job with a number, as its queued event tells it."""
    fields: dict[str, Any] = {
        "org": "acme",
        "repository": "acme/app",
        "run_id": 1,
        "run_attempt": 1,
        "job_id": number,
        "name": name,
        "labels": ("ci",),
    }
    return WorkflowJob(**(fields | changes))


def admit(
    number: int, name: str = "build", *, rules: Policy | None = None, grace: timedelta | None = None, **changes: Any
) -> Admit:
    """The request to admit the job with a number."""
    wanted = job(number, name, plan=runner_plan(), **changes)
    match = CompiledPolicy(rules or policy()).classify(JobFacts(wanted.repository, name, wanted.labels))
    assert match is not None
    return Admit(wanted, match, 1, grace)


def host(host_id: str = "host-1", cpus: int = 8, gib: int = 32, **changes: Any) -> Host:
    """A host that is alive."""
    fields: dict[str, Any] = {
        "host_id": host_id,
        "cpu_millis": cpus * 1000,
        "memory_bytes": gib * GIB,
        "free_cpu_millis": cpus * 1000,
        "free_memory_bytes": gib * GIB,
        "public_key": public_key_of(HOST_KEY),
        "heartbeat_at": NOW,
        "lease_until": NOW + timedelta(seconds=30),
    }
    return Host(**(fields | changes))


def pending_runner(name: str = "ry-1", cpus: int = 1, gib: int = 2, **changes: Any) -> PendingRunner:
    """A runner that waits for a host."""
    fields: dict[str, Any] = {
        "runner_name": name,
        "org": "acme",
        "repository": "acme/app",
        "job_key": "acme_1_1",
        "job_name": "build",
        "runner_id": 7,
        "scope": "/orgs/acme",
        "labels": ("ci",),
        "scale_set": "ci",
        "pool": "default",
        "image": "runner:1",
        "profile": RunnerProfile(name="small", cpu_millis=cpus * 1000, memory_bytes=gib * GIB, pids=100),
        "created_at": NOW,
    }
    return PendingRunner(**(fields | changes))
