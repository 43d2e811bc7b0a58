"""From a reserved place to a document that a host can claim: JIT config from GitHub, sealed, published."""

import asyncio
import json
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from pydantic import SecretStr

from ..admission.group import Settled
from ..admission.requests import Flip, Postpone, Promotion, Request
from ..documents.errors import StoreUnavailable
from ..documents.host import Host
from ..documents.lifecycle import JobState
from ..documents.pending_runner import PendingRunner
from ..documents.sealing import SealedConfig, seal
from ..documents.workflow_job import Provisioning, Reservation, RunnerPlan, WorkflowJob
from ..github.errors import GitHubError
from ..github.protocol import JitRunner, RunnerOrder, Scope

_AGAIN_AFTER = timedelta(seconds=60)
"""when GitHub does not say itself when to try again"""


class ProvisionStore(Protocol):
    """What provisioning needs of the store."""

    async def list_hosts(self, pool: str) -> tuple[Host, ...]: ...
    async def read_jobs(self, keys: Sequence[str]) -> dict[str, WorkflowJob]: ...
    async def merge_job(self, job: WorkflowJob) -> None: ...
    async def publish_runner(self, runner: PendingRunner) -> None: ...


class Admissions(Protocol):
    """The ledgers of all pools."""

    async def submit(self, pool: str, request: Request) -> Settled: ...


class RunnerRegistry(Protocol):
    """What is wanted of GitHub."""

    async def create_jit_runner(self, order: RunnerOrder) -> JitRunner: ...
    async def set_variable(self, scope: Scope, name: str, value: str, installation_id: int | None) -> None: ...


class Provisioner:
    """Makes runners for jobs that have a place."""

    def __init__(
        self, store: ProvisionStore, admissions: Admissions, github: RunnerRegistry, now: Callable[[], datetime]
    ):
        self._store = store
        self._admissions = admissions
        self._github = github
        self._now = now

    async def provide(self, job: WorkflowJob) -> str | None:
        """Gets a job's reserved place its runner; the reason in words when that fails, and the place is free again."""
        reservation, plan = job.reservation, job.plan
        if reservation is None or plan is None or reservation.has_runner:
            return None
        try:
            runner = await self._github.create_jit_runner(_order_of(reservation.runner_name, plan))
        except GitHubError as error:
            return await self._postpone(job, reservation, str(error), error.retry_at)
        sealed = await self._seal(runner.config, reservation.pool)
        if not sealed.keys:
            failure = f"no host of pool {reservation.pool} is alive with a usable key: restart a controller"
            return await self._postpone(job, reservation, failure, self._now() + _AGAIN_AFTER)
        pending = PendingRunner(
            runner_name=reservation.runner_name,
            org=job.org,
            repository=job.repository,
            job_key=job.key,
            job_name=job.name,
            runner_id=runner.runner_id,
            scope=plan.scope,
            labels=plan.labels,
            scale_set=plan.scale_set,
            pool=reservation.pool,
            image=plan.image,
            profile=plan.profile,
            sizing=plan.sizing,
            sealed_config=sealed,
            created_at=self._now(),
        )
        try:
            await self._store.publish_runner(pending)
        except StoreUnavailable as error:
            # The reservation is durable, so the delivery has succeeded: reconciling finishes or undoes it.
            return f"reserved and registered, but not handed to a host: {error}"
        return None

    async def follow_up(self, settled: Settled) -> tuple[str, ...]:
        """Does what a group of requests has left to be done; what went wrong, a line for each."""
        promoted, flipped = await asyncio.gather(self._provide(settled.promotions), self._flip(settled.flips))
        return promoted + flipped

    async def _flip(self, flips: Sequence[Flip]) -> tuple[str, ...]:
        warnings = []
        for flip in flips:
            switch, value = flip.switch, json.dumps(flip.labels)
            try:
                await self._github.set_variable(Scope(switch.scope), switch.name, value, switch.installation_id)
            except GitHubError as error:
                warnings.append(f"variable {switch.name} could not be switched to {value}: {error}")
        return tuple(warnings)

    async def _provide(self, promotions: Sequence[Promotion]) -> tuple[str, ...]:
        if not promotions:
            return ()
        jobs = await self._store.read_jobs([promotion.job_key for promotion in promotions])
        failures = await asyncio.gather(*(self.provide(job) for job in jobs.values()))
        return tuple(
            f"{job.key}: {failure}" for job, failure in zip(jobs.values(), failures, strict=True) if failure is not None
        )

    async def _seal(self, config: SecretStr, pool: str) -> SealedConfig:
        hosts = [host for host in await self._store.list_hosts(pool) if host.is_available(self._now())]
        return seal(config, {host.host_id: host.public_key for host in hosts})

    async def _postpone(
        self, job: WorkflowJob, reservation: Reservation, failure: str, retry_at: datetime | None
    ) -> str:
        """The place is free again. The job waits if trying again makes sense; else its document says what to mend."""
        until = retry_at or self._now() + _AGAIN_AFTER
        request = Postpone(job, until, failure, is_held=retry_at is not None)
        await self._admissions.submit(reservation.pool, request)
        provisioning = Provisioning(failure=failure, retry_at=retry_at)
        await self._store.merge_job(job.only(JobState.RESERVED, provisioning=provisioning))
        return failure


def _order_of(name: str, plan: RunnerPlan) -> RunnerOrder:
    return RunnerOrder(Scope(plan.scope), name, plan.runner_group, plan.labels, plan.work_folder, plan.installation_id)


def scope_of(owner: str, repository: str, *, at_organization: bool) -> Scope:
    """Where a job's runner is registered."""
    return Scope.organization(owner) if at_organization else Scope.repository(repository)
