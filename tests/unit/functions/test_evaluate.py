"""What becomes of a queued job, given what is free."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.routing.capacity import NOTHING, Capacity, Size
from functions.routing.classify import Match, classify
from functions.routing.evaluate import Decision, Outcome, decide, find_shortage
from functions.routing.job import JobFacts
from functions.routing.policy import parse_policy
from tests.fakes.examples import GIB, policy_document

HOST = Size(8000, 32 * GIB)
SMALL, LARGE = Size(1000, 2 * GIB), Size(4000, 8 * GIB)


def match(profile: str = "small", **route: Any) -> Match:
    """The rules for a job of a profile on a route."""
    document = policy_document(routes=[{"label_match": "ci", "profile": profile} | route])
    found = classify(parse_policy(document), JobFacts("acme/app", "build", ("ci",)))
    assert found is not None
    return found


def capacity(*hosts: Size, reserved: Size = NOTHING, places_taken: int = 0, held: int = 0) -> Capacity:
    return Capacity(hosts, reserved, places_taken, held)


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


@pytest.mark.parametrize(
    ("profile", "room", "shortage"),
    [
        pytest.param("small", capacity(HOST), None, id="an idle pool"),
        pytest.param("large", capacity(HOST, reserved=LARGE), None, id="the last room, to the byte"),
        pytest.param("small", capacity(HOST, places_taken=9), None, id="the last place"),
        pytest.param("small", capacity(), "no host of pool default is alive", id="no host"),
        pytest.param("small", capacity(HOST, places_taken=10), "all 10 places of ci are taken", id="no place"),
        pytest.param(
            "large",
            capacity(*[Size(2000, 4 * GIB)] * 9),
            "no host of pool default is large enough for profile large (4 CPUs and 8g)",
            id="room in all, but no host that is large enough",
        ),
        pytest.param(
            "large",
            capacity(HOST, reserved=Size(4500, GIB)),
            "profile large needs 4 CPUs and 8g, pool default has 3.5 CPUs and 31g left",
            id="too few CPUs",
        ),
        pytest.param(
            "large",
            capacity(HOST, reserved=Size(0, 25 * GIB)),
            "profile large needs 4 CPUs and 8g, pool default has 8 CPUs and 7g left",
            id="too little memory",
        ),
        pytest.param(
            "small", FULL, "profile small needs 1 CPUs and 2g, pool default has 0 CPUs and 0 left", id="nothing left"
        ),
    ],
)
def test_a_shortage_is_told_in_words(profile: str, room: Capacity, shortage: str | None) -> None:
    assert find_shortage(match(profile), room) == shortage


@pytest.mark.parametrize(
    ("strategy", "overflow", "outcome"),
    [
        ("self_hosted_first", "hold", Outcome.HELD),
        ("self_hosted_first", "reject", Outcome.REJECTED),
        ("self_hosted_first", "github_hosted", Outcome.OVERFLOW),
        ("self_hosted_only", "hold", Outcome.HELD),
        ("self_hosted_only", "reject", Outcome.REJECTED),
    ],
)
def test_without_room_the_routes_overflow_decides(strategy: str, overflow: str, outcome: Outcome) -> None:
    decision = decide(match(strategy=strategy, overflow=overflow), FULL)
    assert (decision.outcome, decision.rule) == (outcome, "routes[0].overflow")
    assert decision.reason.startswith("profile small needs")


@pytest.mark.parametrize("overflow", ["hold", "reject", "github_hosted"])
def test_with_room_the_overflow_does_not_matter(overflow: str) -> None:
    assert decide(match(overflow=overflow), capacity(HOST, places_taken=3)) == Decision(
        Outcome.SELF_HOSTED, "takes 4 of 10 places of ci with profile small", "routes[0]"
    )


@pytest.mark.parametrize("room", [capacity(HOST), FULL], ids=["with room", "without room"])
def test_a_route_to_github_takes_no_room(room: Capacity) -> None:
    assert decide(match(strategy="github_hosted"), room) == Decision(
        Outcome.GITHUB_HOSTED, "the route's strategy is github_hosted", "routes[0].strategy"
    )


@pytest.mark.parametrize(
    ("held", "outcome", "rule"),
    [
        (0, Outcome.HELD, "routes[0].overflow"),
        (2, Outcome.HELD, "routes[0].overflow"),
        (3, Outcome.REJECTED, "routes[0].max_queue_depth"),
        (4, Outcome.REJECTED, "routes[0].max_queue_depth"),
    ],
)
def test_a_queue_holds_as_many_jobs_as_its_depth(held: int, outcome: Outcome, rule: str) -> None:
    full = capacity(HOST, reserved=HOST, held=held)
    decision = decide(match(overflow="hold", max_queue_depth=3), full)
    assert (decision.outcome, decision.rule) == (outcome, rule)


def test_a_full_queue_is_told_with_the_shortage_and_its_depth() -> None:
    decision = decide(match(max_queue_depth=0), capacity())
    assert decision.reason == "no host of pool default is alive, and 0 jobs wait already (max_queue_depth 0)"


@pytest.mark.parametrize(("overflow", "outcome"), [("reject", Outcome.REJECTED), ("github_hosted", Outcome.OVERFLOW)])
def test_only_jobs_that_would_wait_count_against_the_queue(overflow: str, outcome: Outcome) -> None:
    full = capacity(HOST, reserved=HOST, held=5)
    assert decide(match(overflow=overflow, max_queue_depth=1), full).rule == "routes[0].overflow"
    assert decide(match(overflow=overflow, max_queue_depth=1), full).outcome is outcome


SIZES = st.builds(Size, st.integers(0, 10_000), st.integers(0, 20).map(lambda gib: gib * GIB))
CAPACITIES = st.builds(Capacity, st.lists(SIZES, max_size=4).map(tuple), SIZES, st.integers(0, 12), st.integers(0, 200))


@settings(max_examples=200, deadline=None)
@given(CAPACITIES, st.sampled_from(["small", "large"]))
def test_an_admitted_job_never_exceeds_places_pool_or_host(room: Capacity, profile: str) -> None:
    rules = match(profile)
    wanted = Size(rules.profile.cpu_millis, rules.profile.memory_bytes)
    has_room = (
        room.places_taken < rules.scale_set.max_runners
        and (room.reserved + wanted).fits_into(room.free + room.reserved)
        and any(wanted.fits_into(host) for host in room.hosts)
    )
    assert (decide(rules, room).outcome is Outcome.SELF_HOSTED) is has_room


@settings(max_examples=200, deadline=None)
@given(
    CAPACITIES,
    st.sampled_from(["self_hosted_first", "self_hosted_only", "github_hosted"]),
    st.sampled_from(["hold", "reject"]),
    st.integers(0, 200),
)
def test_every_decision_has_a_reason_and_a_rule_of_its_route(
    room: Capacity, strategy: str, overflow: str, depth: int
) -> None:
    decision = decide(match(strategy=strategy, overflow=overflow, max_queue_depth=depth), room)
    assert decision.reason
    assert decision.rule.startswith("routes[0]")
