"""What a group of requests does to a pool's ledger. Pure: ledger and requests in, new ledger and documents out.

Who comes first, when there is not room for all: higher priority, then the repository that has the fewest runners, then
who waits longest. Jobs that have just come take their turn in the same order, so nobody overtakes those who wait.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from ..documents.ledger import Lease, Ledger, Waiting
from ..documents.lifecycle import JobState
from ..documents.runner_name import make_runner_name
from ..documents.workflow_job import DecisionRecord, Reservation, WorkflowJob
from ..routing.capacity import Capacity, Limits, Shortage, Size, find_shortage
from ..routing.classify import Match
from ..routing.evaluate import Decision, Outcome, decide_without_room
from .books import Books

PATIENCE = timedelta(seconds=60)
"""smaller jobs may go before a larger one that does not fit yet; after this time they no longer do"""
_BEHIND_OTHERS = Shortage("other jobs wait for the room that there is", passes=True)


@dataclass(frozen=True)
class Admit:
    """Decide about a queued job, and take a place for it if there is one."""

    job: WorkflowJob
    match: Match
    policy_revision: int
    overflow_grace: timedelta | None = None
    """how long an overflowed job is left to GitHub; None when the policy names no mechanism by which it gets there"""


@dataclass(frozen=True)
class Promise:
    """Set places aside for jobs that a workflow run will queue in a moment: for all of them or for none."""

    run_id: int
    repository: str
    matches: tuple[Match, ...]
    """the rules of each job"""
    labels: tuple[str, ...]
    until: datetime


@dataclass(frozen=True)
class Release:
    """Give back what a runner holds."""

    runner_name: str


@dataclass(frozen=True)
class MakeIdle:
    """A runner's job is gone, and the runner is up: the next fitting job may have it."""

    runner_name: str


@dataclass(frozen=True)
class Forget:
    """A job has ended, or somebody else's runner has it: it waits no more."""

    job_key: str


@dataclass(frozen=True)
class Resize:
    """A runner was given a job of another profile than its own: move its lease to that size."""

    runner_name: str
    profile: str
    size: Size
    job_key: str


Request = Admit | Promise | Release | MakeIdle | Forget | Resize


@dataclass(frozen=True)
class Decided:
    """The job as it was recorded, decision included."""

    job: WorkflowJob


@dataclass(frozen=True)
class Known:
    """The job was recorded before: a redelivery, or a later event has overtaken this one."""

    job: WorkflowJob


@dataclass(frozen=True)
class Promised:
    """Whether places were set aside, and why not."""

    shortage: str | None


@dataclass(frozen=True)
class Applied:
    """Everything else; `changed` is False when there was nothing to do."""

    changed: bool


Result = Decided | Known | Promised | Applied


@dataclass(frozen=True)
class Promotion:
    """A job that waited has a place now."""

    job_key: str
    reservation: Reservation
    reason: str


@dataclass(frozen=True)
class Plan:
    """The ledger after a group, the documents to write with it, and each request's result, in order."""

    ledger: Ledger
    creates: tuple[WorkflowJob, ...]
    promotions: tuple[Promotion, ...]
    results: tuple[Result, ...]
    needs_commit: bool
    """False when the group neither changes the ledger nor concludes anything from it"""


@dataclass
class _Draft:
    """The plan in the making."""

    books: Books
    pool: str
    token: str
    now: datetime
    promotions: list[Promotion] = field(default_factory=list)


def make_plan(
    ledger: Ledger,
    requests: Sequence[Request],
    known: Mapping[str, WorkflowJob],
    hosts: tuple[Size, ...],
    pool: str,
    token: str,
    now: datetime,
) -> Plan:
    """Settles a group against a ledger.

    Args:
        ledger: as last read.
        requests: the group.
        known: documents that exist already, by key, for the jobs of the group.
        hosts: the sizes of the pool's hosts that are available.
        pool: its name.
        token: of this attempt to commit.
        now: the time of the decision.
    """
    draft = _Draft(Books(ledger, hosts), pool, token, now)
    draft.books.drop_lapsed(now)
    results: dict[int, Result] = {}
    arrivals: dict[str, tuple[int, Admit]] = {}
    repeated: dict[int, str] = {}
    for index, request in enumerate(requests):
        if not isinstance(request, Admit):
            results[index] = _apply(draft, request)
        elif request.job.key in known:
            results[index] = Known(known[request.job.key])
        elif request.job.key in arrivals:
            repeated[index] = request.job.key
        else:
            arrivals[request.job.key] = (index, request)
    decided = _admit_in_order(draft, arrivals)
    results |= {arrivals[key][0]: Decided(job) for key, job in decided.items()}
    results |= {index: Known(decided[key]) for index, key in repeated.items()}
    return Plan(
        draft.books.to_ledger(token),
        tuple(decided.values()),
        tuple(draft.promotions),
        tuple(results[index] for index in range(len(requests))),
        needs_commit=bool(decided) or draft.books.has_changed,
    )


