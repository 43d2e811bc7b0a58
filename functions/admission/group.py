"""Group commit: the webhooks that arrive while one commit is in flight go together in the next.

One `Admission` serves one pool in one process. Several processes may serve the same pool: the ledger's compare-and-swap
keeps them exact. Why neither transactions nor counters: docs/decisions/0001-admission.md.
"""

import asyncio
import random
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from ..documents.errors import Moved, StoreUnavailable
from ..documents.host import Host
from ..documents.ledger import Ledger
from ..documents.workflow_job import WorkflowJob
from .plan import make_plan
from .requests import (
    Admit,
    Forget,
    Plan,
    Postpone,
    Promotion,
    Refresh,
    Release,
    Request,
    Requeue,
    Restore,
    Result,
    Retire,
    Start,
    Todo,
)

MOST_IN_A_GROUP = 150
SPACING_S = 0.25
"""between commits when a pool is busy: one document takes only so many writes a second"""
CREDIT = 20
"""commits that may follow each other without spacing after a quiet time: a matrix of 500 jobs takes fewer"""
UNHURRIED_S = 1.0
"""between commits that only bring the news of jobs that have begun or ended, while nobody waits for a place"""
MOST_ATTEMPTS = 8


@dataclass(frozen=True)
class LedgerSnapshot:
    """A pool's ledger and the version that a compare-and-swap must name; None when there is no ledger yet."""

    ledger: Ledger
    version: datetime | None


class LedgerStore(Protocol):
    """What admission needs of the store."""

    async def list_hosts(self, pool: str) -> tuple[Host, ...]:
        """The hosts of a pool, dead ones too."""
        ...

    async def read_ledger(
        self, pool: str, job_keys: Sequence[str]
    ) -> tuple[Ledger, datetime | None, Mapping[str, WorkflowJob]]:
        """The ledger with its version, and those of the jobs that exist, all as of one moment."""
        ...

    async def commit_ledger(
        self,
        pool: str,
        version: datetime | None,
        ledger: Ledger,
        creates: Sequence[WorkflowJob],
        promotions: Sequence[Promotion],
    ) -> datetime:
        """Writes ledger, new jobs and promoted jobs, all or nothing, and returns the ledger's new version.

        Raises:
            Moved: the ledger is no longer at that version, or one of the new jobs exists.
        """
        ...


@dataclass(frozen=True)
class Settled:
    """A request's result, and what its group leaves to be done: whoever gets it does it."""

    result: Result
    todo: Todo = field(default_factory=Todo)


@dataclass
class _Waiting:
    request: Request
    done: "asyncio.Future[Settled]"


