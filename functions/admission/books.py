"""A pool's ledger while a group of requests is being settled: changeable, with running sums. No I/O.

A group may hold hundreds of jobs; counting all leases anew for each of them would make the decision slow.
"""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from ..documents.ledger import KnownLimits, Lease, Ledger, Switch, Waiting, WarmSupply
from ..routing.capacity import NOTHING, Capacity, Limits, Shortage, Size

_FIRST_PAUSE = timedelta(seconds=15)
_LONGEST_PAUSE = timedelta(minutes=10)
_REMEMBERED_FOR = timedelta(minutes=5)
"""a pause that begins so soon after another is twice as long"""


class Books:
    """A working copy of a ledger."""

    def __init__(self, ledger: Ledger, hosts: Mapping[str, Size]):
        self.hosts = hosts
        self.leases = dict(ledger.leases)
        self.queue = dict(ledger.queue)
        self._limits = dict(ledger.limits)
        self._reserved = sum((lease.size for lease in self.leases.values()), NOTHING)
        self._places = Counter(lease.scale_set for lease in self.leases.values())
        self._places_of_repository = Counter((x.scale_set, x.repository) for x in self.leases.values())
        self.runners_of_repository = Counter(lease.repository for lease in self.leases.values())
        self._held = Counter(waiting.scale_set for waiting in self.queue.values() if waiting.is_held)
        self._without_job = {name for name, lease in self.leases.items() if not lease.job_key}
        self._runner_of_job = {lease.job_key: name for name, lease in self.leases.items() if lease.job_key}
        self.has_changed = False

    def to_ledger(self, token: str) -> Ledger:
        """The ledger as it is to be written."""
        return Ledger(leases=self.leases, queue=self.queue, limits=self._limits, token=token)

    def capacity(self, scale_set: str, repository: str) -> Capacity:
        """What a decision about a job sees."""
        return Capacity(
            hosts=tuple(self.hosts.values()),
            reserved=self._reserved,
            places_taken=self._places[scale_set],
            places_of_repository=self._places_of_repository[scale_set, repository],
            held=self._held[scale_set],
        )

    def limits(self, scale_set: str) -> Limits:
        return self._known(scale_set).limits

    def set_limits(self, scale_set: str, limits: Limits) -> None:
        """The policy's newest word counts, also for those who wait already."""
        self._know(scale_set, max_runners=limits.max_runners, per_repository=limits.per_repository)

    def set_warm(self, scale_set: str, warm: WarmSupply | None) -> None:
        """The idle runners that a scale set keeps ready."""
        self._know(scale_set, warm=warm)

    def set_switch(self, scale_set: str, switch: Switch | None) -> None:
        """The variable that goes with a scale set."""
        self._know(scale_set, switch=switch)

    def scale_sets_of(self, prefix: str) -> list[str]:
        """Those that are known and whose names begin so."""
        return [scale_set for scale_set in self._limits if scale_set.startswith(prefix)]

    def warm_supplies(self, now: datetime) -> list[tuple[str, WarmSupply]]:
        """The scale sets that keep idle runners and that GitHub gives runners."""
        return [
            (scale_set, known.warm)
            for scale_set, known in self._limits.items()
            if known.warm is not None and self.find_pause(scale_set, now) is None
        ]

    def retire_above(self, scale_set: str) -> int:
        """How many idle runners a scale set may have for as long as they like."""
        known = self._limits.get(scale_set)
        return known.warm.retire_above if known is not None and known.warm is not None else 0

    def idle_runners(self, scale_set: str) -> list[str]:
        """The runners of a scale set that nobody counts on."""
        leases = ((name, self.leases[name]) for name in self._without_job)
        return sorted(name for name, lease in leases if lease.scale_set == scale_set and lease.is_idle)

    def runner_of(self, job_key: str) -> str | None:
        """The runner that a job counts on."""
        return self._runner_of_job.get(job_key)

    def pause(self, scale_set: str, until: datetime, reason: str, now: datetime) -> None:
        """GitHub gives a scale set no runners: nobody is admitted to it until then, and longer each time."""
        known = self._known(scale_set)
        ended = known.paused_until
        if ended is not None and now < ended:
            # Calls that were under way together fail together.
            pauses, until = known.pauses, max(until, ended)
        else:
            pauses = known.pauses + 1 if ended is not None and now - ended < _REMEMBERED_FOR else 1
            until = max(until, now + min(_FIRST_PAUSE * (1 << min(pauses - 1, 16)), _LONGEST_PAUSE))
        self._know(scale_set, paused_until=until, pause_reason=reason[:300], pauses=pauses)

    def find_pause(self, scale_set: str, now: datetime) -> Shortage | None:
        known = self._known(scale_set)
        if known.paused_until is None or known.paused_until <= now:
            return None
        reason = f"GitHub gives no runners until {known.paused_until:%H:%M:%S} ({known.pause_reason})"
        return Shortage(reason, passes=True)

    def flip_switches(self) -> list[tuple[Switch, bool]]:
        """The variables that must be switched now, each with whether it is to name GitHub's runners.

        Between `low` and `high` nothing happens, so that one job more or less does not switch to and fro.
        """
        flips = []
        for scale_set, known in self._limits.items():
            if known.switch is None:
                continue
            free = (known.max_runners - self._places[scale_set]) / known.max_runners if self.hosts else 0
            limit = known.switch.high if known.is_switched else known.switch.low
            is_short = free <= limit if known.is_switched else free < limit
            if is_short != known.is_switched:
                self._limits[scale_set] = known.model_copy(update={"is_switched": is_short})
                self.has_changed = True
                flips.append((known.switch, is_short))
        return flips

    def put_lease(self, runner_name: str, lease: Lease) -> None:
        """Makes a lease, or replaces one."""
        if runner_name in self.leases:
            self.drop_lease(runner_name)
        self.leases[runner_name] = lease
        self._count(lease, +1)
        if lease.job_key:
            self._runner_of_job[lease.job_key] = runner_name
        else:
            self._without_job.add(runner_name)
        self.has_changed = True

    def drop_lease(self, runner_name: str) -> Lease | None:
        """Takes a lease away; None when there is none."""
        lease = self.leases.pop(runner_name, None)
        if lease is not None:
            self._count(lease, -1)
            self._without_job.discard(runner_name)
            if self._runner_of_job.get(lease.job_key) == runner_name:
                del self._runner_of_job[lease.job_key]
            self.has_changed = True
        return lease

    def drop_lapsed(self, now: datetime) -> None:
        """What was promised to a run that has not come for it is free again."""
        for name in list(self._without_job):
            until = self.leases[name].provisional_until
            if until is not None and until <= now:
                self.drop_lease(name)

    def drop_promises(self, repository: str, run_id: int) -> None:
        """Takes back what a run was promised."""
        for name in list(self._without_job):
            lease = self.leases[name]
            if lease.provisional_until is not None and (lease.repository, lease.run_id) == (repository, run_id):
                self.drop_lease(name)

    def put_waiting(self, job_key: str, waiting: Waiting) -> None:
        self.drop_waiting(job_key)
        self.queue[job_key] = waiting
        self._held[waiting.scale_set] += waiting.is_held
        self.has_changed = True

    def drop_waiting(self, job_key: str) -> None:
        waiting = self.queue.pop(job_key, None)
        if waiting is not None:
            self._held[waiting.scale_set] -= waiting.is_held
            self.has_changed = True

    def find_reusable(self, waiting: Waiting) -> str | None:
        """A lease that a job may have instead of a new one: promised to its run, or an idle runner's."""
        idle: str | None = None
        for name in self._without_job:
            lease = self.leases[name]
            if lease.scale_set != waiting.scale_set:
                continue
            if lease.provisional_until is not None:
                if lease.run_id == waiting.run_id and lease.repository == waiting.repository:
                    return name
            elif lease.is_idle and lease.has_labels(waiting.labels):
                idle = name if idle is None else min(idle, name)
        return idle

    def _known(self, scale_set: str) -> KnownLimits:
        """A ledger that somebody has edited may lack them: one runner is always allowed."""
        return self._limits.get(scale_set) or KnownLimits(max_runners=1)

    def _know(self, scale_set: str, **fields: Any) -> None:
        before = self._limits.get(scale_set)
        # In a burst, hundreds of jobs bring the same news along.
        if before is None or any(getattr(before, name) != value for name, value in fields.items()):
            self._limits[scale_set] = self._known(scale_set).model_copy(update=fields)
            self.has_changed = True

    def _count(self, lease: Lease, change: int) -> None:
        self._reserved = self._reserved + lease.size if change > 0 else self._reserved - lease.size
        self._places[lease.scale_set] += change
        self._places_of_repository[lease.scale_set, lease.repository] += change
        self.runners_of_repository[lease.repository] += change
