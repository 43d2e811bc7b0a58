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
from ..documents.workflow_job import DecisionRecord, Reservation, RunnerPlan, WorkflowJob, owner_of
from ..routing.capacity import Capacity, Shortage, Size, find_shortage
from ..routing.classify import Match
from ..routing.evaluate import Decision, Outcome, decide_without_room
from . import supply
from .books import Books
from .line import Line
from .requests import (
    Admit,
    Applied,
    Decided,
    Flip,
    Forget,
    Known,
    Plan,
    Postpone,
    Promise,
    Promised,
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
from .terms import limits_of, scale_set_key

_BEHIND_OTHERS = Shortage("other jobs wait for the room that there is", passes=True)


@dataclass
class _Draft:
    """The plan in the making."""

    books: Books
    pool: str
    token: str
    now: datetime
    promotions: list[Promotion] = field(default_factory=list)
    displaced: list[str] = field(default_factory=list)


_AtOnce = Promise | Start | Release | Forget | Requeue | Postpone | Retire | Restore | Refresh
"""what is done before places are given away"""


def make_plan(
    ledger: Ledger,
    requests: Sequence[Request],
    known: Mapping[str, WorkflowJob],
    hosts: Mapping[str, Size],
    pool: str,
    token: str,
    now: datetime,
) -> Plan:
    """Settles a group against a ledger.

    Args:
        ledger: as last read.
        requests: the group.
        known: documents that exist already, by key, for the jobs of the group.
        hosts: the sizes of the pool's hosts that are available, by their ids.
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
    todo = Todo(
        promotions=tuple(draft.promotions),
        warm_ups=tuple(supply.top_up(draft.books, pool, token, now)),
        displaced=tuple(draft.displaced),
        flips=tuple(Flip(switch, is_short) for switch, is_short in draft.books.flip_switches()),
    )
    results |= {arrivals[key][0]: Decided(job) for key, job in decided.items()}
    results |= {index: Known(decided[key]) for index, key in repeated.items()}
    return Plan(
        draft.books.to_ledger(token),
        tuple(decided.values()),
        todo,
        tuple(results[index] for index in range(len(requests))),
        needs_commit=bool(decided) or draft.books.has_changed,
    )


def _apply(draft: _Draft, request: _AtOnce) -> Result:
    books = draft.books
    match request:
        case Promise():
            return _promise(draft, request)
        case Start() | Release() if _is_anothers(books, request):
            return supply.forget(books, Forget(request.job_key))
        case Start():
            return supply.start(books, request)
        case Release():
            return supply.release(books, request, draft.displaced)
        case Forget():
            return supply.forget(books, request)
        case Retire():
            return supply.retire(books, request, draft.now)
        case Restore():
            return supply.restore(books, request)
        case Requeue(job, not_before):
            return _requeue(draft, job, not_before)
        case Postpone():
            return _postpone(draft, request)
        case Refresh():
            return _refresh(books, request)


def _is_anothers(books: Books, request: Start | Release) -> bool:
    """Whether the runner that a job names is another organization's, which shares the pool.

    Names are not secret: whoever calls a runner of theirs like one of ours must not free its place.
    """
    lease = books.leases.get(request.runner_name)
    if lease is None or not request.job_key:
        return False
    return not lease.scale_set.startswith(scale_set_key(owner_of(request.job_key), ""))


def _refresh(books: Books, request: Refresh) -> Applied:
    named = {terms.scale_set for terms in request.terms}
    for scale_set in books.scale_sets_of(scale_set_key(request.org, "")):
        if scale_set not in named:
            books.set_warm(scale_set, None)
    for terms in request.terms:
        books.set_limits(terms.scale_set, terms.limits)
        books.set_warm(terms.scale_set, terms.warm)
    return Applied(books.has_changed)


def _requeue(draft: _Draft, job: WorkflowJob, not_before: datetime | None) -> Applied:
    """Unless it has a runner, or waits already: whoever asks may have seen an old ledger."""
    if job.plan is None or draft.books.runner_of(job.key) is not None or job.key in draft.books.queue:
        return Applied(False)
    draft.books.put_waiting(job.key, _waiting_again(job, job.plan, not_before, draft.now))
    return Applied(True)


def _postpone(draft: _Draft, request: Postpone) -> Applied:
    job, books = request.job, draft.books
    lease = books.drop_lease(request.runner_name)
    books.pause(request.scale_set, request.until, request.reason, draft.now)
    if job is not None and job.plan is not None and lease is not None:
        if lease.job_key == job.key:
            books.put_waiting(job.key, _waiting_again(job, job.plan, None, draft.now))
        elif lease.job_key:
            # Its own job has got another's runner meanwhile, and left this one to that.
            draft.displaced.append(lease.job_key)
    return Applied(lease is not None)


def _waiting_again(job: WorkflowJob, plan: RunnerPlan, not_before: datetime | None, now: datetime) -> Waiting:
    return Waiting(
        cpu_millis=plan.profile.cpu_millis,
        memory_bytes=plan.profile.memory_bytes,
        scale_set=scale_set_key(job.org, plan.scale_set),
        profile=plan.profile.name,
        repository=job.repository,
        labels=job.labels,
        run_id=job.run_id,
        job_id=job.job_id,
        priority=plan.priority,
        # It was its turn already: nobody who came later goes first.
        since=job.phases.received_at or now,
        not_before=not_before,
    )


def _promise(draft: _Draft, request: Promise) -> Promised:
    """All or nothing: a matrix that is cut in half by `runs-on` would be of no use to anybody."""
    books = draft.books
    # Asked again, a run gets what it needs now, not what it was promised before on top.
    books.drop_promises(request.repository, request.run_id)
    names: list[str] = []
    for number, match in enumerate(request.matches):
        scale_set = scale_set_key(request.org, match.scale_set_name)
        books.set_limits(scale_set, limits_of(match.scale_set))
        waiting = _waiting_of(match, request.org, request.repository, request.labels, request.run_id, 0, draft.now)
        capacity = books.capacity(scale_set, request.repository)
        shortage = _BEHIND_OTHERS if capacity.held else _shortage(draft, waiting, may_reuse=False)
        if shortage is not None:
            for name in names:
                books.drop_lease(name)
            return Promised(shortage.reason)
        names.append(f"promised-{request.run_id}-{draft.token}-{number}")
        promise = {"provisional_until": request.until, "run_id": request.run_id}
        books.put_lease(names[-1], _lease_of(waiting, "").model_copy(update=promise))
    return Promised(None)


def _admit_in_order(draft: _Draft, arrivals: Mapping[str, tuple[int, Admit]]) -> dict[str, WorkflowJob]:
    """Gives the room that there is to those who wait and those who have just come, and decides about the latter."""
    books = draft.books
    for _, request in arrivals.values():
        scale_set = scale_set_key(request.job.org, request.match.scale_set_name)
        books.set_limits(scale_set, limits_of(request.match.scale_set))
        books.set_switch(scale_set, request.switch)
        books.set_warm(scale_set, request.warm)
    queue = dict(books.queue)
    queue |= {key: _waiting_of_job(request, draft.now) for key, (_, request) in arrivals.items()}
    decided: dict[str, WorkflowJob] = {}
    line = Line(queue, books, draft.now)
    while (key := line.next()) is not None:
        waiting = queue[key]
        capacity = books.capacity(waiting.scale_set, waiting.repository)
        # A job whose start was told before its beginning has its runner.
        has_started = books.runner_of(key) is not None
        shortage = None if has_started else _shortage(draft, waiting, may_reuse=True)
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
    scale_set = waiting.scale_set.rpartition("/")[2]
    if (own := books.runner_of(key)) is not None:
        return _reservation(draft, waiting, own, has_runner=True), f"it runs on {own} already"
    lease = _lease_of(waiting, key)
    name = make_runner_name(draft.pool, waiting.job_id, draft.token[:6])
    reused = books.find_reusable(waiting)
    old = books.drop_lease(reused) if reused is not None else None
    has_runner = reused is not None and old is not None and old.is_idle
    if reused is not None and old is not None and has_runner:
        name = reused
        lease = old.with_job(key, waiting)
    books.put_lease(name, lease)
    taken = books.capacity(waiting.scale_set, waiting.repository).places_taken
    most = books.limits(waiting.scale_set).max_runners
    reason = f"takes {taken} of {most} places of {scale_set} with profile {waiting.profile}"
    if has_runner:
        reason = f"the idle runner {name} is there for it"
    elif old is not None:
        reason += ", which its run was promised"
    return _reservation(draft, waiting, name, has_runner=has_runner), reason


def _reservation(draft: _Draft, waiting: Waiting, runner_name: str, *, has_runner: bool) -> Reservation:
    return Reservation(
        pool=draft.pool,
        scale_set=waiting.scale_set.rpartition("/")[2],
        profile=waiting.profile,
        runner_name=runner_name,
        has_runner=has_runner,
        token=draft.token,
    )


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


def _lease_of(waiting: Waiting, job_key: str) -> Lease:
    return Lease(
        cpu_millis=waiting.cpu_millis,
        memory_bytes=waiting.memory_bytes,
        scale_set=waiting.scale_set,
        profile=waiting.profile,
        repository=waiting.repository,
        labels=waiting.labels,
        job_key=job_key,
        since=waiting.since,
        priority=waiting.priority,
    )
