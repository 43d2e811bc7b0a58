"""Giving up runners that wait for a job and are not needed: in the ledger, at GitHub, and in the runner's document."""

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from ..admission.requests import Restore, Retire, Retired
from ..documents.ledger import Lease
from ..documents.lifecycle import RunnerState
from ..documents.pending_runner import PendingRunner
from ..github.errors import GitHubError
from ..github.protocol import Scope
from .provision import Admissions


class RetirementStore(Protocol):
    """What is needed of the store."""

    async def read_runner(self, runner_name: str) -> PendingRunner | None: ...
    async def cancel_runner(self, runner_name: str, reason: str, now: datetime) -> PendingRunner | None: ...


class RunnerRemover(Protocol):
    """What is wanted of GitHub."""

    async def delete_runner(self, scope: Scope, runner_id: int, installation_id: int | None) -> None: ...


class Retirement:
    """Takes the place away first, so that no job counts on the runner any more; gives it back if that was too early."""

    def __init__(
        self, store: RetirementStore, admissions: Admissions, github: RunnerRemover, now: Callable[[], datetime]
    ):
        self._store = store
        self._admissions = admissions
        self._github = github
        self._now = now

    async def retire_unclaimed(self, pool: str, runner_name: str) -> tuple[str, ...]:
        """A runner that no host has claimed yet need not be started; what went wrong, a line for each."""
        runner = await self._store.read_runner(runner_name)
        if runner is None or runner.status is not RunnerState.PENDING:
            return ()
        taken = await self._take_place(pool, runner_name)
        if taken.is_needed:
            return ()
        reason = "no job needs it any more"
        if await self._store.cancel_runner(runner_name, reason, self._now()) is None:
            await self._give_back(pool, runner_name, taken.lease)
            return ()
        try:
            await self._deregister(runner)
        except GitHubError as error:
            return (f"runner {runner_name} stays registered at GitHub: {error}",)
        return ()

    async def retire(self, runner: PendingRunner) -> str | None:
        """Gives up a runner that has waited for long; why not, in words, when it has to stay.

        Once GitHub has removed it, no job can come any more, and its host may stop it.
        """
        taken = await self._take_place(runner.pool, runner.runner_name)
        if taken.is_needed:
            return "it is kept ready, or a job counts on it"
        try:
            await self._deregister(runner)
        except GitHubError as error:
            await self._give_back(runner.pool, runner.runner_name, taken.lease)
            return f"GitHub does not remove it: {error}"
        return None

    async def _take_place(self, pool: str, runner_name: str) -> Retired:
        result = (await self._admissions.submit(pool, Retire(runner_name))).result
        return result if isinstance(result, Retired) else Retired(is_needed=True)

    async def _give_back(self, pool: str, runner_name: str, lease: Lease | None) -> None:
        if lease is not None:
            await self._admissions.submit(pool, Restore(runner_name, lease))

    async def _deregister(self, runner: PendingRunner) -> None:
        await self._github.delete_runner(Scope(runner.scope), runner.runner_id, None)
