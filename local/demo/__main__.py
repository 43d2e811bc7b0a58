"""Runs the demo: `python -m local.demo [--adversarial] [--keep] [--report FILE]`.

Exit code 0 only if it has shown all that it promises.
"""

import argparse
import getpass
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import docker
from google.cloud import firestore
from google.cloud.firestore import FieldFilter
from rich.console import Console

from controller.cli.draft import read_document
from controller.policy_store import PolicyStore
from functions.documents import ledger, pending_runner, workflow_job
from functions.routing.policy import Policy, SizingMode, parse_policy
from simulator.world import HandOut

from ..emulator import NoEmulator, running_emulator
from ..engine import NoEngine, running_engine
from ..image import CannotBuild, ensure_image
from ..processes import DidNotStart, Process
from ..stack import GITHUB_HOST_NAME, ROOT, Stack, StackOptions, local_environment
from .rows import (
    Check,
    Leftovers,
    Line,
    Row,
    as_jobs,
    count_connections,
    judge,
    judge_observed,
    judge_swaps,
    make_row,
    read_lines,
    to_markdown,
)
from .view import View, show_result

ORG, REPOSITORY = "acme", "acme/widgets"
POLICY_FILE = ROOT / "policies" / "demo.yaml"
CPUS = "2.5"
"""that the host gives away: the adversarial scenario's ten jobs run at once"""
LABEL = "runyard-demo"
_GIVE_UP_AFTER_S = 90.0
_LOOK_EVERY_S = 0.25


@dataclass(frozen=True)
class Scenario:
    """Ten jobs, and how GitHub hands them out."""

    title: str
    jobs: tuple[str, ...]
    hand_out: HandOut
    sizing: SizingMode = SizingMode.ENFORCE
    all_swapped: bool = False
    """every one of them is to be handed to a runner of another profile"""


MATRIX = ("low-cpu-1", "low-cpu-2", "low-cpu-3", "high-cpu", *(f"low-cpu-{number}" for number in range(4, 10)))
HALVES = tuple(f"{profile}-{number}" for number in range(1, 6) for profile in ("high-cpu", "low-cpu"))
USUAL = (Scenario("The ten jobs, and what each of them saw", MATRIX, HandOut.SWAPPED),)
ADVERSARIAL = (
    Scenario(
        "Sizing turned off (sizing.mode: observe), and every hand-over wrong",
        HALVES,
        HandOut.WRONG,
        SizingMode.OBSERVE,
        all_swapped=True,
    ),
    Scenario("Sizing turned on, and every hand-over wrong", HALVES, HandOut.WRONG, all_swapped=True),
)


