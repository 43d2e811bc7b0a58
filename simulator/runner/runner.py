"""The stand-in runner: runs in the container in place of GitHub's runner program. Standard library only.

From outside it is the real one: JIT config in the environment, the same lines on standard output, the job-started hook
before the first step, one job, exit code 0 whatever the job's result.
"""

import base64
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from datetime import datetime, timezone
from types import FrameType
from typing import Any, Dict, List, Optional, Tuple
from urllib.parse import urlsplit

VERSION = "2.336.0"
RENEW_EVERY_S = 2.0
RESULTS = {"success": "Succeeded", "failure": "Failed", "cancelled": "Canceled"}


class Refused(Exception):
    """GitHub has answered something else than success."""

    def __init__(self, status: int, message: str):
        super().__init__(f"{status} {message}")
        self.status = status


class Connection:
    """A kept-open HTTPS connection to GitHub, through the proxy of the environment."""

    def __init__(self, url: str):
        self._target = urlsplit(url)
        self._session = ""
        self._http: Optional[http.client.HTTPSConnection] = None

    def with_session(self, session: str) -> "Connection":
        """A further connection for the same session."""
        other = Connection(self._target.geturl())
        other._session = session
        return other

    def call(
        self,
        method: str,
        path: str,
        body: Optional[Dict[str, Any]] = None,
        raw: Optional[bytes] = None,
        timeout: float = 70,
    ) -> Tuple[int, Any]:
        """The status and the JSON of an answer; raises Refused from 400 on."""
        headers = {"X-Session": self._session}
        payload = raw if raw is not None else None if body is None else json.dumps(body).encode()
        try:
            response = self._send(method, path, payload, headers, timeout)
        except (ConnectionError, http.client.RemoteDisconnected):
            # A kept-open connection that the other side has closed meanwhile.
            self._http = None
            response = self._send(method, path, payload, headers, timeout)
        content = response.read()
        if response.status >= 400:
            raise Refused(response.status, content.decode(errors="replace")[:200])
        return response.status, json.loads(content) if content else None

    def _send(
        self, method: str, path: str, payload: Optional[bytes], headers: Dict[str, str], timeout: float
    ) -> http.client.HTTPResponse:
        if self._http is None:
            self._http = self._connect(timeout)
        self._http.request(method, path, payload, headers)
        return self._http.getresponse()

    def _connect(self, timeout: float) -> http.client.HTTPSConnection:
        proxy = os.environ.get("https_proxy") or os.environ.get("HTTPS_PROXY")
        context = ssl.create_default_context()
        if not proxy:
            return http.client.HTTPSConnection(
                self._target.hostname or "", self._target.port, timeout=timeout, context=context
            )
        via = urlsplit(proxy if "//" in proxy else "http://" + proxy)
        connection = http.client.HTTPSConnection(via.hostname or "", via.port, timeout=timeout, context=context)
        connection.set_tunnel(self._target.hostname or "", self._target.port)
        return connection


def say(line: str) -> None:
    print(line, flush=True)


