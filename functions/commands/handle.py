"""Does what controllers ask for, once: a command that has its answer is left alone."""

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from ..admission.requests import Release
from ..documents.command import Answer, Command, CommandKind
from ..documents.pending_runner import PendingRunner
from ..github.errors import GitHubError
from ..github.protocol import RegisteredRunner, Scope
from ..webhook.provision import Admissions, Provisioner, ProvisionStore, RunnerRegistry
from ..webhook.retire import Retirement, RetirementStore, RunnerRemover


class CommandStore(ProvisionStore, RetirementStore, Protocol):
    """What is needed of the store."""

    async def read_command(self, command_id: str) -> Command | None: ...
    async def answer_command(self, command_id: str, answer: Answer) -> None: ...


class GitHub(RunnerRegistry, RunnerRemover, Protocol):
    """What is wanted of GitHub."""

    async def read_runner(
        self, scope: Scope, runner_id: int, installation_id: int | None
    ) -> RegisteredRunner | None: ...


class CommandHandler:
    """Carries out commands."""

    def __init__(self, store: CommandStore, admissions: Admissions, github: GitHub, now: Callable[[], datetime]):
        self._store = store
        self._admissions = admissions
        self._github = github
        self._now = now
        self._provisioner = Provisioner(store, admissions, github, now)
        self._retirement = Retirement(store, admissions, self._provisioner, github, now)

    async def handle(self, command_id: str) -> Answer | None:
        """The answer that was written; None for a command that is gone or has its answer already.

        Raises:
            StoreUnavailable, StoreRefused: nothing is known to be done; the trigger should fire again.
        """
        command = await self._store.read_command(command_id)
        if command is None or command.answer is not None:
            return None
        runner = await self._store.read_runner(command.runner_name)
        match command.kind:
            case CommandKind.RUNNER_GONE:
                answer = await self._runner_gone(command, runner)
            case CommandKind.RETIRE:
                answer = await self._retire(command, runner)
        await self._store.answer_command(command_id, answer)
        return answer

    async def _runner_gone(self, command: Command, runner: PendingRunner | None) -> Answer:
        warnings = list(await self._release(command))
        if runner is not None:
            try:
                await self._github.delete_runner(Scope(runner.scope), runner.runner_id, None)
            except GitHubError as error:
                warnings.append(f"runner {command.runner_name} stays registered at GitHub: {error}")
        return Answer(at=self._now(), may_stop=True, reason="; ".join(warnings))

    async def _retire(self, command: Command, runner: PendingRunner | None) -> Answer:
        if runner is None:
            return Answer(at=self._now(), reason="it has no document")
        try:
            at_github = await self._github.read_runner(Scope(runner.scope), runner.runner_id, None)
        except GitHubError as error:
            return Answer(at=self._now(), reason=f"GitHub does not say how it is doing: {error}")
        if at_github is None:
            # Idle JIT runners can vanish after minutes: whoever counts on it gets another.
            await self._release(command)
            return Answer(at=self._now(), may_stop=True, reason="GitHub has dropped it")
        if at_github.is_busy:
            return Answer(at=self._now(), reason="GitHub has given it a job")
        why_not = await self._retirement.retire(runner)
        return Answer(at=self._now(), may_stop=why_not is None, reason=why_not or "no job needs it")

    async def _release(self, command: Command) -> tuple[str, ...]:
        settled = await self._admissions.submit(command.pool, Release(command.runner_name))
        return await self._provisioner.follow_up(settled, command.reason or "GitHub has dropped its runner")
