"""GitHub's REST API without any I/O: requests as values, answers to values or errors.

Source: GitHub REST API description, version 2022-11-28; `tests/contract` checks these requests against it.
"""

import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Any, NoReturn, TypeVar, cast
from urllib.parse import quote

from pydantic import AwareDatetime, BaseModel, ConfigDict, SecretStr, TypeAdapter, ValidationError

from .errors import NameTaken, Refused, RunnerBusy, TryLater

API_VERSION = "2022-11-28"
DEFAULT_API_URL = "https://api.github.com"
_SECONDARY_LIMIT_WAIT = timedelta(seconds=60)
_MOST_DOUBLINGS = 4
_SERVER_ERROR_WAIT = timedelta(seconds=15)
_LONGEST_WAIT_S = 86_400.0
"""GitHub's limits last an hour at most: whoever asks for more than a day is mistaken"""


@dataclass(frozen=True)
class Scope:
    """Where runners are registered: an organization, or one repository."""

    path: str
    """`/orgs/acme`, `/repos/acme/app`, or `/users/octocat` where no runners can be"""

    @classmethod
    def organization(cls, login: str) -> "Scope":
        return cls(f"/orgs/{quote(login, safe='')}")

    @classmethod
    def user(cls, login: str) -> "Scope":
        return cls(f"/users/{quote(login, safe='')}")

    @classmethod
    def repository(cls, full_name: str) -> "Scope":
        return cls(f"/repos/{quote(full_name, safe='/')}")

    @property
    def is_organization(self) -> bool:
        return self.path.startswith("/orgs/")

    @property
    def owner(self) -> str:
        """Login of the organization or user, in lower case."""
        return self.path.split("/")[2].lower()


@dataclass(frozen=True)
class Request:
    """One call, without host and credentials."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    query: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    """names in lower case"""
    body: bytes = field(repr=False)
    """may hold a token or a JIT config"""


@dataclass(frozen=True)
class RunnerOrder:
    """A just-in-time runner to be registered."""

    scope: Scope
    name: str
    """unique for each attempt"""
    group: str
    """name of the runner group; repositories have only the default one"""
    labels: tuple[str, ...]
    """all of them; GitHub adds none"""
    work_folder: str = "_work"
    installation_id: int | None = None
    """of our App, where the webhook told it"""


@dataclass(frozen=True)
class JitRunner:
    """A registered runner and the secret with which one process can be it, once."""

    runner_id: int
    name: str
    config: SecretStr


def generate_jit_config(order: RunnerOrder, group_id: int) -> Request:
    """Registers a just-in-time runner."""
    labels = list(order.labels)
    body = {"name": order.name, "runner_group_id": group_id, "labels": labels, "work_folder": order.work_folder}
    return Request("POST", f"{order.scope.path}/actions/runners/generate-jitconfig", body)


def find_runner(scope: Scope, name: str) -> Request:
    return Request("GET", f"{scope.path}/actions/runners", query={"name": name})


def delete_runner(scope: Scope, runner_id: int) -> Request:
    return Request("DELETE", f"{scope.path}/actions/runners/{runner_id}")


def get_runner(scope: Scope, runner_id: int) -> Request:
    return Request("GET", f"{scope.path}/actions/runners/{runner_id}")


def list_runner_groups(scope: Scope) -> Request:
    return Request("GET", f"{scope.path}/actions/runner-groups", query={"per_page": "100"})


def update_variable(scope: Scope, name: str, value: str) -> Request:
    path = f"{scope.path}/actions/variables/{quote(name, safe='')}"
    return Request("PATCH", path, {"name": name, "value": value})


def create_variable(scope: Scope, name: str, value: str) -> Request:
    body = {"name": name, "value": value} | ({"visibility": "all"} if scope.is_organization else {})
    return Request("POST", f"{scope.path}/actions/variables", body)


def get_run(repository: str, run_id: int) -> Request:
    return Request("GET", f"{Scope.repository(repository).path}/actions/runs/{run_id}")


def cancel_run(repository: str, run_id: int) -> Request:
    return Request("POST", f"{Scope.repository(repository).path}/actions/runs/{run_id}/cancel")


def find_installation(scope: Scope) -> Request:
    return Request("GET", f"{scope.path}/installation")


def create_installation_token(installation_id: int) -> Request:
    return Request("POST", f"/app/installations/{installation_id}/access_tokens")


class Reply(BaseModel):
    """An answer's body: what is not named is ignored, as GitHub adds fields at any time."""

    # A webhook needs one or two of the replies: only those that are read cost time.
    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)


