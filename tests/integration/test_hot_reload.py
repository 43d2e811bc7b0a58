"""An edit of the policy counts from the next webhook on, at every instance; a broken one counts nowhere."""

import json
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from local.processes import free_port
from local.stack import Stack, StackOptions
from tests.fakes.examples import GIB
from tests.integration.conftest import Org, WebhookClient

PAYLOAD = Path(__file__).parent.parent / "payloads" / "workflow_job.queued.real-attempt10.grafana.json"
INSTANCES = 3


class Instance:
    """One process of the function."""

    def __init__(self, stack: Stack, cleanup: ExitStack):
        self._port = free_port()
        self._log = stack.options.folder / f"function-github_webhook-{self._port}.log"
        self._stack = stack
        cleanup.callback(stack.start_function(port=self._port).stop)

    def queue(self, org: Org, number: int) -> dict[str, Any]:
        """What it answers to a queued job."""
        response = org.client.send(org.event("queued", number), url=f"http://127.0.0.1:{self._port}/")
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def log_line(self, job: str) -> dict[str, Any]:
        """The line about a job, as Cloud Logging gets it."""
        lines = (json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{"))
        (line,) = [line for line in lines if line.get("job") == job]
        found: dict[str, Any] = line
        return found


@pytest.fixture(scope="module")
def running(
    emulator_host: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[WebhookClient, list[Instance]]]:
    """Several instances of the function on one Firestore."""
    folder, project = tmp_path_factory.mktemp("instances"), f"test-{uuid.uuid4().hex[:12]}"
    stack = Stack(StackOptions(folder, project, emulator_host, docker_host=""))
    with ExitStack() as cleanup:
        cleanup.callback(stack.start_github().stop)
        instances = [Instance(stack, cleanup) for _ in range(INSTANCES)]
        client = WebhookClient(stack)
        cleanup.callback(client.close)
        yield client, instances


@pytest.fixture
def org(running: tuple[WebhookClient, list[Instance]]) -> Org:
    """An organization with a policy that every instance has seen."""
    client, instances = running
    new = Org(client, json.loads(PAYLOAD.read_text()))
    new.add_host(cpu_millis=1_000_000, memory_bytes=4000 * GIB)
    new.publish()
    for number, instance in enumerate(instances):
        assert instance.queue(new, 900 + number)["policy"] == "newest"
    return new


@pytest.fixture
def instances(running: tuple[WebhookClient, list[Instance]]) -> list[Instance]:
    return running[1]


def with_memory(org: Org, memory: str) -> dict[str, Any]:
    document = org.policy(max_runners=100)
    document["profiles"]["small"]["memory"] = memory
    return document


def test_the_next_webhook_after_each_edit_obeys_it_at_every_instance(org: Org, instances: list[Instance]) -> None:
    for edit, gib in enumerate((3, 2, 5, 4)):
        org.publish(with_memory(org, f"{gib}g"))
        for number, instance in enumerate(instances):
            answer = instance.queue(org, 10 * edit + number)
            assert org.client.runner(answer["runner"]).profile.memory_bytes == gib * GIB


def test_a_broken_edit_changes_nothing_at_any_instance_and_document_answer_and_log_say_so(
    org: Org, instances: list[Instance]
) -> None:
    org.publish(with_memory(org, "3g"))
    instances[0].queue(org, 1)
    org.publish(with_memory(org, "5gb"))
    for number, instance in enumerate(instances):
        answer = instance.queue(org, 10 + number)
        assert (answer["outcome"], answer["policy"]) == ("self_hosted", "last_good")
        assert org.client.runner(answer["runner"]).profile.memory_bytes == 3 * GIB
        line = instance.log_line(answer["job"])
        assert (line["severity"], line["message"], line["policy"]) == ("WARNING", "webhook", "last_good")
        assert "profiles.small.memory: memory '5gb': write 5g" in line["warnings"][0]
    assert org.installation()["lastError"]["problems"] == ["profiles.small.memory: memory '5gb': write 5g"]
    org.publish(with_memory(org, "5g"))
    for number, instance in enumerate(instances):
        answer = instance.queue(org, 20 + number)
        assert answer["policy"] == "newest"
        assert instance.log_line(answer["job"])["severity"] == "INFO"
        assert org.client.runner(answer["runner"]).profile.memory_bytes == 5 * GIB
    assert "lastError" not in org.installation()


def test_where_no_policy_was_ever_good_the_log_says_that_too(org: Org, instances: list[Instance]) -> None:
    reference = org.client.firestore.document(f"installations/{org.name}")
    reference.set({"policy": {"routes": "none"}, "revision": 1})
    answer = instances[0].queue(org, 1)
    assert (answer["outcome"], answer["policy"]) == ("ignored", "none")
    assert instances[0].log_line(answer["job"])["severity"] == "WARNING"
