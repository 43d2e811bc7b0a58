"""What a job costs in Firestore from its first webhook to its end, function and controller together.

Used by `admission.py`. The whole stack runs, with a counting proxy before the emulator.
"""

import time
import uuid
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from pathlib import Path

import docker
from google.cloud import firestore

from controller.policy_store import PolicyStore
from functions.documents import host, ledger, pending_runner, workflow_job
from local.image import ensure_image
from local.stack import Stack, StackOptions

from .counting import Bill, CountingProxy

ORG = "acme"
_JOB_WITHIN_S = 120.0
_QUIET_S = 3.0
"""after the last container: until the last documents are written"""
STANDING = {host.COLLECTION}
"""collections that cost the same whether there are jobs or not: heartbeats, and looking for other hosts"""


@dataclass(frozen=True)
class Cost:
    """Mean figures of a job."""

    reads: float
    writes: float
    deletes: float
    """now, and by the time-to-live policy later"""

    @property
    def usd_for_1000_jobs(self) -> float:
        """At Firestore's list price for multi-region locations; regional ones are cheaper."""
        return 1000 * (self.reads * 0.06 + self.writes * 0.18 + self.deletes * 0.02) / 100_000

    def mean_with(self, other: "Cost", share: float) -> "Cost":
        """The mean of two loads, of which this one has a share."""
        ours, theirs = astuple(self), astuple(other)
        return Cost(*(share * a + (1 - share) * b for a, b in zip(ours, theirs, strict=True)))


class Yard:
    """A running stack whose Firestore calls are counted."""

    def __init__(self, folder: Path, docker_host: str, proxy_address: str, proxy: CountingProxy, cleanup: ExitStack):
        name = uuid.uuid4().hex[:6]
        ensure_image(docker.APIClient(base_url=docker_host, version="auto"))
        options = StackOptions(
            folder,
            f"bench-{name}",
            proxy_address,
            docker_host,
            host_id=f"bench-{name}",
            network_range="10.219.0.0/20",
            bridge_prefix="ryb",
        )
        self._proxy = proxy
        self._stack = Stack(options)
        # Looks past the proxy, at the emulator itself: what the benchmark reads is not the jobs' cost.
        self._client = firestore.Client(project=options.project)
        cleanup.callback(self._client.close)
        cleanup.enter_context(self._stack.running())
        self._publish()

    def _publish(self) -> None:
        policy = {
            "version": 1,
            "profiles": {"small": {"cpus": 0.1, "memory": "64m", "pids": 128}},
            "default_profile": "small",
            "scale_sets": {"ci": {"max_runners": 10, "image": "runyard-standin-runner"}},
            "routes": [{"label_match": "ci", "strategy": "self_hosted_only"}],
        }
        store = PolicyStore(self._stack.options.project)
        store.push(ORG, policy, "benchmark", "")
        store.close()

    def run(self, *matrices: int) -> Cost:
        """Runs matrices of so many jobs, one after the other, to their ends; the mean cost of a job."""
        before = self._count_expiring()
        self._proxy.take_bill()
        for number, size in enumerate(matrices):
            jobs = [{"name": f"job {number}.{index}", "labels": ["ci"], "script": "true"} for index in range(size)]
            self._stack.dispatch(f"{ORG}/app", jobs)
            self._wait_for_the_end()
        return _mean(self._proxy.take_bill(), sum(matrices), self._count_expiring() - before)

    def _wait_for_the_end(self) -> None:
        deadline = time.monotonic() + _JOB_WITHIN_S
        while not self._is_quiet():
            if time.monotonic() > deadline:
                raise TimeoutError(f"jobs did not end within {_JOB_WITHIN_S:g} s: see {self._stack.options.folder}")
            time.sleep(0.2)
        time.sleep(_QUIET_S)

    def _is_quiet(self) -> bool:
        pools = (snapshot.to_dict() or {} for snapshot in self._client.collection(ledger.COLLECTION).stream())
        runners = self._client.collection(pending_runner.COLLECTION).limit(1).get()
        jobs = [job["status"] for job in self._stack.github_state()["jobs"]]
        return not runners and all(s == "completed" for s in jobs) and not any(p.get("leases") for p in pools)

    def _count_expiring(self) -> int:
        """Documents that the time-to-live policy will delete: the emulator does not, Firestore bills it."""
        return sum(
            "expireAt" in (snapshot.to_dict() or {})
            for collection in (workflow_job.COLLECTION, pending_runner.COLLECTION)
            for snapshot in self._client.collection(collection).stream()
        )


def _mean(bill: Bill, jobs: int, expiring: int) -> Cost:
    def per_job(counts: dict[str, int]) -> float:
        return sum(count for collection, count in counts.items() if collection not in STANDING) / jobs

    return Cost(per_job(bill.reads), per_job(bill.writes), per_job(bill.deletes) + expiring / jobs)
