"""Jobs, runners, hosts and functions, each of which can be stopped, killed and started again, on a clock of their own.

GitHub is the simulated one's world. The functions are the real ones. The hosts are a model of what controllers do to
documents: claim, start, write down how it ended.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Protocol

from controller.claim import LEASE
from controller.failure import make_command, note_failure
from functions.admission.group import Admission, Settled
from functions.admission.requests import Request
from functions.commands.handle import CommandHandler
from functions.documents.command import Answer, Command, CommandKind
from functions.documents.errors import StoreUnavailable
from functions.documents.in_force import PolicyInForce
from functions.documents.ledger import Ledger
from functions.documents.lifecycle import JobState, RunnerEvent, RunnerState, move_runner
from functions.documents.pending_runner import KEPT_FOR, Claim, PendingRunner, SeenRunner
from functions.documents.reconcile import Report
from functions.documents.workflow_job import WorkflowJob
from functions.reconcile.run import Run
from functions.routing.capacity import NOTHING, Size
from functions.settings import ReconcileSettings
from functions.webhook.handle import WebhookHandler
from functions.webhook.provision import Provisioner
from simulator.world import HandOut, Job, JobSpec, World
from tests.fakes.examples import host
from tests.histories.crash import Fragile, Fuse, until_crash
from tests.histories.github import MemoryGitHub, Told

START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
POOL, OWNER, REPOSITORY = "default", "acme", "acme/app"
GRACE = timedelta(seconds=60)
IDLE_FOR = timedelta(seconds=300)
PLACES = 3
HOST_SIZE = {"cpus": 6, "gib": 24}
SETTINGS = ReconcileSettings("", "", "", "https://runyard.example", GRACE.total_seconds(), 1000)


class Documents(Protocol):
    """A store for the functions, and what hosts, operators and tests do to documents."""

    @property
    def store(self) -> Any:
        """As the functions know it."""
        ...

    async def write_host(self, host_id: str, lease_until: datetime) -> None: ...
    async def list_runners(self) -> dict[str, SeenRunner]: ...
    async def claim(self, seen: SeenRunner, fields: dict[str, Any]) -> bool: ...
    async def update_runner(self, name: str, fields: dict[str, Any]) -> None: ...
    async def fail_runner(self, name: str, fields: dict[str, Any], command: Command) -> None: ...
    async def write_command(self, command_id: str, command: Command) -> None: ...
    async def end_runner(self, name: str, job_key: str) -> None: ...
    async def read_ledger(self) -> Ledger: ...
    async def read_raw_ledger(self) -> dict[str, Any]: ...
    async def spoil_ledger(self, fields: dict[str, Any] | None) -> None:
        """As a person would; None deletes it."""
        ...

    async def list_jobs(self) -> dict[str, WorkflowJob]: ...


@dataclass
class Container:
    """A runner's container, while it runs."""

    name: str
    host_id: str
    size: Size
    started_at: datetime
    session: str
    asked_at: datetime
    """when its host last asked whether it is still needed"""
    job: Job | None = None


@dataclass
class HostModel:
    """A Docker host and its controller."""

    host_id: str
    is_up: bool = True
    containers: dict[str, Container] = field(default_factory=dict)

    @property
    def taken(self) -> Size:
        return sum((container.size for container in self.containers.values()), NOTHING)


class Instance:
    """One instance of the functions."""

    def __init__(self, yard: "Yard"):
        self.fuse = Fuse()
        self._yard = yard
        self._store: Any = Fragile(yard.documents.store, self.fuse)
        self._github: Any = Fragile(yard.github, self.fuse)
        self._admission = Admission(POOL, self._store, yard.now)
        self._handler = WebhookHandler(self._store, self, self._github, yard.now)
        self._provisioner = Provisioner(self._store, self, self._github, yard.now)
        self._commands = CommandHandler(self._store, self, self._github, yard.now)

    async def submit(self, pool: str, request: Request) -> Settled:
        assert pool == POOL
        return await self._admission.submit(request)

    async def handle(self, told: Told) -> None:
        await self._handler.handle(told.event)

    async def obey(self, command_id: str) -> Answer | None:
        return await self._commands.handle(command_id)

    async def reconcile(self) -> Report:
        follow_up, policies = self._provisioner.follow_up, PolicyInForce()
        run = Run(
            self._github, self._store, self._handler, self, follow_up, policies, SETTINGS, self._yard.now, self._nap
        )
        return await run.run()

    async def _nap(self, seconds: float) -> None:
        """Nobody waits for GitHub's sake here."""


