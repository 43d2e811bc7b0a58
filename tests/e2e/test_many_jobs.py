"""Many jobs of many sizes on two hosts, handed out at random: no job may see another size, nothing may drift."""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import docker
import docker.errors
import pytest

from controller.policy_store import PolicyStore
from functions.documents import host
from functions.documents.host import Host
from functions.routing.policy import parse_policy
from local.image import IMAGE
from local.stack import Stack
from tests.e2e.conftest import REPOSITORY, Yard
from tests.e2e.test_jobs import LIMITS

JOBS = 200
SIZES = {"tiny": (0.1, 48), "small": (0.15, 64), "medium": (0.2, 80), "large": (0.3, 96), "huge": (0.4, 128)}
"""profile → CPUs and MiB"""
MAX_RUNNERS = 16
CPUS, MEMORY_MIB = 2, 1024
"""of each host"""
_LIMITS = re.compile(r"(?P<quota>\d+)(?: \d+)?\n(?P<memory>\d+)")


def policy() -> dict[str, Any]:
    return {
        "profiles": {
            name: {"cpus": cpus, "memory": f"{mib}m", "pids": 128, "match_patterns": [f"{name}-*"]}
            for name, (cpus, mib) in SIZES.items()
        },
        "default_profile": "tiny",
        "scale_sets": {"ci": {"max_runners": MAX_RUNNERS, "image": IMAGE, "labels": ["ci"], "idle_timeout": 10}},
        "routes": [{"label_match": "ci", "strategy": "self_hosted_only"}],
    }


class Site:
    """Two hosts of one pool."""

    def __init__(self, yard: Yard, second: Stack):
        self.yard = yard
        self.second = second
        self.hosts = [yard.stack.options.host_id, second.options.host_id]

    def containers(self) -> list[dict[str, Any]]:
        return [c for name in self.hosts for c in self._list(self.yard.api.containers, name, all=True)]

    def networks(self) -> list[dict[str, Any]]:
        return [n for name in self.hosts for n in self._list(self.yard.api.networks, name)]

    def documents(self) -> list[Host]:
        found = self.yard.firestore.collection(host.COLLECTION).stream()
        return [Host.from_firestore(snapshot.to_dict() or {}) for snapshot in found]

    def _list(self, ask: Callable[..., list[dict[str, Any]]], name: str, **options: Any) -> list[dict[str, Any]]:
        return ask(filters={"label": f"runyard.host={name}"}, **options)


@pytest.fixture
def site(make_yard: Callable[..., Yard], docker_api: docker.APIClient) -> Iterator[Site]:
    yard = make_yard(hand_out="random", cpus=str(CPUS), memory=f"{MEMORY_MIB}m")
    yard.start("github", "function", "commands", "triggers", "controller")
    second = yard.stack.beside(f"{yard.stack.options.host_id}-b", "10.222.0.0/20", "ryeb")
    process = second.start_controller()
    store = PolicyStore(yard.stack.options.project)
    store.push(REPOSITORY.partition("/")[0], policy(), "test", "")
    store.close()
    here = Site(yard, second)
    yield here
    process.stop()
    for container in here.containers():
        with suppress(docker.errors.APIError):
            docker_api.remove_container(container["Id"], force=True, v=True)
    for network in here.networks():
        with suppress(docker.errors.APIError):
            docker_api.remove_network(network["Id"])


def test_two_hundred_jobs_of_five_sizes_see_their_own_and_nothing_drifts(site: Site) -> None:
    yard = site.yard
    profiles = list(SIZES)
    names = [f"{profiles[number % len(profiles)]}-{number}" for number in range(JOBS)]
    for first in range(0, JOBS, 20):
        # As several matrices that come one after the other.
        yard.dispatch(*names[first : first + 20], script=LIMITS + "sleep 1")
        time.sleep(1)
    most = watch_until_done(site)
    assert most["runners"] <= MAX_RUNNERS
    assert most["leases"] <= MAX_RUNNERS
    jobs = yard.github_jobs()
    assert Counter(job["conclusion"] for job in jobs.values()) == {"success": JOBS}
    wrong = {name: seen for name in names if (seen := seen_by(jobs[name]["log"])) != size_of(name)}
    assert wrong == {}
    yard.wait("the last documents", lambda: sum(job.sizing is not None for job in yard.jobs().values()) == JOBS)
    receipts = [job.sizing for job in yard.jobs().values() if job.sizing is not None]
    verdicts = Counter(receipt.verdict for receipt in receipts)
    assert set(verdicts) <= {"fits", "resized"}
    assert verdicts["resized"] > JOBS // 4, "at random, four of five runners are of another size"
    yard.wait("nothing left", lambda: not site.containers() and not yard.leases() and not yard.runners())
    assert yard.stack.github_state()["runners"] == []
    assert yard.stack.github_state()["runners_seen"] == JOBS
    yard.wait("both hosts are empty", lambda: all(is_empty(found) for found in site.documents()), 30)
    assert {found.host_id for found in site.documents()} == set(site.hosts)


def watch_until_done(site: Site) -> Counter[str]:
    """The largest numbers seen while the jobs ran."""
    most: Counter[str] = Counter()
    deadline = time.monotonic() + 400
    while True:
        state, leases = site.yard.stack.github_state(), site.yard.leases()
        most["runners"] = max(most["runners"], len(state["runners"]))
        most["leases"] = max(most["leases"], len(leases))
        for found in site.documents():
            # GitHub may give a job that we hold to a runner that is too small: it waits at the gate until it fits.
            assert min(found.free_cpu_millis, found.free_memory_bytes) >= 0
        if all(job["status"] == "completed" for job in state["jobs"]):
            return most
        assert time.monotonic() < deadline, Counter(job["status"] for job in state["jobs"])
        time.sleep(0.5)


def is_empty(found: Host) -> bool:
    return (found.free_cpu_millis, found.free_memory_bytes) == (found.cpu_millis, found.memory_bytes)


def seen_by(log: str) -> tuple[int, int] | None:
    """CPU quota in microseconds and memory in bytes, as a job's first step read them."""
    found = _LIMITS.search(log)
    return (int(found["quota"]), int(found["memory"])) if found else None


def size_of(name: str) -> tuple[int, int]:
    profile = parse_policy(policy()).profiles[name.partition("-")[0]]
    return profile.cpu_millis * 100, profile.memory_bytes
