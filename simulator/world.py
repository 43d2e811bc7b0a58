"""What GitHub knows and decides: runners, jobs, and which runner gets which job. No I/O."""

import random
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

DEFAULT_GROUP = 1


class ApiError(Exception):
    """An answer other than success."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status
        self.message = message


class HandOut(StrEnum):
    """Who gets which runner, where there is a choice."""

    RANDOM = "random"
    """any idle runner with the labels, as GitHub does"""
    IN_ORDER = "in_order"
    """the oldest job to the runner that came online first"""
    WRONG = "wrong"
    """always a runner that was made for a job of another size, as long as one may still come"""
    SWAPPED = "swapped"
    """jobs whose own runners wait get each other's, all in one cycle"""


PATIENCE = {HandOut.WRONG: timedelta(seconds=20), HandOut.SWAPPED: timedelta(seconds=2)}
"""a runner for which no job is wrong enough gets any after so long"""


@dataclass
class Runner:
    """A registered just-in-time runner."""

    id: int
    name: str
    scope: str
    """`/orgs/acme` or `/repos/acme/app`"""
    group_id: int
    labels: tuple[str, ...]
    secret: str
    """what its JIT config proves to be it with"""
    session: str | None = None
    is_listening: bool = False
    """its long poll is open: only then can it be given a job"""
    online_at: datetime | None = None
    heard_at: datetime | None = None
    """when it last said anything"""
    job: "Job | None" = None

    @property
    def is_idle(self) -> bool:
        return self.is_listening and self.job is None

    def was_made_for(self, job: "Job") -> bool:
        """Our runners' names hold the id of a job; GitHub would not know, but an adversary may."""
        return f"-{job.id}-" in self.name

    def serves(self, job: "Job") -> bool:
        in_reach = self.scope in {f"/repos/{job.repository}", f"/orgs/{job.owner}"}
        offered = {label.casefold() for label in self.labels}
        return in_reach and {label.casefold() for label in job.labels} <= offered


@dataclass
class Job:
    """One job of a workflow run."""

    id: int
    run_id: int
    run_attempt: int
    repository: str
    name: str
    labels: tuple[str, ...]
    workflow: str
    branch: str
    head_sha: str
    script: str
    created_at: datetime
    size: str = ""
    """what a test calls the size that it needs"""
    event: str = "push"
    head_repository: str = ""
    """where the code comes from; its own repository when empty"""
    status: str = "queued"
    conclusion: str | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    runner_id: int | None = None
    runner_name: str | None = None
    runner_group_id: int | None = None
    log: str = ""

    @property
    def owner(self) -> str:
        return self.repository.partition("/")[0]


def run_status(jobs: Sequence[Job]) -> str:
    """What GitHub calls a workflow run with these jobs: one that has begun is in progress while jobs of it wait."""
    states = {job.status for job in jobs}
    return states.pop() if len(states) == 1 else "in_progress"


@dataclass(frozen=True)
class JobSpec:
    """One job as a test orders it."""

    name: str
    labels: tuple[str, ...]
    script: str = "true"
    size: str = ""


