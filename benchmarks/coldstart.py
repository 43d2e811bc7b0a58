"""Cold start: from the start of the process to the first answered webhook.

Functions are started in turn, so that a busy moment of the machine falls on all of them alike:

- `empty`       functions-framework with a function that answers
- `libraries`   the floor: what Firestore's client, pydantic, httpx and functions-framework cost by themselves, with the
                same first request: a signed webhook, a policy read, a JIT config fetched, a document committed
- `runyard`     the archive, built as Google builds it, on a webhook that it takes the whole way
- `eager`       the floor with everything that requirements.txt offers imported at the top, as is usual
- `stale`       the archive as Google builds it without being told SOURCE_DATE_EPOCH: our compiled files do not count
- `uncompiled`  the archive where nothing at all is compiled, libraries included

All of them use one new environment that holds functions/requirements.txt and nothing else.

Target: `runyard` takes at most 1.2 times as long as `libraries`. Only ratios mean anything: the machine is shared.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from google.cloud import firestore
from pydantic import SecretStr

from benchmarks.report import Target, finish, median, say
from functions.documents import host, installation
from functions.documents.host import Host
from functions.documents.sealing import new_host_key, public_key_of
from functions.webhook.signature import sign
from local.archive import build_archive, build_as_google_does, make_environment
from local.emulator import running_emulator
from local.processes import Process, accepts_connections, free_port
from local.stack import Stack, StackOptions, local_environment

TARGET = 1.2
"""of the floor"""
ORGANIZATION = "acme"
POOL = "default"
_PEERS = Path(__file__).parent / "coldstart_peers"
_PAYLOAD = Path(__file__).parent.parent / "tests" / "payloads" / "workflow_job.queued.real-attempt10.grafana.json"
_POLICY = {
    "version": 1,
    "profiles": {
        "large": {"cpus": "4", "memory": "8g", "match_patterns": ["large*"]},
        "small": {"cpus": "1", "memory": "2g"},
    },
    "default_profile": "small",
    "scale_sets": {"ci": {"max_runners": 1000, "image": "runner:1", "pool": POOL}},
    "routes": [{"label_match": "ci", "strategy": "self_hosted_only", "overflow": "hold"}],
}


@dataclass(frozen=True)
class Start:
    """One process, started and asked once."""

    port_s: float
    """until it accepted connections"""
    answer_s: float
    """until the first webhook was answered"""
    cpu_s: float
    memory_mb: float
    """proportional set size of all its processes after that answer"""


@dataclass(frozen=True)
class Contestant:
    """A way to start a function."""

    name: str
    source: Path
    environment: Mapping[str, str] = field(default_factory=dict)


class Arena:
    """Starts contestants one after the other, and gives each the same webhook."""

    def __init__(self, stack: Stack, programs: Path):
        self._stack = stack
        self._programs = programs
        self._jobs = 0

    def start(self, contestant: Contestant) -> Start:
        port = free_port()
        environment = {
            **self._stack.function_environment("github_webhook", port, contestant.source),
            # What one start compiled must not help the next.
            "PYTHONDONTWRITEBYTECODE": "1",
            **contestant.environment,
        }
        body, headers = self._webhook()
        command = [str(self._programs / "functions-framework")]
        began = time.monotonic()
        process = Process(contestant.name, command, self._stack.options.folder / f"{contestant.name}.log", environment)
        try:
            while not accepts_connections(port):
                if not process.is_running:
                    raise RuntimeError(process.tail())
                time.sleep(0.002)
            ready = time.monotonic()
            response = httpx.post(f"http://127.0.0.1:{port}/", content=body, headers=headers, timeout=60)
            answered = time.monotonic()
            if response.status_code != 200 or response.json()["outcome"] != "self_hosted":
                raise RuntimeError(
                    f"{contestant.name} answered {response.status_code} {response.text}\n{process.tail()}"
                )
            return Start(ready - began, answered - began, *_resources(process.pid))
        finally:
            process.stop()

    def _webhook(self) -> tuple[bytes, dict[str, str]]:
        self._jobs += 1
        payload = json.loads(_PAYLOAD.read_text())
        payload["workflow_job"] |= {"id": self._jobs, "run_id": 1, "labels": ["ci"]}
        payload["repository"] |= {"full_name": f"{ORGANIZATION}/app", "name": "app"}
        payload["repository"]["owner"] |= {"login": ORGANIZATION, "type": "Organization"}
        body = json.dumps(payload).encode()
        return body, {
            "Content-Type": "application/json",
            "X-GitHub-Event": "workflow_job",
            "X-GitHub-Delivery": str(uuid.uuid4()),
            "X-Hub-Signature-256": sign(body, SecretStr(self._stack.webhook_secret)),
        }


def _resources(session: int) -> tuple[float, float]:
    """CPU seconds and memory in MB of all processes of a session."""
    ticks, kilobytes = 0, 0
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                fields = (process / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) != session:
                    continue
                ticks += int(fields[11]) + int(fields[12])
                rollup = (process / "smaps_rollup").read_text()
            except FileNotFoundError:
                continue
            kilobytes += int(rollup.partition("Pss:")[2].split()[0])
    return ticks / os.sysconf("SC_CLK_TCK"), kilobytes / 1024


def _prepare(stack: Stack) -> None:
    """A policy, and a host that has room for everything."""
    client = firestore.Client(project=stack.options.project)
    client.collection(installation.COLLECTION).document(ORGANIZATION).set({"policy": _POLICY, "revision": 1})
    now = datetime.now(UTC)
    machine = Host(
        host_id="host-1",
        pool=POOL,
        cpu_millis=10_000_000,
        memory_bytes=1 << 50,
        free_cpu_millis=10_000_000,
        free_memory_bytes=1 << 50,
        public_key=public_key_of(new_host_key()),
        heartbeat_at=now,
        lease_until=now + timedelta(hours=1),
    )
    client.collection(host.COLLECTION).document(machine.host_id).set(machine.to_firestore())
    client.close()  # type: ignore[no-untyped-call]


def _contestants(folder: Path) -> list[Contestant]:
    archive = build_archive(folder)
    built = build_as_google_does(archive, folder / "built")
    stale = build_as_google_does(archive, folder / "stale", {})
    nothing_compiled = {"PYTHONPYCACHEPREFIX": str(folder / "nowhere")}
    return [
        Contestant("empty", _PEERS / "empty.py"),
        Contestant("libraries", _PEERS / "libraries.py"),
        Contestant("runyard", built),
        Contestant("eager", _PEERS / "eager.py"),
        Contestant("stale", stale),
        Contestant("uncompiled", built, nothing_compiled),
    ]


def measure(rounds: int) -> dict[str, list[Start]]:
    """Every contestant once a round, after one round that counts for nothing."""
    local_environment()
    with tempfile.TemporaryDirectory(prefix="runyard-coldstart-") as name, running_emulator(say) as emulator:
        os.environ["FIRESTORE_EMULATOR_HOST"] = emulator
        stack = Stack(StackOptions(Path(name) / "stack", f"coldstart-{uuid.uuid4().hex[:8]}", emulator, ""))
        github = stack.start_github()
        try:
            _prepare(stack)
            say("Environment: installing functions/requirements.txt")
            arena = Arena(stack, make_environment(Path(name) / "environment"))
            contestants = _contestants(Path(name))
            results: dict[str, list[Start]] = {contestant.name: [] for contestant in contestants}
            for number in range(rounds + 1):
                # Each comes after each other one about as often.
                turn = number % len(contestants)
                for contestant in contestants[turn:] + contestants[:turn]:
                    start = arena.start(contestant)
                    if number:
                        results[contestant.name].append(start)
            return results
        finally:
            github.stop()


def _row(name: str, starts: Sequence[Start], floor: Sequence[Start]) -> dict[str, Any]:
    """Medians, and the medians of the ratios to the floor of the same round."""
    pairs = list(zip(starts, floor, strict=True))
    return {
        "function": name,
        "port, s": median([start.port_s for start in starts]),
        "first answer, s": median([start.answer_s for start in starts]),
        "to libraries": median([start.answer_s / other.answer_s for start, other in pairs]),
        "CPU, s": median([start.cpu_s for start in starts]),
        "CPU to libraries": median([start.cpu_s / other.cpu_s for start, other in pairs]),
        "memory, MB": median([start.memory_mb for start in starts]),
    }


def main() -> int:
    """Measures; 1 when the target is missed."""
    parser = argparse.ArgumentParser(description="cold start of the webhook function against its libraries alone")
    parser.add_argument("--rounds", type=int, default=15)
    results = measure(parser.parse_args().rounds)
    rows = {name: _row(name, starts, results["libraries"]) for name, starts in results.items()}
    target = Target("first answer of runyard, to its libraries", rows["runyard"]["to libraries"], TARGET)
    return finish("Cold start: from the start of the process to the first answered webhook", [*rows.values()], [target])


if __name__ == "__main__":
    sys.exit(main())
