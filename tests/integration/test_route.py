"""The `route` function over HTTP, and the action that asks it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from local.processes import free_port
from local.stack import Stack
from tests.integration.conftest import Org, WebhookClient

ACTION = Path(__file__).parent.parent.parent / ".github" / "actions" / "route" / "route.py"


@pytest.fixture(scope="module")
def route_url(stack: Stack) -> Iterator[str]:
    port = free_port()
    process = stack.start_function("route", port)
    yield f"http://127.0.0.1:{port}/"
    process.stop()


class Asker:
    """A workflow run of an organization."""

    def __init__(self, url: str, org: Org):
        self._url = url
        self._org = org
        self.run_id = 4711

    def token(self, **changes: Any) -> str:
        order = {"audience": "runyard", "repository": f"{self._org.name}/app", "run_id": self.run_id} | changes
        token: str = self._org.client.stack.control("POST", "/oidc-token", order)["token"]
        return token

    def ask(self, *jobs: str, token: str | None = None, labels: tuple[str, ...] = ("ci",)) -> httpx.Response:
        body = {"labels": list(labels), "jobs": list(jobs) or [""]}
        headers = {"Authorization": f"Bearer {token or self.token()}"}
        return httpx.post(self._url, json=body, headers=headers, timeout=30)

    def answer(self, *jobs: str, **options: Any) -> dict[str, Any]:
        response = self.ask(*jobs, **options)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer


@pytest.fixture
def asker(route_url: str, org: Org) -> Asker:
    routes = [{"label_match": "ci", "overflow": "github_hosted"}]
    policy = org.policy(max_runners=2) | {
        "routes": routes,
        "overflow": {"mechanism": "preflight", "hosted_labels": ["ubuntu-24.04"]},
    }
    org.publish(policy)
    return Asker(route_url, org)


def test_places_are_set_aside_and_the_jobs_that_follow_get_them(asker: Asker, org: Org) -> None:
    answer = asker.answer("large one", "small one")
    assert (answer["outcome"], answer["runs_on"]) == ("self_hosted", ["ci"])
    sizes = sorted(lease["cpuMillis"] for lease in org.client.leases(org.pool).values())
    assert sizes == [1000, 4000], "by the profiles of the jobs that follow"
    stranger = org.queue(1)
    assert stranger["outcome"] == "overflow"
    mine = org.client.send(org.event("queued", 2, run_id=asker.run_id, name="large one")).json()
    assert mine["outcome"] == "self_hosted"
    assert "which its run was promised" in mine["reason"]
    assert len(org.client.leases(org.pool)) == 2


def test_a_full_fleet_is_answered_with_githubs_labels(asker: Asker, org: Org) -> None:
    org.queue(1)
    answer = asker.answer("a", "b")
    assert (answer["outcome"], answer["runs_on"]) == ("overflow", ["ubuntu-24.04"])
    assert "places of ci are taken" in answer["reason"]
    assert len(org.client.leases(org.pool)) == 1, "all or nothing"


def test_asked_twice_nothing_is_set_aside_twice(asker: Asker, org: Org) -> None:
    asker.answer("a", "b")
    assert asker.answer("a", "b")["outcome"] == "self_hosted"
    assert len(org.client.leases(org.pool)) == 2


def test_labels_that_are_not_ours_are_githubs(asker: Asker) -> None:
    answer = asker.answer(labels=("gpu",))
    assert (answer["outcome"], answer["runs_on"]) == ("github_hosted", ["ubuntu-24.04"])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"aud": "somebody-else"}, "Audience"),
        ({"iss": "https://evil.example.com"}, "issuer"),
        ({"exp": 1}, "expired"),
        ({"nbf": 4102444800}, "not yet valid"),
        ({"repository": None}, "repository"),
        ({"repository_owner": "other"}, "no repository of its owner"),
        ({"run_id": "x"}, "no workflow run"),
        ({"exp": None}, "exp"),
    ],
    ids=["audience", "issuer", "expired", "not yet", "no repository", "another owner", "no run", "no expiry"],
)
def test_a_token_that_is_not_quite_right_gets_nobody_in(
    asker: Asker, org: Org, changes: dict[str, Any], reason: str
) -> None:
    token = asker.token(claims=changes)
    response = asker.ask(token=token)
    assert response.status_code == 401
    assert reason.lower() in response.json()["reason"].lower()
    assert token not in response.text
    assert org.client.leases(org.pool) == {}


@pytest.mark.parametrize(
    "token",
    ["", "x", "a.b.c", "eyJhbGciOiJub25lIn0.e30.", "A" * 20_000, "eyJhbGciOiJIUzI1NiIsImtpZCI6IngifQ.e30.c2ln"],
    ids=["empty", "no token", "three words", "alg none", "huge", "HMAC"],
)
def test_what_is_no_token_gets_nobody_in(route_url: str, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    response = httpx.post(route_url, json={"labels": ["ci"]}, headers=headers, timeout=30)
    assert response.status_code == 401


def test_github_may_change_its_keys(asker: Asker, org: Org) -> None:
    assert asker.ask().status_code == 200
    old = asker.token()
    org.client.stack.control("POST", "/oidc-rotate")
    assert asker.ask(token=old).status_code == 200, "the key before is still good"
    # A made-up key id must not make the function ask GitHub each time, so a new key is found after some seconds.
    deadline = time.monotonic() + 30
    while (status := asker.ask().status_code) != 200 and time.monotonic() < deadline:
        time.sleep(1)
    assert status == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{}", 400),
        (b"[]", 400),
        (b"{", 400),
        (b'{"labels": []}', 400),
        (b'{"labels": ["ci"], "colour": 1}', 400),
        (b'{"labels": ["ci"], "jobs": ' + json.dumps(["x"] * 257).encode() + b"}", 400),
        (b" " * (512 * 1024 + 1), 413),
    ],
    ids=["empty", "a list", "cut", "no labels", "unknown key", "too many jobs", "too large"],
)
def test_a_question_that_is_none_is_refused(route_url: str, asker: Asker, body: bytes, status: int) -> None:
    headers = {"Authorization": f"Bearer {asker.token()}"}
    assert httpx.post(route_url, content=body, headers=headers, timeout=30).status_code == status


def test_only_post_is_allowed(route_url: str) -> None:
    assert httpx.get(route_url).status_code == 405


# The action


def act(stack: Stack, tmp_path: Path, url: str, run_id: int, **changes: str) -> tuple[int, dict[str, str], str]:
    """Runs the action as a step; exit code, outputs, what it printed."""
    outputs = tmp_path / "outputs"
    outputs.touch()
    environment = {
        "PATH": os.environ["PATH"],
        "SSL_CERT_FILE": str(stack.authority),
        "GITHUB_OUTPUT": str(outputs),
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"{stack.github_url}/_oidc/token/{run_id}",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "request-token",
        "INPUT_URL": url,
        "INPUT_LABELS": '["ci"]',
        "INPUT_JOBS": '["build"]',
        "INPUT_HOSTED_LABELS": '["ubuntu-latest"]',
        "INPUT_AUDIENCE": "runyard",
    } | changes
    step = subprocess.run(
        [sys.executable, ACTION], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    written = dict(line.partition("=")[::2] for line in outputs.read_text().splitlines())
    return step.returncode, written, step.stdout + step.stderr


def test_the_action_asks_and_its_outputs_fit_runs_on(
    asker: Asker, org: Org, client: WebhookClient, route_url: str, tmp_path: Path
) -> None:
    (job,) = client.stack.dispatch(f"{org.name}/app", [{"name": "preflight", "labels": ["ubuntu-latest"]}])
    code, outputs, _ = act(client.stack, tmp_path, route_url, job["run_id"])
    assert code == 0
    assert json.loads(outputs["runs-on"]) == ["ci"]
    assert outputs["outcome"] == "self_hosted"


@pytest.mark.parametrize(
    "changes",
    [
        {"INPUT_URL": "http://127.0.0.1:9/"},
        {"ACTIONS_ID_TOKEN_REQUEST_URL": ""},
        {"INPUT_AUDIENCE": "somebody-else"},
        {"ACTIONS_ID_TOKEN_REQUEST_URL": "http://127.0.0.1:9/"},
    ],
    ids=["Runyard away", "no permission", "wrong audience", "no token service"],
)
def test_without_an_answer_the_action_names_the_hosted_labels_and_says_so(
    org: Org, client: WebhookClient, route_url: str, tmp_path: Path, changes: dict[str, str]
) -> None:
    (job,) = client.stack.dispatch(f"{org.name}/app", [{"name": "preflight", "labels": ["ubuntu-latest"]}])
    code, outputs, said = act(client.stack, tmp_path, route_url, job["run_id"], **changes)
    assert (code, outputs["runs-on"], outputs["outcome"]) == (0, '["ubuntu-latest"]', "unanswered")
    assert "::warning::" in said


def test_inputs_that_are_no_lists_fail_the_step(client: WebhookClient, route_url: str, tmp_path: Path) -> None:
    code, _, said = act(client.stack, tmp_path, route_url, 1, INPUT_LABELS="ci")
    assert code == 1
    assert "::error::" in said
