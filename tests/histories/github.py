"""The simulated GitHub's world behind the functions' own interface, without HTTP; and its deliveries, to be lost."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from pydantic import SecretStr

from functions.github.errors import NoAnswer, Refused, RunnerBusy, TryLater
from functions.github.listings import Delivery, Hook, Page, Repository
from functions.github.protocol import JitRunner, RegisteredRunner, RunFacts, RunnerOrder, Scope
from functions.webhook.event import JobEvent, read_job
from simulator.payloads import job_json
from simulator.world import ApiError, Job, Runner, World

HOOK = Hook("/orgs/acme/hooks/1")


@dataclass
class Told:
    """A webhook: what it says, and whether it has arrived."""

    guid: str
    event: JobEvent
    attempts: list[Delivery] = field(default_factory=list)


@dataclass
class Fault:
    """What happens to the next call for a JIT config."""

    error: Callable[[datetime], Exception]
    is_done: bool
    """GitHub does it all the same"""


FAULTS = {
    "lost answer": Fault(lambda now: NoAnswer("the answer was lost", now + timedelta(seconds=15)), True),
    "no answer": Fault(lambda now: NoAnswer("GitHub is away", now + timedelta(seconds=15)), False),
    "server error": Fault(lambda now: TryLater("GitHub answered 502", now + timedelta(seconds=15)), False),
    "rate limit": Fault(lambda now: TryLater("secondary rate limit", now + timedelta(seconds=60)), False),
    "name taken": Fault(lambda now: TryLater("a runner is there already", now + timedelta(seconds=15)), True),
    "refused": Fault(lambda now: Refused("GitHub forbids it"), False),
}


class MemoryGitHub:
    """What the functions ask of GitHub, answered by the world."""

    requests = 0
    is_app = False

    def __init__(self, world: World, now: Callable[[], datetime]):
        self.world = world
        self._now = now
        self.told: list[Told] = []
        """all webhooks so far"""
        self.waiting: list[Told] = []
        """those that are on their way"""
        self.faults: list[Fault] = []
        """for the next JIT configs"""
        self._deliveries = 0

    # webhooks

    def announce(self, *jobs: Job) -> None:
        """Sends a webhook for each job, as it is now."""
        for job in jobs:
            event = read_job(job_json(job), job.repository, is_organization=True)
            assert isinstance(event, JobEvent)
            told = Told(f"guid-{len(self.told)}", event)
            self.told.append(told)
            self.waiting.append(told)

    def note_delivery(self, told: Told, *, is_ok: bool) -> None:
        """How an attempt to deliver went, as GitHub keeps it."""
        self._deliveries += 1
        told.attempts.append(Delivery(self._deliveries, told.guid, self._now(), is_ok, "workflow_job"))

    # as `github.client` and `github.survey`

    async def create_jit_runner(self, order: RunnerOrder) -> JitRunner:
        fault = self.faults.pop(0) if self.faults else None
        if fault is not None and not fault.is_done:
            raise fault.error(self._now())
        try:
            made = self.world.register_runner(order.scope.path, order.name, 1, order.labels)
        except ApiError as error:
            raise TryLater(str(error), self._now() + timedelta(seconds=15)) from error
        if fault is not None:
            raise fault.error(self._now())
        return JitRunner(made.id, made.name, SecretStr("jit"))

    async def delete_runner(self, scope: Scope, runner_id: int, installation_id: int | None = None) -> None:
        try:
            self.world.delete_runner(scope.path, runner_id)
        except ApiError as error:
            if error.status == 422:
                raise RunnerBusy(str(error)) from error

    async def read_run(self, repository: str, run_id: int, installation_id: int | None) -> RunFacts:
        return RunFacts("push", repository)

    async def cancel_run(self, repository: str, run_id: int, installation_id: int | None) -> None:
        self.announce(*self.world.cancel_run(run_id))

    async def set_variable(self, scope: Scope, name: str, value: str, installation_id: int | None) -> None:
        return

    def allow(self, requests: float) -> None:
        return

    async def list_repositories(self, owner: str) -> tuple[Repository, ...]:
        return tuple(Repository(name, True) for name in self.world.repositories())

    async def list_runs(self, repository: Repository) -> tuple[int, ...]:
        name = repository.full_name
        return tuple(
            jobs[0].run_id for status in ("queued", "in_progress") for jobs in self.world.active_runs(name, status)
        )

    async def list_jobs(self, repository: Repository, run_id: int) -> tuple[Mapping[str, Any], ...]:
        return tuple(job_json(job) for job in self.world.jobs_of_run(run_id))

    async def read_job(self, repository: Repository, job_id: int) -> Mapping[str, Any] | None:
        return job_json(self.world.jobs[job_id]) if job_id in self.world.jobs else None

    async def read_runner(
        self, scope: Scope, runner_id: int, installation_id: int | None = None
    ) -> RegisteredRunner | None:
        return _registered(self.world.runners[runner_id]) if runner_id in self.world.runners else None

    async def find_runner(self, scope: Scope, name: str) -> RegisteredRunner | None:
        return next((_registered(runner) for runner in self.world.list_runners(scope.path, name)), None)

    async def list_runners(self, scope: Scope) -> tuple[RegisteredRunner, ...]:
        return tuple(map(_registered, self.world.list_runners(scope.path, None)))

    async def list_hooks(self, scope: Scope, url: str) -> tuple[Hook, ...]:
        return (HOOK,)

    async def list_deliveries(self, hook: Hook, cursor: Mapping[str, str]) -> Page[Delivery]:
        found = [delivery for told in self.told for delivery in told.attempts]
        return Page(tuple(sorted(found, key=lambda delivery: -delivery.id)), None)

    async def redeliver(self, hook: Hook, delivery_id: int) -> None:
        for told in self.told:
            if any(delivery.id == delivery_id for delivery in told.attempts):
                self.waiting.append(told)


def _registered(runner: Runner) -> RegisteredRunner:
    return RegisteredRunner(runner.id, runner.name, runner.session is not None, runner.job is not None)


Call = Callable[..., Awaitable[Any]]
