"""The `reconcile` function over HTTP: what was lost is found, and what was left half-done is finished."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from functions.documents import ledger, pending_runner, reconcile, workflow_job
from functions.documents.lifecycle import JobState, RunnerState
from local.stack import RECONCILE_AUDIENCE, SCHEDULER, Stack
from tests.integration.conftest import Org

GRACE_S = 2.1
"""a second more than the functions are told, as GitHub's times are whole seconds"""


@pytest.fixture(scope="module")
def reconciling(stack: Stack) -> Iterator[Stack]:
    process = stack.start_reconcile()
    yield stack
    process.stop()


def queue(org: Org, *names: str) -> list[int]:
    """A workflow run at GitHub; waits until its webhooks have been delivered, or have gone astray."""
    stack = org.client.stack
    jobs = stack.dispatch(f"{org.name}/app", [{"name": name, "labels": ["ci"]} for name in names])
    stack.control("POST", "/settle")
    return [job["id"] for job in jobs]


def find(org: Org, job_id: int) -> dict[str, Any] | None:
    jobs = org.client.documents(workflow_job.COLLECTION).values()
    return next((job for job in jobs if job["jobId"] == job_id), None)


def has_runner(org: Org, job_id: int) -> bool:
    """Exactly one that waits for a host, with a place of its own."""
    runners = [
        fields
        for fields in org.client.documents(pending_runner.COLLECTION).values()
        if fields["jobKey"].endswith(f"_{job_id}") and fields["status"] == RunnerState.PENDING
    ]
    leases = [lease for lease in org.client.leases(org.pool).values() if lease["jobKey"].endswith(f"_{job_id}")]
    return len(runners) == len(leases) == 1


def registered(org: Org) -> list[str]:
    runners = org.client.stack.github_state()["runners"]
    return [runner["name"] for runner in runners if runner["scope"] == f"/orgs/{org.name}"]


def token(stack: Stack, audience: str = RECONCILE_AUDIENCE, **claims: Any) -> str:
    order = {"audience": audience, "repository": "none/none", "run_id": 1, "claims": claims}
    signed: str = stack.control("POST", "/oidc-token", order)["token"]
    return signed


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        ({"email": "somebody@example.com", "email_verified": True}, "another account's"),
        ({"email": SCHEDULER, "email_verified": False}, "not verified"),
        ({"email": SCHEDULER}, "not verified"),
        ({}, "email"),
        ({"email": SCHEDULER, "email_verified": True, "audience": "another"}, "Audience"),
        ({"email": SCHEDULER, "email_verified": True, "iss": "https://elsewhere.example"}, "issuer"),
        ({"email": SCHEDULER, "email_verified": True, "exp": 1_000_000_000}, "expired"),
    ],
    ids=["another account", "unverified", "unsaid", "no address", "another audience", "another issuer", "old"],
)
def test_nobody_but_the_scheduler_gets_in(reconciling: Stack, order: dict[str, Any], reason: str) -> None:
    headers = {"Authorization": f"Bearer {token(reconciling, **order)}"}
    response = httpx.post(f"http://127.0.0.1:{reconciling.reconcile_port}/", headers=headers, timeout=30)
    assert response.status_code == 401, response.text
    assert reason.lower() in response.json()["reason"].lower()