class Admission:
    """The exact ledger of one pool, as seen from one process."""

    def __init__(self, pool: str, store: LedgerStore, now: Callable[[], datetime], unhurried_s: float = UNHURRIED_S):
        self._pool = pool
        self._store = store
        self._now = now
        self._snapshot: LedgerSnapshot | None = None
        self._waiting: list[_Waiting] = []
        self._committer: asyncio.Task[None] | None = None
        self._unhurried_s = unhurried_s
        self._hurry = asyncio.Event()
        self._credit = float(CREDIT)
        self._credited_at = 0.0

    async def submit(self, request: Request) -> Settled:
        """Settles one request durably, together with whatever else is waiting.

        Raises:
            StoreUnavailable: nothing is known to be written.
            StoreRefused: the store will not have it.
        """
        waiting = _Waiting(request, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._is_urgent(request):
            self._hurry.set()
        if self._committer is None or self._committer.done():
            self._committer = asyncio.create_task(self._commit_groups())
        return await waiting.done

    async def _commit_groups(self) -> None:
        # Requests that came in the same turn of the loop gather first.
        await asyncio.sleep(0)
        while self._waiting:
            await self._wait_for_others()
            await self._take_credit()
            group = [waiting for waiting in self._waiting[:MOST_IN_A_GROUP] if not waiting.done.cancelled()]
            del self._waiting[:MOST_IN_A_GROUP]
            try:
                plan = await self._settle([waiting.request for waiting in group])
            except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to those who wait for this group
                self._snapshot = None
                for waiting in group:
                    if not waiting.done.done():
                        waiting.done.set_exception(error)
            else:
                _hand_out(group, plan)

    async def _wait_for_others(self) -> None:
        """Lets what has time gather for a while after the commit before, until something comes that has not."""
        remaining_s = self._credited_at + self._unhurried_s - asyncio.get_running_loop().time()
        if remaining_s > 0 and not any(self._is_urgent(waiting.request) for waiting in self._waiting):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), remaining_s)
        self._hurry.clear()

    def _is_urgent(self, request: Request) -> bool:
        """Whether somebody waits for what it does: a place that comes free is of use to those who wait for one."""
        if not isinstance(request, Start | Release | Forget):
            return True
        return self._snapshot is None or bool(self._snapshot.ledger.queue)

    async def _take_credit(self) -> None:
        loop = asyncio.get_running_loop()
        self._credit = min(CREDIT, self._credit + (loop.time() - self._credited_at) / SPACING_S)
        self._credited_at = loop.time()
        if self._credit < 1:
            await asyncio.sleep((1 - self._credit) * SPACING_S)
            self._credit = 1
            self._credited_at = loop.time()
        self._credit -= 1

    async def _settle(self, requests: Sequence[Request]) -> Plan:
        job_keys = [request.job.key for request in requests if isinstance(request, Admit)]
        known: Mapping[str, WorkflowJob] = {}
        hosts = [host for host in await self._store.list_hosts(self._pool) if host.is_available(self._now())]
        snapshot = self._snapshot
        if snapshot is None or _may_be_stale_for(requests, snapshot.ledger):
            snapshot, known = await self._read(job_keys)
        tried: list[Plan] = []
        for attempt in range(MOST_ATTEMPTS):
            token = secrets.token_hex(8)
            sizes = {host.host_id: host.size for host in hosts}
            plan = make_plan(snapshot.ledger, requests, known, sizes, self._pool, token, self._now())
            if not plan.needs_commit:
                self._snapshot = snapshot
                return plan
            try:
                version = await self._store.commit_ledger(
                    self._pool, snapshot.version, plan.ledger, plan.creates, plan.todo.promotions
                )
            except (Moved, StoreUnavailable) as error:
                tried.append(plan)
                # A lost answer looks like a lost race; the tokens tell them apart.
                snapshot, known = await self._read_again(snapshot, job_keys, error)
                if (ours := _find_ours(tried, snapshot.ledger, known)) is not None:
                    self._snapshot = snapshot
                    return ours
                if isinstance(error, StoreUnavailable):
                    raise
                await asyncio.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311 - jitter
                continue
            self._snapshot = LedgerSnapshot(plan.ledger, version)
            return plan
        raise StoreUnavailable(f"the ledger of pool {self._pool} is too busy: {MOST_ATTEMPTS} commits lost the race")

    async def _read_again(
        self, lost: LedgerSnapshot, job_keys: Sequence[str], error: Moved | StoreUnavailable
    ) -> tuple[LedgerSnapshot, Mapping[str, WorkflowJob]]:
        """What there is after a commit of which no success is known.

        A lost race needs no more than the ledger: reading the jobs, too, would cost a read for each job of a burst
        whenever another instance is faster. If nobody has changed the ledger, one of the jobs was there already.
        """
        if isinstance(error, Moved):
            snapshot, _ = await self._read(())
            if snapshot.version != lost.version:
                return snapshot, {}
        return await self._read(job_keys)

    async def _read(self, job_keys: Sequence[str]) -> tuple[LedgerSnapshot, Mapping[str, WorkflowJob]]:
        ledger, version, known = await self._store.read_ledger(self._pool, job_keys)
        return LedgerSnapshot(ledger, version), known


def _hand_out(group: Sequence[_Waiting], plan: Plan) -> None:
    """Gives everyone their result, and what is left to be done to them in turn."""
    listening = [
        (waiting, result) for waiting, result in zip(group, plan.results, strict=True) if not waiting.done.done()
    ]
    for index, (waiting, result) in enumerate(listening):
        waiting.done.set_result(Settled(result, plan.todo.share(index, len(listening))))


def _may_be_stale_for(requests: Sequence[Request], ledger: Ledger) -> bool:
    """A runner or job that is named in an event was in the ledger before the event: not seeing it means old news."""
    jobs = {lease.job_key for lease in ledger.leases.values()} | set(ledger.queue)
    for request in requests:
        match request:
            case Forget(job_key):
                is_there = job_key in jobs
            case Requeue() | Restore() | Refresh():
                # Whoever asks for these has seen the ledger elsewhere.
                is_there = False
            case Start() | Release() | Postpone() | Retire():
                is_there = request.runner_name in ledger.leases
            case _:
                continue
        if not is_there:
            return True
    return False


def _find_ours(tried: Sequence[Plan], ledger: Ledger, known: Mapping[str, WorkflowJob]) -> Plan | None:
    """The attempt that stands although its answer was lost, even if others have changed the ledger since."""
    return next((plan for plan in tried if plan.ledger.token == ledger.token or _has_created(plan, known)), None)


def _has_created(plan: Plan, known: Mapping[str, WorkflowJob]) -> bool:
    tokens = {job.key: job.reservation.token for job in plan.creates if job.reservation}
    return bool(tokens) and all(
        (stored := known.get(key)) is not None and stored.reservation is not None and stored.reservation.token == token
        for key, token in tokens.items()
    )
