"""Looks around at GitHub: lists page by page, unchanged ones for free, and no more requests than allowed."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from . import listings, protocol
from .client import GitHubClient
from .errors import Refused
from .listings import Delivery, Hook, Page, Repository
from .protocol import Answer, RegisteredRunner, Request, Scope

_MOST_KEPT_BYTES = 32 << 20
_MOST_PAGES_OF_REPOSITORIES = 10
_LEFT_TO_OTHERS = 0.2
"""part of an account's rate limit that is kept for what webhooks need"""

ItemT = TypeVar("ItemT")


class OutOfRequests(Exception):
    """As much has been asked as one run may ask: the rest is for the next."""


class KeptAnswers:
    """Answers with their ETags: asked again, GitHub says 304, which does not count against the rate limit.

    Kept by one process. A new one asks for everything once more.
    """

    def __init__(self, most_bytes: int = _MOST_KEPT_BYTES):
        self._most_bytes = most_bytes
        self._bytes = 0
        self._answers: OrderedDict[str, Answer] = OrderedDict()

    def find(self, key: str) -> Answer | None:
        if key in self._answers:
            self._answers.move_to_end(key)
        return self._answers.get(key)

    def keep(self, key: str, answer: Answer) -> None:
        """Remembers an answer; the one that was not asked for the longest is forgotten when there are too many."""
        self._forget(key)
        if answer.status != 200 or "etag" not in answer.headers:
            return
        self._answers[key] = answer
        self._bytes += len(answer.body)
        while self._bytes > self._most_bytes:
            self._forget(next(iter(self._answers)))

    def _forget(self, key: str) -> None:
        old = self._answers.pop(key, None)
        self._bytes -= len(old.body) if old is not None else 0


@dataclass
class Spent:
    """What one run has asked of one account."""

    requests: int = 0
    """that count against the rate limit"""
    is_short: bool = False
    """the account has little left"""


