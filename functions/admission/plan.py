"""What a group of requests does to a pool's ledger. Pure: ledger and requests in, new ledger and documents out.

Who comes first, when there is not room for all: higher priority, then the repository that has the fewest runners, then
who waits longest. Jobs that have just come take their turn in the same order, so nobody overtakes those who wait.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from ..documents.ledger import Lease, Ledger, Waiting
from ..documents.lifecycle import JobState
from ..documents.runner_name import make_runner_name
from ..documents.workflow_job import DecisionRecord, Reservation, WorkflowJob
from ..routing.capacity import Capacity, Limits, Shortage, Size, find_shortage
from ..routing.classify import Match
from ..routing.evaluate import Decision, Outcome, decide_without_room
from .books import Books
from .line import Line
from .requests import (
    Admit,
    Applied,
    Decided,
    Flip,
    Forget,
    Known,
    MakeIdle,
    Plan,
    Postpone,
    Promise,
    Promised,
    Promotion,
    Release,
    Request,
    Resize,
    Result,
)

_BEHIND_OTHERS = Shortage("other jobs wait for the room that there is", passes=True)


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
    flips = tuple(Flip(switch, is_short) for switch, is_short in draft.books.flip_switches())
    results |= {arrivals[key][0]: Decided(job) for key, job in decided.items()}
    results |= {index: Known(decided[key]) for index, key in repeated.items()}
    return Plan(
        draft.books.to_ledger(token),
        tuple(decided.values()),
        tuple(draft.promotions),
        flips,
        tuple(results[index] for index in range(len(requests))),
        needs_commit=bool(decided) or draft.books.has_changed,
    )


def _apply(draft: _Draft, request: Promise | Release | MakeIdle | Forget | Resize | Postpone) -> Result:
    if isinstance(request, Promise):
        return _promise(draft, request)
    if isinstance(request, Postpone):
        return _postpone(draft, request)
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


def _postpone(draft: _Draft, request: Postpone) -> Applied:
    job, books = request.job, draft.books
    if job.reservation is None or job.plan is None:
        return Applied(False)
    lease = books.drop_lease(job.reservation.runner_name)
    scale_set = scale_set_key(job.org, job.plan.scale_set)
    books.pause(scale_set, request.until, request.reason)
    if request.is_held and lease is not None:
        profile = job.plan.profile
        waiting = Waiting(
            cpu_millis=profile.cpu_millis,
            memory_bytes=profile.memory_bytes,
            scale_set=scale_set,
            profile=profile.name,
            repository=job.repository,
            labels=job.labels,
            run_id=job.run_id,
            job_id=job.job_id,
            priority=job.plan.priority,
            # It was its turn already: nobody who came later goes first.
            since=job.phases.received_at or draft.now,
        )
        books.put_waiting(job.key, waiting)
    return Applied(lease is not None)


def _promise(draft: _Draft, request: Promise) -> Promised:
    """All or nothing: a matrix that is cut in half by `runs-on` would be of no use to anybody."""
    books = draft.books
    # Asked again, a run gets what it needs now, not what it was promised before on top.
    books.drop_promises(request.repository, request.run_id)
    names: list[str] = []
    for number, match in enumerate(request.matches):
        scale_set = scale_set_key(request.org, match.scale_set_name)
        books.set_limits(scale_set, _limits_of(match))
        waiting = _waiting_of(match, request.org, request.repository, request.labels, request.run_id, 0, draft.now)
        capacity = books.capacity(scale_set, request.repository)
        shortage = _BEHIND_OTHERS if capacity.held else _shortage(draft, waiting, may_reuse=False)
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
        scale_set = scale_set_key(request.job.org, request.match.scale_set_name)
        books.set_limits(scale_set, _limits_of(request.match))
        books.set_switch(scale_set, request.switch)
    queue = dict(books.queue)
    queue |= {key: _waiting_of_job(request, draft.now) for key, (_, request) in arrivals.items()}
    decided: dict[str, WorkflowJob] = {}
    line = Line(queue, books, draft.now)
    while (key := line.next()) is not None:
        waiting = queue[key]
        capacity = books.capacity(waiting.scale_set, waiting.repository)
        shortage = _shortage(draft, waiting, may_reuse=True)
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


def _shortage(draft: _Draft, waiting: Waiting, *, may_reuse: bool) -> Shortage | None:
    """Why a job cannot have a place now; a place that it may have from another does not count against it."""
    books = draft.books
    if (pause := books.find_pause(waiting.scale_set, draft.now)) is not None:
        return pause
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
    name = waiting.scale_set.rpartition("/")[2]
    return find_shortage(waiting.size, name, books.limits(waiting.scale_set), capacity)


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
    scale_set = waiting.scale_set.rpartition("/")[2]
    reason = f"takes {taken} of {most} places of {scale_set} with profile {waiting.profile}"
    if has_runner:
        reason = f"the idle runner {name} is there for it"
    elif old is not None:
        reason += ", which its run was promised"
    reservation = Reservation(
        pool=draft.pool,
        scale_set=scale_set,
        profile=waiting.profile,
        runner_name=name,
        has_runner=has_runner,
        token=draft.token,
    )
    return reservation, reason


def _turn_away(draft: _Draft, key: str, request: Admit, shortage: Shortage) -> WorkflowJob:
    """No place now: wait, overflow or reject, as the route says."""
    match, grace = request.match, request.overflow_grace
    scale_set = scale_set_key(request.job.org, match.scale_set_name)
    capacity = draft.books.capacity(scale_set, request.job.repository)
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


def scale_set_key(org: str, name: str) -> str:
    """What a scale set is called in a ledger that may serve several organizations."""
    return f"{org.lower()}/{name}"


def _limits_of(match: Match) -> Limits:
    return Limits(match.scale_set.max_runners, match.scale_set.per_repository)


def _waiting_of_job(request: Admit, now: datetime) -> Waiting:
    job = request.job
    return _waiting_of(request.match, job.org, job.repository, job.labels, job.run_id, job.job_id, now)


def _waiting_of(
    match: Match, org: str, repository: str, labels: tuple[str, ...], run_id: int, job_id: int, now: datetime
) -> Waiting:
    return Waiting(
        cpu_millis=match.profile.cpu_millis,
        memory_bytes=match.profile.memory_bytes,
        scale_set=scale_set_key(org, match.scale_set_name),
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
