"""Everything together: simulated GitHub, function, controller, proxy, containers."""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import docker
import pytest
from google.cloud import firestore

from controller.policy_store import PolicyStore
from functions.documents import ledger, pending_runner, workflow_job
from functions.documents.pending_runner import PendingRunner
from functions.documents.workflow_job import WorkflowJob
from local.image import IMAGE
from local.processes import Process
from local.stack import Stack, StackOptions

REPOSITORY = "acme/app"


class Yard:
    """A running stack with a policy, and what a user would look at."""

    def __init__(self, stack: Stack, api: docker.APIClient, cleanup: ExitStack):
        self.stack = stack
        self.api = api
        self.firestore = firestore.Client(project=stack.options.project)
        self._cleanup = cleanup
        cleanup.callback(self.firestore.close)

    def start(self, *names: str) -> dict[str, Process]:
        """Starts parts by name, in this order; they are stopped at the end."""
        processes = {}
        for name in names or ("github", "function", "commands", "triggers", "controller"):
            process: Process = getattr(self.stack, f"start_{name}")()
            self._cleanup.callback(process.stop)
            processes[name] = process
        return processes

    def publish(self, **changes: Any) -> None:
        """Two profiles in the proportion 4 : 1; `changes` go to the scale set."""
        policy = {
            "version": 1,
            "profiles": {
                "high-cpu": {"cpus": 0.4, "memory": "256m", "pids": 256, "match_patterns": ["high-cpu*"]},
                "low-cpu": {"cpus": 0.1, "memory": "64m", "pids": 128} | changes.pop("low_cpu", {}),
            },
            "default_profile": "low-cpu",
            "scale_sets": {"ci": {"max_runners": 10, "image": IMAGE, "labels": ["ci"]} | changes},
            "routes": [{"label_match": "ci", "strategy": "self_hosted_only"}],
        }
        store = PolicyStore(self.stack.options.project)
        store.push(REPOSITORY.partition("/")[0], policy, "test", "")
        store.close()

    def dispatch(self, *names: str, script: str = "true", **job: Any) -> list[int]:
        """Starts a workflow run with these jobs; their ids."""
        jobs = [{"name": name, "labels": ["ci"], "script": script} | job for name in names]
        return [queued["id"] for queued in self.stack.dispatch(REPOSITORY, jobs)]

    def jobs(self) -> dict[str, WorkflowJob]:
        """Job documents by job name."""
        found = (WorkflowJob.from_firestore(s.to_dict() or {}) for s in self._all(workflow_job.COLLECTION))
        return {job.name: job for job in found}

    def runners(self) -> dict[str, PendingRunner]:
        found = (PendingRunner.from_firestore(s.to_dict() or {}) for s in self._all(pending_runner.COLLECTION))
        return {runner.runner_name: runner for runner in found}

    def leases(self) -> Mapping[str, Any]:
        ledgers = {snapshot.id: snapshot.to_dict() or {} for snapshot in self._all(ledger.COLLECTION)}
        leases: Mapping[str, Any] = ledgers.get("default", {}).get("leases", {})
        return leases

    def github_jobs(self) -> dict[str, dict[str, Any]]:
        return {job["name"]: job for job in self.stack.github_state()["jobs"]}

    def containers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.api.containers(all=True, filters={"label": self._label})
        return found

    def networks(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.api.networks(filters={"label": self._label})
        return found

    def wait(self, what: str, is_true: Callable[[], object], within_s: float = 60) -> None:
        """Waits for something to become true; fails with a look at everything if it does not."""
        deadline = time.monotonic() + within_s
        while not is_true():
            if time.monotonic() > deadline:
                pytest.fail(f"not within {within_s:g} s: {what}\n{self._everything()}")
            time.sleep(0.1)

    def wait_for_ends(self, names: Sequence[str], within_s: float = 60) -> None:
        """Waits until GitHub and the documents say that jobs have ended, and nothing of them is left."""
        self.wait_for_jobs(names, within_s)
        self.wait("nothing left", lambda: not self.containers() and not self.leases(), within_s)

    def wait_for_jobs(self, names: Sequence[str], within_s: float = 60) -> None:
        """Waits until GitHub and the documents say that jobs have ended; idle runners may be left."""
        self.wait(
            f"{', '.join(names)} ended",
            lambda: (
                all(self.github_jobs()[name]["status"] == "completed" for name in names)
                and all(name in (jobs := self.jobs()) and jobs[name].conclusion for name in names)
            ),
            within_s,
        )

    def clean_up(self) -> None:
        """Whatever a test has left behind when it failed."""
        for container in self.containers():
            self.api.remove_container(container["Id"], force=True, v=True)
        for network in self.networks():
            self.api.remove_network(network["Id"])

    @property
    def _label(self) -> str:
        return f"runyard.host={self.stack.options.host_id}"

    def _all(self, collection: str) -> Any:
        return self.firestore.collection(collection).stream()

    def _everything(self) -> str:
        documents = [
            f"{s.id}: {s.to_dict()}" for name in ("workflowJobs", "pendingRunners", "pools") for s in self._all(name)
        ]
        logs = [f"--- {path.name}\n{path.read_text()[-3000:]}" for path in self.stack.options.folder.glob("*.log")]
        return "\n".join([*documents, *logs])


@pytest.fixture
def make_yard(
    emulator_host: str, docker_host: str, standin_image: str, docker_api: docker.APIClient, tmp_path: Path
) -> Iterator[Callable[..., Yard]]:
    """Makes stacks; options as in `StackOptions`."""
    yards: list[Yard] = []
    with ExitStack() as cleanup:

        def make(**options: Any) -> Yard:
            number = len(yards)
            name = uuid.uuid4().hex[:6]
            fields: dict[str, Any] = {
                "folder": tmp_path / f"yard{number}",
                "project": f"test-{name}",
                "emulator_host": emulator_host,
                "docker_host": docker_host,
                "host_id": f"host-{name}",
                "network_range": f"10.21{5 + number}.0.0/20",
                "bridge_prefix": f"rye{'abcdefgh'[number]}",
            }
            yard = Yard(Stack(StackOptions(**(fields | options))), docker_api, cleanup)
            yards.append(yard)
            return yard

        yield make
    for yard in yards:
        yard.clean_up()


@pytest.fixture
def yard(make_yard: Callable[..., Yard]) -> Yard:
    """A whole running stack with a policy."""
    new = make_yard()
    new.start()
    new.publish()
    return new