class Survey:
    """One run's look at GitHub. All methods raise `GitHubError`; lists raise `OutOfRequests`, too."""

    def __init__(self, client: GitHubClient, kept: KeptAnswers, now: Callable[[], datetime]):
        self._client = client
        self._kept = kept
        self._now = now
        self._allowed = 0.0
        self._spent: dict[str, Spent] = {}

    def allow(self, requests: float) -> None:
        """So many requests more for each account that has a rate limit of its own."""
        self._allowed += requests

    @property
    def requests(self) -> int:
        """Made so far, those that cost nothing left out."""
        return sum(spent.requests for spent in self._spent.values())

    @property
    def is_app(self) -> bool:
        return self._client.is_app

    async def list_deliveries(self, hook: Hook, cursor: Mapping[str, str]) -> Page[Delivery]:
        """A page of a webhook's deliveries, newest first; `cursor` continues from an earlier page."""
        request = listings.next_page(listings.list_deliveries(hook), cursor)
        if not hook.is_of_app:
            return listings.read_deliveries(await self._ask(request, hook.scope), self._now())
        self._check_budget("app")
        answer = await self._client.call_as_app(request)
        self._count("app", answer)
        return listings.read_deliveries(answer, self._now())

    async def redeliver(self, hook: Hook, delivery_id: int) -> None:
        """Asks GitHub to deliver once more."""
        request = listings.redeliver(hook, delivery_id)
        if hook.is_of_app:
            answer = await self._client.call_as_app(request)
        else:
            answer = await self._client.call(request, hook.scope, None)
        listings.check_redelivered(answer, self._now())

    async def list_hooks(self, scope: Scope, url: str) -> tuple[Hook, ...]:
        """An organization's or repository's webhooks that send jobs to an address."""
        return await self._list(
            listings.list_hooks(scope), scope, lambda answer: listings.read_hooks(answer, scope, url, self._now())
        )

    async def list_repositories(self, owner: str) -> tuple[Repository, ...]:
        """Those of an organization or user that we may look into, the first thousand."""
        scope = Scope.organization(owner)
        if self._client.is_app:
            request, read = listings.list_installation_repositories(), listings.read_installation_repositories
        else:
            request, read = listings.list_organization_repositories(owner), listings.read_repositories
        try:
            found = await self._list(request, scope, lambda a: read(a, self._now()), _MOST_PAGES_OF_REPOSITORIES)
        except Refused:
            # Not an organization, then.
            scope = Scope.user(owner)
            if not self._client.is_app:
                request = listings.list_own_repositories()
            found = await self._list(request, scope, lambda a: read(a, self._now()), _MOST_PAGES_OF_REPOSITORIES)
        return tuple(repository for repository in found if repository.owner.lower() == owner.lower())

    async def list_runs(self, repository: Repository) -> tuple[int, ...]:
        """Ids of the workflow runs that wait or are under way."""
        run_ids: list[int] = []
        for status in listings.ACTIVE:
            request = listings.list_runs(repository.full_name, status)
            run_ids += await self._list(request, repository.scope, lambda a: listings.read_run_ids(a, self._now()))
        return tuple(dict.fromkeys(run_ids))

    async def list_jobs(self, repository: Repository, run_id: int) -> tuple[Mapping[str, Any], ...]:
        """The jobs of a run's latest attempt, as GitHub writes them."""
        request = listings.list_jobs(repository.full_name, run_id)
        return await self._list(request, repository.scope, lambda a: listings.read_jobs(a, self._now()))

    async def read_job(self, repository: Repository, job_id: int) -> Mapping[str, Any] | None:
        """One job; None when GitHub shows none."""
        answer = await self._ask(listings.get_job(repository.full_name, job_id), repository.scope)
        return listings.read_job(answer, self._now())

    async def read_runner(self, scope: Scope, runner_id: int) -> RegisteredRunner | None:
        """A runner as GitHub sees it; None when it is gone."""
        return protocol.read_runner(await self._ask(protocol.get_runner(scope, runner_id), scope), self._now())

    async def find_runner(self, scope: Scope, name: str) -> RegisteredRunner | None:
        """The runner of that name; None when GitHub has none."""
        answer = await self._ask(protocol.find_runner(scope, name), scope)
        found = listings.read_runners(answer, self._now()).items
        return next((runner for runner in found if runner.name == name), None)

    async def list_runners(self, scope: Scope) -> tuple[RegisteredRunner, ...]:
        """All of them, anybody's."""
        return await self._list(
            listings.list_runners(scope), scope, lambda answer: listings.read_runners(answer, self._now())
        )

    async def delete_runner(self, scope: Scope, runner_id: int) -> None:
        """Removes a runner; one that is gone already is no error.

        Raises:
            RunnerBusy: it has a job.
        """
        await self._client.delete_runner(scope, runner_id, None)

    async def _list(
        self, request: Request, scope: Scope, read: Callable[[Answer], Page[ItemT]], most_pages: int | None = None
    ) -> tuple[ItemT, ...]:
        items: list[ItemT] = []
        query: Mapping[str, str] | None = {}
        pages = 0
        while query is not None and pages != most_pages:
            page = read(await self._ask(listings.next_page(request, query), scope))
            items += page.items
            query = page.next_query
            pages += 1
        return tuple(items)

    async def _ask(self, request: Request, scope: Scope) -> Answer:
        account = self._client.account_of(scope)
        self._check_budget(account)
        key = f"{account} {request.path} {sorted(request.query.items())}"
        kept = self._kept.find(key)
        answer = await self._client.call(request, scope, None, kept.headers["etag"] if kept is not None else None)
        self._count(account, answer)
        if answer.status == 304 and kept is not None:
            return kept
        self._kept.keep(key, answer)
        return answer

    def _check_budget(self, account: str) -> None:
        spent = self._spent.setdefault(account, Spent())
        if spent.is_short:
            raise OutOfRequests(f"little is left of the rate limit of {account or 'the token'}")
        if spent.requests + 1 > self._allowed:
            raise OutOfRequests(f"{spent.requests} requests are enough for one run")

    def _count(self, account: str, answer: Answer) -> None:
        spent = self._spent[account]
        if answer.status == 304:
            return
        spent.requests += 1
        limit, remaining = answer.headers.get("x-ratelimit-limit", ""), answer.headers.get("x-ratelimit-remaining", "")
        if limit.isdecimal() and remaining.isdecimal():
            spent.is_short = int(remaining) < int(limit) * _LEFT_TO_OTHERS