class Demo:
    """One scenario on a running stack."""

    def __init__(
        self, scenario: Scenario, stack: Stack, client: firestore.Client, engine: docker.APIClient, policy: Policy
    ):
        self.scenario = scenario
        self._stack = stack
        self._client = client
        self._engine = engine
        self._policy = policy
        self._run_id = 0
        self._lines_before = len(self._read_lines())

    def dispatch(self) -> None:
        """The simulated GitHub queues ten jobs, and its webhooks set everything in motion."""
        target = f"{GITHUB_HOST_NAME}:{self._stack.github_port}"
        script = f"RUNYARD_DEMO_TARGET={shlex.quote(target)}\n" + (Path(__file__).parent / "job.sh").read_text()
        self._stack.control("POST", f"/hand-out/{self.scenario.hand_out}")
        jobs = [
            {"name": name, "labels": [LABEL], "script": script, "size": name.partition("-")[0]}
            for name in self.scenario.jobs
        ]
        self._run_id = self._stack.dispatch(REPOSITORY, jobs, "matrix")[0]["run_id"]

    def look(self) -> tuple[list[Row], list[Line]]:
        """How far everything is, from where a user would look, too."""
        of_run = FieldFilter("runId", "==", self._run_id)
        found = self._client.collection(workflow_job.COLLECTION).where(filter=of_run).stream()
        jobs = as_jobs({snapshot.id: snapshot.to_dict() or {} for snapshot in found})
        state = self._stack.github_state()["jobs"]
        logs = {job["name"]: job["log"] for job in state if job["run_id"] == self._run_id}
        lines = self._read_lines()[self._lines_before :]
        counts = count_connections(lines)
        on_the_way = {
            (fields := snapshot.to_dict() or {}).get("jobKey"): str(fields.get("status"))
            for snapshot in self._client.collection(pending_runner.COLLECTION).stream()
        }
        rows = []
        for name in self.scenario.jobs:
            job = jobs.get(name)
            key = job.key if job is not None else ""
            rows.append(make_row(name, job, logs.get(name, ""), counts.get(key, 0), on_the_way.get(key, "")))
        return rows, lines

    def _read_lines(self) -> list[Line]:
        log = self._stack.proxy_log
        return read_lines(log.read_text() if log.exists() else "")

    def leftovers(self) -> Leftovers:
        host = f"runyard.host={self._stack.options.host_id}"
        snapshot = self._client.collection(ledger.COLLECTION).document("default").get()
        return Leftovers(
            containers=len(self._engine.containers(all=True, filters={"label": host})),
            networks=len(self._engine.networks(filters={"label": host})),
            github_runners=len(self._stack.github_state()["runners"]),
            places=len((snapshot.to_dict() or {}).get("leases", {})),
        )

    def follow(self, view: View) -> float:
        """Shows the jobs until all have ended and their containers are gone; the seconds that took."""
        started = time.monotonic()
        while (seconds := time.monotonic() - started) < _GIVE_UP_AFTER_S:
            rows, _ = self.look()
            view.show(rows, seconds)
            left = self.leftovers()
            if all(row.state == "completed" for row in rows) and not (left.containers or left.places):
                break
            time.sleep(_LOOK_EVERY_S)
        return time.monotonic() - started

    def judge(self, *, networks_are_kept: bool) -> tuple[list[Row], list[Check]]:
        """The last look, and whether it shows what it promises."""
        rows, lines = self.look()
        swaps = [judge_swaps(rows)] if self.scenario.all_swapped else []
        if self.scenario.sizing is SizingMode.OBSERVE:
            return rows, [*judge_observed(rows, self._policy), *swaps]
        left = self.leftovers()
        if networks_are_kept:
            left = Leftovers(left.containers, 0, left.github_runners, left.places)
        return rows, [*judge(rows, lines, self._policy, left), *swaps]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="local.demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave everything running until Ctrl-C")
    parser.add_argument("--adversarial", action="store_true", help="every job is handed to a runner of another profile")
    parser.add_argument("--report", type=Path, default=ROOT / "demo-report.md", help="where the tables are written")
    arguments = parser.parse_args()
    console = Console()
    if os.geteuid() != 0:
        console.print("The demo needs root, for the Docker engine and the network rules: sudo make demo", style="red")
        return 1
    local_environment()
    try:
        scenarios = ADVERSARIAL if arguments.adversarial else USUAL
        return _run(console, scenarios, keep=arguments.keep, report=arguments.report)
    except (NoEmulator, NoEngine, CannotBuild, DidNotStart) as error:
        console.print(f"The demo cannot run: {error}", style="red", highlight=False)
        return 1
    except KeyboardInterrupt:
        console.print("Stopped.")
        return 130


