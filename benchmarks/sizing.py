"""How long the gate keeps a job, and what idle runners save: `python -m benchmarks.sizing`.

Ten jobs at once, every one on a runner of another size, so that every container is resized before the first step;
beside it the engine's own update of a container that idles, as the floor. Then single jobs, in turns: one for which a
container has to be started, one for which an idle runner waits. Needs a Docker engine and root; nothing leaves this
machine.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import docker
from google.cloud import firestore

from controller.container_spec import CPU_PERIOD_US
from controller.policy_store import PolicyStore
from functions.documents import workflow_job
from functions.documents.workflow_job import WorkflowJob
from local.emulator import running_emulator
from local.engine import running_engine
from local.image import IMAGE, ensure_image
from local.stack import Stack, StackOptions, local_environment

from .report import Target, finish, median, percentile, say

ORG, REPOSITORY = "acme", "acme/app"
AT_ONCE = 10
WARM = 2
_JOBS_WITHIN_S = 120.0
_UPTIME = "cut -d' ' -f1 /proc/uptime"
"""the job's first step prints when it ran, on a clock that containers share with their host"""
POLICY = {
    "version": 1,
    "profiles": {
        "large": {"cpus": 0.3, "memory": "96m", "pids": 128, "match_patterns": ["large*"]},
        "small": {"cpus": 0.1, "memory": "64m", "pids": 128},
    },
    "default_profile": "small",
    "scale_sets": {
        "cold": {"max_runners": 20, "image": IMAGE, "labels": ["cold"]},
        "warm": {"max_runners": 20, "image": IMAGE, "labels": ["warm"], "min_runners": WARM, "warm_profile": "small"},
    },
    "routes": [{"label_match": name, "scale_set": name, "strategy": "self_hosted_only"} for name in ("cold", "warm")],
}


class Bench:
    """A running stack, and what is read of it."""

    def __init__(self, stack: Stack, engine: docker.APIClient):
        self._stack = stack
        self._engine = engine
        self._client = firestore.Client(project=stack.options.project)
        store = PolicyStore(stack.options.project)
        store.push(ORG, POLICY, "benchmark", "")
        store.close()

    def run(self, *names: str, label: str) -> list[WorkflowJob]:
        """Runs jobs to their ends; their documents."""
        jobs = [{"name": name, "labels": [label], "script": _UPTIME, "size": name.partition("-")[0]} for name in names]
        run_id = self._stack.dispatch(REPOSITORY, jobs)[0]["run_id"]
        deadline = time.monotonic() + _JOBS_WITHIN_S
        while time.monotonic() < deadline:
            found = self._client.collection(workflow_job.COLLECTION).where(
                filter=firestore.FieldFilter("runId", "==", run_id)
            )
            documents = [WorkflowJob.from_firestore(snapshot.to_dict() or {}) for snapshot in found.stream()]
            if len(documents) == len(names) and all(job.conclusion and job.sizing for job in documents):
                return documents
            time.sleep(0.1)
        raise TimeoutError(f"jobs did not end within {_JOBS_WITHIN_S:g} s: see {self._stack.options.folder}")

    def swap(self) -> list[WorkflowJob]:
        """Ten jobs of two sizes, each on a runner of the other size."""
        self._stack.control("POST", "/hand-out/wrong")
        names = [f"{'large' if number % 2 else 'small'}-{number}" for number in range(AT_ONCE)]
        try:
            return self.run(*names, label="cold")
        finally:
            self._stack.control("POST", "/hand-out/in_order")

    def first_step_s(self, label: str) -> tuple[float, float]:
        """Seconds from the webhook to a job's first step, and those of them that GitHub took for the token."""
        (job,) = self.run(f"large-{label}", label=label)
        (log,) = [j["log"] for j in self._stack.github_state()["jobs"] if j["id"] == job.job_id]
        booted_at = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        began_at = booted_at + float(log.strip().splitlines()[-1])
        phases = job.phases
        if phases.received_at is None:
            raise ValueError("the job's document does not say when its webhook came")
        token_s = 0.0
        if label == "cold" and phases.provisioned_at is not None and phases.reserved_at is not None:
            token_s = (phases.provisioned_at - phases.reserved_at).total_seconds()
        return began_at - phases.received_at.timestamp(), token_s

    def wait_for_idle_runners(self) -> None:
        """Until the idle runners listen."""
        while len([r for r in self._stack.github_state()["runners"] if r["status"] == "online"]) < WARM:
            time.sleep(0.1)

    def update_ms(self, container_id: str, cpus: float) -> float:
        """The engine's own time for changing the limits of a container that does nothing."""
        started = time.monotonic()
        self._engine.update_container(
            container_id,
            cpu_quota=int(cpus * CPU_PERIOD_US),
            cpu_period=CPU_PERIOD_US,
            mem_limit="96m",
            memswap_limit="96m",
        )
        return (time.monotonic() - started) * 1000


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and reports; the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.sizing", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    local_environment()
    if os.geteuid() != 0:
        print("this benchmark needs root, for the Docker engine and the network rules", file=sys.stderr)
        return 1
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="runyard-bench-")))
        emulator = cleanup.enter_context(running_emulator(say))
        docker_host = cleanup.enter_context(running_engine(say))
        os.environ["FIRESTORE_EMULATOR_HOST"] = emulator
        engine = docker.APIClient(base_url=docker_host, version="auto")
        ensure_image(engine)
        name = f"bench-{os.getpid()}"
        stack = Stack(
            StackOptions(
                folder,
                name,
                emulator,
                docker_host,
                host_id=name,
                cpus="8",
                network_range="10.219.16.0/20",
                bridge_prefix="rys",
                hand_out="in_order",
            )
        )
        cleanup.enter_context(stack.running())
        return _measure(Bench(stack, engine), engine, cleanup, options.rounds)


