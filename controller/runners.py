"""The runners of this host: what each one is, has and does. Everybody else asks here."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime

from functions.documents.pending_runner import PendingRunner
from functions.documents.workflow_job import RunnerEgress, RunnerProfile, SizingRules
from functions.routing.capacity import Size

from .attribution import Attribution
from .container_spec import Adopted
from .host_ledger import HostLedger
from .networks import BridgePlan


@dataclass(frozen=True)
class RunningJob:
    """The job that a runner really got."""

    key: str
    name: str


@dataclass(frozen=True)
class LocalRunner:
    """A runner that this host has claimed."""

    name: str
    org: str
    pool: str
    made_for: RunningJob
    made_for_profile: str
    profile: str
    """that its container has now"""
    size: Size
    pids: int = 0
    """most processes, as it was made"""
    sizing: SizingRules = field(default_factory=SizingRules)
    idle_timeout_s: int = 300
    """without a job, after which it is asked whether it is still needed"""
    image: str = ""
    privileges: str = ""
    egress: RunnerEgress = field(default_factory=RunnerEgress)
    bridge: BridgePlan | None = None
    """None until it is being launched"""
    container_id: str = ""
    pid: int = 0
    launched_at: datetime | None = None
    claimed_at: datetime | None = None
    provisioned_at: datetime | None = None
    """when its document was made"""
    has_asked: bool = False
    """its job has asked the gate, whatever came of it"""
    job: RunningJob | None = None
    job_started_at: datetime | None = None
    retired: str = ""
    """why it is not needed any more: GitHub has removed it, and it is being stopped"""
    timeout_s: int | None = None
    """the job is stopped after so long"""

    @classmethod
    def of_claim(cls, runner: PendingRunner) -> "LocalRunner":
        return cls(
            name=runner.runner_name,
            org=runner.org,
            pool=runner.pool,
            made_for=RunningJob(runner.job_key, runner.job_name),
            made_for_profile=runner.profile.name,
            profile=runner.profile.name,
            size=runner.profile.size,
            pids=runner.profile.pids,
            sizing=runner.sizing,
            idle_timeout_s=runner.idle_timeout_s,
            image=runner.image,
            privileges=runner.profile.privileges,
            egress=runner.profile.egress,
            claimed_at=runner.claimed_at,
            provisioned_at=runner.created_at,
        )

    @classmethod
    def of_container(
        cls, adopted: Adopted, size: Size, bridge: BridgePlan, container_id: str, pid: int, started_at: datetime | None
    ) -> "LocalRunner":
        return cls(
            name=adopted.runner_name,
            org=adopted.org,
            pool=adopted.pool,
            made_for=RunningJob(adopted.job_key, adopted.job_name),
            made_for_profile=adopted.profile,
            profile=adopted.profile,
            size=size,
            pids=adopted.pids,
            sizing=adopted.sizing,
            idle_timeout_s=adopted.idle_timeout_s,
            image=adopted.image,
            privileges=adopted.privileges,
            egress=adopted.egress,
            bridge=bridge,
            container_id=container_id,
            pid=pid,
            claimed_at=adopted.claimed_at,
            provisioned_at=adopted.provisioned_at,
            launched_at=started_at,
        )

    @property
    def own_profile(self) -> RunnerProfile:
        """What a job without a profile runs on."""
        return RunnerProfile(
            name=self.profile, cpu_millis=self.size.cpu_millis, memory_bytes=self.size.memory_bytes, pids=self.pids
        )

    @property
    def attribution(self) -> Attribution | None:
        """What its connections are called; None while it has no bridge."""
        if self.bridge is None:
            return None
        job = self.job or self.made_for
        return Attribution(
            gateway=self.bridge.gateway,
            address=self.bridge.address,
            runner_name=self.name,
            org=self.org,
            profile=self.profile,
            job_name=job.name,
            job_key=job.key,
            egress=self.egress,
            has_job=self.job is not None,
        )


class Runners:
    """All of them, with the ledger of what they take."""

    def __init__(self, capacity: Size):
        self._capacity = capacity
        self._runners: dict[str, LocalRunner] = {}
        self._growing: dict[str, Size] = {}
        self._awaited: dict[str, Size] = {}
        self.room_changed = asyncio.Condition()

    def __iter__(self) -> Iterator[LocalRunner]:
        return iter(list(self._runners.values()))

    def __len__(self) -> int:
        return len(self._runners)

    def __contains__(self, name: str) -> bool:
        return name in self._runners

    def get(self, name: str) -> LocalRunner | None:
        return self._runners.get(name)

    def find(self, gateway: str, address: str) -> LocalRunner | None:
        """The runner that has these addresses."""
        for runner in self._runners.values():
            if runner.bridge is not None and (runner.bridge.gateway, runner.bridge.address) == (gateway, address):
                return runner
        return None

    def put(self, runner: LocalRunner) -> None:
        self._runners[runner.name] = runner

    def change(self, name: str, **fields: object) -> LocalRunner | None:
        """Replaces fields of a runner; None when it is gone meanwhile."""
        if name not in self._runners:
            return None
        self._runners[name] = replace(self._runners[name], **fields)  # type: ignore[arg-type]
        return self._runners[name]

    async def remove(self, name: str) -> None:
        self._runners.pop(name, None)
        await self.room_has_changed()

    @property
    def ledger(self) -> HostLedger:
        """Derived from the runners themselves, so it cannot drift; one that is growing counts with its larger size."""
        return HostLedger(self._capacity, {name: self._taken(runner) for name, runner in self._runners.items()})

    @property
    def ledger_for_claims(self) -> HostLedger:
        """As those see it who want to come: the jobs that wait here for room are before them.

        Otherwise small new runners would take each piece that comes free, and a large job would wait in vain and fail.
        """
        ledger = self.ledger
        for name in self._awaited.keys() & self._runners.keys():
            ledger = ledger.with_runner(name, _larger(ledger.taken[name], self._awaited[name]))
        return ledger

    def _taken(self, runner: LocalRunner) -> Size:
        return _larger(runner.size, self._growing.get(runner.name, runner.size))

    def could_ever_hold(self, size: Size) -> bool:
        """Whether waiting can help."""
        return size.fits_into(self._capacity)

    async def reserve(self, name: str, size: Size, within_s: float) -> bool:
        """Sets room aside for a runner that is to get another size; False when none came free in time."""
        self._awaited[name] = size
        try:
            async with asyncio.timeout(within_s), self.room_changed:
                await self.room_changed.wait_for(lambda: self.ledger.has_room_for(name, size))
                self._growing[name] = size
                return True
        except TimeoutError:
            return False
        finally:
            self._awaited.pop(name, None)

    def oversubscribe(self, name: str, size: Size) -> None:
        """Sets room aside that there is not: nothing new comes to this host until others have ended."""
        self._growing[name] = size

    async def settle(self, name: str) -> None:
        """The runner has its new size, or keeps its old one: what was set aside beyond that is free again."""
        self._growing.pop(name, None)
        await self.room_has_changed()

    async def room_has_changed(self) -> None:
        async with self.room_changed:
            self.room_changed.notify_all()


def _larger(one: Size, other: Size) -> Size:
    return Size(max(one.cpu_millis, other.cpu_millis), max(one.memory_bytes, other.memory_bytes))
