"""The JSON of answers and webhooks, in the shapes that were recorded from GitHub."""

import base64
import json
import secrets
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from string import Template
from typing import Any

from .deliveries import Delivery
from .world import DEFAULT_GROUP, Job, Runner, World, run_status

_TEMPLATES = Path(__file__).parent / "templates"
API = "https://api.github.com"
WEB = "https://github.com"


def runner_json(runner: Runner) -> dict[str, Any]:
    """As recorded: labels of JIT runners have id 0 and are read-only; the system is unknown until it comes online."""
    return {
        "id": runner.id,
        "name": runner.name,
        "os": "unknown" if runner.session is None else "Linux",
        "status": "offline" if runner.session is None else "online",
        "busy": runner.job is not None,
        "labels": [{"id": 0, "name": label, "type": "read-only"} for label in runner.labels],
        "runner_group_id": runner.group_id,
    }


def encode_jit_config(runner: Runner, broker_url: str) -> str:
    """Base64 of a JSON object from file name to base64 of the file, as the real one."""
    files = {
        ".runner": {
            "AgentId": runner.id,
            "AgentName": runner.name,
            "PoolId": runner.group_id,
            "PoolName": "Default",
            "ServerUrl": broker_url,
            "ServerUrlV2": broker_url,
            "UseV2Flow": True,
            "WorkFolder": "_work",
            "Ephemeral": True,
            "DisableUpdate": False,
            "GitHubUrl": "",
        },
        ".credentials": {"scheme": "OAuth", "data": {"clientId": secrets.token_hex(16)}},
        ".credentials_rsaparams": {"d": runner.secret},
    }
    encoded = {name: base64.b64encode(json.dumps(content).encode()).decode() for name, content in files.items()}
    return base64.b64encode(json.dumps(encoded).encode()).decode()


def meta_json() -> dict[str, Any]:
    """`GET /meta`, which names the hosts that runners need."""
    return {
        "verifiable_password_authentication": False,
        "domains": {
            "website": ["*.github.com", "*.githubusercontent.com"],
            "packages": ["ghcr.io", "*.pkg.github.com"],
            "storage": ["github-cloud.s3.amazonaws.com"],
            "actions": ["*.actions.githubusercontent.com"],
            "actions_inbound": {
                "full_domains": ["github.com", "api.github.com", "codeload.github.com"],
                "wildcard_domains": ["*.actions.githubusercontent.com"],
            },
        },
    }


def group_json(name: str, group_id: int, organization: str) -> dict[str, Any]:
    url = f"{API}/orgs/{organization}/actions/runner-groups/{group_id}"
    return {
        "id": group_id,
        "name": name,
        "visibility": "all",
        "default": group_id == DEFAULT_GROUP,
        "runners_url": f"{url}/runners",
        "hosted_runners_url": f"{url}/hosted-runners",
        "inherited": False,
        "allows_public_repositories": False,
        "restricted_to_workflows": False,
        "selected_workflows": [],
        "workflow_restrictions_read_only": False,
    }


def job_json(job: Job) -> dict[str, Any]:
    """The job as webhooks and the REST API show it. While it is queued, started_at repeats created_at."""
    url = f"{API}/repos/{job.repository}"
    has_ended = job.status == "completed"
    # Recorded of jobs that were cancelled while queued: runner id 0 and empty names, not nulls.
    never_ran = has_ended and job.runner_id is None
    return {
        "id": job.id,
        "run_id": job.run_id,
        "workflow_name": job.workflow,
        "head_branch": job.branch,
        "run_url": f"{url}/actions/runs/{job.run_id}",
        "run_attempt": job.run_attempt,
        "node_id": f"CR_{job.id}",
        "head_sha": job.head_sha,
        "url": f"{url}/actions/jobs/{job.id}",
        "html_url": f"{WEB}/{job.repository}/actions/runs/{job.run_id}/job/{job.id}",
        "status": job.status,
        "conclusion": job.conclusion,
        "created_at": _time(job.created_at),
        "started_at": _time(job.started_at or job.created_at),
        "completed_at": None if job.completed_at is None else _time(job.completed_at),
        "name": job.name,
        "steps": _steps(job),
        "check_run_url": f"{url}/check-runs/{job.id}",
        "labels": list(job.labels),
        "runner_id": 0 if never_ran else job.runner_id,
        "runner_name": "" if never_ran else job.runner_name,
        "runner_group_id": 0 if never_ran else job.runner_group_id,
        "runner_group_name": "" if never_ran else None if job.runner_group_id is None else "Default",
    }


def _steps(job: Job) -> list[dict[str, Any]]:
    if job.started_at is None:
        return []
    has_ended = job.completed_at is not None
    return [
        {
            "name": name,
            "status": "completed" if has_ended else "in_progress",
            "conclusion": job.conclusion if has_ended else None,
            "number": number,
            "started_at": _time(job.started_at),
            "completed_at": None if job.completed_at is None else _time(job.completed_at),
        }
        for number, name in enumerate(["Set up job", "Run the script"], start=1)
    ]