class _Runner(Reply):
    id: int
    name: str
    status: str = ""
    busy: bool = False


class _JitReply(Reply):
    runner: _Runner
    encoded_jit_config: SecretStr


class _RunnersReply(Reply):
    runners: list[_Runner]


class _Group(Reply):
    id: int
    name: str


class _GroupsReply(Reply):
    runner_groups: list[_Group]


class _InstallationReply(Reply):
    id: int


class InstallationToken(Reply):
    """A token of a GitHub App's installation; it lives an hour."""

    token: SecretStr
    expires_at: AwareDatetime


class _Repository(Reply):
    full_name: str


class _RunReply(Reply):
    event: str
    head_repository: _Repository | None = None


@dataclass(frozen=True)
class RunFacts:
    """What is known of a workflow run."""

    event: str
    """what started it, such as `push`"""
    head_repository: str | None
    """`owner/name` of the repository that its code comes from; None when that is gone"""


@dataclass(frozen=True)
class RegisteredRunner:
    """A runner as GitHub sees it."""

    runner_id: int
    name: str
    is_online: bool
    is_busy: bool


_ReplyT = TypeVar("_ReplyT")


def read_jit_runner(answer: Answer, now: datetime) -> JitRunner:
    """The runner in a 201 answer; raises a `GitHubError` for every other."""
    reply = read_reply(_JitReply, answer, 201, now)
    return JitRunner(reply.runner.id, reply.runner.name, reply.encoded_jit_config)


def read_idle_runner_id(answer: Answer, name: str, now: datetime) -> int | None:
    """The id of the runner of that name, if it is there and neither online nor busy."""
    runners = read_reply(_RunnersReply, answer, 200, now).runners
    idle = (r for r in runners if r.name == name and r.status != "online" and not r.busy)
    return next((runner.id for runner in idle), None)


def read_runner(answer: Answer, now: datetime) -> RegisteredRunner | None:
    """The runner in a 200 answer; None when GitHub has removed it."""
    if answer.status == 404:
        return None
    reply = read_reply(_Runner, answer, 200, now)
    return RegisteredRunner(reply.id, reply.name, is_online=reply.status == "online", is_busy=reply.busy)


def read_group_id(answer: Answer, name: str, now: datetime) -> int:
    """The id of the runner group of that name.

    Raises:
        Refused: there is none.
    """
    groups = read_reply(_GroupsReply, answer, 200, now).runner_groups
    for group in groups:
        if group.name.casefold() == name.casefold():
            return group.id
    known = ", ".join(group.name for group in groups) or "none"
    raise Refused(f"there is no runner group '{name}' (known: {known}): create it at GitHub or name another")


def read_run(answer: Answer, now: datetime) -> RunFacts:
    """The run in a 200 answer."""
    reply = read_reply(_RunReply, answer, 200, now)
    return RunFacts(reply.event, reply.head_repository.full_name if reply.head_repository else None)


def is_missing(answer: Answer) -> bool:
    return answer.status == 404


def check_written(answer: Answer, now: datetime) -> None:
    """201 and 204 say that it is written; raises a `GitHubError` otherwise."""
    if answer.status not in {201, 204}:
        refuse(answer, now)


