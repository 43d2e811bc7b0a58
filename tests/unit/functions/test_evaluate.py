"""What becomes of a queued job, given what is free."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.routing.capacity import NOTHING, Capacity, Limits, Shortage, Size, find_shortage
from functions.routing.classify import CompiledPolicy, Match
from functions.routing.evaluate import Outcome, decide_without_room
from functions.routing.job import JobFacts
from functions.routing.policy import parse_policy
from tests.fakes.examples import GIB, policy_document

HOST = Size(8000, 32 * GIB)
SMALL, LARGE = Size(1000, 2 * GIB), Size(4000, 8 * GIB)


def match(profile: str = "small", **route: Any) -> Match:
    """The rules for a job of a profile on a route."""
    document = policy_document(routes=[{"label_match": "ci", "profile": profile} | route])
    found = CompiledPolicy(parse_policy(document)).classify(JobFacts("acme/app", "build", ("ci",)))
    assert found is not None
    return found


def capacity(*hosts: Size, reserved: Size = NOTHING, **counts: int) -> Capacity:
    return Capacity(hosts, reserved, **({"places_taken": 0} | counts))


FULL = capacity(HOST, reserved=HOST, places_taken=2)


def test_outcomes_are_named_as_in_documents_and_logs() -> None:
    assert list(Outcome) == ["self_hosted", "github_hosted", "overflow", "held", "rejected", "ignored"]


def test_sizes_add_and_subtract_in_both_dimensions() -> None:
    assert Size(3, 50) + Size(4, 5) == Size(7, 55)
    assert Size(3, 50) - Size(4, 5) == Size(-1, 45)


@pytest.mark.parametrize(
    ("size", "does_fit"),
    [(Size(2, 20), True), (Size(1, 20), True), (Size(3, 20), False), (Size(2, 21), False), (NOTHING, True)],
    ids=["exactly", "with room to spare", "too many CPUs", "too much memory", "nothing always does"],
)
def test_a_size_fits_when_both_dimensions_do(size: Size, does_fit: bool) -> None:
    assert size.fits_into(Size(2, 20)) is does_fit


def test_nothing_added_changes_nothing() -> None:
    assert SMALL + NOTHING == SMALL


def test_what_is_free_is_all_hosts_less_all_leases() -> None:
    assert capacity(HOST, HOST, reserved=SMALL).free == Size(15000, 62 * GIB)


def test_without_hosts_less_than_nothing_is_free() -> None:
    assert capacity(reserved=SMALL).free == Size(-1000, -2 * GIB)


LIMITS = Limits(max_runners=10, per_repository=3)


@pytest.mark.parametrize(
    ("wanted", "room", "shortage"),
    [
        pytest.param(SMALL, capacity(HOST), None, id="an idle pool"),
        pytest.param(LARGE, capacity(HOST, reserved=LARGE), None, id="the last room, to the byte"),
        pytest.param(SMALL, capacity(HOST, places_taken=9, places_of_repository=2), None, id="the last place"),
        pytest.param(SMALL, capacity(), "no host of its pool is alive", id="no host"),
        pytest.param(SMALL, capacity(HOST, places_taken=10), "all 10 places of ci are taken", id="no place"),
        pytest.param(
            SMALL,
            capacity(HOST, places_of_repository=3),
            "the repository has all of its 3 places of ci (per_repository)",
            id="the repository's quota",
        ),
        pytest.param(
            LARGE,
            capacity(*[Size(2000, 4 * GIB)] * 9),
            "no host of its pool is large enough for 4 CPUs and 8g",
            id="room in all, but no host that is large enough",
        ),
        pytest.param(
            LARGE,
            capacity(HOST, reserved=Size(4500, GIB)),
            "it needs 4 CPUs and 8g, and its pool has 3.5 CPUs and 31g left",
            id="too few CPUs",
        ),
        pytest.param(
            LARGE,
            capacity(HOST, reserved=Size(0, 25 * GIB)),
            "it needs 4 CPUs and 8g, and its pool has 8 CPUs and 7g left",
            id="too little memory",
        ),
        pytest.param(SMALL, FULL, "it needs 1 CPUs and 2g, and its pool has 0 CPUs and 0 left", id="nothing left"),
    ],
)
def test_a_shortage_is_told_in_words(wanted: Size, room: Capacity, shortage: str | None) -> None:
    found = find_shortage(wanted, "ci", LIMITS, room)
    assert (found.reason if found else None) == shortage


@pytest.mark.parametrize(
    ("room", "passes"),
    [(FULL, True), (capacity(HOST, places_taken=10), True), (capacity(), False), (capacity(Size(1, 1)), False)],
    ids=["used up", "no place", "no host", "no large host"],
)
def test_only_what_running_jobs_give_back_is_worth_waiting_for(room: Capacity, passes: bool) -> None:
    found = find_shortage(SMALL, "ci", LIMITS, room)
    assert found is not None
    assert found.passes is passes


BUSY, NO_HOST = Shortage("all taken", passes=True), Shortage("no host", passes=False)


@pytest.mark.parametrize(
    ("route", "shortage", "held", "outcome", "rule"),
    [
        ({"overflow": "hold"}, BUSY, 0, Outcome.HELD, "max_queue_depth"),
        ({"overflow": "hold"}, NO_HOST, 0, Outcome.HELD, "max_queue_depth"),
        ({"overflow": "hold", "max_queue_depth": 3}, BUSY, 2, Outcome.HELD, "max_queue_depth"),
        ({"overflow": "hold", "max_queue_depth": 3}, BUSY, 3, Outcome.REJECTED, "overflow"),
        ({"overflow": "reject"}, BUSY, 0, Outcome.REJECTED, "overflow"),
        ({"overflow": "reject", "max_queue_depth": 3}, BUSY, 2, Outcome.HELD, "max_queue_depth"),
        ({"overflow": "reject", "max_queue_depth": 3}, NO_HOST, 0, Outcome.REJECTED, "overflow"),
        ({"overflow": "github_hosted"}, BUSY, 0, Outcome.OVERFLOW, "overflow"),
        ({"overflow": "github_hosted", "max_queue_depth": 3}, BUSY, 2, Outcome.HELD, "max_queue_depth"),
        ({"overflow": "github_hosted", "max_queue_depth": 3}, BUSY, 3, Outcome.OVERFLOW, "overflow"),
        ({"overflow": "github_hosted", "max_queue_depth": 3}, NO_HOST, 0, Outcome.OVERFLOW, "overflow"),
    ],
    ids=str,
)
def test_a_job_waits_while_waiting_helps_and_then_the_overflow_decides(
    route: dict[str, Any], shortage: Shortage, held: int, outcome: Outcome, rule: str
) -> None:
    decision = decide_without_room(match(**route), shortage, held, can_overflow=True)
    assert (decision.outcome, decision.rule) == (outcome, f"routes[0].{rule}")
    assert decision.reason.startswith(shortage.reason)


def test_a_full_queue_is_told() -> None:
    decision = decide_without_room(match(max_queue_depth=2), BUSY, 2, can_overflow=True)
    assert decision.reason == "all taken, and 2 jobs wait already (max_queue_depth)"


def test_overflow_without_a_mechanism_is_no_overflow() -> None:
    decision = decide_without_room(match(overflow="github_hosted"), NO_HOST, 0, can_overflow=False)
    assert (decision.outcome, decision.rule) == (Outcome.HELD, "routes[0].overflow")
    assert "names no overflow.mechanism" in decision.reason


SIZES = st.builds(Size, st.integers(0, 10_000), st.integers(0, 20).map(lambda gib: gib * GIB))
CAPACITIES = st.builds(
    Capacity, st.lists(SIZES, max_size=4).map(tuple), SIZES, st.integers(0, 12), st.integers(0, 5), st.integers(0, 9)
)


@settings(max_examples=200, deadline=None)
@given(CAPACITIES, SIZES)
def test_there_is_room_exactly_when_places_quota_pool_and_a_host_have_it(room: Capacity, wanted: Size) -> None:
    has_room = (
        room.places_taken < LIMITS.max_runners
        and room.places_of_repository < 3
        and wanted.fits_into(room.free)
        and any(wanted.fits_into(host) for host in room.hosts)
    )
    assert (find_shortage(wanted, "ci", LIMITS, room) is None) is has_room
