"""The function as a process: what it needs to start, and what it does when Firestore is away."""

import json
import time
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from functions.webhook.signature import sign
from local.processes import DidNotStart, free_port
from local.stack import Stack, StackOptions
from tests.fakes.examples import policy_document
from tests.integration.conftest import Org, WebhookClient

PAYLOAD = Path(__file__).parent.parent / "payloads" / "workflow_job.queued.real-attempt10.grafana.json"


def options(tmp_path: Path, emulator_host: str, **changes: Any) -> StackOptions:
    return StackOptions(tmp_path, f"test-{uuid.uuid4().hex[:12]}", emulator_host, "", **changes)


def test_without_firestore_github_is_told_to_deliver_again_in_time(tmp_path: Path) -> None:
    stack = Stack(options(tmp_path, f"127.0.0.1:{free_port()}"))
    github, function = stack.start_github(), stack.start_function()
    try:
        body = PAYLOAD.read_bytes()
        headers = {
            "Content-Type": "application/json",
            "X-GitHub-Event": "workflow_job",
            "X-Hub-Signature-256": sign(body, SecretStr(stack.webhook_secret)),
        }
        started = time.monotonic()
        response = httpx.post(stack.function_url, content=body, headers=headers, timeout=30)
        assert time.monotonic() - started < 9
        assert response.status_code == 503
        assert response.json()["outcome"] in {"store_unavailable", "timeout"}
        assert response.headers["retry-after"] == "5"
    finally:
        function.stop()
        github.stop()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"GITHUB_WEBHOOK_SECRET": ""}, "GITHUB_WEBHOOK_SECRET is missing"),
        ({"GOOGLE_CLOUD_PROJECT": ""}, "GOOGLE_CLOUD_PROJECT is missing"),
        ({"GITHUB_TOKEN": ""}, "no GitHub credentials"),
        ({"GITHUB_API_URL": "api.github.com"}, "write https://"),
        ({"GITHUB_APP_ID": "1"}, "both set"),
    ],
)
def test_a_wrong_environment_stops_the_start_with_the_reason(
    tmp_path: Path, environment: dict[str, str], message: str
) -> None:
    stack = Stack(options(tmp_path, "127.0.0.1:9", function_environment=environment))
    with pytest.raises(DidNotStart, match=message):
        stack.start_function()


def test_two_secrets_are_good_while_one_is_rotated(tmp_path: Path, emulator_host: str) -> None:
    secrets = {"GITHUB_WEBHOOK_SECRET": "old-secret, new-secret"}
    stack = Stack(options(tmp_path, emulator_host, function_environment=secrets))
    github, function = stack.start_github(), stack.start_function()
    client = WebhookClient(stack)
    try:
        for secret, status in (("old-secret", 200), ("new-secret", 200), ("older-secret", 401)):
            assert client.send({"zen": "?"}, "ping", secret).status_code == status
    finally:
        client.close()
        function.stop()
        github.stop()


def test_an_app_provisions_through_its_installation(tmp_path: Path, emulator_host: str) -> None:
    stack = Stack(options(tmp_path, emulator_host, is_app=True))
    github, function = stack.start_github(), stack.start_function()
    client = WebhookClient(stack)
    try:
        org = Org(client, json.loads(PAYLOAD.read_text()))
        org.add_host()
        org.publish(policy_document(scale_sets={"ci": {"max_runners": 2, "image": "i", "pool": org.pool}}))
        payload = org.event("queued", 1) | {"installation": {"id": 1, "node_id": "I_1"}}
        assert client.send(payload).json()["outcome"] == "self_hosted"
        paths = [path for _, path in stack.github_state()["requests"]]
        assert "/app/installations/1/access_tokens" in paths
        assert not any(path.endswith("/installation") for path in paths)
    finally:
        client.close()
        function.stop()
        github.stop()
