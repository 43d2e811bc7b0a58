"""The function as the cloud runs it, the simulated GitHub behind it, and documents to look at."""

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from google.cloud import firestore
from pydantic import SecretStr

from functions.documents import installation, ledger, pending_runner, workflow_job
from functions.documents.host import COLLECTION as HOSTS
from functions.documents.pending_runner import PendingRunner
from functions.documents.workflow_job import WorkflowJob
from functions.webhook.signature import sign
from local.stack import Stack, StackOptions
from tests.fakes import examples
from tests.integration.container_tools import bridge, host

__all__ = ["bridge", "host"]


class WebhookClient:
    """Sends webhooks as GitHub does, and reads what came of them."""

    def __init__(self, stack: Stack):
        self.stack = stack
        self.firestore = firestore.Client(project=stack.options.project)
        self._http = httpx.Client(timeout=30)

    def send(
        self,
        payload: Any,
        event: str = "workflow_job",
        secret: str | None = None,
        headers: dict[str, str] | None = None,
        url: str | None = None,
    ) -> httpx.Response:
        """Signs and posts a payload: bytes as they are, anything else as JSON."""
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        signature = sign(body, SecretStr(secret or self.stack.webhook_secret))
        standard = {
            "Content-Type": "application/json",
            "X-GitHub-Event": event,
            "X-GitHub-Delivery": str(uuid.uuid4()),
            "X-Hub-Signature-256": signature,
        }
        return self.post(body, standard | (headers or {}), url=url)

    def post(
        self, body: bytes, headers: dict[str, str], method: str = "POST", url: str | None = None
    ) -> httpx.Response:
        return self._http.request(method, url or self.stack.function_url, content=body, headers=headers)

    def close(self) -> None:
        self._http.close()
        self.firestore.close()  # type: ignore[no-untyped-call]

    def documents(self, collection: str) -> dict[str, dict[str, Any]]:
        return {s.id: s.to_dict() or {} for s in self.firestore.collection(collection).stream()}

    def job(self, key: str) -> WorkflowJob:
        return WorkflowJob.from_firestore(self.documents(workflow_job.COLLECTION)[key])

    def runner(self, name: str) -> PendingRunner:
        return PendingRunner.from_firestore(self.documents(pending_runner.COLLECTION)[name])

    def leases(self, pool: str) -> dict[str, Any]:
        leases: dict[str, Any] = self.documents(ledger.COLLECTION).get(pool, {}).get("leases", {})
        return leases


class Org:
    """One organization of a test: a policy, a pool with one host, and its jobs."""

    def __init__(self, client: WebhookClient, template: dict[str, Any]):
        self.client = client
        self.name = f"org-{uuid.uuid4().hex[:8]}"
        self.pool = self.name
        self._template = template
        self._last_job = 1000

    def add_host(self, **changes: Any) -> None:
        """A host that stays alive for the whole test."""
        now = datetime.now(UTC)
        fields: dict[str, Any] = {"pool": self.pool, "heartbeat_at": now, "lease_until": now + timedelta(minutes=10)}
        fields |= changes
        document = examples.host(f"host-{self.name}", **fields)
        self.client.firestore.collection(HOSTS).document(document.host_id).set(document.to_firestore())

    def publish(self, policy: Any = None) -> None:
        """Sets the policy, as an operator in the console would."""
        document = policy or self.policy()
        reference = self.client.firestore.collection(installation.COLLECTION).document(self.name)
        reference.set({"policy": document, "revision": 1}, merge=["policy", "revision"])  # type: ignore[arg-type]

    def policy(self, **scale_set: Any) -> dict[str, Any]:
        document = examples.policy_document()
        document["scale_sets"]["ci"] |= {"pool": self.pool} | scale_set
        return document

    def installation(self) -> dict[str, Any]:
        return self.client.documents(installation.COLLECTION)[self.name]

    def event(self, action: str, number: int | None = None, **job: Any) -> dict[str, Any]:
        """A webhook of this organization, made from a recorded one."""
        if number is None:
            self._last_job += 1
            number = self._last_job
        payload: dict[str, Any] = json.loads(json.dumps(self._template))
        payload["action"] = action
        payload["workflow_job"] |= {"id": number, "run_id": 1, "name": "build", "labels": ["ci"]} | job
        payload["repository"] |= {"full_name": f"{self.name}/app", "name": "app"}
        payload["repository"]["owner"] |= {"login": self.name, "type": "Organization"}
        return payload

    def key(self, number: int) -> str:
        return workflow_job.job_key(self.name, 1, number)

    def queue(self, number: int, **job: Any) -> dict[str, Any]:
        """Sends a queued event; the function's answer, which must be a 200."""
        response = self.client.send(self.event("queued", number, **job))
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer


@pytest.fixture(scope="module")
def stack(emulator_host: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Function and simulated GitHub; no controller."""
    options = StackOptions(
        folder=tmp_path_factory.mktemp("stack"),
        project=f"test-{uuid.uuid4().hex[:12]}",
        emulator_host=emulator_host,
        docker_host="",
        users="a-user",
    )
    running = Stack(options)
    github = running.start_github()
    function = running.start_function()
    yield running
    function.stop()
    github.stop()


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[WebhookClient]:
    new = WebhookClient(stack)
    yield new
    new.close()


@pytest.fixture
def org(client: WebhookClient) -> Iterator[Org]:
    """An organization with a policy and a host."""
    path = Path(__file__).parent.parent / "payloads" / "workflow_job.queued.real-attempt10.grafana.json"
    new = Org(client, json.loads(path.read_text()))
    new.add_host()
    new.publish()
    yield new
    client.stack.control("DELETE", "/faults")
