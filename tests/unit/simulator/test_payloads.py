"""Generated answers and webhooks, beside those that were recorded from GitHub."""

import base64
import json
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from simulator import payloads
from simulator.world import Job, JobSpec, Runner, World

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
Payload = Callable[[str], Any]


@pytest.fixture
def world() -> World:
    return World(lambda: NOW, random.Random(1), users=frozenset({"ada"}))  # noqa: S311 - repeatable on purpose


def job_of(world: World, action: str, owner: str = "ada") -> Job:
    """A job as it is when GitHub announces the action."""
    (job,) = world.dispatch(f"{owner}/app", "ci", "main", [JobSpec("build", ("ci",))])
    if action in {"in_progress", "completed"}:
        runner = listening_runner(world, owner)
        world.hand_out_jobs()
        if action == "completed":
            world.finish(runner, "success")
    return job


def listening_runner(world: World, owner: str = "ada") -> Runner:
    runner = world.register_runner(f"/repos/{owner}/app", "ry-1", 1, ["ci"])
    world.open_session(runner.id, runner.secret)
    runner.is_listening = True
    return runner


def keys(value: Any) -> Any:
    """The keys of nested objects; of a list, those of its first entry."""
    if isinstance(value, dict):
        return {key: keys(inner) for key, inner in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [keys(value[0])]
    return None


@pytest.mark.parametrize(
    ("action", "recorded"),
    [
        ("queued", "workflow_job.queued.real-attempt10.grafana.json"),
        ("completed", "workflow_job.completed.success.real-attempt10.grafana.json"),
    ],
)
def test_webhooks_have_exactly_the_keys_of_the_recorded_ones(
    world: World, payload: Payload, action: str, recorded: str
) -> None:
    generated = payloads.workflow_job_webhook(action, job_of(world, action), world, None)
    assert keys(generated) == keys(payload(recorded))


@pytest.mark.parametrize(
    ("action", "recorded"),
    [
        ("queued", "workflow_job.queued.octokit.json"),
        ("in_progress", "workflow_job.in_progress.matrix-name.octokit.json"),
        ("completed", "workflow_job.completed.failure.org.octokit.json"),
    ],
)
def test_the_job_in_a_webhook_has_exactly_the_recorded_keys(
    world: World, payload: Payload, action: str, recorded: str
) -> None:
    generated, expected = payloads.job_json(job_of(world, action)), payload(recorded)["workflow_job"]
    assert set(generated) == set(expected)
    if expected["steps"]:
        assert set(generated["steps"][0]) == set(expected["steps"][0])


def test_an_organizations_webhook_names_the_organization_as_recorded(world: World, payload: Payload) -> None:
    generated = payloads.workflow_job_webhook("completed", job_of(world, "completed", "acme"), world, None)
    expected = payload("workflow_job.completed.failure.org.octokit.json")
    assert set(generated) == set(expected)
    assert set(generated["organization"]) == set(expected["organization"])
    assert generated["organization"]["login"] == "acme"


def test_an_apps_webhook_names_the_installation_as_recorded(world: World, payload: Payload) -> None:
    generated = payloads.workflow_job_webhook("queued", job_of(world, "queued"), world, 7)
    expected = payload("workflow_job.queued.octokit.json")
    assert set(generated) == set(expected)
    assert set(generated["installation"]) == set(expected["installation"])
    assert generated["installation"]["id"] == 7


def test_a_users_webhook_names_no_organization(world: World) -> None:
    assert "organization" not in payloads.workflow_job_webhook("queued", job_of(world, "queued"), world, None)


@pytest.mark.parametrize(
    ("action", "recorded"),
    [
        ("queued", "workflow_job.queued.real-attempt10.grafana.json"),
        ("completed", "workflow_job.completed.success.real-attempt10.grafana.json"),
    ],
)
def test_the_values_of_a_job_are_of_the_recorded_types(
    world: World, payload: Payload, action: str, recorded: str
) -> None:
    expected = payload(recorded)["workflow_job"]
    generated = payloads.job_json(job_of(world, action))
    assert {key: type(generated[key]) for key in generated} == {key: type(expected[key]) for key in expected}


def test_a_queued_job_has_no_runner_and_repeats_when_it_was_created(world: World) -> None:
    generated = payloads.job_json(job_of(world, "queued"))
    assert generated["started_at"] == generated["created_at"] == "2026-11-23T12:00:00Z"
    assert {generated[f"runner_{key}"] for key in ("id", "name", "group_id", "group_name")} == {None}


def test_a_job_that_was_cancelled_while_queued_has_the_recorded_empty_runner(world: World, payload: Payload) -> None:
    job = job_of(world, "queued")
    world.cancel(job.id)
    generated = payloads.job_json(job)
    expected = payload("derived.workflow_job.completed.cancelled-while-queued.json")["workflow_job"]
    for key in ("status", "conclusion", "runner_id", "runner_name", "runner_group_id", "runner_group_name", "steps"):
        assert generated[key] == expected[key]


def test_a_finished_job_names_its_runner_and_its_conclusion(world: World) -> None:
    generated = payloads.job_json(job_of(world, "completed"))
    assert (generated["status"], generated["conclusion"]) == ("completed", "success")
    assert (generated["runner_name"], generated["runner_group_name"]) == ("ry-1", "Default")
    assert generated["completed_at"] == "2026-11-23T12:00:00Z"


@pytest.mark.parametrize(
    ("is_online", "is_busy"), [(False, False), (True, False), (True, True)], ids=["offline", "idle", "busy"]
)
def test_a_runner_is_shown_as_recorded(world: World, payload: Payload, is_online: bool, is_busy: bool) -> None:
    expected = payload("api/generate-jitconfig.org.201.recorded.json")["body"]["runner"]
    runner = listening_runner(world) if is_online else world.register_runner("/orgs/acme", "ry-1", 1, ["ci"])
    if is_busy:
        world.dispatch("ada/app", "ci", "main", [JobSpec("build", ("ci",))])
        world.hand_out_jobs()
    generated = payloads.runner_json(runner)
    assert keys(generated) == keys(expected)
    assert generated["labels"] == [{"id": 0, "name": "ci", "type": "read-only"}]
    assert (generated["status"], generated["os"]) == (("online", "Linux") if is_online else ("offline", "unknown"))
    assert generated["busy"] is is_busy


def test_a_jit_config_holds_the_runners_files_and_its_secret(world: World) -> None:
    runner = world.register_runner("/orgs/acme", "ry-1", 1, ["ci"])
    files = json.loads(base64.b64decode(payloads.encode_jit_config(runner, "https://github.test")))
    assert set(files) == {".runner", ".credentials", ".credentials_rsaparams"}
    contents = {name: json.loads(base64.b64decode(text)) for name, text in files.items()}
    assert (contents[".runner"]["AgentId"], contents[".runner"]["Ephemeral"]) == (runner.id, True)
    assert runner.secret in contents[".credentials_rsaparams"].values()


@pytest.mark.parametrize("recorded", ["ping.repo.octokit.json", "ping.app.octokit.json"])
def test_a_ping_has_the_recorded_keys(world: World, payload: Payload, recorded: str) -> None:
    generated, expected = payloads.ping_webhook("ada/app", 1, world), payload(recorded)
    assert set(generated) == set(expected)
    assert set(generated["hook"]) <= set(expected["hook"])


def test_ids_are_the_same_whenever_a_name_is_the_same(world: World) -> None:
    one, two = (payloads.repository_json("ada/app", True) for _ in range(2))
    assert one == two
    assert one["id"] != payloads.repository_json("ada/web", True)["id"]


@pytest.mark.parametrize("name", ['quo"te', "back\\slash", "dollar$login", "new\nline", "ünï🚀"])
def test_a_job_may_be_called_anything(world: World, name: str) -> None:
    (job,) = world.dispatch("acme/app", name, name, [JobSpec(name, (name,))])
    webhook = json.loads(json.dumps(payloads.workflow_job_webhook("queued", job, world, None)))
    assert webhook["workflow_job"]["name"] == name
    assert webhook["workflow_job"]["labels"] == [name]
