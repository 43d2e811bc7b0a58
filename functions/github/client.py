"""The one door to GitHub's REST API."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import httpx
from pydantic import SecretStr

from ..timing import waiting_for_github
from . import protocol
from .auth import TOKEN_MARGIN, AppCredentials, sign_app_token
from .errors import GitHubError, NameTaken, NoAnswer, Refused, TryLater
from .protocol import (
    API_VERSION,
    Answer,
    InstallationToken,
    JitRunner,
    RegisteredRunner,
    Request,
    RunFacts,
    RunnerOrder,
    Scope,
)

CALL_TIMEOUT_S = 6.0
"""GitHub gives a webhook 10 s, and the reservation before and the document after this call need some of it"""
MOST_AT_ONCE = 30
"""calls under way from one instance; GitHub asks for no more than 100 in all"""
_DEFAULT_GROUP_ID = 1
_THE_APP = "app"
_RUNS_REMEMBERED = 256
_RETRY_AFTER_SILENCE = timedelta(seconds=15)


@dataclass(frozen=True)
class Rest:
    """GitHub is left alone for a while."""

    until: datetime
    refusals: int
    """one after the other"""


class GitHubClient:
    """Registers and removes runners, as an App's installation or with a fixed token."""

    def __init__(
        self,
        api_url: str,
        credentials: SecretStr | AppCredentials,
        now: Callable[[], datetime],
        timeout_s: float = CALL_TIMEOUT_S,
    ):
        self._api_url = api_url.rstrip("/")
        self._credentials = credentials
        self._now = now
        self._timeout_s = timeout_s
        self._connections = _Connections(timeout_s)
        self._rests: dict[str, Rest] = {}
        self._tokens: dict[str, InstallationToken] = {}
        self._group_ids: dict[tuple[str, str], int] = {}
        self._runs: dict[tuple[str, int], asyncio.Future[RunFacts]] = {}

    async def create_jit_runner(self, order: RunnerOrder) -> JitRunner:
        """Registers a runner that takes one job.

        Raises:
            GitHubError: with a reason in words, and `retry_at` when it makes sense to try again.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._create_jit_runner(order)
        except TimeoutError:
            raise NoAnswer("GitHub did not answer in time", self._now() + _RETRY_AFTER_SILENCE) from None

    async def _create_jit_runner(self, order: RunnerOrder) -> JitRunner:
        scope, installation_id = order.scope, order.installation_id
        group_id = await self._group_id(scope, order.group, installation_id)
        request = protocol.generate_jit_config(order, group_id)
        answer = await self.call(request, scope, installation_id)
        try:
            return protocol.read_jit_runner(answer, self._now())
        except NameTaken:
            # The name is random: it is taken only if an earlier answer was lost on its way back.
            found = await self.call(protocol.find_runner(scope, order.name), scope, installation_id)
            leftover = protocol.read_idle_runner_id(found, order.name, self._now())
            if leftover is None:
                # Another attempt has another name.
                raise TryLater(f"a runner {order.name} is there already", self._now() + _RETRY_AFTER_SILENCE) from None
            await self.delete_runner(scope, leftover, installation_id)
            answer = await self.call(request, scope, installation_id)
            return protocol.read_jit_runner(answer, self._now())

    async def read_run(self, repository: str, run_id: int, installation_id: int | None) -> RunFacts:
        """What started a workflow run, and where its code comes from; asked once for all jobs of a run.

        Raises:
            GitHubError: it is not shown, or not now.
        """
        key = (repository, run_id)
        if key not in self._runs:
            if len(self._runs) >= _RUNS_REMEMBERED:
                self._runs.pop(next(iter(self._runs)))
            self._runs[key] = asyncio.ensure_future(self._read_run(repository, run_id, installation_id))
        try:
            # Shielded: one caller that gives up must not take the answer from the others.
            return await asyncio.shield(self._runs[key])
        except GitHubError:
            self._runs.pop(key, None)
            raise

    async def _read_run(self, repository: str, run_id: int, installation_id: int | None) -> RunFacts:
        scope = Scope.repository(repository)
        answer = await self.call(protocol.get_run(repository, run_id), scope, installation_id)
        return protocol.read_run(answer, self._now())

    async def cancel_run(self, repository: str, run_id: int, installation_id: int | None) -> None:
        """Cancels a workflow run; one that has ended already is no error."""
        scope = Scope.repository(repository)
        answer = await self.call(protocol.cancel_run(repository, run_id), scope, installation_id)
        protocol.check_cancelled(answer, self._now())

    async def set_variable(self, scope: Scope, name: str, value: str, installation_id: int | None) -> None:
        """Sets an organization's or repository's variable; makes it if there is none.

        Raises:
            GitHubError: it is not allowed (permission "Variables: write"), or not now.
        """
        answer = await self.call(protocol.update_variable(scope, name, value), scope, installation_id)
        if protocol.is_missing(answer):
            answer = await self.call(protocol.create_variable(scope, name, value), scope, installation_id)
        protocol.check_written(answer, self._now())

    async def read_runner(self, scope: Scope, runner_id: int, installation_id: int | None) -> RegisteredRunner | None:
        """A runner as GitHub sees it; None when it is gone.

        Raises:
            GitHubError: it is not shown, or not now.
        """
        answer = await self.call(protocol.get_runner(scope, runner_id), scope, installation_id)
        return protocol.read_runner(answer, self._now())

    async def delete_runner(self, scope: Scope, runner_id: int, installation_id: int | None) -> None:
        """Removes a runner; one that is gone already is no error.

        Raises:
            GitHubError: among others while the runner is busy.
        """
        answer = await self.call(protocol.delete_runner(scope, runner_id), scope, installation_id)
        protocol.check_deleted(answer, self._now())

    async def close(self) -> None:
        """Closes the kept-open connections."""
        await self._connections.close()

    async def _group_id(self, scope: Scope, group: str, installation_id: int | None) -> int:
        if not scope.is_organization or group.casefold() == "default":
            return _DEFAULT_GROUP_ID
        key = (scope.path, group)
        if key not in self._group_ids:
            answer = await self.call(protocol.list_runner_groups(scope), scope, installation_id)
            self._group_ids[key] = protocol.read_group_id(answer, group, self._now())
        return self._group_ids[key]

    @property
    def is_app(self) -> bool:
        """Signed in as a GitHub App, not with a fixed token."""
        return isinstance(self._credentials, AppCredentials)

    def account_of(self, scope: Scope) -> str:
        """Whose rate limit a call counts against: a token has one, an App has one for each installation."""
        return scope.owner if self.is_app else ""

    async def call(
        self, request: Request, scope: Scope, installation_id: int | None, etag: str | None = None
    ) -> Answer:
        """Asks with the rights that we have in a scope; `etag` makes it 304 when nothing has changed since."""
        if isinstance(self._credentials, SecretStr):
            token = self._credentials
        else:
            token = await self._installation_token(self._credentials, scope, installation_id)
        answer = await self._send(request, token, self.account_of(scope), etag)
        if answer.status == 401:
            # Perhaps somebody has revoked it: the next call gets another.
            self._tokens.pop(scope.owner, None)
        return answer

    async def call_as_app(self, request: Request) -> Answer:
        """Asks as the App itself.

        Raises:
            Refused: there is none.
        """
        if isinstance(self._credentials, SecretStr):
            raise Refused("only a GitHub App may ask this, and GITHUB_APP_ID is not set")
        return await self._send(request, sign_app_token(self._credentials, self._now()), _THE_APP)

    async def _installation_token(self, app: AppCredentials, scope: Scope, installation_id: int | None) -> SecretStr:
        cached = self._tokens.get(scope.owner)
        if cached is not None and cached.expires_at - TOKEN_MARGIN > self._now():
            return cached.token
        if installation_id is None:
            found = await self.call_as_app(protocol.find_installation(scope))
            installation_id = protocol.read_installation_id(found, self._now())
        created = await self.call_as_app(protocol.create_installation_token(installation_id))
        fresh = protocol.read_installation_token(created, self._now())
        self._tokens[scope.owner] = fresh
        return fresh.token

    async def _send(self, request: Request, token: SecretStr, account: str, etag: str | None = None) -> Answer:
        rest = self._rests.get(account)
        if rest is not None and self._now() < rest.until:
            # GitHub bans those who go on asking.
            raise TryLater(f"GitHub's rate limit is used up: nothing is asked until {rest.until:%H:%M:%S}", rest.until)
        headers = {
            "Accept": "application/vnd.github+json",
            "Authorization": f"Bearer {token.get_secret_value()}",
            "X-GitHub-Api-Version": API_VERSION,
            "User-Agent": "runyard",
        }
        if etag is not None:
            headers["If-None-Match"] = etag
        try:
            with waiting_for_github():
                async with self._connections.take() as http:
                    response = await http.request(
                        request.method,
                        self._api_url + request.path,
                        json=request.body,
                        params=request.query or None,
                        headers=headers,
                    )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            kind = (
                "did not answer in time" if isinstance(error, httpx.TimeoutException) else f"cannot be reached: {error}"
            )
            raise NoAnswer(f"GitHub {kind}", self._now() + _RETRY_AFTER_SILENCE) from error
        lowered = {name.lower(): value for name, value in response.headers.items()}
        answer = Answer(response.status_code, lowered, response.content)
        self._note_limit(account, answer)
        return answer

    def _note_limit(self, account: str, answer: Answer) -> None:
        """Whoever was refused for asking too much rests, and so do those who have used up what they had."""
        now, rest = self._now(), self._rests.get(account)
        if rest is not None and now < rest.until:
            # Calls that were under way together are refused together: that is one refusal.
            return
        refusals = rest.refusals if rest is not None else 0
        if (wait := protocol.rate_limit_wait(answer, now, refusals)) is not None:
            self._rests[account] = Rest(now + wait, refusals + 1)
        elif (wait := protocol.used_up_wait(answer, now)) is not None:
            self._rests[account] = Rest(now + wait, 0)
        else:
            self._rests.pop(account, None)


class _Connections:
    """Connections that are kept open, those used last first.

    httpx's own pool looks at each of its connections for each of the others whenever a request begins or ends: with 30
    of them that is most of what a request costs. So each client here has just one.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._tls = httpx.create_ssl_context()
        self._slots = asyncio.Semaphore(MOST_AT_ONCE)
        self._idle: list[httpx.AsyncClient] = []

    @asynccontextmanager
    async def take(self) -> AsyncIterator[httpx.AsyncClient]:
        async with self._slots:
            client = self._idle.pop() if self._idle else self._open()
            try:
                yield client
            finally:
                self._idle.append(client)

    def _open(self) -> httpx.AsyncClient:
        one = httpx.Limits(max_connections=1)
        return httpx.AsyncClient(timeout=self._timeout_s, follow_redirects=True, limits=one, verify=self._tls)

    async def close(self) -> None:
        for client in self._idle:
            await client.aclose()
