"""What is sent to Firestore is what its library would send."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from google.cloud import firestore
from google.cloud.firestore_v1 import _helpers
from hypothesis import given
from hypothesis import strategies as st

from functions.documents import writes
from functions.documents.ledger import Lease, Ledger
from functions.documents.lifecycle import JobState
from functions.documents.workflow_job import DecisionRecord
from tests.fakes.examples import GIB, NOW, job, pending_runner, runner_plan

NAME = "projects/p/databases/(default)/documents/workflowJobs/acme_1_1"
LEASE = Lease(cpu_millis=1, memory_bytes=GIB, scale_set="acme/ci", profile="s", repository="acme/app", since=NOW)
DOCUMENTS = {
    "a job": job(1, plan=runner_plan(), decision=DecisionRecord(outcome="held", reason="full")).to_firestore(),
    "a runner": pending_runner().to_firestore(),
    "a ledger": Ledger(leases={"ry-a-1-x": LEASE, "größer `x`": LEASE}).to_firestore(),
    "nothing": {},
    "empty maps and lists": {"a": {}, "b": [], "c": {"d": {}}},
    "an enum": {"rank": JobState.COMPLETED},
    "every type": {
        "n": None,
        "t": True,
        "f": 0.5,
        "b": b"\x00",
        "d": NOW,
        "list": [1, "x", {"y": None}],
        "big": 1 << 62,
    },
    "another time zone": {"at": datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=2)))},
}
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=10)
    | st.binary(max_size=10)
    | st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.just(UTC)),  # noqa: DTZ001
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(min_size=1, max_size=10), values, max_size=4),
    max_leaves=10,
)


@pytest.mark.parametrize("fields", DOCUMENTS.values(), ids=DOCUMENTS)
def test_a_document_is_made_as_the_library_makes_it(fields: dict[str, Any]) -> None:
    assert writes.create(NAME, fields) == _helpers.pbs_for_create(NAME, fields)[0]


@given(st.dictionaries(st.text(min_size=1, max_size=10), VALUES, max_size=4))
def test_whatever_firestore_keeps_is_sent_as_the_library_sends_it(fields: dict[str, Any]) -> None:
    assert writes.create(NAME, fields) == _helpers.pbs_for_create(NAME, fields)[0]


@pytest.mark.parametrize("fields", [fields for fields in DOCUMENTS.values() if fields])
def test_fields_are_replaced_whole_and_only_at_the_version_that_was_read(fields: dict[str, Any]) -> None:
    expected = _helpers.pbs_for_update(NAME, fields, _helpers.LastUpdateOption(NOW))[0]
    written = writes.replace(NAME, fields, NOW)
    assert sorted(written.update_mask.field_paths) == sorted(expected.update_mask.field_paths)
    assert (written.update, written.current_document) == (expected.update, expected.current_document)


@pytest.mark.parametrize("fields", DOCUMENTS.values(), ids=DOCUMENTS)
def test_merging_touches_the_leaves_raises_numbers_and_stamps_times(fields: dict[str, Any]) -> None:
    fields = {name: value for name, value in fields.items() if name not in {"rank", "phases"}}
    document = fields | {"rank": firestore.Maximum(20), "phases": {"reservedAt": firestore.SERVER_TIMESTAMP}}
    expected = _helpers.pbs_for_set_with_merge(NAME, document, merge=True)[0]
    written = writes.merge(NAME, fields, {"rank": 20}, stamped=["phases.reservedAt"])
    assert sorted(written.update_mask.field_paths) == sorted(expected.update_mask.field_paths)
    assert written.update.fields == {k: v for k, v in expected.update.fields.items() if k != "phases"}
    by_path = {transform.field_path: transform for transform in expected.update_transforms}
    assert {transform.field_path: transform for transform in written.update_transforms} == by_path


def test_what_firestore_does_not_keep_is_refused() -> None:
    with pytest.raises(TypeError, match="keeps no set"):
        writes.create(NAME, {"labels": {"a", "b"}})