def say_at(line: str) -> None:
    say(datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ") + ": " + line)


def read_config() -> Dict[str, Any]:
    """The files in the JIT config, which is taken out of the environment as the real runner does."""
    encoded = os.environ.pop("ACTIONS_RUNNER_INPUT_JITCONFIG", "")
    try:
        files = json.loads(base64.b64decode(encoded, validate=True))
        return {name: json.loads(base64.b64decode(content)) for name, content in files.items()}
    except ValueError:
        say("An error occurred: the JIT config cannot be read")
        sys.exit(1)


def keep_renewing(connection: Connection, stop: threading.Event) -> None:
    while not stop.wait(RENEW_EVERY_S):
        try:
            connection.call("POST", "/_standin/renew")
        except (OSError, Refused, http.client.HTTPException):
            return


def job_environment(job: Dict[str, Any], runner_name: str, work: str) -> Dict[str, str]:
    environment = dict(os.environ)
    environment.update(
        CI="true",
        GITHUB_ACTIONS="true",
        GITHUB_REPOSITORY=job["repository"],
        GITHUB_RUN_ID=str(job["runId"]),
        GITHUB_RUN_ATTEMPT=str(job["runAttempt"]),
        GITHUB_WORKFLOW=job["workflow"],
        GITHUB_JOB="matrix",
        GITHUB_REF_NAME=job["branch"],
        GITHUB_SHA=job["sha"],
        GITHUB_WORKSPACE=work,
        GITHUB_STEP_SUMMARY=os.path.join(work, "summary.md"),
        RUNNER_NAME=runner_name,
        RUNNER_OS="Linux",
    )
    return environment


def run_step(connection: Connection, arguments: List[str], environment: Dict[str, str], work: str) -> bool:
    """Runs one step, with its output as part of the job's log; whether it succeeded."""
    step = subprocess.run(
        arguments, env=environment, cwd=work, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    connection.call("POST", "/_standin/log", raw=step.stdout)
    return step.returncode == 0


def run_job(connection: Connection, job: Dict[str, Any], runner_name: str) -> str:
    """Runs the hook and then the script; the conclusion."""
    work = os.path.join(os.path.expanduser("~"), "_work")
    os.makedirs(work, exist_ok=True)
    environment = job_environment(job, runner_name, work)
    hook = os.environ.get("ACTIONS_RUNNER_HOOK_JOB_STARTED")
    if hook and not run_step(connection, ["/bin/sh", "-e", hook], environment, work):
        return "failure"
    return "success" if run_step(connection, ["/bin/sh", "-e", "-c", job["script"]], environment, work) else "failure"


def main() -> int:
    if os.geteuid() == 0 and not os.environ.get("RUNNER_ALLOW_RUNASROOT"):
        say("Must not run interactively with sudo")
        return 1
    fault = os.environ.get("STANDIN_FAULT", "")
    if fault == "die":
        say("An error occurred: told to die")
        return 3
    config = read_config()
    runner = config[".runner"]
    connection = Connection(runner["ServerUrl"])
    try:
        opening = {"agentId": runner["AgentId"], "secret": config[".credentials_rsaparams"]["d"]}
        session = connection.call("POST", "/_standin/sessions", opening)[1]["session"]
    except Refused as refusal:
        print(f"Failed to create a session. {refusal}", file=sys.stderr, flush=True)
        return 1
    except OSError as error:
        print(f"Runner connect error: {error}", file=sys.stderr, flush=True)
        return 1
    connection = connection.with_session(session)
    say("\u221a Connected to GitHub\n")
    say(f"Current runner version: '{VERSION}'")
    say_at("Listening for Jobs")

    def stop(number: int, frame: Optional[FrameType]) -> None:
        connection.with_session(session).call("DELETE", "/_standin/session", timeout=5)
        say("Exiting...")
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    status = 202
    while status == 202:
        try:
            status, job = connection.call("GET", "/_standin/message")
        except Refused as refusal:
            print(f"The runner no longer exists on the server. {refusal}", file=sys.stderr, flush=True)
            if fault != "ghost":
                return 1
            # As actions/runner#4617: it goes on listening, and nobody knows it any more.
            time.sleep(1)
    say_at(f"Running job: {job['name']}")
    ended = threading.Event()
    threading.Thread(target=keep_renewing, args=(connection.with_session(session), ended), daemon=True).start()
    conclusion = run_job(connection, job, runner["AgentName"])
    ended.set()
    connection.call("POST", "/_standin/complete", {"conclusion": conclusion})
    say_at(f"Job {job['name']} completed with result: {RESULTS[conclusion]}")
    while fault == "hang_after_job":
        time.sleep(1)
    say("\u221a Removed .credentials\n\u221a Removed .runner")
    say("Runner listener exit with 0 return code, stop the service, no retry needed.\nExiting runner...")
    return 0


if __name__ == "__main__":
    sys.exit(main())
