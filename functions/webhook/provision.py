"""From a reserved place to a document that a host can claim: JIT config from GitHub, sealed, published."""

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from pydantic import SecretStr

from ..admission.group import Settled
from ..admission.requests import Flip, Postpone, Promotion, Request, Requeue, Todo, WarmUp
from ..admission.terms import scale_set_key
from ..documents.errors import StoreUnavailable
from ..documents.host import Host
from ..documents.lifecycle import JobState, RunnerState
from ..documents.pending_runner import KEPT_FOR, PendingRunner
from ..documents.sealing import SealedConfig, seal
from ..documents.workflow_job import Provisioning, RunnerPlan, WorkflowJob
from ..github.errors import GitHubError, NoAnswer
from ..github.protocol import JitRunner, RunnerOrder, Scope

_AGAIN_AFTER = timedelta(seconds=60)
"""when GitHub does not say itself when to try again"""
_WAIT_S_AFTER_LOSSES = (0, 15, 60, 300, 900)
"""seconds until a job that has lost so many runners gets another: the first time at once, perhaps on another host"""


class ProvisionStore(Protocol):
    """What provisioning needs of the store."""

    async def list_hosts(self, pool: str) -> tuple[Host, ...]: ...
    async def read_jobs(self, keys: Sequence[str]) -> dict[str, WorkflowJob]: ...
    async def merge_job(self, job: WorkflowJob) -> None: ...
    async def publish_runner(self, runner: PendingRunner) -> bool: ...
    async def give_up_runner(self, tombstone: PendingRunner) -> bool: ...


class Admissions(Protocol):
    """The ledgers of all pools."""

    async def submit(self, pool: str, request: Request) -> Settled: ...


class RunnerRegistry(Protocol):
    """What is wanted of GitHub."""

    async def create_jit_runner(self, order: RunnerOrder) -> JitRunner: ...
    async def delete_runner(self, scope: Scope, runner_id: int, installation_id: int | None) -> None: ...
    async def set_variable(self, scope: Scope, name: str, value: str, installation_id: int | None) -> None: ...


