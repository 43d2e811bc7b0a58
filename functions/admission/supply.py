"""Which job counts on which runner, as runners and jobs come and go. Pure.

GitHub hands a job to any idle runner with its labels. Whoever has lost a runner to another job may have that job's own,
if its labels fit; otherwise the job waits again, where it stood, and needs another one. So supply and demand stay
level: a swap needs no new runner, a stolen one does.
"""

from datetime import datetime

from ..documents.ledger import Lease
from ..documents.runner_name import make_runner_name
from ..routing.capacity import Limits, find_shortage
from .books import Books
from .requests import Applied, Forget, Release, Restore, Retire, Retired, Start, WarmUp


def start(books: Books, request: Start) -> Applied:
    """A job runs on a runner: from now on the runner is this job's, and nobody else's."""
    own, lease = books.runner_of(request.job_key), books.leases.get(request.runner_name)
    was_waiting = request.job_key in books.queue
    books.drop_waiting(request.job_key)
    if lease is None:
        # It is not known, or has given back what it held: the job has ended before the news of its start came.
        idle = _set_free(books, own)
        return Applied(was_waiting or own is not None, idle)
    if own == request.runner_name:
        return Applied(was_waiting)
    taken: dict[str, object] = {
        "job_key": request.job_key,
        "repository": request.repository,
        "made": None,
        "retiring_since": None,
    }
    if request.size is not None:
        taken |= {
            "profile": request.profile,
            "cpu_millis": request.size.cpu_millis,
            "memory_bytes": request.size.memory_bytes,
        }
    books.put_lease(request.runner_name, lease.model_copy(update=taken))
    return Applied(True, _pass_on(books, own, lease))


def release(books: Books, request: Release, displaced: list[str]) -> Applied:
    """A runner has ended its job, or is gone without one: then whoever counted on it needs another."""
    lease = books.drop_lease(request.runner_name)
    own = books.runner_of(request.job_key) if request.job_key else None
    was_waiting = request.job_key in books.queue
    # The news of its start may have been lost: what has ended waits for nothing.
    books.drop_waiting(request.job_key)
    if lease is None:
        return Applied(was_waiting or own is not None, _set_free(books, own))
    if lease.job_key == request.job_key:
        return Applied(True)
    if request.job_key:
        return Applied(True, _pass_on(books, own, lease))
    # What the documents know of the job decides when it is tried again: it may die again and again.
    displaced.append(lease.job_key)
    return Applied(True)


def forget(books: Books, request: Forget) -> Applied:
    """A job needs nothing here any more."""
    own = books.runner_of(request.job_key)
    is_there = own is not None or request.job_key in books.queue
    books.drop_waiting(request.job_key)
    return Applied(is_there, _set_free(books, own))


def _pass_on(books: Books, own: str | None, lost: Lease) -> str:
    """Gives the job that has lost a runner the other job's own, if it can have it; a runner that is idle then."""
    loser = lost.job_key
    if own is not None and loser and _can_stand_in(books.leases[own], lost):
        books.put_lease(own, books.leases[own].with_job(loser, lost))
        return ""
    if loser:
        books.put_waiting(loser, lost.to_waiting())
    return _set_free(books, own)


def _can_stand_in(runner: Lease, lost: Lease) -> bool:
    """The lost runner had all labels of its job; whoever has all of the lost runner's labels has them, too."""
    return runner.scale_set == lost.scale_set and runner.has_labels(lost.labels)


def _set_free(books: Books, runner_name: str | None) -> str:
    if runner_name is None:
        return ""
    books.put_lease(runner_name, books.leases[runner_name].without_job())
    return runner_name


def retire(books: Books, request: Retire, now: datetime) -> Retired:
    """Gives up an idle runner beyond those that its scale set keeps; its place is released when it has gone."""
    lease = books.leases.get(request.runner_name)
    if lease is None:
        return Retired(is_needed=False)
    if lease.retiring_since is not None:
        # An earlier try came no further than this.
        return Retired(is_needed=False, lease=lease)
    if not lease.is_idle or len(books.idle_runners(lease.scale_set)) <= books.retire_above(lease.scale_set):
        return Retired(is_needed=True)
    books.put_lease(request.runner_name, lease.model_copy(update={"retiring_since": now}))
    return Retired(is_needed=False, lease=lease)


def restore(books: Books, request: Restore) -> Applied:
    """Puts a runner back that could not be stopped, unless a job has taken it meanwhile."""
    known = books.leases.get(request.runner_name)
    if known is not None and known.retiring_since is None:
        return Applied(False)
    books.put_lease(request.runner_name, request.lease)
    return Applied(True)


def top_up(books: Books, pool: str, token: str, now: datetime) -> list[WarmUp]:
    """Takes places for the idle runners that scale sets keep, as far as there is room for them."""
    made: list[WarmUp] = []
    for scale_set, warm in books.warm_supplies(now):
        idle = len(books.idle_runners(scale_set))
        if idle >= warm.refill_below:
            continue
        profile = warm.plan.profile
        while idle < warm.keep:
            capacity = books.capacity(scale_set, "")
            # A quota is for repositories, and these runners are nobody's yet.
            limits = Limits(books.limits(scale_set).max_runners)
            if capacity.held or find_shortage(profile.size, scale_set, limits, capacity) is not None:
                break
            name = make_runner_name(pool, 0, f"{token[:6]}{len(made)}")
            host = _emptiest_host(books, scale_set)
            lease = Lease(
                cpu_millis=profile.cpu_millis,
                memory_bytes=profile.memory_bytes,
                scale_set=scale_set,
                profile=profile.name,
                repository="",
                labels=warm.plan.labels,
                since=now,
                host=host,
            )
            books.put_lease(name, lease)
            made.append(WarmUp(name, pool, warm.org, warm.plan, host))
            idle += 1
    return made


def _emptiest_host(books: Books, scale_set: str) -> str:
    """The host that has the fewest of a scale set's idle runners: one that dies should not take all of them along."""
    taken = [books.leases[name].host for name in books.idle_runners(scale_set)]
    return min(sorted(books.hosts), key=taken.count)