@dataclass
class World:
    """Everything that GitHub knows."""

    now: Callable[[], datetime]
    rng: random.Random
    hand_out: HandOut = HandOut.RANDOM
    users: frozenset[str] = frozenset()
    """owners that are users; all others are organizations"""
    runners: dict[int, Runner] = field(default_factory=dict)
    jobs: dict[int, Job] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=lambda: {"Default": DEFAULT_GROUP})
    runners_seen: int = 0
    """registered so far, the gone ones too"""
    _last_id: int = 7_000_000_000

    def register_runner(self, scope: str, name: str, group_id: int, labels: Sequence[str]) -> Runner:
        """Raises ApiError 409 for a name in use, 422 for what GitHub does not accept."""
        if any(runner.name == name and runner.scope == scope for runner in self.runners.values()):
            raise ApiError(409, f"Already exists - A runner with the name {name} already exists.")
        if not 1 <= len(labels) <= 100:
            raise ApiError(422, "Validation Failed: labels must have 1 to 100 entries")
        if group_id not in self.groups.values() or (scope.startswith("/repos/") and group_id != DEFAULT_GROUP):
            raise ApiError(422, f"Validation Failed: there is no runner group {group_id}")
        runner = Runner(self._new_id() % 1_000_000, name, scope, group_id, tuple(labels), secrets.token_hex(32))
        self.runners[runner.id] = runner
        self.runners_seen += 1
        return runner

    def find_runner(self, scope: str, runner_id: int) -> Runner:
        runner = self.runners.get(runner_id)
        if runner is None or runner.scope != scope:
            raise ApiError(404, "Not Found")
        return runner

    def list_runners(self, scope: str, name: str | None) -> list[Runner]:
        return [r for r in self.runners.values() if r.scope == scope and name in (None, r.name)]

    def delete_runner(self, scope: str, runner_id: int) -> None:
        """Raises ApiError 422 while the runner has a job."""
        runner = self.find_runner(scope, runner_id)
        if runner.job is not None:
            raise ApiError(422, f'Bad request - Runner "{runner.name}" is still running a job')
        del self.runners[runner_id]

    def drop_runner(self, name: str) -> None:
        """Forgets an idle runner although it listens, as GitHub is known to do after some minutes."""
        for runner in [r for r in self.runners.values() if r.name == name and r.job is None]:
            del self.runners[runner.id]

    def dispatch(
        self,
        repository: str,
        workflow: str,
        branch: str,
        specs: Sequence[JobSpec],
        *,
        event: str = "push",
        head_repository: str = "",
        run_id: int | None = None,
    ) -> list[Job]:
        """Queues the jobs of a new workflow run, or further jobs of a run."""
        run_id = run_id or self._new_id()
        sha = f"{self.rng.getrandbits(160):040x}"
        jobs = [
            Job(
                id=self._new_id(),
                run_id=run_id,
                run_attempt=1,
                repository=repository,
                name=spec.name,
                labels=spec.labels,
                workflow=workflow,
                branch=branch,
                head_sha=sha,
                script=spec.script,
                size=spec.size,
                created_at=self.now(),
                event=event,
                head_repository=head_repository,
            )
            for spec in specs
        ]
        self.jobs |= {job.id: job for job in jobs}
        return jobs

    def cancel(self, job_id: int) -> Job | None:
        """Cancels a job that no runner has; None when it is too late."""
        job = self.find_job(job_id)
        if job.status != "queued":
            return None
        self._end(job, "cancelled")
        return job

    def jobs_of_run(self, run_id: int) -> list[Job]:
        """Raises ApiError 404 for a run that there is not."""
        jobs = [job for job in self.jobs.values() if job.run_id == run_id]
        if not jobs:
            raise ApiError(404, "Not Found")
        return jobs

    def active_runs(self, repository: str, status: str) -> list[list[Job]]:
        """The runs of a repository that are in a state, newest first."""
        runs: dict[int, list[Job]] = {}
        for job in self.jobs.values():
            if job.repository == repository:
                runs.setdefault(job.run_id, []).append(job)
        return [jobs for jobs in reversed(runs.values()) if run_status(jobs) == status]

    def repositories(self) -> list[str]:
        """Those that have had a job."""
        return list(dict.fromkeys(job.repository for job in self.jobs.values()))

    def cancel_run(self, run_id: int) -> list[Job]:
        """Cancels those jobs of a run that no runner has. Raises ApiError 409 when all have ended."""
        jobs = self.jobs_of_run(run_id)
        if all(job.status == "completed" for job in jobs):
            raise ApiError(409, "Cannot cancel a workflow run that is completed.")
        return [cancelled for job in jobs if (cancelled := self.cancel(job.id)) is not None]

    def find_job(self, job_id: int) -> Job:
        if job_id not in self.jobs:
            raise ApiError(404, "Not Found")
        return self.jobs[job_id]

    def open_session(self, runner_id: int, secret: str) -> Runner:
        """A runner comes online. Raises ApiError 401 when it is not who it says, 409 when it is online already."""
        runner = self.runners.get(runner_id)
        if runner is None or not secrets.compare_digest(runner.secret, secret):
            raise ApiError(401, "The runner registration has been deleted from the server, please re-configure.")
        if runner.session is not None:
            raise ApiError(409, "A session for this runner already exists.")
        runner.session = secrets.token_hex(16)
        runner.online_at = self.now()
        return runner

    def runner_of_session(self, session: str) -> Runner:
        for runner in self.runners.values():
            if runner.session is not None and secrets.compare_digest(runner.session, session):
                return runner
        raise ApiError(401, "There is no such session")

    def close_session(self, session: str) -> None:
        """The runner goes offline; it stays registered, as at GitHub, unless it has had its job."""
        self.runner_of_session(session).session = None

    def hand_out_jobs(self) -> list[Job]:
        """Gives queued jobs to idle runners until nothing fits any more; the jobs that now have a runner."""
        started: list[Job] = []
        while pairs := self._choose():
            for job, runner in pairs:
                self._start(job, runner.id, runner.name, runner.group_id)
                runner.job = job
                started.append(job)
        return started

    def steal(self, job_id: int, runner_name: str) -> Job:
        """Gives a queued job to somebody else's runner, which is not registered with us."""
        job = self.find_job(job_id)
        if job.status != "queued":
            raise ApiError(409, "The job is not queued any more")
        self._start(job, self._new_id() % 1_000_000, runner_name, DEFAULT_GROUP)
        return job

    def end_stolen(self, job: Job) -> None:
        """The other runner is done."""
        self._end(job, "success")

    def _start(self, job: Job, runner_id: int, runner_name: str, group_id: int) -> None:
        job.status, job.started_at = "in_progress", self.now()
        job.runner_id, job.runner_name, job.runner_group_id = runner_id, runner_name, group_id

    def _choose(self) -> list[tuple[Job, Runner]]:
        """Who gets whom next; empty when nobody fits, or when the right kind of trouble is still to come."""
        pairs = list(self._possible_pairs())
        if not pairs:
            return []
        match self.hand_out:
            case HandOut.IN_ORDER:
                return pairs[:1]
            case HandOut.RANDOM:
                return [self.rng.choice(pairs)]
            case HandOut.WRONG:
                return [pair for pair in pairs if self._is_wrong(*pair)][:1] or self._overdue(pairs)
            case HandOut.SWAPPED:
                return _cycle(pairs) or self._overdue(pairs)

    def _is_wrong(self, job: Job, runner: Runner) -> bool:
        return not any(other.size == job.size for other in self.jobs.values() if runner.was_made_for(other))

    def _overdue(self, pairs: Sequence[tuple[Job, Runner]]) -> list[tuple[Job, Runner]]:
        limit = self.now() - PATIENCE[self.hand_out]
        return [pair for pair in pairs if pair[1].online_at is not None and pair[1].online_at < limit][:1]

    def _possible_pairs(self) -> Iterator[tuple[Job, Runner]]:
        idle = [runner for runner in self.runners.values() if runner.is_idle]
        for job in self.jobs.values():
            if job.status == "queued":
                yield from ((job, runner) for runner in idle if runner.serves(job))

    def finish(self, runner: Runner, conclusion: str) -> Job:
        """The runner's job has ended, and with it the runner's registration."""
        job = runner.job
        if job is None:
            raise ApiError(422, "This runner has no job")
        self._end(job, conclusion)
        del self.runners[runner.id]
        return job

    def lose(self, runner: Runner) -> Job | None:
        """The runner has vanished: its job fails, as GitHub does after some minutes of silence."""
        runner.session = None
        return self.finish(runner, "failure") if runner.job is not None else None

    def _end(self, job: Job, conclusion: str) -> None:
        job.status, job.conclusion, job.completed_at = "completed", conclusion, self.now()

    def _new_id(self) -> int:
        self._last_id += 1
        return self._last_id


def _cycle(pairs: Sequence[tuple[Job, Runner]]) -> list[tuple[Job, Runner]]:
    """Each job whose own runner waits, with the next one's runner; empty while fewer than two wait."""
    own = [(job, runner) for job, runner in pairs if runner.was_made_for(job)]
    if len(own) < 2:
        return []
    return [(job, own[(number + 1) % len(own)][1]) for number, (job, _) in enumerate(own)]
