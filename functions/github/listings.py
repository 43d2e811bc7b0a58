"""What GitHub shows of itself, as requests and answers without any I/O: deliveries, hooks, runs, jobs, runners.

Source: GitHub REST API description, version 2022-11-28; `tests/contract` checks these requests against it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qsl, urlsplit

from pydantic import AwareDatetime

from .protocol import Answer, RegisteredRunner, Reply, Request, Scope, read_reply, refuse

_NEXT = re.compile(r'<([^<>]*)>\s*;[^,<>]*rel="next"')
"""RFC 8288, as far as GitHub uses it"""
_PER_PAGE = {"per_page": "100"}
ACTIVE = ("queued", "in_progress")
"""A queued job may be in a run that is in progress already: both kinds have to be looked through."""


@dataclass(frozen=True)
class Hook:
    """A webhook that delivers to us."""

    path: str
    """`/app/hook`, `/orgs/acme/hooks/1` or `/repos/acme/app/hooks/1`"""

    @property
    def is_of_app(self) -> bool:
        """GitHub shows it to the App itself, not to its installations."""
        return self.path == APP_HOOK.path

    @property
    def scope(self) -> Scope:
        """The organization or repository that it belongs to."""
        return Scope(self.path.partition("/hooks/")[0])


APP_HOOK = Hook("/app/hook")


@dataclass(frozen=True)
class Delivery:
    """One attempt to deliver an event."""

    id: int
    guid: str
    """the same for every attempt, and for every webhook that is told of the event"""
    delivered_at: datetime
    is_ok: bool
    """answered with a 2xx status in time"""
    event: str


@dataclass(frozen=True)
class Repository:
    """A repository whose runs may be looked through."""

    full_name: str
    is_organizations: bool
    """not a user's"""

    @property
    def owner(self) -> str:
        return self.full_name.partition("/")[0]

    @property
    def scope(self) -> Scope:
        return Scope.repository(self.full_name)


ItemT = TypeVar("ItemT")


@dataclass(frozen=True)
class Page(Generic[ItemT]):
    """Some of a list, and how to ask for more."""

    items: tuple[ItemT, ...]
    next_query: Mapping[str, str] | None
    """None on the last page"""


def list_deliveries(hook: Hook) -> Request:
    """All of them, newest first: GitHub's own filter for failures leaves out those without any answer."""
    return Request("GET", f"{hook.path}/deliveries", query=_PER_PAGE)


def redeliver(hook: Hook, delivery_id: int) -> Request:
    return Request("POST", f"{hook.path}/deliveries/{delivery_id}/attempts")


def list_hooks(scope: Scope) -> Request:
    return Request("GET", f"{scope.path}/hooks", query=_PER_PAGE)


def list_runs(repository: str, status: str) -> Request:
    query = {"status": status, "exclude_pull_requests": "true"} | _PER_PAGE
    return Request("GET", f"{Scope.repository(repository).path}/actions/runs", query=query)


def list_jobs(repository: str, run_id: int) -> Request:
    path = f"{Scope.repository(repository).path}/actions/runs/{run_id}/jobs"
    return Request("GET", path, query={"filter": "latest"} | _PER_PAGE)


def get_job(repository: str, job_id: int) -> Request:
    return Request("GET", f"{Scope.repository(repository).path}/actions/jobs/{job_id}")


def list_runners(scope: Scope) -> Request:
    return Request("GET", f"{scope.path}/actions/runners", query=_PER_PAGE)


def list_organization_repositories(owner: str) -> Request:
    path = f"{Scope.organization(owner).path}/repos"
    return Request("GET", path, query={"sort": "pushed"} | _PER_PAGE)


def list_installation_repositories() -> Request:
    """Those that a GitHub App's installation has been given."""
    return Request("GET", "/installation/repositories", query=_PER_PAGE)


def list_own_repositories() -> Request:
    """Those of the user that a token belongs to."""
    return Request("GET", "/user/repos", query={"affiliation": "owner", "sort": "pushed"} | _PER_PAGE)


