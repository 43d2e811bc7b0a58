"""Giving up runners that wait for a job and are not needed: in the ledger, at GitHub, and in the runner's document."""

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from ..admission.requests import Release, Request, Restore, Retire, Retired
from ..documents.ledger import Lease
from ..documents.lifecycle import RunnerState
from ..documents.pending_runner import PendingRunner
from ..github.errors import GitHubError
from ..github.protocol import Scope
from .provision import Admissions, Provisioner


class RetirementStore(Protocol):
    """What is needed of the store."""

    async def read_runner(self, runner_name: str) -> PendingRunner | None: ...
    async def cancel_runner(self, runner_name: str, reason: str, now: datetime) -> PendingRunner | None: ...


class RunnerRemover(Protocol):
    """What is wanted of GitHub."""

    async def delete_runner(self, scope: Scope, runner_id: int, installation_id: int | None) -> None: ...


class Retirement:
    """Makes sure first that no job counts on the runner any more; its place is free when nobody can start or use it."""

    def __init__(
        self,
        store: RetirementStore,
        admissions: Admissions,
        provisioner: Provisioner,
        github: RunnerRemover,
        now: Callable[[], datetime],
    ):
        self._store = store
        self._admissions = admissions
        self._provisioner = provisioner
        self._github = github
        self._now = now

    async def retire_unclaimed(self, pool: str, runner_name: str) -> tuple[str, ...]:
        """A runner that no host has claimed yet need not be started; what went wrong, a line for each."""
        runner = await self._store.read_runner(runner_name)
        if runner is None or runner.status is not RunnerState.PENDING:
            return ()
        taken, warnings = await self._give_up(pool, runner_name)
        if taken.is_needed:
            return warnings
        if await self._store.cancel_runner(runner_name, "no job needs it any more", self._now()) is None:
            return warnings + await self._give_back(pool, runner_name, taken.lease)
        warnings += await self._settle(pool, Release(runner_name))
        try:
            await self._deregister(runner)
        except GitHubError as error:
            warnings += (f"runner {runner_name} stays registered at GitHub: {error}",)
        return warnings

    async def retire(self, runner: PendingRunner) -> str | None:
        """Gives up a runner that has waited for long; why not, in words, when it has to stay.

        Once GitHub has removed it, no job can come any more, and its host may stop it.
        """
        taken, _ = await self._give_up(runner.pool, runner.runner_name)
        if taken.is_needed:
            return "it is kept ready, or a job counts on it"
        try:
            await self._deregister(runner)
        except GitHubError as error:
            await self._give_back(runner.pool, runner.runner_name, taken.lease)
            return f"GitHub does not remove it: {error}"
        await self._settle(runner.pool, Release(runner.runner_name))
        return None

    async def _give_up(self, pool: str, runner_name: str) -> tuple[Retired, tuple[str, ...]]:
        settled = await self._admissions.submit(pool, Retire(runner_name))
        warnings = await self._provisioner.follow_up(settled)
        return (settled.result if isinstance(settled.result, Retired) else Retired(is_needed=True)), warnings

    async def _give_back(self, pool: str, runner_name: str, lease: Lease | None) -> tuple[str, ...]:
        if lease is None:
            return ()
        return await self._settle(pool, Restore(runner_name, lease.model_copy(update={"retiring_since": None})))

    async def _settle(self, pool: str, request: Request) -> tuple[str, ...]:
        return await self._provisioner.follow_up(await self._admissions.submit(pool, request))

    async def _deregister(self, runner: PendingRunner) -> None:
        await self._github.delete_runner(Scope(runner.scope), runner.runner_id, None)