def check_cancelled(answer: Answer, now: datetime) -> None:
    """202 says that it will be cancelled, 409 that it cannot be any more; raises a `GitHubError` otherwise."""
    if answer.status not in {202, 409}:
        refuse(answer, now)


def read_installation_id(answer: Answer, now: datetime) -> int:
    return read_reply(_InstallationReply, answer, 200, now).id


def read_installation_token(answer: Answer, now: datetime) -> InstallationToken:
    return read_reply(InstallationToken, answer, 201, now)


def check_deleted(answer: Answer, now: datetime) -> None:
    """204 and 404 both mean that the runner is gone; raises a `GitHubError` for every other answer."""
    if answer.status == 422:
        raise RunnerBusy(f"GitHub answered 422: {_message(answer)}")
    if answer.status not in {204, 404}:
        refuse(answer, now)


def read_reply(shape: type[_ReplyT], answer: Answer, status: int, now: datetime) -> _ReplyT:
    """An answer's body in the shape that goes with a status.

    Raises:
        GitHubError: another status, or another shape.
    """
    if answer.status != status:
        refuse(answer, now)
    try:
        return cast("_ReplyT", _adapter(cast("Hashable", shape)).validate_json(answer.body))
    except ValidationError as error:
        # Only the places are told: the answer may hold a secret.
        places = ", ".join(".".join(map(str, item["loc"])) or "the body" for item in error.errors())
        retry_at = now + _SERVER_ERROR_WAIT
        raise TryLater(f"GitHub answered {status} with something unreadable ({places})", retry_at) from None


@cache
def _adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)


def refuse(answer: Answer, now: datetime) -> NoReturn:
    """Raises the error that an answer amounts to."""
    message = _message(answer)
    status = answer.status
    if (wait := rate_limit_wait(answer, now)) is not None:
        raise TryLater(f"GitHub's rate limit is used up: {message}", now + wait)
    if status >= 500:
        raise TryLater(f"GitHub answered {status}: {message}", now + _SERVER_ERROR_WAIT)
    match status:
        case 401:
            raise Refused(
                f"GitHub does not accept the credentials (401): {message}. Check GITHUB_TOKEN or the App's key"
            )
        case 403:
            raise Refused(
                f"GitHub forbids it (403): {message}. Registering runners needs "
                "'Self-hosted runners: write' (organization) or 'Administration: write' (repository)"
            )
        case 404:
            raise Refused(f"GitHub shows nothing there (404): {message}. Is the App installed, does the token see it?")
        case 409:
            raise NameTaken(f"GitHub answered 409: {message}")
        case _:
            raise Refused(f"GitHub answered {status}: {message}")


def rate_limit_wait(answer: Answer, now: datetime, refusals: int = 0) -> timedelta | None:
    """How long to wait; None when this answer is about something else.

    Source: GitHub docs, "Best practices for using the REST API": retry-after first, then the reset time, then a minute
    that doubles with each refusal that has gone before.
    """
    if answer.status not in {403, 429}:
        return None
    retry_after = answer.headers.get("retry-after", "")
    if retry_after.isdecimal():
        return timedelta(seconds=min(float(retry_after), _LONGEST_WAIT_S))
    if (wait := used_up_wait(answer, now)) is not None:
        return wait
    if answer.status == 429 or "rate limit" in _message(answer).lower():
        return _SECONDARY_LIMIT_WAIT * (1 << min(refusals, _MOST_DOUBLINGS))
    return None


def used_up_wait(answer: Answer, now: datetime) -> timedelta | None:
    """How long until calls are allowed again; None while some are left."""
    reset = answer.headers.get("x-ratelimit-reset", "")
    if answer.headers.get("x-ratelimit-remaining") != "0" or not reset.isdecimal():
        return None
    return timedelta(seconds=min(max(1.0, float(reset) - now.timestamp()), _LONGEST_WAIT_S))


def _message(answer: Answer) -> str:
    try:
        reply = json.loads(answer.body)
        message = str(reply["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        message = "no message"
    return " ".join(message.split())[:300]
