"""The webhook function over HTTP: real functions-framework, real Firestore emulator, simulated GitHub."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from functions.documents import workflow_job
from functions.documents.lifecycle import JobState, RunnerState
from functions.documents.sealing import unseal
from functions.documents.workflow_job import job_key
from tests.fakes.examples import GIB, HOST_KEY
from tests.integration.conftest import Org, WebhookClient

PAYLOADS = sorted((Path(__file__).parent.parent / "payloads").glob("*.json"))


def test_a_ping_is_answered(client: WebhookClient, payload: Any) -> None:
    response = client.send(payload("ping.app.octokit.json"), "ping")
    assert (response.status_code, response.json()["outcome"]) == (200, "pong")


@pytest.mark.parametrize("path", PAYLOADS, ids=lambda path: path.name)
def test_no_recorded_payload_is_our_failure(client: WebhookClient, path: Path) -> None:
    document = json.loads(path.read_text())
    document = document.get("payload", document)
    for event in ("workflow_job", "ping", path.name.split(".")[1]):
        assert client.send(document, event).status_code in {200, 400}


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"X-Hub-Signature-256": "sha256=" + "0" * 64}, "does not match"),
        ({"X-Hub-Signature-256": "sha1=abc"}, "malformed"),
        ({"X-Hub-Signature-256": ""}, "malformed"),
        ({"X-Hub-Signature-256": "sha256=" + "é" * 64}, ""),
        ({}, "missing"),
    ],
    ids=["wrong", "sha1", "empty", "not ASCII", "missing"],
)
def test_what_github_has_not_signed_changes_nothing(org: Org, headers: dict[str, str], reason: str) -> None:
    body = json.dumps(org.event("queued", 1)).encode()
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    standard = {"X-GitHub-Event": "workflow_job", "Content-Type": "application/json"}
    response = org.client.post(body, standard | encoded)  # type: ignore[arg-type]
    assert response.status_code == 401
    assert reason in response.json()["reason"]
    assert org.key(1) not in org.client.documents(workflow_job.COLLECTION)


def test_a_signature_of_other_bytes_is_refused(org: Org) -> None:
    """The raw body is what is signed: the same JSON with other spaces is not it."""
    signed = org.client.send(org.event("queued", 1)).request
    body = json.dumps(json.loads(signed.content), indent=1).encode()
    headers = {name: signed.headers[name] for name in ("content-type", "x-github-event", "x-hub-signature-256")}
    assert org.client.post(body, headers).status_code == 401


def test_a_body_over_25_megabytes_is_refused(client: WebhookClient) -> None:
    response = client.send(b" " * (25 * 1024 * 1024 + 1))
    assert (response.status_code, response.json()["outcome"]) == (413, "too_large")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'"text"', "not a JSON object"),
        (b"{}", "action"),
        (b'{"action": "queued", "workflow_job": [], "repository": {}}', "workflow_job"),
        (b'{"action": 5, "workflow_job": {"id": "x"}, "repository": {"full_name": "../.."}}', "workflow_job.id"),
    ],
    ids=["nothing", "cut", "not UTF-8", "deep", "a string", "empty object", "a list for a job", "wrong everywhere"],
)
def test_what_is_no_workflow_job_is_refused_with_the_place(client: WebhookClient, body: bytes, reason: str) -> None:
    response = client.send(body)
    assert (response.status_code, response.json()["outcome"]) == (400, "malformed")
    assert reason in response.json()["reason"]


@pytest.mark.parametrize(
    ("payload_of", "event", "reason"),
    [
        (lambda org: org.event("reticulated"), "workflow_job", "reticulated"),
        (lambda org: org.event("waiting"), "workflow_job", "waiting"),
        (lambda org: org.event("queued", status="waiting"), "workflow_job", "not queued yet"),
        (lambda org: {"zen": "?"}, "meteor_shower", "meteor_shower"),
    ],
    ids=["unknown action", "waiting", "queued but waiting", "unknown event"],
)
def test_what_needs_nothing_is_ignored_with_the_reason(org: Org, payload_of: Any, event: str, reason: str) -> None:
    response = org.client.send(payload_of(org), event)
    assert (response.status_code, response.json()["outcome"]) == (200, "ignored")
    assert reason in response.json()["reason"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_only_post_is_allowed(client: WebhookClient, method: str) -> None:
    response = client.post(b"", {}, method)
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


def test_a_missing_event_header_is_refused(client: WebhookClient) -> None:
    response = client.send({}, headers={"X-GitHub-Event": ""})
    assert response.status_code in {200, 400}


@pytest.mark.parametrize("content_type", ["text/plain", "", "application/xml"])
def test_other_content_types_are_refused(client: WebhookClient, content_type: str) -> None:
    assert client.send({}, headers={"Content-Type": content_type}).status_code == 415


def test_the_default_content_type_of_webhooks_a_form_is_read_too(org: Org) -> None:
    body = urlencode({"payload": json.dumps(org.event("queued", 1, name="größer 🚀"))}).encode()
    response = org.client.send(body, headers={"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"})
    assert response.json()["outcome"] == "self_hosted"
    assert org.client.job(org.key(1)).name == "größer 🚀"


def test_a_queued_job_gets_a_place_a_runner_and_a_document_for_the_hosts(org: Org) -> None:
    answer = org.queue(1, name="large build")
    job = org.client.job(org.key(1))
    assert job.state is JobState.RESERVED
    assert job.decision is not None
    assert (job.decision.outcome, job.decision.profile, job.decision.rule) == ("self_hosted", "large", "routes[0]")
    runner = org.client.runner(answer["runner"])
    assert runner.status is RunnerState.PENDING
    assert (runner.profile.cpu_millis, runner.profile.memory_bytes) == (4000, 8 * GIB)
    assert (runner.labels, runner.scope, runner.job_key) == (("ci",), f"/orgs/{org.name}", org.key(1))
    registered = {r["name"]: r for r in org.client.stack.github_state()["runners"]}
    assert registered[answer["runner"]]["id"] == runner.runner_id
    assert org.client.leases(org.pool)[answer["runner"]]["cpuMillis"] == 4000


def test_the_jit_config_is_nowhere_in_clear(org: Org) -> None:
    runner = org.client.runner(org.queue(1)["runner"])
    assert runner.sealed_config is not None
    config = unseal(runner.sealed_config, f"host-{org.name}", HOST_KEY).get_secret_value()
    assert len(config) > 100
    everything = str([org.client.documents(name) for name in ("workflowJobs", "pendingRunners", "pools")])
    logs = "".join(path.read_text() for path in org.client.stack.options.folder.glob("*.log"))
    for text in (everything, logs):
        assert config not in text
        assert config[:40] not in text


def test_a_redelivery_changes_nothing(org: Org) -> None:
    first = org.queue(1)
    again = org.queue(1)
    assert (first["outcome"], again["outcome"]) == ("self_hosted", "duplicate")
    assert len(org.client.leases(org.pool)) == 1


def test_without_a_policy_the_job_is_recorded_as_ignored(org: Org) -> None:
    org.client.firestore.document(f"installations/{org.name}").delete()
    answer = org.queue(1)
    assert answer["outcome"] == "ignored"
    decision = org.client.job(org.key(1)).decision
    assert decision is not None
    assert decision.outcome == "ignored"
    assert f"no policy for {org.name}" in decision.reason


def test_a_job_that_no_route_matches_is_ignored(org: Org) -> None:
    answer = org.queue(1, labels=["ubuntu-latest"])
    assert (answer["outcome"], answer["reason"]) == ("ignored", "no route matches labels ubuntu-latest")


def test_without_a_living_host_the_overflow_rule_applies_at_once(org: Org) -> None:
    org.add_host(lease_until=datetime(2026, 1, 1, tzinfo=UTC))
    routes = [{"label_match": "ci", "overflow": "github_hosted", "max_queue_depth": 50}]
    org.publish(org.policy() | {"routes": routes, "overflow": {"mechanism": "preflight"}})
    answer = org.queue(1)
    assert (answer["outcome"], answer["reason"]) == ("overflow", "no host of its pool is alive")
    assert answer["rule"] == "routes[0].overflow"


def test_places_are_never_exceeded(org: Org) -> None:
    org.publish(org.policy(max_runners=2))
    assert [org.queue(number)["outcome"] for number in (1, 2, 3)] == ["self_hosted", "self_hosted", "held"]


def test_an_edit_counts_from_the_next_webhook_on(org: Org) -> None:
    org.queue(1)
    document = org.policy()
    document["profiles"]["small"]["memory"] = "4g"
    org.publish(document)
    assert org.client.runner(org.queue(2)["runner"]).profile.memory_bytes == 4 * GIB


def test_a_broken_edit_changes_nothing_and_says_so_in_the_document(org: Org) -> None:
    org.queue(1)
    document = org.policy()
    document["profiles"]["small"]["memory"] = "4gb"
    org.publish(document)
    answer = org.queue(2)
    assert answer["outcome"] == "self_hosted"
    assert "profiles.small.memory: memory '4gb': write 4g" in answer["warnings"][0]
    assert org.client.runner(answer["runner"]).profile.memory_bytes == 2 * GIB
    assert org.installation()["lastError"]["problems"] == ["profiles.small.memory: memory '4gb': write 4g"]
    org.publish()
    assert "warnings" not in org.queue(3)
    assert "lastError" not in org.installation()


def test_a_policy_that_never_was_valid_admits_nothing(org: Org) -> None:
    org.publish({"routes": "none"})
    answer = org.queue(1)
    assert answer["outcome"] == "ignored"
    assert "not valid" in answer["reason"]


RATE_LIMIT = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1"}


@pytest.mark.parametrize(
    ("fault", "reason", "is_tried_again"),
    [
        ({"status": 401}, "does not accept the credentials", False),
        ({"status": 403}, "forbids it", False),
        ({"status": 404}, "shows nothing there", False),
        ({"status": 422}, "answered 422", False),
        ({"status": 429, "headers": {"retry-after": "1"}}, "rate limit", True),
        ({"status": 403, "headers": RATE_LIMIT}, "rate limit", True),
        ({"status": 500}, "answered 500", True),
        ({"status": 502, "body": "<html>Bad gateway</html>"}, "answered 502", True),
        ({"status": 201, "body": "surprise"}, "unreadable", True),
        ({"status": 201, "body": "{}"}, "unreadable", True),
        ({"delay_s": 12}, "did not answer in time", True),
    ],
    ids=["401", "403", "404", "422", "429", "403 limit", "500", "502 HTML", "no JSON", "other JSON", "timeout"],
)
def test_when_github_gives_no_runner_the_place_is_not_lost(
    org: Org, fault: dict[str, Any], reason: str, is_tried_again: bool
) -> None:
    org.client.stack.control("POST", "/faults", {"operation": "generate-jitconfig"} | fault)
    started = time.monotonic()
    answer = org.queue(1)
    assert time.monotonic() - started < 10
    assert answer["outcome"] == "failed"
    assert reason in answer["reason"]
    job = org.client.job(org.key(1))
    assert job.provisioning is not None
    assert reason in job.provisioning.failure
    assert (job.provisioning.retry_at is not None) == is_tried_again
    assert org.client.leases(org.pool) == {}
    if reason == "rate limit":
        # Until then GitHub is not asked by anybody.
        time.sleep(1.1)


def test_a_name_that_stays_taken_is_given_up(org: Org) -> None:
    org.client.stack.control("POST", "/faults", {"operation": "generate-jitconfig", "status": 409})
    answer = org.queue(1)
    assert answer["outcome"] == "failed"
    assert "is there already" in answer["reason"]
    assert org.client.leases(org.pool) == {}


def test_completed_finishes_the_job_and_frees_the_place(org: Org) -> None:
    runner_name = org.queue(1)["runner"]
    runner = {"runner_id": 7, "runner_name": runner_name, "started_at": "2026-01-01T10:00:00Z"}
    org.client.send(org.event("in_progress", 1, status="in_progress", **runner))
    assert org.client.job(org.key(1)).state is JobState.IN_PROGRESS
    ended = {"status": "completed", "conclusion": "success", "completed_at": "2026-01-01T10:01:30Z"}
    org.client.send(org.event("completed", 1, **runner, **ended))
    job = org.client.job(org.key(1))
    assert job.runner is not None
    assert (job.state, job.conclusion, job.duration_seconds) == (JobState.COMPLETED, "success", 90)
    assert (job.runner.name, job.runner.id) == (runner_name, 7)
    assert org.client.leases(org.pool) == {}


def test_a_late_queued_after_completed_takes_no_place(org: Org) -> None:
    ended = {"status": "completed", "conclusion": "cancelled", "completed_at": "2026-01-01T10:01:30Z"}
    org.client.send(org.event("completed", 1, **ended))
    assert org.queue(1)["outcome"] == "duplicate"
    assert org.client.job(org.key(1)).state is JobState.COMPLETED
    assert org.client.leases(org.pool) == {}


def test_a_job_cancelled_before_a_host_took_its_runner_leaves_nothing(org: Org) -> None:
    runner_name = org.queue(1)["runner"]
    ended = {"status": "completed", "conclusion": "cancelled", "runner_id": 0, "runner_name": ""}
    org.client.send(org.event("completed", 1, **ended))
    runner = org.client.runner(runner_name)
    assert (runner.status, runner.sealed_config) == (RunnerState.CANCELLED, None)
    assert org.client.leases(org.pool) == {}
    assert runner_name not in {r["name"] for r in org.client.stack.github_state()["runners"]}


def test_a_swap_moves_the_lease_to_the_size_of_the_job_that_runs(org: Org) -> None:
    small = org.queue(1)["runner"]
    large = org.queue(2, name="large")["runner"]
    swapped = {"status": "in_progress", "runner_id": 7, "runner_name": small}
    org.client.send(org.event("in_progress", 2, name="large", **swapped))
    leases = org.client.leases(org.pool)
    assert (leases[small]["cpuMillis"], leases[small]["profile"]) == (4000, "large")
    org.client.send(org.event("completed", 2, name="large", **(swapped | {"conclusion": "success"})))
    assert set(org.client.leases(org.pool)) == {large}


def test_a_job_that_runs_before_its_queued_event_comes_is_decided_about_all_the_same(org: Org) -> None:
    """Else its container would not know its size."""
    small = org.queue(1)["runner"]
    running = {"status": "in_progress", "runner_id": 7, "runner_name": small}
    org.client.send(org.event("in_progress", 2, name="large", **running))
    job = org.client.job(org.key(2))
    assert job.plan is not None
    assert job.decision is not None
    assert (job.plan.profile.name, job.decision.outcome) == ("large", "self_hosted")
    leases = org.client.leases(org.pool)
    assert leases[small]["jobKey"] == org.key(2)
    assert {lease["jobKey"] for lease in leases.values()} == {org.key(1), org.key(2)}, "whoever lost it has another"
    assert org.queue(2, name="large")["outcome"] == "duplicate"
    assert len(org.client.leases(org.pool)) == 2


def test_a_job_that_no_route_is_for_keeps_the_runner_that_it_got(org: Org) -> None:
    small = org.queue(1)["runner"]
    running = {"status": "in_progress", "runner_id": 7, "runner_name": small, "labels": ["somebody-elses"]}
    org.client.send(org.event("in_progress", 2, **running))
    job = org.client.job(org.key(2))
    assert job.decision is not None
    assert (job.plan, job.decision.outcome) == (None, "ignored")


def test_repository_level_runners(org: Org) -> None:
    org.publish(org.policy(level="repository"))
    assert org.client.runner(org.queue(1)["runner"]).scope == f"/repos/{org.name}/app"


def test_users_have_no_organization_level_runners(org: Org) -> None:
    payload = org.event("queued", 1)
    payload["repository"]["owner"]["type"] = "User"
    answer = org.client.send(payload).json()
    assert org.client.runner(answer["runner"]).scope == f"/repos/{org.name}/app"


def test_an_unknown_runner_group_is_named(org: Org) -> None:
    org.publish(org.policy(runner_group="gpu people"))
    answer = org.queue(1)
    assert "there is no runner group 'gpu people' (known: Default)" in answer["reason"]
    assert org.client.leases(org.pool) == {}


def test_the_recorded_job_key_is_independent_of_case() -> None:
    assert job_key("Acme", 1, 2) == job_key("acme", 1, 2)
