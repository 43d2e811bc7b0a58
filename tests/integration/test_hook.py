"""The job-started hook against the real gate, with every HTTP client that an image may have."""

import asyncio
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvicorn

from controller.gate import Answer, HalfOpenProtocol, Question, make_gate
from local.processes import accepts_connections, free_port

HOOK = Path(__file__).parent.parent.parent / "controller" / "inside" / "job-started.sh"
# What the script itself uses; all else that an image has is its HTTP client.
TOOLS = ("sh", "cat", "date", "sed", "sleep", "tail", "tr")
CLIENTS = ("curl", "nc", "wget", "python3")
# All others are busybox's. Its shell would find them whatever the path, and its wget does not work in Debian's build.
PROGRAMS = {"sh": "dash", "curl": "curl", "wget": "wget", "python3": sys.executable}


class GateServer:
    """The gate as the controller serves it, with an answer of the test's."""

    def __init__(self) -> None:
        self.port = free_port()
        self.answer: Answer | None = Answer(True, "profile large: 4 CPUs and 8g, as made")
        self.questions: list[Question] = []
        config = uvicorn.Config(
            make_gate(self._decide), "127.0.0.1", self.port, http=HalfOpenProtocol, lifespan="off", log_config=None
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve()))

    async def _decide(self, question: Question) -> Answer | None:
        self.questions.append(question)
        return self.answer

    def start(self) -> None:
        self._thread.start()
        while not accepts_connections(self.port):
            pass

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture
def gate() -> Iterator[GateServer]:
    server = GateServer()
    server.start()
    yield server
    server.stop()


RunHook = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run_hook(tmp_path: Path) -> RunHook:
    """Runs the hook where there is no program but those of a small image and one client."""

    def run(client: str | None, port: int, **environment: str) -> "subprocess.CompletedProcess[str]":
        for name in (*TOOLS, *([client] if client else [])):
            program = shutil.which(PROGRAMS.get(name, "busybox"))
            assert program is not None, f"{name} is missing: scripts/setup system"
            (tmp_path / name).symlink_to(program)
        variables = {
            "PATH": str(tmp_path),
            "RUNYARD_GATE": f"127.0.0.1:{port}",
            "RUNYARD_GATE_TIMEOUT": "10",
            "GITHUB_RUN_ID": "7000000001",
            "GITHUB_RUN_ATTEMPT": "2",
            # The gate is asked directly, whatever proxy the job has.
            "http_proxy": "http://127.0.0.1:9",
            "HTTP_PROXY": "http://127.0.0.1:9",
        }
        command = [str(tmp_path / "sh"), "-e", str(HOOK)]
        return subprocess.run(
            command, env=variables | environment, capture_output=True, text=True, timeout=60, check=False
        )

    return run


@pytest.mark.parametrize("client", CLIENTS)
def test_the_job_goes_on_when_the_gate_says_so(client: str, gate: GateServer, run_hook: RunHook) -> None:
    ended = run_hook(client, gate.port)
    assert ended.returncode == 0, ended
    assert ended.stdout == "runyard: profile large: 4 CPUs and 8g, as made\n"
    (question,) = gate.questions
    assert (question.run_id, question.run_attempt) == (7000000001, 2)
    assert (question.gateway, question.address) == ("127.0.0.1", "127.0.0.1")


@pytest.mark.parametrize("on_error", ["open", "closed"])
@pytest.mark.parametrize("client", CLIENTS)
def test_the_job_fails_when_the_gate_says_so_whatever_holds_without_an_answer(
    client: str, on_error: str, gate: GateServer, run_hook: RunHook
) -> None:
    gate.answer = Answer(False, "no room on this host within 120 s")
    ended = run_hook(client, gate.port, RUNYARD_GATE_ON_ERROR=on_error)
    assert ended.returncode == 1, ended
    assert ended.stdout.startswith("runyard: this job must not run here: ")
    why = "the controller says why in its log" if client == "wget" else "no room on this host within 120 s"
    assert why in ended.stdout


@pytest.mark.parametrize(("on_error", "code"), [("open", 0), ("closed", 1)])
def test_without_a_client_the_policy_decides(on_error: str, code: int, gate: GateServer, run_hook: RunHook) -> None:
    ended = run_hook(None, gate.port, RUNYARD_GATE_ON_ERROR=on_error)
    assert ended.returncode == code
    assert "none of curl, nc, wget and python3" in ended.stdout
    assert gate.questions == []


@pytest.mark.parametrize(("on_error", "code"), [("open", 0), ("closed", 1)])
@pytest.mark.parametrize("client", CLIENTS)
def test_a_gate_that_does_not_answer_is_asked_until_the_time_is_up(
    client: str, on_error: str, code: int, run_hook: RunHook
) -> None:
    ended = run_hook(client, free_port(), RUNYARD_GATE_ON_ERROR=on_error, RUNYARD_GATE_TIMEOUT="2")
    assert ended.returncode == code, ended
    assert "the gate does not answer" in ended.stdout


@pytest.mark.parametrize("client", CLIENTS)
def test_a_gate_that_comes_back_is_asked_again(client: str, run_hook: RunHook) -> None:
    again = GateServer()
    later = threading.Timer(1.5, again.start)
    later.start()
    ended = run_hook(client, again.port)
    later.join()
    again.stop()
    assert ended.returncode == 0, ended