def _apply(draft: _Draft, request: Promise | Release | MakeIdle | Forget | Resize) -> Result:
    if isinstance(request, Promise):
        return _promise(draft, request)
    books = draft.books
    if isinstance(request, Forget):
        was_there = request.job_key in books.queue
        books.drop_waiting(request.job_key)
        return Applied(was_there)
    lease = books.leases.get(request.runner_name)
    if lease is None:
        return Applied(False)
    match request:
        case Release(runner_name):
            books.drop_lease(runner_name)
            return Applied(True)
        case MakeIdle():
            changed = lease.model_copy(update={"job_key": ""})
        case Resize(_, profile, size, job_key):
            fields = {"cpu_millis": size.cpu_millis, "memory_bytes": size.memory_bytes}
            changed = lease.model_copy(update={**fields, "profile": profile, "job_key": job_key})
    if changed == lease:
        return Applied(False)
    books.put_lease(request.runner_name, changed)
    return Applied(True)


def _promise(draft: _Draft, request: Promise) -> Promised:
    """All or nothing: a matrix that is cut in half by `runs-on` would be of no use to anybody."""
    books = draft.books
    names: list[str] = []
    for number, match in enumerate(request.matches):
        books.set_limits(match.scale_set_name, _limits_of(match))
        waiting = _waiting_of(match, request.repository, request.labels, request.run_id, 0, draft.now)
        capacity = books.capacity(match.scale_set_name, request.repository)
        shortage = _BEHIND_OTHERS if capacity.held else _shortage(books, waiting, may_reuse=False)
        if shortage is not None:
            for name in names:
                books.drop_lease(name)
            return Promised(shortage.reason)
        names.append(f"promised-{request.run_id}-{draft.token}-{number}")
        promise = {"provisional_until": request.until, "run_id": request.run_id}
        books.put_lease(names[-1], _lease_of(waiting, "", draft.now).model_copy(update=promise))
    return Promised(None)


def _admit_in_order(draft: _Draft, arrivals: Mapping[str, tuple[int, Admit]]) -> dict[str, WorkflowJob]:
    """Gives the room that there is to those who wait and those who have just come, and decides about the latter."""
    books = draft.books
    for _, request in arrivals.values():
        books.set_limits(request.match.scale_set_name, _limits_of(request.match))
    queue = dict(books.queue)
    queue |= {key: _waiting_of_job(request, draft.now) for key, (_, request) in arrivals.items()}
    decided: dict[str, WorkflowJob] = {}
    line = _Line(queue, books, draft.now)
    while (key := line.next()) is not None:
        waiting = queue[key]
        capacity = books.capacity(waiting.scale_set, waiting.repository)
        shortage = _shortage(books, waiting, may_reuse=True)
        if shortage is not None:
            line.pass_over(key, shortage)
            continue
        reservation, reason = _take_place(draft, key, waiting)
        line.step_out(key)
        if key in arrivals:
            request = arrivals[key][1]
            decision = Decision(Outcome.SELF_HOSTED, reason, request.match.rule)
            decided[key] = _recorded(draft, request, decision, capacity, reservation)
        else:
            books.drop_waiting(key)
            draft.promotions.append(Promotion(key, reservation, f"held since {waiting.since:%H:%M:%S}; {reason}"))
    for key, (_, request) in arrivals.items():
        if key not in decided:
            decided[key] = _turn_away(draft, key, request, line.reasons.get(key, _BEHIND_OTHERS))
    return {key: decided[key] for key in arrivals}


class _Line:
    """Who is next: priority, then the repository with the fewest runners, then age."""

    def __init__(self, queue: Mapping[str, Waiting], books: Books, now: datetime):
        self._queue = queue
        self._books = books
        self._now = now
        self._groups: dict[tuple[int, str], deque[str]] = {}
        self._is_closed = False
        self.reasons: dict[str, Shortage] = {}
        ready = [key for key, waiting in queue.items() if waiting.not_before is None or waiting.not_before <= now]
        for key in sorted(ready, key=self._age):
            self._groups.setdefault((queue[key].priority, queue[key].repository), deque()).append(key)

    def _age(self, key: str) -> tuple[datetime, int]:
        return self._queue[key].since, self._queue[key].job_id

    def next(self) -> str | None:
        if self._is_closed or not self._groups:
            return None

        def rank(group: tuple[int, str]) -> tuple[int, int, tuple[datetime, int]]:
            priority, repository = group
            return -priority, self._books.runners_of_repository[repository], self._age(self._groups[group][0])

        return self._groups[min(self._groups, key=rank)][0]

    def pass_over(self, key: str, shortage: Shortage) -> None:
        """Lets those behind it go first, unless it has waited long enough."""
        self.reasons[key] = shortage
        self._is_closed = shortage.is_of_room and self._now - self._queue[key].since > PATIENCE
        self.step_out(key)

    def step_out(self, key: str) -> None:
        group = (self._queue[key].priority, self._queue[key].repository)
        self._groups[group].popleft()
        if not self._groups[group]:
            del self._groups[group]