def next_page(request: Request, query: Mapping[str, str]) -> Request:
    """The same list, further on."""
    return Request(request.method, request.path, query={**request.query, **query})


class _Delivery(Reply):
    id: int
    guid: str
    delivered_at: AwareDatetime
    status_code: int
    event: str


class _HookConfig(Reply):
    url: str = ""


class _Hook(Reply):
    id: int
    active: bool
    events: list[str]
    config: _HookConfig


class _Owner(Reply):
    login: str
    type: str


class _Repository(Reply):
    full_name: str
    owner: _Owner
    archived: bool = False
    disabled: bool = False


class _InstallationRepositories(Reply):
    repositories: list[_Repository]


class _Run(Reply):
    id: int


class _Runs(Reply):
    workflow_runs: list[_Run]


class _Jobs(Reply):
    jobs: list[dict[str, Any]]


class _Runner(Reply):
    id: int
    name: str
    status: str
    busy: bool


class _Runners(Reply):
    runners: list[_Runner]


def read_deliveries(answer: Answer, now: datetime) -> Page[Delivery]:
    found = read_reply(list[_Delivery], answer, 200, now)
    items = tuple(Delivery(d.id, d.guid, d.delivered_at, 200 <= d.status_code < 300, d.event) for d in found)
    return Page(items, _next_query(answer))


def check_redelivered(answer: Answer, now: datetime) -> None:
    """202 says that it will be delivered again; raises a `GitHubError` otherwise."""
    if answer.status != 202:
        refuse(answer, now)


def read_hooks(answer: Answer, scope: Scope, url: str, now: datetime) -> Page[Hook]:
    """Those of the hooks that send jobs to an address."""
    found = read_reply(list[_Hook], answer, 200, now)
    ours = (hook for hook in found if hook.active and hook.config.url.rstrip("/") == url.rstrip("/"))
    items = tuple(Hook(f"{scope.path}/hooks/{h.id}") for h in ours if {"workflow_job", "*"} & set(h.events))
    return Page(items, _next_query(answer))


def read_run_ids(answer: Answer, now: datetime) -> Page[int]:
    found = read_reply(_Runs, answer, 200, now).workflow_runs
    return Page(tuple(run.id for run in found), _next_query(answer))


def read_jobs(answer: Answer, now: datetime) -> Page[Mapping[str, Any]]:
    """Jobs as GitHub writes them, in webhooks too: `webhook.event` knows what they say."""
    return Page(tuple(read_reply(_Jobs, answer, 200, now).jobs), _next_query(answer))


def read_job(answer: Answer, now: datetime) -> Mapping[str, Any] | None:
    """None when GitHub shows no such job: its run was deleted, or we may not see it."""
    return None if answer.status in {404, 410} else read_reply(dict[str, Any], answer, 200, now)


def read_runners(answer: Answer, now: datetime) -> Page[RegisteredRunner]:
    found = read_reply(_Runners, answer, 200, now).runners
    return Page(tuple(_registered(runner) for runner in found), _next_query(answer))


def _registered(runner: _Runner) -> RegisteredRunner:
    return RegisteredRunner(runner.id, runner.name, runner.status == "online", runner.busy)


def read_repositories(answer: Answer, now: datetime) -> Page[Repository]:
    return _repositories(answer, read_reply(list[_Repository], answer, 200, now))


def read_installation_repositories(answer: Answer, now: datetime) -> Page[Repository]:
    return _repositories(answer, read_reply(_InstallationRepositories, answer, 200, now).repositories)


def _repositories(answer: Answer, found: Sequence[_Repository]) -> Page[Repository]:
    open_ones = (repository for repository in found if not (repository.archived or repository.disabled))
    items = tuple(Repository(r.full_name, r.owner.type == "Organization") for r in open_ones)
    return Page(items, _next_query(answer))


def _next_query(answer: Answer) -> Mapping[str, str] | None:
    """The query of the next page. Its path is not ours: GitHub writes `/organizations/{id}` there."""
    found = _NEXT.search(answer.headers.get("link", ""))
    return None if found is None else dict(parse_qsl(urlsplit(found.group(1)).query))
