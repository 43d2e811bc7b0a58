"""`pools/{pool}`: the leases on the hosts that share a pool, and the jobs that wait for one.

Small, and changed only by compare-and-swap. The queue is in it: whoever gives a place back and whoever takes one see
the same document, so no wake-up is lost.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self, TypeVar

from pydantic import ValidationError

from ..routing.capacity import Limits, Size
from .model import Document
from .workflow_job import RunnerPlan, read_job_key

COLLECTION = "pools"


class Waiting(Document):
    """A held job: what it needs, and what decides when its turn comes."""

    cpu_millis: int
    memory_bytes: int
    scale_set: str
    profile: str
    repository: str
    labels: tuple[str, ...]
    run_id: int
    job_id: int
    priority: int = 0
    since: datetime
    not_before: datetime | None = None
    """an overflowed job is GitHub's until then"""

    @property
    def is_held(self) -> bool:
        """Not one that was sent to GitHub's runners, and waits only in case that they do not take it."""
        return self.not_before is None

    @property
    def size(self) -> Size:
        return Size(self.cpu_millis, self.memory_bytes)


class Made(Document):
    """What a runner's container was made with."""

    profile: str
    cpu_millis: int
    memory_bytes: int


class Lease(Document):
    """What one runner holds."""

    cpu_millis: int
    memory_bytes: int
    scale_set: str
    profile: str
    repository: str
    labels: tuple[str, ...] = ()
    """of the runner"""
    job_key: str = ""
    """the job that counts on it; empty for an idle runner, which the next fitting job may have"""
    since: datetime
    """when its job came, or the runner was wanted"""
    priority: int = 0
    """of its job"""
    provisional_until: datetime | None = None
    """promised to a workflow run that has not queued its job yet; lapses then"""
    run_id: int = 0
    """of that run"""
    made: Made | None = None
    """where its job, which it has not got yet, needs another size than its container has"""
    host: str = ""
    """that an idle runner was meant for"""
    retiring_since: datetime | None = None
    """it is being given up: no job may count on it any more, and its place is taken until it is really gone"""

    def to_waiting(self) -> Waiting:
        """The job that counts on this runner, waiting again where it stood."""
        run_id, job_id = read_job_key(self.job_key)
        return Waiting(
            cpu_millis=self.cpu_millis,
            memory_bytes=self.memory_bytes,
            scale_set=self.scale_set,
            profile=self.profile,
            repository=self.repository,
            # The runner's, which are all of the job's and may be more.
            labels=self.labels,
            run_id=run_id,
            job_id=job_id,
            priority=self.priority,
            since=self.since,
        )

    def with_job(self, job_key: str, job: "Waiting | Lease") -> Self:
        """The same runner, counted on by a job that waited, or that had another runner."""
        made = self.made or Made(profile=self.profile, cpu_millis=self.cpu_millis, memory_bytes=self.memory_bytes)
        wanted = Made(profile=job.profile, cpu_millis=job.cpu_millis, memory_bytes=job.memory_bytes)
        fields = wanted.model_dump() | {
            "job_key": job_key,
            "repository": job.repository,
            "since": job.since,
            "priority": job.priority,
            "made": None if wanted == made else made,
            "retiring_since": None,
        }
        return self.model_copy(update=fields)

    def without_job(self) -> Self:
        """The same runner, idle: its container has the size that it was made with."""
        if self.made is None:
            return self.model_copy(update={"job_key": ""})
        fields = self.made.model_dump() | {"job_key": "", "made": None}
        return self.model_copy(update=fields)

    @property
    def size(self) -> Size:
        return Size(self.cpu_millis, self.memory_bytes)

    @property
    def is_idle(self) -> bool:
        return not self.job_key and self.provisional_until is None and self.retiring_since is None

    def has_labels(self, wanted: tuple[str, ...]) -> bool:
        """GitHub's own rule: every label of the job, upper and lower case alike."""
        offered = {label.casefold() for label in self.labels}
        return {label.casefold() for label in wanted} <= offered


class Switch(Document):
    """A variable at GitHub that workflows use for `runs-on`, switched when a scale set's places run short."""

    scope: str
    """where it is: `/orgs/acme` or `/repos/acme/app`"""
    name: str
    labels: tuple[str, ...]
    """its value while there is room"""
    hosted_labels: tuple[str, ...]
    """its value while there is none"""
    low: float
    """switched to GitHub's runners when a smaller part of the places is free"""
    high: float
    """switched back when a larger part is"""
    installation_id: int | None = None


class WarmSupply(Document):
    """Idle runners that a scale set keeps ready, before any job asks for them."""

    org: str
    plan: RunnerPlan
    keep: int
    refill_below: int
    """made up to `keep` when fewer than this are idle"""
    retire_above: int
    """those beyond this number are not needed"""


class KnownLimits(Document):
    """What the policy last allowed a scale set: the queue goes by it when no new job brings the policy along."""

    max_runners: int
    per_repository: int | None = None
    warm: WarmSupply | None = None
    switch: Switch | None = None
    is_switched: bool = False
    """the variable names GitHub's runners"""
    paused_until: datetime | None = None
    """GitHub gives it no runners until then"""
    pause_reason: str = ""
    pauses: int = 0
    """one soon after the other"""

    @property
    def limits(self) -> Limits:
        return Limits(self.max_runners, self.per_repository)


class Ledger(Document):
    """Every lease of a pool by runner name, and every waiting job by its key."""

    leases: dict[str, Lease] = {}
    queue: dict[str, Waiting] = {}
    limits: dict[str, KnownLimits] = {}
    """by scale set; a pool may serve several organizations, so each is named `org/scale set`"""
    token: str = ""
    """of the last group commit: tells our own write from another's after a lost answer"""


@dataclass(frozen=True)
class SeenLedger:
    """A pool's ledger and its version; what could be read of it when somebody has spoilt it."""

    ledger: Ledger
    version: datetime
    problem: str = ""


def salvage(fields: Mapping[str, Any]) -> Ledger:
    """What can be read of a ledger that somebody has spoilt: every entry for itself."""
    return Ledger(
        leases=_readable(Lease, fields.get("leases")),
        queue=_readable(Waiting, fields.get("queue")),
        limits=_readable(KnownLimits, fields.get("limits")),
    )


EntryT = TypeVar("EntryT", bound=Document)


def _readable(kind: type[EntryT], entries: object) -> dict[str, EntryT]:
    found: dict[str, EntryT] = {}
    for name, entry in entries.items() if isinstance(entries, Mapping) else ():
        with suppress(ValidationError):
            found[str(name)] = kind.model_validate(entry)
    return found