def _shortage(books: Books, waiting: Waiting, *, may_reuse: bool) -> Shortage | None:
    """Why a job cannot have a place now; a place that it may have from another does not count against it."""
    capacity = books.capacity(waiting.scale_set, waiting.repository)
    reusable = books.find_reusable(waiting) if may_reuse else None
    if reusable is not None:
        lease = books.leases[reusable]
        capacity = replace(
            capacity,
            reserved=capacity.reserved - lease.size,
            places_taken=capacity.places_taken - 1,
            places_of_repository=capacity.places_of_repository - (lease.repository == waiting.repository),
        )
    return find_shortage(waiting.size, waiting.scale_set, books.limits(waiting.scale_set), capacity)


def _take_place(draft: _Draft, key: str, waiting: Waiting) -> tuple[Reservation, str]:
    """Takes a place that is known to be there; how that came about, in words."""
    books = draft.books
    lease = _lease_of(waiting, key, draft.now)
    name = make_runner_name(draft.pool, waiting.job_id, draft.token[:6])
    reused = books.find_reusable(waiting)
    old = books.drop_lease(reused) if reused is not None else None
    has_runner = reused is not None and old is not None and old.is_idle
    if reused is not None and old is not None and has_runner:
        name, lease = reused, lease.model_copy(update={"labels": old.labels})
    books.put_lease(name, lease)
    taken = books.capacity(waiting.scale_set, waiting.repository).places_taken
    most = books.limits(waiting.scale_set).max_runners
    reason = f"takes {taken} of {most} places of {waiting.scale_set} with profile {waiting.profile}"
    if has_runner:
        reason = f"the idle runner {name} is there for it"
    elif old is not None:
        reason += ", which its run was promised"
    reservation = Reservation(
        pool=draft.pool,
        scale_set=waiting.scale_set,
        profile=waiting.profile,
        runner_name=name,
        has_runner=has_runner,
        token=draft.token,
    )
    return reservation, reason


def _turn_away(draft: _Draft, key: str, request: Admit, shortage: Shortage) -> WorkflowJob:
    """No place now: wait, overflow or reject, as the route says."""
    match, grace = request.match, request.overflow_grace
    capacity = draft.books.capacity(match.scale_set_name, request.job.repository)
    decision = decide_without_room(match, shortage, capacity.held, can_overflow=grace is not None)
    waiting = _waiting_of_job(request, draft.now)
    if decision.outcome is Outcome.HELD:
        draft.books.put_waiting(key, waiting)
    elif decision.outcome is Outcome.OVERFLOW and grace is not None:
        # Should GitHub's runners not take it, its turn comes here: it never starves.
        draft.books.put_waiting(key, waiting.model_copy(update={"not_before": draft.now + grace}))
    return _recorded(draft, request, decision, capacity, None)


def _recorded(
    draft: _Draft, request: Admit, decision: Decision, capacity: Capacity, reservation: Reservation | None
) -> WorkflowJob:
    """The job's document, with what was decided and what was seen."""
    rules = request.match
    record = DecisionRecord(
        outcome=decision.outcome,
        reason=decision.reason,
        rule=decision.rule,
        policy_revision=request.policy_revision,
        profile=rules.profile_name,
        profile_rule=rules.profile_rule,
        scale_set=rules.scale_set_name,
        pool=draft.pool,
        places_taken=capacity.places_taken,
        held=capacity.held,
        free_cpu_millis=capacity.free.cpu_millis,
        free_memory_bytes=capacity.free.memory_bytes,
        hosts=len(capacity.hosts),
    )
    job = request.job.model_copy(update={"decision": record})
    if reservation is None:
        return job
    phases = job.phases.model_copy(update={"reserved_at": draft.now})
    return job.model_copy(update={"reservation": reservation, "rank": int(JobState.RESERVED), "phases": phases})


def _limits_of(match: Match) -> Limits:
    return Limits(match.scale_set.max_runners, match.scale_set.per_repository)


def _waiting_of_job(request: Admit, now: datetime) -> Waiting:
    job = request.job
    return _waiting_of(request.match, job.repository, job.labels, job.run_id, job.job_id, now)


def _waiting_of(
    match: Match, repository: str, labels: tuple[str, ...], run_id: int, job_id: int, now: datetime
) -> Waiting:
    return Waiting(
        cpu_millis=match.profile.cpu_millis,
        memory_bytes=match.profile.memory_bytes,
        scale_set=match.scale_set_name,
        profile=match.profile_name,
        repository=repository,
        labels=labels,
        run_id=run_id,
        job_id=job_id,
        priority=match.scale_set.priority,
        since=now,
    )


def _lease_of(waiting: Waiting, job_key: str, now: datetime) -> Lease:
    return Lease(
        cpu_millis=waiting.cpu_millis,
        memory_bytes=waiting.memory_bytes,
        scale_set=waiting.scale_set,
        profile=waiting.profile,
        repository=waiting.repository,
        labels=waiting.labels,
        job_key=job_key,
        since=now,
    )