def _measure(bench: Bench, engine: docker.APIClient, cleanup: ExitStack, rounds: int) -> int:
    idle = engine.create_container(IMAGE, ["sleep", "3600"], host_config=engine.create_host_config(init=True))["Id"]
    cleanup.callback(engine.remove_container, idle, force=True)
    engine.start(idle)
    bench.run("large-warm-up", label="warm")
    receipts: list[Any] = []
    updates: list[float] = []
    starts: dict[str, list[tuple[float, float]]] = {"cold": [], "warm": []}
    for number in range(1, rounds + 1):
        say(f"round {number} of {rounds}")
        updates += [bench.update_ms(idle, 0.1 + 0.2 * (turn % 2)) for turn in range(AT_ONCE)]
        receipts += [job.sizing for job in bench.swap()]
        for label in ("cold", "warm") if number % 2 else ("warm", "cold"):
            bench.wait_for_idle_runners()
            starts[label].append(bench.first_step_s(label))
    resized = [receipt for receipt in receipts if receipt.verdict == "resized"]
    waits = [receipt.took_ms for receipt in receipts]
    rows = [
        _row("gate: from the hook's question to its answer", waits),
        _row("  until the job is known", [receipt.known_ms for receipt in receipts]),
        _row("  resizing and reading back", [receipt.resize_ms for receipt in resized]),
        _row("floor: the engine's update of an idle container", updates),
        _row("cold start: webhook to first step", [1000 * total for total, _ in starts["cold"]]),
        _row("  without GitHub's time for the token", [1000 * (total - token) for total, token in starts["cold"]]),
        _row("warm start: webhook to first step", [1000 * total for total, _ in starts["warm"]]),
    ]
    warm = median([total for total, _ in starts["warm"]])
    cold = median([total - token for total, token in starts["cold"]])
    targets = [
        Target(f"gate wait, p50, {AT_ONCE} jobs at once, ms", median(waits), 150),
        Target("jobs that were resized", len(resized) / len(receipts), 1, at_least=True),
        Target("warm start ÷ cold start", warm / cold, 1),
    ]
    return finish(f"Sizing: {AT_ONCE} jobs at once on runners of the wrong size, {rounds} rounds", rows, targets)


def _row(what: str, milliseconds: Sequence[float]) -> dict[str, Any]:
    return {
        "what": what,
        "n": len(milliseconds),
        "p50 ms": median(milliseconds),
        "p99 ms": percentile(milliseconds, 0.99),
    }


if __name__ == "__main__":
    sys.exit(main())
