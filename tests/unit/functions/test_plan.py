"""What a group of requests does to a ledger."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.admission.line import PATIENCE
from functions.admission.plan import make_plan
from functions.admission.requests import (
    Admit,
    Applied,
    Decided,
    Forget,
    Known,
    Plan,
    Postpone,
    Promise,
    Promised,
    Refresh,
    Release,
    Request,
    Requeue,
    Result,
    Start,
    Terms,
)
from functions.documents.ledger import Switch
from functions.documents.runner_name import read_runner_name
from functions.routing.capacity import Limits, Size
from functions.routing.policy import Policy
from tests.fakes.examples import GIB, NOW, admit, job, policy, policy_document, runner_plan
from tests.fakes.pool import HOSTS, Pool, limited, outcome, reason, routed, runner_of

# One job


def test_a_job_gets_a_lease_of_its_profiles_size_under_its_runners_name() -> None:
    pool = Pool()
    plan = pool.settle(admit(1, "large-1"))
    name = runner_of(plan.results[0])
    parsed = read_runner_name(name)
    assert parsed is not None
    assert (parsed.pool, parsed.job_id) == ("default", 1)
    lease = pool.ledger.leases[name]
    assert (lease.cpu_millis, lease.memory_bytes, lease.profile) == (4000, 8 * GIB, "large")
    assert (lease.job_key, lease.labels) == ("acme_1_1", ("ci",))
    assert [created.key for created in plan.creates] == ["acme_1_1"]
    assert plan.needs_commit


def test_a_job_twice_in_one_group_is_created_once() -> None:
    pool = Pool()
    plan = pool.settle(admit(1), admit(1))
    assert [type(result) for result in plan.results] == [Decided, Known]
    assert len(plan.creates) == len(pool.ledger.leases) == 1


def test_a_job_that_is_recorded_already_changes_nothing() -> None:
    pool = Pool()
    pool.known = {"acme_1_1": job(1)}
    pool.settle(admit(2))
    plan = pool.settle(admit(1))
    assert plan.results == (Known(job(1)),)
    assert not plan.needs_commit


def test_releasing_what_is_not_held_changes_nothing_and_needs_no_commit() -> None:
    plan = Pool().settle(Release("ry-9"), Start("ry-9", "acme_1_9"), Forget("acme_1_9"))
    assert plan.results == (Applied(False), Applied(False), Applied(False))
    assert not plan.needs_commit


def test_a_conclusion_drawn_from_the_ledger_is_committed_even_if_it_takes_no_lease() -> None:
    """`no room` is only true of the ledger that it was read from."""
    pool = Pool(hosts=())
    plan = pool.settle(admit(1, rules=routed(overflow="reject")))
    assert outcome(plan.results[0]) == "rejected"
    assert plan.needs_commit


# Limits


def test_the_requests_of_a_group_see_each_others_leases() -> None:
    assert Pool().outcomes(*(admit(n, "large") for n in (1, 2, 3))) == ["self_hosted", "self_hosted", "held"]


def test_max_runners_counts_places_whatever_their_size() -> None:
    rules = limited(max_runners=2)
    assert Pool().outcomes(*(admit(n, rules=rules) for n in (1, 2, 3))) == ["self_hosted", "self_hosted", "held"]


def test_a_repository_gets_no_more_than_its_quota() -> None:
    rules = limited(per_repository=1)
    pool = Pool()
    requests = [admit(n, rules=rules, repository=f"acme/{name}") for n, name in enumerate(["a", "a", "b"])]
    plan = pool.settle(*requests)
    assert [outcome(result) for result in plan.results] == ["self_hosted", "held", "self_hosted"]
    assert "per_repository" in reason(plan.results[1])


def test_memory_is_as_scarce_as_cpu() -> None:
    pool = Pool(hosts=(Size(100_000, 10 * GIB),))
    assert pool.outcomes(admit(1, "large"), admit(2, "large"), admit(3)) == ["self_hosted", "held", "self_hosted"]


def test_together_hosts_may_have_room_that_none_of_them_has() -> None:
    """Two hosts of 2 CPUs cannot hold a job of 4, however empty they are."""
    pool = Pool(hosts=(Size(2000, 32 * GIB), Size(2000, 32 * GIB)))
    (result,) = pool.settle(admit(1, "large")).results
    assert reason(result).startswith("no host of its pool is large enough for 4 CPUs and 8g")


# Without room


@pytest.mark.parametrize(
    ("route", "hosts", "expected"),
    [
        ({"overflow": "hold"}, HOSTS, ["self_hosted", "self_hosted", "held"]),
        ({"overflow": "reject"}, HOSTS, ["self_hosted", "self_hosted", "rejected"]),
        ({"overflow": "github_hosted"}, HOSTS, ["self_hosted", "self_hosted", "overflow"]),
        ({"overflow": "github_hosted", "max_queue_depth": 1}, HOSTS, ["self_hosted", "self_hosted", "held"]),
        ({"overflow": "reject", "max_queue_depth": 1}, HOSTS, ["self_hosted", "self_hosted", "held"]),
        ({"overflow": "hold", "max_queue_depth": 0}, HOSTS, ["self_hosted", "self_hosted", "rejected"]),
        ({"overflow": "hold"}, (), ["held", "held", "held"]),
        ({"overflow": "reject", "max_queue_depth": 9}, (), ["rejected"] * 3),
        ({"overflow": "github_hosted", "max_queue_depth": 9}, (), ["overflow"] * 3),
    ],
    ids=str,
)
def test_the_overflow_rule_applies_when_nobody_may_wait(
    route: dict[str, object], hosts: tuple[Size, ...], expected: list[str]
) -> None:
    """Waiting helps while jobs run; it does not help when no host is alive."""
    grace = timedelta(minutes=10)
    requests = [admit(n, "large", rules=routed(**route), grace=grace) for n in (1, 2, 3)]
    assert Pool(hosts).outcomes(*requests) == expected


def test_the_queue_takes_no_more_than_its_depth() -> None:
    rules = routed(overflow="hold", max_queue_depth=2)
    outcomes = Pool(hosts=()).outcomes(*(admit(n, rules=rules) for n in range(4)))
    assert outcomes == ["held", "held", "rejected", "rejected"]


def test_without_a_mechanism_an_overflowed_job_is_held_and_says_why() -> None:
    (result,) = Pool(hosts=()).settle(admit(1, rules=routed(overflow="github_hosted"))).results
    assert outcome(result) == "held"
    assert "no overflow.mechanism" in reason(result)


def test_an_overflowed_job_that_github_does_not_take_gets_its_turn_after_the_grace() -> None:
    pool = Pool(hosts=())
    request = admit(1, rules=routed(overflow="github_hosted"), grace=timedelta(minutes=10))
    assert pool.outcomes(request) == ["overflow"]
    pool.hosts = HOSTS
    pool.now += timedelta(minutes=9)
    assert pool.settle(Forget("acme_1_99")).todo.promotions == ()
    pool.now += timedelta(minutes=2)
    assert [p.job_key for p in pool.settle(Forget("acme_1_99")).todo.promotions] == ["acme_1_1"]


# The queue


def test_a_release_admits_who_waits() -> None:
    pool = Pool()
    first = pool.settle(admit(1, "large"), admit(2, "large"), admit(3, "large"))
    plan = pool.settle(Release(runner_of(first.results[0])))
    (promotion,) = plan.todo.promotions
    assert promotion.job_key == "acme_1_3"
    assert promotion.reservation.runner_name in pool.ledger.leases
    assert "held since 12:00:00" in promotion.reason
    assert pool.ledger.queue == {}


def test_a_job_that_has_just_come_does_not_overtake_those_who_wait() -> None:
    pool = Pool()
    first = pool.settle(admit(1, "large"), admit(2, "large"), admit(3, "large"))
    plan = pool.settle(Release(runner_of(first.results[0])), admit(4, "large"))
    assert [promotion.job_key for promotion in plan.todo.promotions] == ["acme_1_3"]
    assert outcome(plan.results[1]) == "held"


def test_a_job_that_has_ended_waits_no_more() -> None:
    pool = Pool(hosts=())
    pool.settle(admit(1))
    assert pool.settle(Forget("acme_1_1")).results == (Applied(True),)
    pool.hosts = HOSTS
    assert pool.settle(Release("ry-9")).todo.promotions == ()


def promoted_in_order(pool: Pool, count: int) -> list[str]:
    """Whom the queue lets in, one place at a time."""
    order = []
    for _ in range(count):
        plan = pool.settle(Release(next(iter(pool.ledger.leases), "none")))
        order += [promotion.job_key for promotion in plan.todo.promotions]
    return order


def test_higher_priority_goes_first_then_age() -> None:
    document = policy_document()
    document["scale_sets"] = {
        name: {"max_runners": 10, "image": "i", "priority": priority} for name, priority in (("low", 0), ("high", 5))
    }
    document["routes"] = [{"label_match": name, "scale_set": name} for name in ("low", "high")]
    rules = policy(**document)
    pool = Pool(hosts=(Size(1000, 2 * GIB),))
    pool.settle(admit(1, rules=rules, labels=("low",)))
    for number, label in ((2, "low"), (3, "low"), (4, "high")):
        pool.now += timedelta(seconds=1)
        pool.settle(admit(number, rules=rules, labels=(label,)))
    assert promoted_in_order(pool, 3) == ["acme_1_4", "acme_1_2", "acme_1_3"]


def test_repositories_take_turns_whatever_their_backlog() -> None:
    pool = Pool(hosts=(Size(2000, 4 * GIB),))
    pool.settle(*(admit(n, repository="acme/busy") for n in range(10)))
    pool.now += timedelta(seconds=1)
    pool.settle(admit(100, repository="acme/calm"))
    first = pool.settle(Release(next(iter(pool.ledger.leases))))
    assert [p.job_key for p in first.todo.promotions] == ["acme_1_100"], "the repository with the fewest runners"


def test_a_small_job_goes_before_a_large_one_that_does_not_fit_but_not_for_ever() -> None:
    pool = Pool(hosts=(Size(4000, 32 * GIB),))
    pool.settle(*(admit(n) for n in (1, 2)))
    assert pool.outcomes(admit(3, "large")) == ["held"]
    assert pool.outcomes(admit(4)) == ["self_hosted"]
    pool.now += PATIENCE + timedelta(seconds=1)
    assert pool.outcomes(admit(5)) == ["held"], "the large job has waited long enough"
    for name in list(pool.ledger.leases):
        promotions = pool.settle(Release(name)).todo.promotions
    assert "acme_1_3" in {p.job_key for p in promotions}


def test_a_full_scale_set_does_not_hold_up_another() -> None:
    document = policy_document()
    document["scale_sets"] = {name: {"max_runners": 1, "image": "i"} for name in ("a", "b")}
    document["routes"] = [{"label_match": name, "scale_set": name} for name in ("a", "b")]
    rules = policy(**document)
    pool = Pool()
    pool.settle(admit(1, rules=rules, labels=("a",)), admit(2, rules=rules, labels=("a",)))
    pool.now += 2 * PATIENCE
    assert pool.outcomes(admit(3, rules=rules, labels=("b",))) == ["self_hosted"]


def test_a_raised_limit_counts_for_those_who_wait_already() -> None:
    pool = Pool()
    pool.settle(*(admit(n, rules=limited(max_runners=1)) for n in (1, 2, 3)))
    plan = pool.settle(admit(4, rules=limited(max_runners=3)))
    assert [promotion.job_key for promotion in plan.todo.promotions] == ["acme_1_2", "acme_1_3"]


# Promises


def promise(count: int, rules: Policy | None = None, run_id: int = 1, until: datetime | None = None) -> Promise:
    match = admit(1, rules=rules).match
    return Promise("acme", "acme/app", run_id, (match,) * count, ("ci",), until or NOW + timedelta(minutes=5))


def test_a_promised_place_is_taken_by_the_runs_own_job() -> None:
    pool = Pool()
    assert pool.settle(promise(2)).results == (Promised(None),)
    assert len(pool.ledger.leases) == 2
    result = pool.settle(admit(1)).results[0]
    assert "which its run was promised" in reason(result)
    assert len(pool.ledger.leases) == 2


def test_a_promise_is_kept_against_others() -> None:
    pool = Pool()
    rules = limited(max_runners=2)
    pool.settle(promise(2, rules))
    assert pool.outcomes(admit(9, rules=rules, run_id=99)) == ["held"]
    assert pool.outcomes(admit(1, rules=rules), admit(2, rules=rules)) == ["self_hosted", "self_hosted"]


def test_a_promise_is_all_or_nothing() -> None:
    pool = Pool()
    plan = pool.settle(promise(3, limited(max_runners=2)))
    assert plan.results == (Promised("all 2 places of ci are taken"),)
    assert pool.ledger.leases == {}


def test_no_promise_overtakes_those_who_wait() -> None:
    pool = Pool(hosts=())
    pool.settle(admit(1))
    pool.hosts = HOSTS
    pool.known = {}
    plan = make_plan(pool.ledger, [promise(1)], {}, {"host-1": HOSTS[0]}, "default", "t", NOW)
    assert plan.results == (Promised("other jobs wait for the room that there is"),)


def test_a_promise_that_nobody_comes_for_lapses() -> None:
    pool = Pool()
    rules = limited(max_runners=1)
    pool.settle(promise(1, rules))
    assert pool.outcomes(admit(9, rules=rules, run_id=99)) == ["held"]
    pool.now += timedelta(minutes=6)
    assert [p.job_key for p in pool.settle(Forget("none")).todo.promotions] == ["acme_99_9"]


# Whatever comes


def requests() -> st.SearchStrategy[Sequence[Request]]:
    numbers = st.integers(1, 30)
    rules = [policy(), limited(max_runners=4), limited(per_repository=2), routed(overflow="reject")]
    admits = st.builds(
        lambda number, name, repository, index: admit(number, name, rules=rules[index], repository=repository),
        numbers,
        st.sampled_from(["large", "small"]),
        st.sampled_from(["acme/a", "acme/b"]),
        st.integers(0, len(rules) - 1),
    )
    promises = st.builds(promise, st.integers(1, 3), st.sampled_from(rules), st.integers(1, 3))
    forgets = st.builds(lambda number: Forget(f"acme_1_{number}"), numbers)
    places_ = st.builds(lambda kind, number: (kind, number), st.just(Release), st.integers(0, 9))
    return st.lists(st.one_of(admits, promises, forgets, places_), max_size=30)


@settings(max_examples=150)
@given(groups=st.lists(st.tuples(requests(), st.integers(0, 400)), max_size=6))
def test_no_history_exceeds_places_quota_or_hosts_and_nothing_is_lost(
    groups: list[tuple[Sequence[Request], int]],
) -> None:
    pool = Pool()
    seen: Counter[str] = Counter()
    for mixed, seconds in groups:
        pool.now += timedelta(seconds=seconds)
        names = list(pool.ledger.leases)
        group = [
            item[0](names[item[1] % len(names)] if names else "none") if isinstance(item, tuple) else item
            for item in mixed
        ]
        before = set(pool.known)
        plan = pool.settle(*group)
        assert len(plan.results) == len(group)
        assert pool.reserved.fits_into(HOSTS[0])
        for name, known in pool.ledger.limits.items():
            arrived = {r.job.key for r in group if isinstance(r, Admit)} - before
            held_places = [lease for lease in pool.ledger.leases.values() if lease.scale_set == name]
            new = [lease for lease in held_places if lease.job_key in arrived]
            # A limit that was lowered takes nothing away from those who have a place.
            assert not new or len(held_places) <= known.max_runners
        # A job either has a lease, waits, or was told that it will not be served here; never two of these.
        leased = Counter(lease.job_key for lease in pool.ledger.leases.values() if lease.job_key)
        assert not leased or max(leased.values()) == 1
        assert not set(leased) & set(pool.ledger.queue)
        for promotion in plan.todo.promotions:
            seen[promotion.job_key] += 1
            assert promotion.reservation.runner_name in pool.ledger.leases
    assert not seen or max(seen.values()) == 1, "a job is promoted once"


# When GitHub gives no runners


def postpone(pool: Pool, result: Result, *, is_held: bool = True) -> Plan:
    assert isinstance(result, Decided)
    until = pool.now + timedelta(seconds=30)
    waits = result.job if is_held else None
    return pool.settle(Postpone(runner_of(result), "acme/ci", until, "rate limit", waits))


def test_a_postponed_job_waits_and_nobody_is_admitted_meanwhile() -> None:
    """Otherwise the whole queue would be tried, and fail, one after the other."""
    pool = Pool()
    first = pool.settle(admit(1, "large"), admit(2, "large"), admit(3, "large"))
    assert postpone(pool, first.results[0]).todo.promotions == ()
    assert set(pool.ledger.queue) == {"acme_1_1", "acme_1_3"}
    assert len(pool.ledger.leases) == 1
    (result,) = pool.settle(admit(4)).results
    assert outcome(result) == "held"
    assert "GitHub gives no runners until 12:00:30 (rate limit)" in reason(result)


def test_after_the_pause_the_postponed_job_is_first_again() -> None:
    pool = Pool(hosts=(Size(4000, 8 * GIB),))
    first = pool.settle(admit(1, "large"))
    pool.now += timedelta(seconds=1)
    pool.settle(admit(2, "large"))
    postpone(pool, first.results[0])
    pool.now += timedelta(seconds=31)
    assert [p.job_key for p in pool.settle(Forget("none")).todo.promotions] == ["acme_1_1"]


def test_a_runner_that_does_not_come_displaces_whoever_counts_on_it_by_now() -> None:
    pool = Pool()
    first, second = pool.settle(admit(1), admit(2)).results
    assert isinstance(first, Decided)
    # The first job got the second's runner, and left its own, which is still to be made, to it.
    pool.settle(Start(runner_of(second), "acme_1_1", "small", Size(1000, 2 * GIB), "acme/app"))
    plan = postpone(pool, first)
    assert plan.todo.displaced == ("acme_1_2",)
    assert not pool.ledger.queue


def test_pauses_that_follow_each_other_grow_until_one_has_helped() -> None:
    pool = Pool()
    lengths = []
    for number in range(8):
        (result,) = pool.settle(admit(number)).results
        pool.settle(Postpone(runner_of(result), "acme/ci", pool.now + timedelta(seconds=1), "502"))
        until = pool.ledger.limits["acme/ci"].paused_until
        assert until is not None
        lengths.append((until - pool.now).total_seconds())
        # The scheduler comes once a minute.
        pool.now = until + timedelta(seconds=60 if number != 6 else 400)
    assert lengths == [15, 30, 60, 120, 240, 480, 600, 15]


def test_calls_that_fail_together_pause_once_and_as_long_as_github_says() -> None:
    pool = Pool()
    first = pool.settle(admit(1), admit(2)).results
    postpone(pool, first[0])
    pool.now += timedelta(seconds=1)
    postpone(pool, first[1])
    assert pool.ledger.limits["acme/ci"].paused_until == NOW + timedelta(seconds=31)
    assert pool.ledger.limits["acme/ci"].pauses == 1


def test_without_any_known_limit_one_runner_is_allowed() -> None:
    """A person has deleted the ledger, or the part of it that says what the policy allows."""
    pool = Pool()
    jobs = [job(number, plan=runner_plan()) for number in (1, 2, 3)]
    assert len(pool.settle(*map(Requeue, jobs)).todo.promotions) == 1
    assert set(pool.ledger.queue) == {"acme_1_2", "acme_1_3"}
    refresh = Refresh("acme", (Terms("acme/ci", Limits(max_runners=2)),))
    assert [promotion.job_key for promotion in pool.settle(refresh).todo.promotions] == ["acme_1_2"]
    assert not pool.settle(refresh).needs_commit


def test_a_job_that_somebody_has_to_mend_something_for_does_not_wait() -> None:
    pool = Pool()
    first = pool.settle(admit(1))
    postpone(pool, first.results[0], is_held=False)
    assert not pool.ledger.queue
    assert not pool.ledger.leases


def test_a_pause_holds_for_one_organizations_scale_set_only() -> None:
    pool = Pool()
    postpone(pool, pool.settle(admit(1)).results[0])
    assert pool.outcomes(admit(2, org="other")) == ["self_hosted"]


# Organizations


def test_organizations_that_share_a_pool_have_their_own_places() -> None:
    pool = Pool()
    rules = limited(max_runners=1)
    outcomes = pool.outcomes(admit(1, rules=rules), admit(2, rules=rules), admit(3, rules=rules, org="other"))
    assert outcomes == ["self_hosted", "held", "self_hosted"]


# The variable

SWITCH = Switch(scope="/orgs/acme", name="RUNNER", labels=("ci",), hosted_labels=("ubuntu",), low=0.25, high=0.5)


def test_a_variable_is_switched_once_when_places_run_short_and_back_with_hysteresis() -> None:
    pool = Pool()
    rules = limited(max_runners=4)
    flips = []
    names = []
    for number in range(4):
        plan = pool.settle(replace(admit(number, rules=rules), switch=SWITCH))
        names.append(runner_of(plan.results[0]))
        flips += [(number, flip.labels) for flip in plan.todo.flips]
    assert flips == [(3, ("ubuntu",))], "free places fall below a quarter with the fourth runner"
    for number, name in enumerate(names):
        flips += [(number, flip.labels) for flip in pool.settle(Release(name)).todo.flips]
    assert flips[1:] == [(2, ("ci",))], "and back only when more than a half is free"


def test_without_hosts_the_variable_names_githubs_runners() -> None:
    pool = Pool(hosts=())
    (flip,) = pool.settle(replace(admit(1), switch=SWITCH)).todo.flips
    assert (flip.labels, flip.is_short) == (("ubuntu",), True)