class Yard:
    """Everything, and what may happen to it."""

    def __init__(self, documents: Documents, seed: int):
        self.clock = START
        self.documents = documents
        self.world = World(self.now, Random(seed), HandOut.RANDOM)  # noqa: S311 - repeatable on purpose
        self.github = MemoryGitHub(self.world, self.now)
        self.hosts = [HostModel("host-1"), HostModel("host-2")]
        self._rng = Random(seed)  # noqa: S311 - repeatable on purpose
        self._instance = Instance(self)
        self.reports: list[Report] = []
        self.was_ledger_edited = False
        self.commands: list[str] = []
        """what hosts have asked for, and what no trigger has fired for yet"""
        self.launched: set[str] = set()
        self.stolen: list[Job] = []
        """jobs that somebody else's runner has"""

    def now(self) -> datetime:
        return self.clock

    async def beat(self) -> None:
        """Heartbeats of the hosts that are up."""
        for one in self.hosts:
            if one.is_up:
                await self.documents.write_host(one.host_id, self.clock + timedelta(seconds=30))

    async def pass_time(self, seconds: float) -> None:
        self.clock += timedelta(seconds=seconds)
        await self.beat()

    # GitHub

    def dispatch(self, specs: Sequence[tuple[str, str]]) -> list[Job]:
        """Queues jobs, given as (name, the end that a test has in mind)."""
        jobs = self.world.dispatch(REPOSITORY, "ci", "main", [JobSpec(name, ("ci",), end) for name, end in specs])
        self.github.announce(*jobs)
        return jobs

    def cancel(self, job: Job) -> None:
        if (cancelled := self.world.cancel(job.id)) is not None:
            self.github.announce(cancelled)

    def steal(self, job: Job) -> None:
        """Somebody else's runner takes a job, and is done with it in the next round."""
        self.github.announce(self.world.steal(job.id, "somebody-elses-1"))
        self.stolen.append(job)

    def end_stolen(self) -> None:
        for job in self.stolen:
            self.world.end_stolen(job)
            self.github.announce(job)
        self.stolen.clear()

    def hand_out(self) -> None:
        """GitHub gives queued jobs to idle runners, any of them."""
        for job in self.world.hand_out_jobs():
            self.github.announce(job)
            container = self._containers()[job.runner_name or ""]
            container.job = job

    async def finish(self, container: Container, conclusion: str, *, is_written_down: bool = True) -> None:
        """A job ends, and its container with it."""
        runner = self.world.runner_of_session(container.session)
        job = self.world.finish(runner, conclusion)
        self.github.announce(job)
        self._remove(container)
        if is_written_down:
            await self.documents.end_runner(container.name, _key(job))

    # webhooks

    async def deliver(self, told: Told, *, crash_at: int | None = None) -> None:
        """One attempt; when the instance dies of it, GitHub has a failed delivery."""
        is_ok = await self._work(lambda instance: instance.handle(told), crash_at)
        self.github.note_delivery(told, is_ok=is_ok)

    def fail_delivery(self, told: Told) -> None:
        """It does not get through."""
        self.github.note_delivery(told, is_ok=False)

    async def reconcile(self, *, crash_at: int | None = None) -> None:
        async def reconcile(instance: Instance) -> None:
            self.reports.append(await instance.reconcile())

        await self._work(reconcile, crash_at)

    async def reconcile_twice_at_once(self) -> None:
        import asyncio

        first, second = Instance(self), Instance(self)
        self.reports += await asyncio.gather(first.reconcile(), second.reconcile())

    async def _work(self, work: Any, crash_at: int | None) -> bool:
        instance = self._instance
        try:
            if await until_crash(work(instance), instance.fuse, crash_at):
                return True
        except StoreUnavailable:
            # The function's answer is a 503 then.
            instance.fuse.left = None
            return False
        self._instance = Instance(self)
        return False

    # hosts

    def _containers(self) -> dict[str, Container]:
        return {name: container for one in self.hosts for name, container in one.containers.items()}

    @property
    def containers(self) -> list[Container]:
        return list(self._containers().values())

    def _remove(self, container: Container) -> None:
        for one in self.hosts:
            one.containers.pop(container.name, None)

    async def start_runners(self, one: HostModel, most: int = 10) -> None:
        """A controller claims what fits, and starts it."""
        if not one.is_up:
            return
        found = sorted((await self.documents.list_runners()).values(), key=lambda seen: seen.runner.created_at)
        for seen in found:
            runner = seen.runner
            sealed = runner.sealed_config
            if runner.status is not RunnerState.PENDING or sealed is None or one.host_id not in sealed.keys:
                continue
            room = Size(HOST_SIZE["cpus"] * 1000, HOST_SIZE["gib"] << 30) - one.taken
            if most and runner.profile.size.fits_into(room) and await self._claim(one, seen):
                most -= 1
                await self._launch(one, runner)

    async def _claim(self, one: HostModel, seen: SeenRunner) -> bool:
        claim = Claim(host_id=one.host_id, token="t", lease_until=self.clock + LEASE)
        status = move_runner(seen.runner.status, RunnerEvent.CLAIM)
        fields = {"status": status, "claim": claim.to_firestore(), "claimedAt": self.clock}
        return await self.documents.claim(seen, fields)

    async def _launch(self, one: HostModel, runner: PendingRunner) -> None:
        name = runner.runner_name
        assert name not in self.launched, f"{name} is started a second time"
        self.launched.add(name)
        registered = self.world.runners.get(runner.runner_id)
        if registered is None:
            await self._fail(RunnerState.SCHEDULING, name, one.host_id, "the registration has been deleted")
            return
        self.world.open_session(registered.id, registered.secret)
        registered.is_listening = True
        assert registered.session is not None
        one.containers[name] = Container(
            name, one.host_id, runner.profile.size, self.clock, registered.session, self.clock
        )
        await self.documents.update_runner(name, {"status": RunnerState.SCHEDULED, "launchedAt": self.clock})

    async def look_after(self, one: HostModel) -> None:
        """What a controller does from time to time: unwanted runners are stopped, idle ones are asked about."""
        if not one.is_up:
            return
        found = await self.documents.list_runners()
        for container in list(one.containers.values()):
            seen = found.get(container.name)
            if container.job is not None:
                continue
            if seen is not None and seen.runner.is_unwanted:
                await self._retire(container, "GitHub has dropped it")
            elif self.clock - container.asked_at > IDLE_FOR:
                container.asked_at = self.clock
                await self._ask_about(container)
        for name, seen in found.items():
            # Started by a controller that was killed, or by one whose machine has been started again.
            is_own = seen.runner.claim is not None and seen.runner.claim.host_id == one.host_id
            is_started = seen.runner.status in {RunnerState.SCHEDULING, RunnerState.SCHEDULED}
            if is_own and is_started and name not in one.containers:
                await self._fail(seen.runner.status, name, one.host_id, "its container has gone")

    async def _ask_about(self, container: Container) -> None:
        """Whether an idle runner is still needed; a trigger that does not fire leaves it as it is."""
        command = make_command(CommandKind.RETIRE, container.name, POOL, container.host_id, self.clock)
        command_id = f"{container.name}-retire-{len(self.reports)}-{self.clock.timestamp():.0f}"
        await self.documents.write_command(command_id, command)
        answer = await self.trigger(command_id)
        if answer is not None and answer.may_stop:
            await self._retire(container, answer.reason)

    async def trigger(self, command_id: str, *, crash_at: int | None = None) -> Answer | None:
        """Firestore's trigger fires for a command."""
        answers: list[Answer | None] = []

        async def obey(instance: Instance) -> None:
            answers.append(await instance.obey(command_id))

        await self._work(obey, crash_at)
        return answers[0] if answers else None

    async def _retire(self, container: Container, reason: str) -> None:
        self._close_session(container)
        self._remove(container)
        fields = {
            "status": move_runner(RunnerState.SCHEDULED, RunnerEvent.CANCEL),
            "reason": reason,
            "endedAt": self.clock,
            "expireAt": self.clock + KEPT_FOR,
        }
        await self.documents.update_runner(container.name, fields)

    async def die(self, container: Container) -> None:
        """A container without a job ends by itself, and its controller notices."""
        self._close_session(container)
        self._remove(container)
        await self._fail(RunnerState.SCHEDULED, container.name, container.host_id, "it ended without a job")

    def _close_session(self, container: Container) -> None:
        for runner in self.world.runners.values():
            if runner.session == container.session:
                runner.session, runner.is_listening = None, False

    async def crash_host(self, one: HostModel) -> None:
        """The machine is gone, with all its containers."""
        one.is_up = False
        for container in list(one.containers.values()):
            self.lose(container)

    def lose(self, container: Container) -> None:
        """A container vanishes; after a while GitHub notices that nobody is there."""
        for runner in list(self.world.runners.values()):
            if runner.session == container.session:
                runner.is_listening = False
                if (job := self.world.lose(runner)) is not None:
                    self.github.announce(job)
        self._remove(container)

    async def _fail(self, state: RunnerState, name: str, host_id: str, reason: str) -> None:
        fields, command = note_failure(state, name, POOL, host_id, reason, self.clock)
        await self.documents.fail_runner(name, fields, command)
        self.commands.append(f"{name}-{command.kind}")

    # what must hold at every moment

    async def check(self) -> None:
        """Never more runners than allowed, never more than the hosts have."""
        for one in self.hosts:
            assert one.taken.fits_into(Size(HOST_SIZE["cpus"] * 1000, HOST_SIZE["gib"] << 30))
        if self.was_ledger_edited:
            return
        ledger = await self.documents.read_ledger()
        assert len(ledger.leases) <= PLACES, "more places than the policy allows"
        known = {runner.name for runner in self.world.runners.values()}
        assert len(known & self._containers().keys()) <= PLACES, "more runners than the policy allows"
        counted = [lease.job_key for lease in ledger.leases.values() if lease.job_key]
        assert len(counted) == len(set(counted)), "two places for one job"

    # the end

    async def settle(self, *, most_rounds: int = 40) -> None:
        """Lets everything go on undisturbed until nothing changes any more."""
        for _ in range(most_rounds):
            for one in self.hosts:
                await self.look_after(one)
            await self.reconcile()
            for one in self.hosts:
                await self.start_runners(one)
            self.hand_out()
            self.end_stolen()
            for container in list(self.containers):
                if container.job is not None:
                    await self.finish(container, container.job.script)
            while self.github.waiting:
                await self.deliver(self.github.waiting.pop(0))
            while self.commands:
                await self.trigger(self.commands.pop(0))
            await self.check()
            if await self.is_over():
                return
            await self.pass_time(151)
        raise AssertionError(f"not settled after {most_rounds} rounds: {await self.describe()}")

    async def is_over(self) -> bool:
        return not await self.left_over()

    async def left_over(self) -> dict[str, Any]:
        """Whatever must not be there when all jobs have ended."""
        ledger = await self.documents.read_ledger()
        jobs = await self.documents.list_jobs()
        live = {
            name: seen.runner.status
            for name, seen in (await self.documents.list_runners()).items()
            if seen.runner.status not in {RunnerState.FAILED, RunnerState.CANCELLED}
        }
        ended = {key for key, job in jobs.items() if job.state is JobState.COMPLETED}
        keys = {_key(job) for job in self.world.jobs.values() if _key(job) in jobs or not self._is_unheard_of(job)}
        found = {
            "leases": list(ledger.leases),
            "queue": list(ledger.queue),
            "documents": live,
            "containers": [container.name for container in self.containers],
            "registered": [runner.name for runner in self.world.runners.values()],
            "not ended at GitHub": [job.name for job in self.world.jobs.values() if job.status != "completed"],
            "not ended here": sorted(keys - ended),
        }
        return {what: names for what, names in found.items() if names}

    async def outcome(self) -> dict[str, tuple[str | None, str | None]]:
        """How each job has ended: at GitHub, and in its document."""
        jobs = await self.documents.list_jobs()
        found = {}
        for job in self.world.jobs.values():
            document = jobs.get(_key(job))
            if document is not None or not self._is_unheard_of(job):
                found[job.name] = (job.conclusion, document.conclusion if document is not None else None)
        return found

    def _is_unheard_of(self, job: Job) -> bool:
        """A job that ended before any webhook about it arrived, or a run saw it, leaves no document: none is needed."""
        of_job = (told for told in self.github.told if told.event.job_id == job.id)
        has_arrived = any(attempt.is_ok for told in of_job for attempt in told.attempts)
        return job.status == "completed" and not has_arrived

    async def describe(self) -> str:
        last = self.reports[-1].steps if self.reports else ()
        notes = [f"{step.name}: {step.done} {step.notes}" for step in last]
        return f"{await self.left_over()}\n{await self.documents.list_jobs()}\nlast run: {notes}"


def _key(job: Job) -> str:
    return f"{OWNER}_{job.run_id}_{job.id}"


def host_fields(host_id: str, lease_until: datetime) -> dict[str, Any]:
    return host(host_id, **HOST_SIZE, lease_until=lease_until, heartbeat_at=START).to_firestore()
