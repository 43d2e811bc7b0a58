"""Admission keeps to the unit what policy and hosts allow, whatever comes at the same time to whichever instance.

Hypothesis makes up rounds of requests; several processes settle each round at once against the emulator; after each
round the documents are looked at.
"""

import multiprocessing
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from google.cloud import firestore
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from functions.admission.group import Settled
from functions.admission.requests import Admit, Decided, Forget, Promise, Promised, Release, Request
from functions.documents import host, ledger, workflow_job
from functions.documents.ledger import Ledger
from functions.documents.workflow_job import WorkflowJob
from functions.routing.capacity import NOTHING, Size
from functions.routing.classify import CompiledPolicy, Match
from functions.routing.job import JobFacts
from functions.routing.policy import Policy, parse_policy
from tests.fakes import examples
from tests.fakes.examples import GIB
from tests.integration.admission_worker import Batch, serve

INSTANCES = 3
PLACES = {"acme/ci": 5, "acme/burst": 3}
QUOTA = 3
QUEUE_DEPTH = 4
HOSTS = {"big": Size(8000, 16 * GIB), "small": Size(4000, 6 * GIB)}
NAMES = st.sampled_from(["build", "medium", "large"])
REPOSITORIES = st.sampled_from(["acme/a", "acme/b"])
LABELS = st.sampled_from(["ci", "burst"])
RUNS = st.integers(1, 3)


def policy_of(pool: str) -> Policy:
    """Two scale sets that share hosts: one has a quota and a queue, the other overflows to GitHub's runners."""
    return parse_policy(
        {
            "profiles": {
                "large": {"cpus": 6, "memory": "8g", "match_patterns": ["large*"]},
                "medium": {"cpus": 2, "memory": "3g", "match_patterns": ["medium*"]},
                "small": {"cpus": 1, "memory": "1g"},
            },
            "default_profile": "small",
            "scale_sets": {
                "ci": {"max_runners": PLACES["acme/ci"], "per_repository": QUOTA, "image": "runner:1", "pool": pool},
                "burst": {"max_runners": PLACES["acme/burst"], "image": "runner:1", "pool": pool},
            },
            "routes": [
                {"label_match": "ci", "scale_set": "ci", "overflow": "hold", "max_queue_depth": QUEUE_DEPTH},
                {"label_match": "burst", "scale_set": "burst", "overflow": "github_hosted"},
            ],
            "overflow": {"mechanism": "preflight"},
        }
    )


class Instances:
    """Processes that admit, each with a ledger of its own in its memory."""

    def __init__(self, project: str):
        context = multiprocessing.get_context("spawn")
        pipes = [context.Pipe() for _ in range(INSTANCES)]
        self._connections = [ours for ours, _ in pipes]
        self._processes = [context.Process(target=serve, args=(project, theirs)) for _, theirs in pipes]
        for process in self._processes:
            process.start()

    def settle(self, pool: str, requests: Sequence[Request]) -> list[Settled]:
        """Spreads requests over the instances, lets all of them work at once, and waits for their answers."""
        for number, connection in enumerate(self._connections):
            connection.send(Batch(pool, requests[number::INSTANCES]))
        return [settled for connection in self._connections for settled in connection.recv()]

    def stop(self) -> None:
        for connection in self._connections:
            connection.send(None)
        for process in self._processes:
            process.join(20)
            assert process.exitcode == 0


@pytest.fixture(scope="module")
def world(emulator_host: str) -> Iterator[tuple[Instances, firestore.Client]]:
    project = f"test-{uuid.uuid4().hex[:12]}"
    instances, client = Instances(project), firestore.Client(project=project)
    yield instances, client
    instances.stop()
    client.close()  # type: ignore[no-untyped-call]