def _run(console: Console, scenarios: Sequence[Scenario], *, keep: bool, report: Path) -> int:
    def say(text: str) -> None:
        console.print(f"• {text}", highlight=False, soft_wrap=True)

    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="runyard-demo-")))
        emulator_host = cleanup.enter_context(running_emulator(say))
        docker_host = cleanup.enter_context(running_engine(say))
        os.environ["FIRESTORE_EMULATOR_HOST"] = emulator_host
        engine = docker.APIClient(base_url=docker_host, version="auto")
        say("Stand-in runner image: building it from this machine's Python and busybox, no registry needed")
        ensure_image(engine)
        options = StackOptions(folder, f"demo-{os.getpid()}", emulator_host, docker_host, cpus=CPUS)
        stack = Stack(options)
        client = firestore.Client(project=stack.options.project)
        processes = _start(stack, cleanup, say)
        results = []
        for number, scenario in enumerate(scenarios, start=1):
            policy = _publish(stack, scenario, say)
            say(f"Workflow: dispatching ten jobs with the label {LABEL}; webhooks are signed and go over HTTP")
            demo = Demo(scenario, stack, client, engine, policy)
            demo.dispatch()
            with View(console) as view:
                seconds = demo.follow(view)
            is_last = number == len(scenarios)
            if is_last and not keep:
                processes[-1].stop()
            rows, checks = demo.judge(networks_are_kept=keep or not is_last)
            show_result(console, scenario.title, rows, checks, seconds)
            results.append((scenario.title, rows, checks, seconds))
        report.write_text("# Runyard demo\n\n" + "\n".join(to_markdown(*result) for result in results))
        console.print(f"The same as Markdown: {report}", highlight=False)
        if keep:
            _wait_for_interrupt(console, stack)
        succeeded = all(check.holds for _, _, checks, _ in results for check in checks)
        if not succeeded:
            _show_logs(console, processes)
    return 0 if succeeded else 1


def _publish(stack: Stack, scenario: Scenario, say: Callable[[str], None]) -> Policy:
    document = read_document(POLICY_FILE)
    if scenario.sizing is SizingMode.OBSERVE:
        document["scale_sets"]["demo"]["sizing"] = {"mode": "observe"}
    store = PolicyStore(stack.options.project)
    revision = store.push(ORG, document, getpass.getuser(), "the demo's")
    store.close()
    say(f"Policy: policies/demo.yaml published for {ORG}, revision {revision}, sizing {scenario.sizing}")
    return parse_policy(document)


def _start(stack: Stack, cleanup: ExitStack, say: Callable[[str], None]) -> list[Process]:
    """GitHub, the functions and the controller, in this order."""
    processes = []
    for start, what in (
        (stack.start_github, f"Simulated GitHub: {stack.github_url}, hands jobs to any idle runner, as GitHub does"),
        (stack.start_function, f"Function github_webhook: functions-framework at {stack.function_url}"),
        (stack.start_commands, "Function commands: does what controllers ask for"),
        (stack.start_triggers, "Trigger: calls it when a controller writes a command, as Firestore does in the cloud"),
        (stack.start_controller, f"Controller: runyard run, {CPUS} CPUs and 4 GB, proxy on port {stack.proxy_port}"),
    ):
        process = start()
        cleanup.callback(process.stop)
        processes.append(process)
        say(what)
    return processes


def _wait_for_interrupt(console: Console, stack: Stack) -> None:
    """Leaves everything running, and says where to look."""
    environment = f"FIRESTORE_EMULATOR_HOST={stack.options.emulator_host} GOOGLE_CLOUD_PROJECT={stack.options.project}"
    dispatch = json.dumps({"repository": REPOSITORY, "jobs": [{"name": "low-cpu-again", "labels": [LABEL]}]})
    console.print(
        f"""
Everything runs on until Ctrl-C. From another terminal:
  logs and configuration     ls {stack.options.folder}
  every connection           tail -f {stack.proxy_log}
  runners' containers        docker -H {stack.options.docker_host} ps --filter label=runyard.host
  documents                  {environment} .venv/bin/python -c "from google.cloud import firestore
                             for d in firestore.Client().collection('workflowJobs').stream(): print(d.to_dict())"
  publish another policy     {environment} .venv/bin/runyard policy push policies/demo.yaml --org {ORG}
  why a job went where       {environment} .venv/bin/runyard policy explain --org {ORG} --labels {LABEL} --name high-cpu
  queue another job          curl -d '{dispatch}' http://127.0.0.1:{stack.control_port}/dispatch
""",
        highlight=False,
        soft_wrap=True,
    )
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        console.print("Stopping everything.")


def _show_logs(console: Console, processes: Sequence[Process]) -> None:
    for process in processes:
        console.print(f"--- the end of {process.name}'s log", style="red")
        console.print(process.tail(), highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
