"""Brings ledger, jobs and runners together again, and lets those in who wait."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol

from ..admission.group import Settled
from ..admission.requests import Applied, Refresh, Request, Terms
from ..admission.terms import Account, terms_by_pool
from ..documents.host import Host
from ..documents.in_force import PolicyInForce
from ..documents.installation import Installation, has_policy
from ..documents.ledger import Lease, Ledger, SeenLedger
from ..documents.lifecycle import RunnerState
from ..documents.pending_runner import KEPT_FOR, PendingRunner, SeenRunner
from ..documents.workflow_job import RunnerProfile, WorkflowJob
from ..webhook.event import Action
from .audit import Known, Mend, audit, pool_of
from .tally import Tally

_LOST_BECAUSE = "its runner has gone, or never came"


class OpenJobStore(Protocol):
    """A store that knows the jobs that have not ended."""

    async def list_open_jobs(self, after: str = "") -> tuple[WorkflowJob, ...]: ...


async def list_open_jobs(store: OpenJobStore) -> tuple[WorkflowJob, ...]:
    """All of them, page by page."""
    jobs: list[WorkflowJob] = []
    while page := await store.list_open_jobs(jobs[-1].key if jobs else ""):
        jobs += page
    return tuple(jobs)


class PlaceStore(OpenJobStore, Protocol):
    """What is needed of the store."""

    async def read_installation(self, owner: str) -> Installation | None: ...
    async def list_ledgers(self) -> Mapping[str, SeenLedger]: ...
    async def mend_ledger(self, pool: str, seen: SeenLedger) -> bool: ...
    async def list_live_runners(self) -> tuple[SeenRunner, ...]: ...
    async def read_runners(self, names: Iterable[str]) -> dict[str, SeenRunner]: ...
    async def read_jobs(self, keys: Sequence[str]) -> dict[str, WorkflowJob]: ...
    async def find_jobs_of_runner(self, runner_name: str) -> tuple[WorkflowJob, ...]: ...
    async def give_up_runner(self, tombstone: PendingRunner) -> bool: ...


class Admissions(Protocol):
    """The ledgers of all pools."""

    async def submit(self, pool: str, request: Request) -> Settled: ...


class FollowUp(Protocol):
    """Does what a group of requests leaves to be done: runners for those who were let in."""

    async def __call__(self, settled: Settled, lost_because: str) -> tuple[str, ...]: ...


class Places:
    """The ledgers of all pools, for one run."""

    def __init__(
        self,
        store: PlaceStore,
        admissions: Admissions,
        follow_up: FollowUp,
        policies: PolicyInForce,
        now: Callable[[], datetime],
        grace: timedelta,
    ):
        self._store = store
        self._admissions = admissions
        self._follow_up = follow_up
        self._policies = policies
        self._now = now
        self._grace = grace

    async def mend(
        self,
        told: Mapping[str, Action],
        dropped: Collection[str],
        hosts: Collection[Host],
        accounts: Sequence[Account],
        tally: Tally,
    ) -> None:
        """Mends what does not fit together, and looks at every queue and every warm supply again.

        Args:
            told: what GitHub has said of jobs in this run.
            dropped: runners that GitHub does not know any more, although they live here.
            hosts: all of them.
            accounts: the organizations and users that have a policy.
            tally: of this step.
        """
        # In this order: a job that was queued when GitHub was asked may have started, or ended, since.
        live = await self._store.list_live_runners()
        ledgers = await self._store.list_ledgers()
        open_jobs = await list_open_jobs(self._store)
        refreshes = await self._refreshes(accounts, ledgers)
        pools = {*ledgers, *refreshes, *(host.pool for host in hosts), *(seen.runner.pool for seen in live)}
        pools |= {pool for job in open_jobs if (pool := pool_of(job)) is not None}
        for pool in sorted(pools):
            if tally.is_time_over:
                tally.leave_rest()
                break
            seen = ledgers.get(pool)
            if seen is not None and seen.problem and await self._store.mend_ledger(pool, seen):
                tally.count("ledgers mended")
                tally.note(seen.problem)
            ledger = seen.ledger if seen is not None else Ledger()
            known = await self._gather(pool, ledger, live, open_jobs, told, dropped)
            await self._apply(known, audit(known), refreshes.get(pool, [Refresh("")]), tally)

    async def _gather(
        self,
        pool: str,
        ledger: Ledger,
        live: Iterable[SeenRunner],
        open_jobs: Iterable[WorkflowJob],
        told: Mapping[str, Action],
        dropped: Collection[str],
    ) -> Known:
        jobs = {job.key: job for job in open_jobs}
        runners = {seen.runner.runner_name: seen.runner for seen in live if seen.runner.pool == pool}
        found = await self._store.read_runners(ledger.leases.keys() - runners.keys())
        runners |= {name: seen.runner for name, seen in found.items()}
        keys = {*(lease.job_key for lease in ledger.leases.values()), *ledger.queue} - {"", *jobs}
        jobs |= await self._store.read_jobs(sorted(keys)) if keys else {}
        had = {job.runner.name for job in jobs.values() if job.runner is not None}
        without = [name for name in runners if name not in ledger.leases and name not in had]
        for several in await asyncio.gather(*(self._store.find_jobs_of_runner(name) for name in without)):
            jobs |= {job.key: job for job in several if job.key not in jobs}
        return Known(pool, ledger, jobs, runners, told, dropped, self._now(), self._grace)

    async def _apply(self, known: Known, mends: Iterable[Mend], refreshes: Iterable[Refresh], tally: Tally) -> None:
        """All in one group: one commit, and those who wait are let in with it."""
        requests: list[tuple[Request, str]] = []
        for mend in mends:
            if mend.gives_up is not None:
                stone = tombstone(mend.gives_up, known.ledger.leases[mend.gives_up], known, self._now())
                if not await self._store.give_up_runner(stone):
                    # It was handed over at the last moment.
                    continue
            requests.append((mend.request, mend.what))
        requests += [(refresh, "") for refresh in refreshes]
        settled = await asyncio.gather(*(self._admissions.submit(known.pool, request) for request, _ in requests))
        for (_, what), one in zip(requests, settled, strict=True):
            if what and isinstance(one.result, Applied) and one.result.changed:
                tally.count(what)
            tally.count("admitted", len(one.todo.promotions))
            tally.count("warmed up", len(one.todo.warm_ups))
        for warnings in await asyncio.gather(*(self._follow_up(one, _LOST_BECAUSE) for one in settled)):
            for warning in warnings:
                tally.count("not provided")
                tally.note(warning)

    async def _refreshes(
        self, accounts: Sequence[Account], ledgers: Mapping[str, SeenLedger]
    ) -> dict[str, list[Refresh]]:
        """What the policies say now, by pool: an edit counts for those who wait already, and for idle runners."""
        refreshes: dict[str, list[Refresh]] = {}
        for shown in accounts:
            installation = await self._store.read_installation(shown.login)
            if installation is None or not has_policy(installation):
                continue
            policy = self._policies.resolve(shown.login, installation, self._now()).policy
            if policy is None:
                continue
            account = replace(shown, installation_id=installation.github_installation_id)
            for pool, terms in terms_by_pool(policy.policy, account).items():
                seen = ledgers.get(pool)
                kept = tuple(_as_known(one, seen.ledger if seen is not None else Ledger()) for one in terms)
                refreshes.setdefault(pool, []).append(Refresh(account.login, kept))
        return refreshes


def _as_known(terms: Terms, ledger: Ledger) -> Terms:
    """The id of the App's installation, which only webhooks tell, stays as it is known."""
    known = ledger.limits.get(terms.scale_set)
    if terms.warm is None or terms.warm.plan.installation_id is not None or known is None or known.warm is None:
        return terms
    plan = terms.warm.plan.model_copy(update={"installation_id": known.warm.plan.installation_id})
    return replace(terms, warm=terms.warm.model_copy(update={"plan": plan}))


def tombstone(name: str, lease: Lease, known: Known, now: datetime) -> PendingRunner:
    """The document of a runner that was never handed over: under its name, none can be any more."""
    job = known.jobs.get(lease.job_key)
    plan = job.plan if job is not None else None
    profile = RunnerProfile(name=lease.profile, cpu_millis=lease.cpu_millis, memory_bytes=lease.memory_bytes, pids=0)
    return PendingRunner(
        runner_name=name,
        org=job.org if job is not None else lease.scale_set.partition("/")[0],
        repository=lease.repository,
        job_key=lease.job_key,
        job_name=job.name if job is not None else "",
        runner_id=0,
        scope=plan.scope if plan is not None else "",
        labels=lease.labels,
        scale_set=lease.scale_set.rpartition("/")[2],
        pool=known.pool,
        image=plan.image if plan is not None else "",
        profile=plan.profile if plan is not None else profile,
        status=RunnerState.CANCELLED,
        reason="it was not handed over in time, or has gone",
        created_at=now,
        ended_at=now,
        expire_at=now + KEPT_FOR,
        # Without a job nobody knows where it would be registered: GitHub's own list tells.
        is_registered=plan is not None,
    )