@pytest.mark.parametrize("header", [None, "Basic x", "Bearer", "Bearer x.y.z"])
def test_what_is_no_token_is_refused(reconciling: Stack, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    response = httpx.post(f"http://127.0.0.1:{reconciling.reconcile_port}/", headers=headers, timeout=30)
    assert response.status_code == 401


def test_a_token_whose_signature_google_has_taken_away_is_explained(reconciling: Stack) -> None:
    header, payload, _ = token(reconciling, email=SCHEDULER, email_verified=True).split(".")
    headers = {"Authorization": f"Bearer {header}.{payload}.SIGNATURE_REMOVED_BY_GOOGLE"}
    response = httpx.post(f"http://127.0.0.1:{reconciling.reconcile_port}/", headers=headers, timeout=30)
    assert response.status_code == 401
    assert "let allUsers invoke this function" in response.json()["reason"]


def test_a_job_that_no_webhook_told_of_gets_its_runner(reconciling: Stack, org: Org) -> None:
    reconciling.control("POST", "/mishaps", {"mishap": "lost"})
    (job_id,) = queue(org, "build")
    assert find(org, job_id) is None
    time.sleep(GRACE_S)
    report = reconciling.reconcile()
    assert report["jobs.queued"] == 1
    assert has_runner(org, job_id)
    assert "jobs.queued" not in reconciling.reconcile(), "once"
    assert has_runner(org, job_id)


@pytest.mark.parametrize("mishap", ["failed", "unanswered"])
def test_a_failed_delivery_is_delivered_again(reconciling: Stack, org: Org, mishap: str) -> None:
    """A timeout, too, which GitHub's own filter for failures leaves out."""
    reconciling.control("POST", "/mishaps", {"mishap": mishap})
    (job_id,) = queue(org, "build")
    report = reconciling.reconcile()
    assert report["deliveries.redelivered"] == 1
    reconciling.control("POST", "/settle")
    again = [d for d in reconciling.github_state()["deliveries"] if d["job_id"] == job_id]
    assert [(d["redelivery"], d["status_code"]) for d in again[1:]] == [(True, 200)]
    assert again[0]["guid"] == again[1]["guid"]
    assert has_runner(org, job_id)
    assert "deliveries.redelivered" not in reconciling.reconcile()


def test_a_job_that_ended_unseen_frees_its_place(reconciling: Stack, org: Org) -> None:
    (job_id,) = queue(org, "build")
    assert len(org.client.leases(org.pool)) == 1
    reconciling.control("POST", "/mishaps", {"mishap": "lost", "action": "completed"})
    reconciling.control("POST", f"/cancel/{job_id}")
    time.sleep(GRACE_S)
    reconciling.reconcile()
    job = find(org, job_id)
    assert job is not None
    assert (job["conclusion"], job["rank"]) == ("cancelled", JobState.COMPLETED)
    assert org.client.leases(org.pool) == {}
    assert registered(org) == []


@pytest.mark.parametrize("fault", [{"status": 502}, {"loses_answer": True}, {"delay_s": 10}], ids=str)
def test_a_jit_call_that_fails_is_made_again_and_leaves_exactly_one_runner(
    reconciling: Stack, org: Org, fault: dict[str, Any]
) -> None:
    reconciling.control("POST", "/faults", {"operation": "generate-jitconfig", **fault})
    (job_id,) = queue(org, "build")
    assert not has_runner(org, job_id)
    # The pause that the failure has brought.
    deadline = time.monotonic() + 40
    while not has_runner(org, job_id):
        assert time.monotonic() < deadline, reconciling.reconcile()
        time.sleep(3)
        reconciling.reconcile()
    reconciling.reconcile()
    assert len(registered(org)) == 1


def test_a_place_whose_runner_was_never_handed_over_is_given_anew(reconciling: Stack, org: Org) -> None:
    """A function that was killed after the reservation's commit leaves just this behind."""
    (job_id,) = queue(org, "build")
    (lost,) = org.client.leases(org.pool)
    org.client.firestore.collection(pending_runner.COLLECTION).document(lost).delete()
    time.sleep(GRACE_S)
    reconciling.reconcile()
    assert has_runner(org, job_id)
    (new,) = org.client.leases(org.pool)
    assert new != lost
    assert org.client.runner(lost).status is RunnerState.CANCELLED, "nobody can hand it over any more"
    assert registered(org) == [new]


@pytest.mark.parametrize("edit", ["deleted", "emptied", "spoilt"])
def test_a_ledger_that_a_person_has_edited_is_repaired(reconciling: Stack, org: Org, edit: str) -> None:
    org.publish(org.policy(max_runners=2))
    # Webhooks of different jobs go side by side: any of them may be the one that has to wait.
    job_ids = queue(org, "one", "two", "three")
    (held,) = [job_id for job_id in job_ids if not has_runner(org, job_id)]
    reference = org.client.firestore.collection(ledger.COLLECTION).document(org.pool)
    before = org.client.leases(org.pool)
    if edit == "deleted":
        reference.delete()
    elif edit == "emptied":
        reference.update({"leases": {}})
    else:
        reference.update({"leases": dict.fromkeys(before, "mine")})
    time.sleep(GRACE_S)
    reconciling.reconcile()
    reconciling.reconcile()
    assert {name: lease["jobKey"] for name, lease in org.client.leases(org.pool).items()} == {
        name: lease["jobKey"] for name, lease in before.items()
    }
    assert [job_id for job_id in job_ids if not has_runner(org, job_id)] == [held]
    queued = org.client.documents(ledger.COLLECTION)[org.pool]["queue"]
    assert [key.endswith(f"_{held}") for key in queued] == [True]


def test_a_raised_limit_lets_those_in_who_wait(reconciling: Stack, org: Org) -> None:
    org.publish(org.policy(max_runners=1))
    job_ids = queue(org, "one", "two")
    assert sum(has_runner(org, job_id) for job_id in job_ids) == 1
    org.publish(org.policy(max_runners=2))
    reconciling.reconcile()
    assert all(has_runner(org, job_id) for job_id in job_ids)


def test_two_runs_at_once_do_no_harm(reconciling: Stack, org: Org) -> None:
    reconciling.control("POST", "/mishaps", {"mishap": "lost", "times": 5})
    job_ids = queue(org, *(f"job {number}" for number in range(5)))
    time.sleep(GRACE_S)
    with ThreadPoolExecutor(3) as several:
        list(several.map(lambda _: reconciling.reconcile(), range(3)))
    assert all(has_runner(org, job_id) for job_id in job_ids)
    assert len(registered(org)) == 5


def test_every_run_leaves_a_report(reconciling: Stack, org: Org) -> None:
    reconciling.reconcile()
    reports = org.client.documents(reconcile.COLLECTION)
    reports.pop(reconcile.CURSOR_ID)
    newest = reports[max(reports)]
    names = [step["name"] for step in newest["steps"]]
    assert names == ["overview", "deliveries", "jobs", "unseen", "runners", "places", "registrations"]
    assert newest["expireAt"] > newest["startedAt"]