def workflow_job_webhook(action: str, job: Job, world: World, installation_id: int | None) -> dict[str, Any]:
    owner = job.owner
    payload: dict[str, Any] = {
        "action": action,
        "workflow_job": job_json(job),
        "repository": repository_json(job.repository, owner in world.users),
        "sender": _from_template("user", login="octocat", id=_number("octocat")),
    }
    if owner not in world.users:
        payload["organization"] = _from_template("organization", login=owner, id=_number(owner))
    if installation_id is not None:
        payload["installation"] = {"id": installation_id, "node_id": f"I_{installation_id}"}
    return payload


def ping_webhook(repository: str, hook_id: int, world: World) -> dict[str, Any]:
    owner = repository.partition("/")[0]
    return {
        "zen": "Keep it logically awesome.",
        "hook_id": hook_id,
        "hook": {
            "type": "Repository",
            "id": hook_id,
            "name": "web",
            "active": True,
            "events": ["workflow_job"],
            "created_at": _time(world.now()),
            "updated_at": _time(world.now()),
            "config": {"content_type": "json", "insecure_ssl": "0", "secret": "********"},
        },
        "repository": repository_json(repository, owner in world.users),
        "sender": _from_template("user", login="octocat", id=_number("octocat")),
    }


def repository_json(full_name: str, is_users: bool) -> dict[str, Any]:
    owner, _, name = full_name.partition("/")
    return _from_template(
        "repository",
        owner=owner,
        name=name,
        owner_type="User" if is_users else "Organization",
        repository_id=_number(full_name),
        owner_id=_number(owner),
    )


def installation_token_json(token: str, expires_at: datetime) -> dict[str, Any]:
    return {
        "token": token,
        "expires_at": _time(expires_at),
        "permissions": {"organization_self_hosted_runners": "write", "actions": "read"},
        "repository_selection": "all",
    }


def run_json(jobs: Sequence[Job], world: World) -> dict[str, Any]:
    """The workflow run that jobs belong to."""
    job = jobs[0]
    url = f"{API}/repos/{job.repository}"
    run_url = f"{url}/actions/runs/{job.run_id}"
    head = job.head_repository or job.repository
    is_users = job.owner in world.users
    return {
        "id": job.run_id,
        "name": job.workflow,
        "node_id": f"WFR_{job.run_id}",
        "head_branch": job.branch,
        "head_sha": job.head_sha,
        "path": ".github/workflows/ci.yml",
        "display_title": job.workflow,
        "run_number": 1,
        "run_attempt": job.run_attempt,
        "event": job.event,
        "status": run_status(jobs),
        "conclusion": None,
        "workflow_id": _number(job.workflow),
        "url": run_url,
        "html_url": f"{WEB}/{job.repository}/actions/runs/{job.run_id}",
        "pull_requests": [],
        "created_at": _time(job.created_at),
        "updated_at": _time(job.created_at),
        "jobs_url": f"{run_url}/jobs",
        "logs_url": f"{run_url}/logs",
        "check_suite_url": f"{url}/check-suites/1",
        "artifacts_url": f"{run_url}/artifacts",
        "cancel_url": f"{run_url}/cancel",
        "rerun_url": f"{run_url}/rerun",
        "workflow_url": f"{url}/actions/workflows/{_number(job.workflow)}",
        "head_commit": {
            "id": job.head_sha,
            "tree_id": job.head_sha,
            "message": "a commit",
            "timestamp": _time(job.created_at),
            "author": {"name": "octocat", "email": "octocat@example.com"},
            "committer": {"name": "octocat", "email": "octocat@example.com"},
        },
        "repository": repository_json(job.repository, is_users),
        "head_repository": repository_json(head, head.partition("/")[0] in world.users),
    }


def runs_json(runs: Sequence[Sequence[Job]], world: World) -> dict[str, Any]:
    return {"total_count": len(runs), "workflow_runs": [run_json(jobs, world) for jobs in runs]}


def delivery_json(delivery: Delivery, installation_id: int | None) -> dict[str, Any]:
    """As in the list of a webhook's deliveries."""
    event = delivery.event
    return {
        "id": delivery.id,
        "guid": event.guid,
        "delivered_at": _time(delivery.delivered_at),
        "redelivery": delivery.is_redelivery,
        "duration": round(delivery.duration_s, 2),
        "status": delivery.status,
        "status_code": delivery.status_code,
        "event": event.name,
        "action": event.action,
        "installation_id": installation_id,
        "repository_id": _number(event.repository),
        "throttled_at": None,
    }


def jobs_json(jobs: Sequence[Job]) -> dict[str, Any]:
    return {"total_count": len(jobs), "jobs": [job_json(job) for job in jobs]}


def _from_template(template: str, /, **values: object) -> dict[str, Any]:
    filled: dict[str, Any] = json.loads(_template(template).substitute(values))
    return filled


@cache
def _template(name: str) -> Template:
    return Template((_TEMPLATES / f"{name}.json").read_text())


def _number(text: str) -> int:
    """An id that is always the same for the same name."""
    return 1_000_000 + zlib.crc32(text.encode())


def _time(moment: datetime) -> str:
    """Whole seconds, as GitHub's."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