class Provisioner:
    """Makes runners for the places that were taken, and does what else a group of requests has left to be done."""

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
        order = _Place(reservation.runner_name, reservation.pool, job.org, plan, job)
        return await self._make_runner(order)

    async def follow_up(self, settled: Settled, lost_because: str = "its runner is gone") -> tuple[str, ...]:
        """Does what is left to be done; what went wrong, a line for each.

        Args:
            settled: what was settled.
            lost_because: why displaced jobs have no runner any more, for their documents.
        """
        todo = settled.todo
        if todo == Todo():
            return ()
        done = await asyncio.gather(
            self._provide(todo.promotions),
            self._warm_up(todo.warm_ups),
            self._find_others(todo.displaced, lost_because),
            self._flip(todo.flips),
        )
        return tuple(warning for warnings in done for warning in warnings)

    async def _provide(self, promotions: Sequence[Promotion]) -> list[str]:
        if not promotions:
            return []
        jobs = await self._store.read_jobs([promotion.job_key for promotion in promotions])
        failures = await asyncio.gather(*(self.provide(job) for job in jobs.values()))
        return [f"{job.key}: {failure}" for job, failure in zip(jobs.values(), failures, strict=True) if failure]

    async def _warm_up(self, warm_ups: Sequence[WarmUp]) -> list[str]:
        """Makes runners that wait for any job."""
        orders = [_Place(w.runner_name, w.pool, w.org, w.plan, None, w.host) for w in warm_ups]
        failures = await asyncio.gather(*(self._make_runner(order) for order in orders))
        return [f"{o.runner_name}: {failure}" for o, failure in zip(orders, failures, strict=True) if failure]

    async def _find_others(self, displaced: Sequence[str], reason: str) -> list[str]:
        """Jobs that have lost their runners wait again, and get the next place that there is."""
        if not displaced:
            return []
        jobs = await self._store.read_jobs(displaced)
        waiting = [job for job in jobs.values() if job.state is JobState.RESERVED and job.plan is not None]
        warnings = await asyncio.gather(*(self._find_another(job, reason) for job in waiting))
        return [warning for of_one in warnings for warning in of_one]

    async def _find_another(self, job: WorkflowJob, reason: str) -> tuple[str, ...]:
        if job.reservation is None:
            return ()
        lost = job.provisioning.runners_lost if job.provisioning is not None else 0
        wait_s = _WAIT_S_AFTER_LOSSES[min(lost, len(_WAIT_S_AFTER_LOSSES) - 1)]
        not_before = self._now() + timedelta(seconds=wait_s) if wait_s else None
        note = Provisioning(failure=reason, failed_at=self._now(), retry_at=not_before, runners_lost=lost + 1)
        await self._store.merge_job(job.only(JobState.RESERVED, provisioning=note))
        return await self.follow_up(await self._admissions.submit(job.reservation.pool, Requeue(job, not_before)))

    async def _flip(self, flips: Sequence[Flip]) -> list[str]:
        warnings = []
        for flip in flips:
            switch, value = flip.switch, json.dumps(flip.labels)
            try:
                await self._github.set_variable(Scope(switch.scope), switch.name, value, switch.installation_id)
            except GitHubError as error:
                warnings.append(f"variable {switch.name} could not be switched to {value}: {error}")
        return warnings

    async def _make_runner(self, place: "_Place") -> str | None:
        """JIT config, sealed, published; or the place is free again, and the reason in words."""
        try:
            runner = await self._github.create_jit_runner(place.order)
        except GitHubError as error:
            if isinstance(error, NoAnswer):
                # GitHub may have made it all the same: its document has it removed there.
                await self._store.give_up_runner(place.to_tombstone(str(error), self._now()))
            return await self._give_up(place, str(error), error.retry_at)
        sealed = await self._seal(runner.config, place.pool)
        if not sealed.keys:
            failure = f"no host of pool {place.pool} is alive with a usable key: restart a controller"
            return await self._give_up(place, failure, self._now() + _AGAIN_AFTER)
        try:
            document = place.to_document(runner.runner_id, sealed, self._now())
            is_published = await self._store.publish_runner(document)
        except StoreUnavailable as error:
            # The reservation is durable, so the delivery has succeeded: reconciling finishes or undoes it.
            return f"reserved and registered, but not handed to a host: {error}"
        if is_published:
            return None
        # Reconciling has waited for it long enough.
        with suppress(GitHubError):
            await self._github.delete_runner(Scope(place.plan.scope), runner.runner_id, place.plan.installation_id)
        return f"the place of runner {place.runner_name} was given up meanwhile: whoever counted on it gets another"

    async def _seal(self, config: SecretStr, pool: str) -> SealedConfig:
        hosts = [host for host in await self._store.list_hosts(pool) if host.is_available(self._now())]
        return seal(config, {host.host_id: host.public_key for host in hosts})

    async def _give_up(self, place: "_Place", failure: str, retry_at: datetime | None) -> str:
        """The place is free again. Its job waits if trying again makes sense; else its document says what to mend."""
        until = retry_at or self._now() + _AGAIN_AFTER
        scale_set = scale_set_key(place.org, place.plan.scale_set)
        waits = place.job if retry_at is not None else None
        await self._admissions.submit(place.pool, Postpone(place.runner_name, scale_set, until, failure, waits))
        if place.job is not None:
            provisioning = Provisioning(failure=failure, failed_at=self._now(), retry_at=retry_at)
            await self._store.merge_job(place.job.only(JobState.RESERVED, provisioning=provisioning))
        return failure


@dataclass(frozen=True)
class _Place:
    """A place in a ledger that needs its runner."""

    runner_name: str
    pool: str
    org: str
    plan: RunnerPlan
    job: WorkflowJob | None
    """None: the runner waits for any job"""
    host: str = ""

    @property
    def order(self) -> RunnerOrder:
        plan = self.plan
        return RunnerOrder(
            Scope(plan.scope), self.runner_name, plan.runner_group, plan.labels, plan.work_folder, plan.installation_id
        )

    def to_tombstone(self, reason: str, now: datetime) -> PendingRunner:
        """Says that no such runner is to be started, and that GitHub may have it registered."""
        over = {"status": RunnerState.CANCELLED, "reason": reason, "ended_at": now, "expire_at": now + KEPT_FOR}
        return self.to_document(0, None, now).model_copy(update=over)

    def to_document(self, runner_id: int, sealed: SealedConfig | None, now: datetime) -> PendingRunner:
        job, plan = self.job, self.plan
        return PendingRunner(
            runner_name=self.runner_name,
            org=self.org,
            repository=job.repository if job is not None else "",
            job_key=job.key if job is not None else "",
            job_name=job.name if job is not None else "",
            runner_id=runner_id,
            scope=plan.scope,
            labels=plan.labels,
            scale_set=plan.scale_set,
            pool=self.pool,
            image=plan.image,
            profile=plan.profile,
            sizing=plan.sizing,
            idle_timeout_s=plan.idle_timeout_s,
            preferred_host=self.host,
            sealed_config=sealed,
            created_at=now,
        )
