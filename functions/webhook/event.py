"""What a webhook delivery says: raw body in, typed event out. Pure.

Shapes and their traps: GitHub docs "Webhook events and payloads", and the recorded payloads in `tests/payloads`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import parse_qs

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ..routing.job import JobFacts


class Action(StrEnum):
    """The actions of `workflow_job` that are acted on."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"


@dataclass(frozen=True)
class Ping:
    """GitHub's test delivery for a new webhook."""

    zen: str


@dataclass(frozen=True)
class Ignored:
    """A well-formed delivery that asks nothing of us."""

    reason: str


@dataclass(frozen=True)
class JobEvent:
    """One action of one workflow job."""

    action: Action
    owner: str
    """login of the organization or user that owns the repository"""
    is_organization: bool
    facts: JobFacts
    run_id: int
    run_attempt: int
    job_id: int
    """unique for each job and run attempt"""
    created_at: datetime
    head_sha: str
    html_url: str
    started_at: datetime | None
    """None until a runner has it"""
    completed_at: datetime | None
    conclusion: str | None
    runner_id: int | None
    """None until a runner has it, and for a job that never had one"""
    runner_name: str | None
    installation_id: int | None
    """of the GitHub App that the webhook belongs to; None for repository and organization webhooks"""


class MalformedPayload(Exception):
    """A body that is not what its event promises; the message says where."""


def parse_event(event_name: str, content_type: str, body: bytes) -> JobEvent | Ping | Ignored:
    """The event in a delivery.

    Args:
        event_name: the `X-GitHub-Event` header.
        content_type: the `Content-Type` header; GitHub sends JSON or a form with one field, `payload`.
        body: the raw body, its signature already checked.

    Raises:
        MalformedPayload: not JSON, or JSON of another shape.
    """
    if event_name not in {"ping", "workflow_job"}:
        return Ignored(f"event '{event_name[:60]}' is not subscribed to: send workflow_job only")
    document = _read_json(content_type, body)
    try:
        if event_name == "ping":
            return Ping(_Ping.model_validate(document).zen)
        delivery = _Delivery.model_validate(document)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:5])
        raise MalformedPayload(f"not a {event_name} payload: {problems}") from None
    return _interpret(
        delivery.action,
        delivery.workflow_job,
        delivery.repository,
        is_organization=delivery.repository.owner.type == "Organization" or delivery.organization is not None,
        installation_id=delivery.installation.id if delivery.installation else None,
    )


def _read_json(content_type: str, body: bytes) -> dict[str, object]:
    if content_type.partition(";")[0].strip().lower() == "application/x-www-form-urlencoded":
        try:
            fields = parse_qs(body.decode("ascii"), strict_parsing=True, max_num_fields=10)
        except ValueError:
            raise MalformedPayload("the body is not a form") from None
        if "payload" not in fields:
            raise MalformedPayload("the form has no field 'payload'")
        text: str | bytes = fields["payload"][0]
    else:
        text = body
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise MalformedPayload("the body is not JSON") from None
    if not isinstance(document, dict):
        raise MalformedPayload("the body is not a JSON object")
    return document


def read_job(document: Mapping[str, Any], repository: str, *, is_organization: bool) -> JobEvent | Ignored:
    """What GitHub's REST API says of a job, as the event that should have told it.

    Raises:
        MalformedPayload: it is no job.
    """
    try:
        job = _Job.model_validate(document)
        named = _Repository.model_validate({"full_name": repository, "owner": {"login": repository.partition("/")[0]}})
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:5])
        raise MalformedPayload(f"not a job of {repository}: {problems}") from None
    return _interpret(job.status, job, named, is_organization=is_organization, installation_id=None)


def _interpret(
    action_name: str, job: "_Job", repository: "_Repository", *, is_organization: bool, installation_id: int | None
) -> JobEvent | Ignored:
    if action_name not in set(Action):
        return Ignored(f"action '{action_name[:60]}' needs nothing")
    action = Action(action_name)
    if action is Action.QUEUED and job.status != "queued":
        # Jobs behind a deployment protection rule: GitHub sends `queued` again once they may run.
        return Ignored(f"the job is {job.status[:60]}, not queued yet")
    if action is Action.COMPLETED and not job.labels and not job.has_runner:
        return Ignored("a skipped job, or a check run that never was a job")
    return JobEvent(
        action=action,
        owner=repository.owner.login,
        is_organization=is_organization,
        facts=JobFacts(
            repository=repository.full_name,
            name=job.name,
            labels=tuple(job.labels),
            workflow=job.workflow_name or "",
            branch=job.head_branch or "",
        ),
        run_id=job.run_id,
        run_attempt=job.run_attempt,
        job_id=job.id,
        created_at=job.created_at or job.started_at,
        head_sha=job.head_sha,
        html_url=job.html_url or "",
        # While a job is queued GitHub repeats created_at here.
        started_at=job.started_at if action is not Action.QUEUED and job.has_runner else None,
        completed_at=job.completed_at if action is Action.COMPLETED else None,
        conclusion=job.conclusion if action is Action.COMPLETED else None,
        runner_id=job.runner_id if job.has_runner else None,
        runner_name=job.runner_name if job.has_runner else None,
        installation_id=installation_id,
    )


_Login = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,100}$")]
_Id = Annotated[int, Field(ge=0, lt=1 << 63)]
_Text = Annotated[str, Field(max_length=2_000)]
_LongText = Annotated[str, Field(max_length=100_000)]


class _Part(BaseModel):
    """GitHub adds fields at any time: what is not named here is ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=False)


class _Ping(_Part):
    zen: _Text = ""


class _Job(_Part):
    id: _Id
    run_id: _Id
    run_attempt: _Id = 1
    """absent before 2022"""
    name: _LongText
    status: _Text
    conclusion: _Text | None = None
    created_at: AwareDatetime | None = None
    """absent before 2022"""
    started_at: AwareDatetime
    completed_at: AwareDatetime | None = None
    labels: Annotated[list[Annotated[str, Field(max_length=256)]], Field(max_length=100)]
    head_sha: _Text = ""
    head_branch: _LongText | None = None
    workflow_name: _LongText | None = None
    html_url: _Text | None = None
    runner_id: _Id | None = None
    runner_name: Annotated[_Text | None, BeforeValidator(lambda name: name or None)] = None

    @property
    def has_runner(self) -> bool:
        """A job cancelled while queued arrives with runner id 0 and empty names instead of nulls."""
        return bool(self.runner_id) and self.runner_name is not None


class _Owner(_Part):
    login: _Login
    type: _Text = "User"


class _Repository(_Part):
    full_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+/[A-Za-z0-9._-]+$")]
    owner: _Owner


class _Organization(_Part):
    login: _Login


class _Installation(_Part):
    id: _Id


class _Delivery(_Part):
    action: _Text
    workflow_job: _Job
    repository: _Repository
    organization: _Organization | None = None
    installation: _Installation | None = None