class AdmissionMachine(RuleBasedStateMachine):
    """One pool, from nothing on."""

    instances: Instances
    client: firestore.Client

    @initialize()
    def begin(self) -> None:
        self.pool = f"p{uuid.uuid4().hex[:10]}"
        self.policy = CompiledPolicy(policy_of(self.pool))
        self.alive = dict(HOSTS)
        self.ledger, self.jobs = Ledger(), dict[str, WorkflowJob]()
        self.last_job = 0
        self.promoted: Counter[str] = Counter()
        for name in HOSTS:
            self._write_host(name, is_alive=True)

    # what happens

    @rule(
        jobs=st.lists(st.tuples(NAMES, REPOSITORIES, LABELS, RUNS), max_size=12),
        redelivered=st.integers(0, 3),
        ended=st.lists(st.integers(0, 30), max_size=6),
        forgotten=st.lists(st.integers(0, 30), max_size=3),
        asked=st.lists(st.tuples(RUNS, REPOSITORIES, LABELS, st.integers(1, 3), st.booleans()), max_size=2),
    )
    def everything_at_once(
        self,
        jobs: list[tuple[str, str, str, int]],
        redelivered: int,
        ended: list[int],
        forgotten: list[int],
        asked: list[tuple[int, str, str, int, bool]],
    ) -> None:
        """Jobs are queued, end and are cancelled, events come twice, and workflows ask for places in advance."""
        admits = [self._admit(*job) for job in jobs]
        runners = sorted(name for name, lease in self.ledger.leases.items() if lease.job_key)
        waiting = sorted(self.ledger.queue)
        releases = [Release(name, self.ledger.leases[name].job_key) for name in _pick(runners, ended)]
        forgets = [Forget(key) for key in _pick(waiting, forgotten)]
        promises = [self._promise(*question) for question in asked]
        self._settle([*admits, *admits[:redelivered], *releases, *releases[:redelivered], *forgets, *promises])

    @rule(name=st.sampled_from(sorted(HOSTS)))
    def a_host_dies_or_comes_back(self, name: str) -> None:
        if name in self.alive:
            del self.alive[name]
        else:
            self.alive[name] = HOSTS[name]
        self._write_host(name, is_alive=name in self.alive)

    @rule(jobs=st.lists(st.tuples(NAMES, REPOSITORIES, LABELS, RUNS), min_size=1, max_size=4))
    def jobs_come_while_no_host_is_alive(self, jobs: list[tuple[str, str, str, int]]) -> None:
        """The overflow rule applies at once, and says why."""
        for name in HOSTS:
            self._write_host(name, is_alive=False)
        results = self._settle([self._admit(*job) for job in jobs])
        for settled in results:
            assert isinstance(settled.result, Decided)
            decision = settled.result.job.decision
            assert decision is not None
            expected = {"ci": {"held", "rejected"}, "burst": {"overflow"}}[settled.result.job.labels[0]]
            assert decision.outcome in expected
            assert decision.reason.startswith("no host of its pool is alive")
        for name in self.alive:
            self._write_host(name, is_alive=True)

    # what must hold

    @invariant()
    def no_scale_set_has_more_runners_than_its_policy_allows(self) -> None:
        for scale_set, count in Counter(lease.scale_set for lease in self.ledger.leases.values()).items():
            assert count <= PLACES[scale_set]

    @invariant()
    def no_repository_has_more_than_its_quota(self) -> None:
        leases = [lease for lease in self.ledger.leases.values() if lease.scale_set == "acme/ci"]
        assert all(count <= QUOTA for count in Counter(lease.repository for lease in leases).values())

    @invariant()
    def no_more_cpu_and_memory_are_promised_than_hosts_have_had(self) -> None:
        """A host that dies takes its room along; what it ran is not admitted anew."""
        reserved = sum((lease.size for lease in self.ledger.leases.values()), NOTHING)
        assert reserved.fits_into(sum(HOSTS.values(), NOTHING))

    @invariant()
    def the_queue_is_no_longer_than_it_may_be(self) -> None:
        held = Counter(waiting.scale_set for waiting in self.ledger.queue.values() if waiting.is_held)
        assert held["acme/ci"] <= QUEUE_DEPTH
        assert held["acme/burst"] == 0

    @invariant()
    def ledger_and_jobs_say_the_same(self) -> None:
        leases = {lease.job_key: name for name, lease in self.ledger.leases.items() if lease.job_key}
        assert len(leases) == sum(bool(lease.job_key) for lease in self.ledger.leases.values()), (
            "one place for each job"
        )
        for key, name in leases.items():
            reservation = self.jobs[key].reservation
            assert reservation is not None
            assert reservation.runner_name == name
        assert not leases.keys() & self.ledger.queue.keys()
        assert self.ledger.queue.keys() <= self.jobs.keys()

    @invariant()
    def every_job_that_waited_is_handed_out_once(self) -> None:
        assert all(count == 1 for count in self.promoted.values())

    def _settle(self, requests: list[Request]) -> list[Settled]:
        before = self.ledger
        results = self.instances.settle(self.pool, requests)
        self._look()
        decided = Counter(settled.result.job.key for settled in results if isinstance(settled.result, Decided))
        asked = {request.job.key for request in requests if isinstance(request, Admit)}
        assert decided == Counter(asked), "each job is decided about once, however often it is delivered"
        self.promoted.update(promotion.job_key for settled in results for promotion in settled.todo.promotions)
        self._check_new_places(before)
        promised = [s.result for s in results if isinstance(s.result, Promised)]
        assert len(promised) == sum(isinstance(request, Promise) for request in requests)
        return results

    def _check_new_places(self, before: Ledger) -> None:
        """New places fit into the hosts that are alive, beside everything else."""
        new = [lease for name, lease in self.ledger.leases.items() if name not in before.leases]
        if not new:
            return
        reserved = sum((lease.size for lease in self.ledger.leases.values()), NOTHING)
        assert reserved.fits_into(sum(self.alive.values(), NOTHING))
        assert all(any(lease.size.fits_into(size) for size in self.alive.values()) for lease in new)

    def _look(self) -> None:
        fields = self.client.collection(ledger.COLLECTION).document(self.pool).get().to_dict()
        self.ledger = Ledger.from_firestore(fields or {})
        query = self.client.collection(workflow_job.COLLECTION).where(
            filter=firestore.FieldFilter("decision.pool", "==", self.pool)
        )
        self.jobs = {snapshot.id: WorkflowJob.from_firestore(snapshot.to_dict() or {}) for snapshot in query.stream()}

    def _admit(self, name: str, repository: str, label: str, run_id: int) -> Admit:
        self.last_job += 1
        # Job ids are unique among all pools that share the emulator.
        number = int(self.pool[1:], 16) % 10**9 * 1000 + self.last_job
        job = examples.job(number, name, repository=repository, labels=(label,), run_id=run_id)
        job = job.model_copy(update={"plan": examples.runner_plan()})
        return Admit(job, self._match(name, repository, label), 1, overflow_grace=timedelta(hours=1))

    def _promise(self, run_id: int, repository: str, label: str, count: int, lapses: bool) -> Promise:
        until = datetime.now(UTC) + (timedelta(0) if lapses else timedelta(hours=1))
        match = self._match("build", repository, label)
        return Promise("acme", repository, run_id, (match,) * count, (label,), until)

    def _match(self, name: str, repository: str, label: str) -> Match:
        match = self.policy.classify(JobFacts(repository, name, (label,)))
        assert match is not None
        return match

    def _write_host(self, name: str, *, is_alive: bool) -> None:
        now, size = datetime.now(UTC), HOSTS[name]
        document = examples.host(
            f"{self.pool}-{name}",
            pool=self.pool,
            cpu_millis=size.cpu_millis,
            memory_bytes=size.memory_bytes,
            heartbeat_at=now,
            lease_until=now + timedelta(hours=1 if is_alive else -1),
        )
        self.client.collection(host.COLLECTION).document(document.host_id).set(document.to_firestore())


def _pick(items: Sequence[str], numbers: Sequence[int]) -> list[str]:
    return sorted({items[number % len(items)] for number in numbers}) if items else []


def test_nothing_that_happens_at_the_same_time_gives_away_a_place_too_many(
    world: tuple[Instances, firestore.Client],
) -> None:
    class Machine(AdmissionMachine):
        instances, client = world

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=15,
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            # Who is first differs from run to run: a failure cannot be made smaller by trying again.
            phases=[Phase.generate],
        ),
    )
