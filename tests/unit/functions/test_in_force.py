"""Which policy decides, and what an operator is told about an edit."""

from datetime import UTC, timedelta
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.documents.in_force import PolicyInForce
from functions.documents.installation import Installation, LastError, LastGood
from functions.routing.policy import Policy
from tests.fakes.examples import NOW, policy, policy_document

OLD, NEW = policy_document(default_profile="large"), policy_document()
BROKEN = policy_document(default_profile="smal")
PROBLEMS = ("default_profile: there is no 'smal': did you mean small?",)
OLD_GOOD = LastGood(policy=OLD, revision=3)


class Found(NamedTuple):
    """What decides, with the policy as it was written instead of as it was compiled."""

    policy: Policy | None
    revision: int
    problems: tuple[str, ...] = ()
    note_good: LastGood | None = None
    note_error: LastError | None = None


def resolve(document: Any, good: LastGood | None = None, error: LastError | None = None) -> Found:
    installation = Installation(policy=document, revision=4, last_good=good, last_error=error)
    found = PolicyInForce().resolve("acme", installation, NOW)
    policy_ = found.policy.policy if found.policy is not None else None
    return Found(policy_, found.revision, found.problems, found.note_good, found.note_error)


def noted_error(document: Any) -> LastError:
    error = resolve(document).note_error
    assert error is not None
    return error


def test_a_valid_policy_decides_and_is_noted_as_good() -> None:
    assert resolve(NEW) == Found(policy(), 4, note_good=LastGood(policy=NEW, revision=4))


def test_a_valid_policy_takes_the_place_of_the_last_good_one() -> None:
    in_force = resolve(NEW, OLD_GOOD)
    assert (in_force.policy, in_force.revision) == (policy(), 4)
    assert in_force.note_good == LastGood(policy=NEW, revision=4)


def test_a_policy_that_is_noted_already_is_not_written_again() -> None:
    assert resolve(NEW, LastGood(policy=NEW, revision=4)) == Found(policy(), 4)


def test_a_policy_that_is_valid_again_is_noted_so_that_the_error_goes() -> None:
    in_force = resolve(NEW, LastGood(policy=NEW, revision=4), noted_error(BROKEN))
    assert in_force.note_good == LastGood(policy=NEW, revision=4)
    assert in_force.problems == ()


def test_after_a_broken_edit_the_last_good_policy_still_decides() -> None:
    in_force = resolve(BROKEN, OLD_GOOD)
    assert (in_force.policy, in_force.revision) == (policy(default_profile="large"), 3)
    assert in_force.note_good is None


def test_a_broken_edit_is_noted_with_its_problems_and_the_time() -> None:
    in_force = resolve(BROKEN, OLD_GOOD)
    assert in_force.problems == PROBLEMS
    assert in_force.note_error is not None
    assert (in_force.note_error.problems, in_force.note_error.at) == (PROBLEMS, NOW)


def test_a_broken_edit_is_noted_once() -> None:
    in_force = resolve(BROKEN, OLD_GOOD, noted_error(BROKEN))
    assert in_force.note_error is None
    assert in_force.problems == PROBLEMS


def test_the_order_of_a_maps_keys_makes_no_other_edit() -> None:
    reordered = dict(reversed(BROKEN.items()))
    assert resolve(reordered, OLD_GOOD, noted_error(BROKEN)).note_error is None


def test_the_next_broken_edit_is_noted_too() -> None:
    in_force = resolve(policy_document(routes=[]), OLD_GOOD, noted_error(BROKEN))
    assert in_force.note_error is not None
    assert in_force.note_error.problems == ("routes: must not be empty",)


@pytest.mark.parametrize("good", [None, LastGood(policy={"version": 0}, revision=3)], ids=["none", "no longer valid"])
def test_without_a_usable_last_good_policy_none_decides(good: LastGood | None) -> None:
    in_force = resolve(BROKEN, good)
    assert in_force.policy is None
    assert in_force.problems == PROBLEMS


@pytest.mark.parametrize(
    ("document", "good", "standing"),
    [
        (NEW, None, "newest"),
        (NEW, OLD_GOOD, "newest"),
        (BROKEN, OLD_GOOD, "last_good"),
        (BROKEN, None, "none"),
        (BROKEN, LastGood(policy={"version": 0}), "none"),
    ],
    ids=["the first", "an edit", "a broken edit", "broken from the start", "an earlier one that is no longer valid"],
)
def test_which_policy_decides_is_told_in_words_that_metrics_count(
    document: Any, good: LastGood | None, standing: str
) -> None:
    installation = Installation(policy=document, last_good=good)
    assert PolicyInForce().resolve("acme", installation, NOW).standing == standing


def test_no_policy_has_no_revision() -> None:
    assert resolve(BROKEN).revision == 0


@pytest.mark.parametrize("document", [None, [], "version: 1", 5], ids=repr)
def test_what_is_no_map_is_a_broken_edit(document: object) -> None:
    in_force = resolve(document, OLD_GOOD)
    assert in_force.policy == policy(default_profile="large")
    assert in_force.problems[0].startswith("a policy is a map")


def test_an_unchanged_policy_is_checked_once_for_each_owner() -> None:
    policies = PolicyInForce()
    first = policies.resolve("acme", Installation(policy=policy_document()), NOW)
    policies.resolve("other", Installation(policy=OLD), NOW)
    again = policies.resolve("acme", Installation(policy=policy_document()), NOW + timedelta(days=1))
    assert again.policy is first.policy


def test_a_last_good_policy_is_checked_once_too() -> None:
    policies = PolicyInForce()
    installation = Installation(policy=BROKEN, last_good=OLD_GOOD)
    first, again = (policies.resolve("acme", installation, NOW) for _ in range(2))
    assert first.policy is again.policy is not None


def test_every_edit_counts_from_the_next_event_on() -> None:
    policies = PolicyInForce()
    defaults = [
        in_force.policy.policy.default_profile
        for document in (NEW, OLD, BROKEN, NEW)
        if (in_force := policies.resolve("acme", Installation(policy=document, last_good=OLD_GOOD), NOW)).policy
    ]
    assert defaults == ["small", "large", "large", "small"]


FIRESTORE_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats()
    | st.text(max_size=10)
    | st.binary(max_size=10)
    | st.datetimes(timezones=st.just(UTC)),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=10), values, max_size=4),
    max_leaves=10,
)


@settings(max_examples=100, deadline=None)
@given(FIRESTORE_VALUES)
def test_whatever_an_operator_leaves_in_the_document_the_last_good_policy_decides(document: object) -> None:
    in_force = resolve(document, OLD_GOOD)
    assert in_force.policy == policy(default_profile="large")
    assert in_force.note_error is not None
    assert resolve(document, OLD_GOOD, in_force.note_error).note_error is None
