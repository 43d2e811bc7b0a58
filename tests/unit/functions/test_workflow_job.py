"""The document of a job."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from functions.documents.lifecycle import JobState
from functions.documents.workflow_job import (
    DecisionRecord,
    EgressSummary,
    Phases,
    Provisioning,
    Reservation,
    RunnerEgress,
    RunnerEgressRule,
    RunnerRef,
    SizingReceipt,
    TargetSummary,
    WorkflowJob,
    job_key,
)
from functions.routing.policy import EgressMode, parse_policy
from tests.fakes.examples import GIB, NOW, job, policy_document, runner_plan

WHOLE = job(
    17556730984,
    "テスト (ubuntu, naïve café ✓)",
    workflow="Tests",
    branch="feature/äöü",
    rank=JobState.COMPLETED,
    decision=DecisionRecord(outcome="self_hosted", reason="takes 1 of 10 places", rule="routes[0]"),
    plan=runner_plan(),
    reservation=Reservation(
        pool="default",
        scale_set="ci",
        profile="small",
        runner_name="ry-1",
        token="t",
    ),
    provisioning=Provisioning(failure="GitHub's rate limit is used up", retry_at=NOW),
    runner=RunnerRef(name="ry-1", id=7),
    phases=Phases(queued_at=NOW, completed_at=NOW + timedelta(seconds=90)),
    conclusion="success",
    duration_seconds=90.0,
    sizing=SizingReceipt(
        verdict="fits", profile="small", made_for_profile="small", asked_cpu_millis=1000, asked_memory_bytes=GIB
    ),
    egress=EgressSummary(connections=2, targets=(TargetSummary(target="github.com:443"),)),
    expire_at=NOW + timedelta(days=30),
)


@pytest.mark.parametrize("owner", ["acme-corp", "Acme-Corp", "ACME-CORP"])
def test_a_job_is_found_whatever_the_case_of_its_owners_login(owner: str) -> None:
    assert job_key(owner, 12, 345) == "acme-corp_12_345"
    assert job(345, org=owner, run_id=12).key == "acme-corp_12_345"


@given(
    st.lists(st.tuples(st.from_regex(r"[a-z0-9-]{1,9}", fullmatch=True), st.integers(0), st.integers(0)), max_size=9)
)
def test_different_jobs_have_different_keys(identities: list[tuple[str, int, int]]) -> None:
    assert len({job_key(*identity) for identity in identities}) == len(set(identities))


def test_a_job_comes_back_from_firestore_as_it_went() -> None:
    assert WorkflowJob.from_firestore(WHOLE.to_firestore()) == WHOLE


def test_names_are_camel_case_in_firestore_at_every_depth() -> None:
    def keys_in(value: Any) -> set[str]:
        return (
            {*value, *(key for part in value.values() for key in keys_in(part))} if isinstance(value, dict) else set()
        )

    keys = keys_in(WHOLE.to_firestore())
    assert {"runId", "headSha", "memoryBytes", "queuedAt", "retryAt", "madeForProfile"} <= keys
    assert not [key for key in keys if "_" in key]


def test_what_is_not_known_is_left_out_of_firestore() -> None:
    fields = job(1).to_firestore()
    assert fields["phases"] == {}
    assert {"decision", "reservation", "runner", "conclusion", "expireAt"}.isdisjoint(fields)


def test_fields_of_a_later_version_are_passed_over() -> None:
    assert WorkflowJob.from_firestore(job(1).to_firestore() | {"priority": 5}) == job(1)


@pytest.mark.parametrize("field", ["org", "runId", "jobId", "labels"])
def test_a_document_that_does_not_identify_a_job_is_an_error(field: str) -> None:
    fields = job(1).to_firestore()
    del fields[field]
    with pytest.raises(ValidationError, match=field):
        WorkflowJob.from_firestore(fields)


def test_a_job_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        job(1).name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("state", JobState)
def test_the_state_of_a_job_is_its_rank(state: JobState) -> None:
    assert job(1, rank=state).state is state


@pytest.mark.parametrize(
    ("rank", "state"),
    [
        (0, JobState.QUEUED),
        (-5, JobState.QUEUED),
        (15, JobState.QUEUED),
        (45, JobState.RESERVED),
        (69, JobState.IN_PROGRESS),
        (1000, JobState.COMPLETED),
    ],
)
def test_a_rank_of_another_version_counts_as_the_state_below_it(rank: int, state: JobState) -> None:
    assert job(1, rank=rank).state is state


def test_a_job_is_queued_until_more_is_known() -> None:
    assert job(1).state is JobState.QUEUED


def test_a_policys_rules_become_one_list_in_their_order_each_with_a_name() -> None:
    """`allow` alone, the oldest form, is a last rule."""
    document = policy_document()
    document["profiles"]["small"]["egress"] = {
        "mode": "enforce",
        "rules": [
            {"name": "no-gists", "deny": "gist.github.com"},
            {"allow": ["*.Example.com:443", "[2001:db8::1]:8080"]},
        ],
        "allow": ["mirror.test"],
        "bandwidth": "20m",
        "connections": 50,
    }
    assert RunnerEgress.of_policy(parse_policy(document).profiles["small"].egress) == RunnerEgress(
        mode=EgressMode.ENFORCE,
        rules=(
            RunnerEgressRule(name="no-gists", is_allowed=False, targets=("gist.github.com",)),
            RunnerEgressRule(
                name="egress.rules[1]", is_allowed=True, targets=("*.example.com:443", "[2001:db8::1]:8080")
            ),
            RunnerEgressRule(name="egress.allow", is_allowed=True, targets=("mirror.test",)),
        ),
        bytes_per_s=20 << 20,
        connections=50,
    )


def test_a_profile_without_egress_lets_everything_pass_and_records_it() -> None:
    assert RunnerEgress.of_policy(parse_policy(policy_document()).profiles["small"].egress) == RunnerEgress()
    assert RunnerEgress().mode is EgressMode.AUDIT
