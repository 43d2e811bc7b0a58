"""Runs the demo: `python -m local.demo [--keep] [--report FILE]`; exit code 0 only if it has shown all it promises."""

import argparse
import getpass
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import docker
from google.cloud import firestore
from rich.console import Console

from controller.cli.draft import read_document
from controller.policy_store import PolicyStore
from functions.documents import ledger, pending_runner, workflow_job
from functions.routing.policy import Policy, parse_policy

from ..emulator import NoEmulator, running_emulator
from ..engine import NoEngine, running_engine
from ..image import CannotBuild, ensure_image
from ..processes import DidNotStart, Process
from ..stack import GITHUB_HOST_NAME, ROOT, Stack, StackOptions, local_environment
from .rows import Leftovers, Line, Row, as_jobs, count_connections, judge, make_row, read_lines, to_markdown
from .view import View, show_result

ORG, REPOSITORY = "acme", "acme/widgets"
POLICY_FILE = ROOT / "policies" / "demo.yaml"
MATRIX = ("low-cpu-1", "low-cpu-2", "low-cpu-3", "high-cpu", *(f"low-cpu-{number}" for number in range(4, 10)))
LABEL = "runyard-demo"
_GIVE_UP_AFTER_S = 90.0
_LOOK_EVERY_S = 0.25


class Demo:
    """One run of the matrix on a running stack."""

    def __init__(self, stack: Stack, client: firestore.Client, engine: docker.APIClient, policy: Policy):
        self._stack = stack
        self._client = client
        self._engine = engine
        self._policy = policy

    def dispatch(self) -> None:
        """The simulated GitHub queues ten jobs, and its webhooks set everything in motion."""
        target = f"{GITHUB_HOST_NAME}:{self._stack.github_port}"
        script = f"RUNYARD_DEMO_TARGET={shlex.quote(target)}\n" + (Path(__file__).parent / "job.sh").read_text()
        self._stack.dispatch(
            REPOSITORY, [{"name": name, "labels": [LABEL], "script": script} for name in MATRIX], "matrix"
        )

    def look(self) -> tuple[list[Row], list[Line]]:
        """How far everything is, from where a user would look, too."""
        documents = {
            snapshot.id: snapshot.to_dict() or {}
            for snapshot in self._client.collection(workflow_job.COLLECTION).stream()
        }
        logs = {job["name"]: job["log"] for job in self._stack.github_state()["jobs"]}
        lines = read_lines(self._stack.proxy_log.read_text() if self._stack.proxy_log.exists() else "")
        counts = count_connections(lines)
        jobs = as_jobs(documents)
        on_the_way = {
            (fields := snapshot.to_dict() or {}).get("jobKey"): str(fields.get("status"))
            for snapshot in self._client.collection(pending_runner.COLLECTION).stream()
        }
        rows = []
        for name in MATRIX:
            job = jobs.get(name)
            key = job.key if job is not None else ""
            rows.append(make_row(name, job, logs.get(name, ""), counts.get(key, 0), on_the_way.get(key, "")))
        return rows, lines

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

    def verdict(self, console: Console, seconds: float, report: Path, *, networks_are_kept: bool) -> bool:
        rows, lines = self.look()
        left = self.leftovers()
        if networks_are_kept:
            left = Leftovers(left.containers, 0, left.github_runners, left.places)
        checks = judge(rows, lines, self._policy, left)
        show_result(console, rows, checks, seconds)
        report.write_text(to_markdown(rows, checks, seconds))
        console.print(f"The same as Markdown: {report}", highlight=False)
        return all(check.holds for check in checks)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="local.demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave everything running until Ctrl-C")
    parser.add_argument("--report", type=Path, default=ROOT / "demo-report.md", help="where the table is written")
    arguments = parser.parse_args()
    console = Console()
    if os.geteuid() != 0:
        console.print("The demo needs root, for the Docker engine and the network rules: sudo make demo", style="red")
        return 1
    local_environment()
    try:
        return _run(console, keep=arguments.keep, report=arguments.report)
    except (NoEmulator, NoEngine, CannotBuild, DidNotStart) as error:
        console.print(f"The demo cannot run: {error}", style="red", highlight=False)
        return 1
    except KeyboardInterrupt:
        console.print("Stopped.")
        return 130


def _run(console: Console, *, keep: bool, report: Path) -> int:
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
        stack = Stack(StackOptions(folder, f"demo-{os.getpid()}", emulator_host, docker_host, seed=int(time.time())))
        document = read_document(POLICY_FILE)
        policy = parse_policy(document)
        client = firestore.Client(project=stack.options.project)
        processes = _start(stack, cleanup, say)
        store = PolicyStore(stack.options.project)
        revision = store.push(ORG, document, getpass.getuser(), "the demo's")
        store.close()
        say(f"Policy: policies/demo.yaml published for {ORG}, revision {revision}")
        say(f"Workflow: dispatching ten jobs with the label {LABEL}; webhooks are signed and go over HTTP")
        demo = Demo(stack, client, engine, policy)
        demo.dispatch()
        with View(console) as view:
            seconds = demo.follow(view)
        if keep:
            succeeded = demo.verdict(console, seconds, report, networks_are_kept=True)
            _wait_for_interrupt(console, stack)
        else:
            processes[-1].stop()
            succeeded = demo.verdict(console, seconds, report, networks_are_kept=False)
        if not succeeded:
            _show_logs(console, processes)
    return 0 if succeeded else 1


def _start(stack: Stack, cleanup: ExitStack, say: Any) -> list[Process]:
    """GitHub, the function and the controller, in this order."""
    processes = []
    for start, what in (
        (stack.start_github, f"Simulated GitHub: {stack.github_url}, hands jobs to any idle runner, as GitHub does"),
        (stack.start_function, f"Function github_webhook: functions-framework at {stack.function_url}"),
        (stack.start_controller, f"Controller: runyard run, 2 CPUs and 4 GB, proxy on port {stack.proxy_port}"),
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
