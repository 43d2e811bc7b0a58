"""What becomes of jobs for which there is no room, of jobs of forks, and of organizations that share a deployment."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from functions.documents import workflow_job
from functions.documents.lifecycle import JobState
from tests.integration.conftest import Org, WebhookClient

ENDED = {"status": "completed", "conclusion": "success", "completed_at": "2026-01-01T10:01:30Z"}


def until(what: str, is_true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not is_true():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def on_runner(name: str) -> dict[str, Any]:
    return {"runner_id": 7, "runner_name": name}


def github_job(org: Org, job_id: int) -> dict[str, Any]:
    (found,) = [job for job in org.client.stack.github_state()["jobs"] if job["id"] == job_id]
    job: dict[str, Any] = found
    return job


def dispatch(org: Org, **run: Any) -> dict[str, Any]:
    """A workflow run at the simulated GitHub, which sends the webhook itself; its one job."""
    order = {"repository": f"{org.name}/app", "jobs": [{"name": "build", "labels": ["ci"]}]} | run
    (job,) = org.client.stack.control("POST", "/dispatch", order)
    org.client.stack.control("POST", "/settle")
    queued: dict[str, Any] = job
    return queued


# Held


def test_a_held_job_gets_the_place_of_the_one_that_ends(org: Org) -> None:
    org.publish(org.policy(max_runners=1))
    first = org.queue(1)["runner"]
    assert [org.queue(number)["outcome"] for number in (2, 3)] == ["held", "held"]
    org.client.send(org.event("completed", 1, **on_runner(first), **ENDED))
    job = org.client.job(org.key(2))
    assert job.decision is not None
    assert job.reservation is not None
    assert (job.state, job.decision.outcome) == (JobState.RESERVED, "self_hosted")
    assert job.decision.reason.startswith("held since")
    assert org.client.runner(job.reservation.runner_name).job_key == org.key(2)
    assert set(org.client.leases(org.pool)) == {job.reservation.runner_name}
    assert org.client.job(org.key(3)).reservation is None


def test_a_held_job_that_is_cancelled_is_not_admitted(org: Org) -> None:
    org.publish(org.policy(max_runners=1))
    first = org.queue(1)["runner"]
    org.queue(2)
    org.client.send(org.event("completed", 2, runner_id=0, runner_name="", **ENDED | {"conclusion": "cancelled"}))
    org.client.send(org.event("completed", 1, **on_runner(first), **ENDED))
    assert org.client.leases(org.pool) == {}
    assert org.client.job(org.key(2)).reservation is None


def test_events_that_come_twice_and_in_the_wrong_order_free_one_place(org: Org) -> None:
    org.publish(org.policy(max_runners=2))
    first, second = (org.queue(number)["runner"] for number in (1, 2))
    completed = org.event("completed", 1, **on_runner(first), **ENDED)
    for payload in (completed, org.event("in_progress", 1, status="in_progress", **on_runner(first)), completed):
        assert org.client.send(payload).status_code == 200
    assert set(org.client.leases(org.pool)) == {second}
    assert org.client.job(org.key(1)).state is JobState.COMPLETED
    assert [org.queue(number)["outcome"] for number in (3, 4)] == ["self_hosted", "held"]


# Rejected


@pytest.mark.parametrize(
    ("cancel", "status"), [(True, "completed"), (False, "queued")], ids=["cancel: true", "default"]
)
def test_a_rejected_jobs_run_is_cancelled_only_where_the_policy_says_so(org: Org, cancel: bool, status: str) -> None:
    routes = [{"label_match": "ci", "overflow": "reject"} | ({"cancel": True} if cancel else {})]
    org.publish(org.policy(max_runners=1) | {"routes": routes})
    org.queue(1)
    job = dispatch(org)
    key = workflow_job.job_key(org.name, job["run_id"], job["id"])
    decision = org.client.job(key).decision
    assert decision is not None
    assert (decision.outcome, decision.rule) == ("rejected", "routes[0].overflow")
    assert "all 1 places of ci are taken" in decision.reason
    org.client.stack.control("POST", "/settle")
    assert github_job(org, job["id"])["status"] == status
    assert (org.client.job(key).conclusion == "cancelled") == cancel


def test_a_run_that_cannot_be_cancelled_is_told(org: Org) -> None:
    org.publish(org.policy(max_runners=1) | {"routes": [{"label_match": "ci", "overflow": "reject", "cancel": True}]})
    org.queue(1)
    answer = org.queue(2)
    assert answer["outcome"] == "rejected"
    assert "the run was not cancelled" in answer["warnings"][0]


# The variable


def test_the_variable_names_githubs_runners_while_places_are_short(org: Org) -> None:
    overflow = {"mechanism": "variable", "variable": "RUNS_ON", "variable_labels": ["ci"], "low": 0.4, "high": 0.7}
    routes = [{"label_match": "ci", "overflow": "github_hosted"}]
    org.publish(org.policy(max_runners=4) | {"overflow": overflow, "routes": routes})

    def variable() -> str | None:
        variables = org.client.stack.github_state()["variables"].get(f"/orgs/{org.name}", {})
        value: str | None = variables.get("RUNS_ON")
        return value

    runners = [org.queue(number)["runner"] for number in (1, 2)]
    assert variable() is None, "half of the places are free"
    runners.append(org.queue(3)["runner"])
    assert variable() == '["ubuntu-latest"]'
    org.client.send(org.event("completed", 1, **on_runner(runners[0]), **ENDED))
    assert variable() == '["ubuntu-latest"]', "half of the places are free, but not enough to switch back"
    org.client.send(org.event("completed", 2, **on_runner(runners[1]), **ENDED))
    assert variable() == '["ci"]'


# Forks


@pytest.mark.parametrize(
    ("head_repository", "profile"), [("", "trusted"), ("somebody/app", "untrusted")], ids=["own branch", "fork"]
)
def test_a_forks_job_is_told_from_ones_own(org: Org, head_repository: str, profile: str) -> None:
    size = {"cpus": 1, "memory": "1g"}
    routes = [
        {"label_match": "ci", "trust": "fork", "profile": "untrusted"},
        {"label_match": "ci", "event": "pull_request", "profile": "trusted"},
    ]
    document = org.policy() | {"routes": routes, "profiles": {"trusted": size, "untrusted": size, "small": size}}
    org.publish(document)
    job = dispatch(org, event="pull_request", head_repository=head_repository)
    decision = org.client.job(workflow_job.job_key(org.name, job["run_id"], job["id"])).decision
    assert decision is not None
    assert decision.profile == profile


def test_what_github_does_not_show_of_a_run_counts_as_a_forks(org: Org) -> None:
    routes = [{"label_match": "ci", "trust": "fork", "strategy": "github_hosted"}, {"label_match": "ci"}]
    org.publish(org.policy() | {"routes": routes})
    assert org.queue(1)["outcome"] == "github_hosted", "the run of this made-up webhook is not known"


# Organizations


def test_organizations_that_share_hosts_share_neither_places_nor_policies(org: Org, client: WebhookClient) -> None:
    other = Org(client, org._template)
    other.pool = org.pool
    org.publish(org.policy(max_runners=1))
    other.publish(other.policy(max_runners=1))
    mine, theirs = org.queue(1), other.queue(1)
    assert (mine["outcome"], theirs["outcome"]) == ("self_hosted", "self_hosted")
    assert (org.queue(2)["outcome"], other.queue(2)["outcome"]) == ("held", "held")
    # A runner of theirs that is called like mine frees nothing, and takes nothing.
    for payload in (
        other.event("in_progress", 3, status="in_progress", **on_runner(mine["runner"])),
        other.event("completed", 3, **on_runner(mine["runner"]), **ENDED),
    ):
        assert client.send(payload).status_code == 200
    assert set(client.leases(org.pool)) == {mine["runner"], theirs["runner"]}
    client.send(other.event("completed", 1, **on_runner(theirs["runner"]), **ENDED))
    assert client.job(other.key(2)).state is JobState.RESERVED
    assert client.job(org.key(2)).reservation is None


def test_the_events_of_an_organization_that_is_not_installed_are_ignored_with_the_reason(
    client: WebhookClient, org: Org
) -> None:
    stranger = Org(client, org._template)
    for payload in (
        stranger.event("queued", 1),
        stranger.event("in_progress", 2, status="in_progress", **on_runner("GitHub Actions 3")),
        stranger.event("completed", 3, **on_runner("GitHub Actions 3"), **ENDED),
        stranger.event("completed", 4, runner_id=0, runner_name="", **ENDED | {"conclusion": "cancelled"}),
    ):
        answer = client.send(payload).json()
        assert answer["outcome"] == "ignored"
        assert f"no policy for {stranger.name}" in answer["reason"]
    assert [key for key in client.documents(workflow_job.COLLECTION) if key.startswith(stranger.name)] == [
        stranger.key(1)
    ]
