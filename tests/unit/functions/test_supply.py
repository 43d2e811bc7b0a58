"""Which job counts on which runner: swaps, thefts, deaths, idle runners."""

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from functions.admission.requests import (
    Admit,
    Applied,
    Decided,
    Forget,
    Postpone,
    Refresh,
    Release,
    Requeue,
    Restore,
    Result,
    Retire,
    Retired,
    Start,
)
from functions.admission.terms import Account, plan_warm_supply, terms_by_pool
from functions.documents.ledger import Lease
from functions.documents.workflow_job import WorkflowJob
from functions.routing.capacity import Size
from functions.routing.policy import Policy, parse_policy
from tests.fakes.examples import GIB, NOW, admit, policy, policy_document, runner_plan
from tests.fakes.pool import Pool, outcome, runner_of

SMALL, LARGE = Size(1000, 2 * GIB), Size(4000, 8 * GIB)
ACME = Account("acme", is_organization=True)


def start(runner_name: str, number: int, profile: str = "small", size: Size | None = SMALL) -> Start:
    return Start(runner_name, f"acme_1_{number}", profile, size, "acme/app")


def two_jobs(pool: Pool) -> tuple[str, str]:
    """A small job 1 and a large job 2; the runners that were made for them."""
    results = pool.settle(admit(1), admit(2, "large")).results
    return runner_of(results[0]), runner_of(results[1])


def lease_of(pool: Pool, runner_name: str) -> tuple[str, str, Size]:
    lease = pool.ledger.leases[runner_name]
    return lease.job_key, lease.profile, lease.size


# Swaps


def test_a_job_on_the_runner_that_was_made_for_it_changes_nothing() -> None:
    pool = Pool()
    one, _ = two_jobs(pool)
    before = pool.ledger
    assert not pool.settle(start(one, 1)).todo.displaced
    assert pool.ledger.leases == before.leases


def test_two_jobs_that_swap_need_no_new_runner() -> None:
    pool = Pool()
    one, two = two_jobs(pool)
    plan = pool.settle(start(two, 1))
    assert plan.todo.displaced == ()
    assert lease_of(pool, two) == ("acme_1_1", "small", SMALL)
    assert lease_of(pool, one) == ("acme_1_2", "large", LARGE)
    assert pool.reserved == SMALL + LARGE
    # The news of the other half changes nothing any more.
    assert not pool.settle(start(one, 2, "large", LARGE)).todo.displaced
    assert lease_of(pool, one) == ("acme_1_2", "large", LARGE)


@pytest.mark.parametrize("news", [Release, start], ids=["ended", "started"])
def test_the_runners_of_one_organization_are_out_of_anothers_reach(news: Any) -> None:
    """Both share a pool; the other one has called a runner of its own like one of ours."""
    pool = Pool()
    one, _ = two_jobs(pool)
    theirs = runner_of(pool.settle(admit(7, org="other_corp")).results[0])
    before = pool.ledger.leases
    message = news(one, 9) if news is start else news(one, "")
    pool.settle(replace(message, job_key="other_corp_1_9"))
    assert pool.ledger.leases == before
    pool.settle(Release(theirs, "other_corp_1_7"))
    assert pool.ledger.leases == {name: lease for name, lease in before.items() if name != theirs}


def test_a_cycle_of_swaps_ends_where_github_has_put_everybody() -> None:
    pool = Pool()
    names = [runner_of(result) for result in pool.settle(*(admit(number) for number in range(1, 6))).results]
    for number, name in enumerate([*names[1:], names[0]], start=1):
        assert not pool.settle(start(name, number)).todo.displaced
    assert [pool.ledger.leases[name].job_key for name in names] == [f"acme_1_{n}" for n in (5, 1, 2, 3, 4)]


def test_a_job_whose_lost_runner_had_other_labels_gets_a_new_one() -> None:
    rules = policy(routes=[{"label_match": "*"}])
    pool = Pool()
    plain = runner_of(pool.settle(admit(1, rules=rules, labels=("ci",))).results[0])
    special = runner_of(pool.settle(admit(2, rules=rules, labels=("ci", "gpu"))).results[0])
    plan = pool.settle(start(special, 1))
    assert [promotion.job_key for promotion in plan.todo.promotions] == ["acme_1_2"]
    assert pool.ledger.leases[plain].is_idle


# Thefts and deaths


def test_a_job_whose_runner_another_job_stole_gets_a_new_one_in_the_same_moment() -> None:
    pool = Pool()
    one, two = two_jobs(pool)
    plan = pool.settle(Start(one, "acme_1_99"))
    (promotion,) = plan.todo.promotions
    assert promotion.job_key == "acme_1_1"
    assert lease_of(pool, one) == ("acme_1_99", "small", SMALL)
    assert lease_of(pool, promotion.reservation.runner_name) == ("acme_1_1", "small", SMALL)
    assert set(pool.ledger.leases) == {one, two, promotion.reservation.runner_name}


def test_a_job_that_waited_and_found_a_runner_changes_places_with_the_one_that_counted_on_it() -> None:
    pool = Pool(hosts=(Size(4000, 8 * GIB),))
    large = runner_of(pool.settle(admit(1, "large")).results[0])
    assert pool.outcomes(admit(2)) == ["held"]
    pool.now += timedelta(seconds=10)
    pool.settle(start(large, 2))
    assert lease_of(pool, large) == ("acme_1_2", "small", SMALL)
    (waiting,) = pool.ledger.queue.values()
    assert (waiting.job_id, waiting.size, waiting.since) == (1, LARGE, NOW), "where it stood"


def test_a_runner_that_dies_without_a_job_displaces_who_counted_on_it() -> None:
    pool = Pool()
    one, _ = two_jobs(pool)
    assert pool.settle(Release(one)).todo.displaced == ("acme_1_1",)
    assert one not in pool.ledger.leases


def test_after_a_swap_the_death_of_a_runner_displaces_the_job_that_counts_on_it_now() -> None:
    pool = Pool()
    one, two = two_jobs(pool)
    pool.settle(start(two, 1))
    assert pool.settle(Release(one)).todo.displaced == ("acme_1_2",)


def test_a_completed_job_gives_back_its_runner_and_displaces_nobody() -> None:
    pool = Pool()
    one, two = two_jobs(pool)
    plan = pool.settle(Release(one, "acme_1_1"), Release(two, "acme_1_2"))
    assert plan.todo.displaced == ()
    assert not pool.ledger.leases
    assert pool.settle(Release(one, "acme_1_1")).results == (Applied(False),)


def test_a_swap_of_which_only_the_end_is_told_is_a_swap_all_the_same() -> None:
    pool = Pool()
    one, two = two_jobs(pool)
    assert pool.settle(Release(two, "acme_1_1")).todo.displaced == ()
    assert {name: lease.job_key for name, lease in pool.ledger.leases.items()} == {one: "acme_1_2"}
    assert lease_of(pool, one) == ("acme_1_2", "large", LARGE)


def test_a_job_that_waited_and_has_ended_on_anothers_runner_waits_no_more() -> None:
    pool = Pool()
    one, two = two_jobs(pool)
    # Its runner has died for the second time: it waits for a while.
    pool.settle(Release(one), Requeue(pool.known["acme_1_1"], NOW + timedelta(seconds=60)))
    assert "acme_1_1" in pool.ledger.queue
    pool.settle(Release(two, "acme_1_1"))
    assert "acme_1_1" not in pool.ledger.queue


def test_the_news_of_a_start_that_comes_after_the_end_takes_no_place() -> None:
    pool = Pool()
    one, two = two_jobs(pool)
    pool.settle(Release(two, "acme_1_1"))
    pool.settle(start(two, 1))
    assert {name: lease.job_key for name, lease in pool.ledger.leases.items()} == {one: "acme_1_2"}


def test_a_job_that_somebody_elses_runner_took_leaves_its_own_idle_with_the_size_it_was_made_with() -> None:
    pool = Pool()
    one, two = two_jobs(pool)
    pool.settle(start(two, 1))
    (result,) = pool.settle(Forget("acme_1_2")).results
    assert result == Applied(True, one)
    lease = pool.ledger.leases[one]
    assert (lease.is_idle, lease.profile, lease.size) == (True, "small", SMALL)
    assert pool.reserved == SMALL + SMALL


def test_a_displaced_job_gets_another_runner_before_those_who_came_after_it() -> None:
    pool = Pool(hosts=(Size(1000, 2 * GIB),))
    name = runner_of(pool.settle(admit(1)).results[0])
    pool.now += timedelta(seconds=1)
    assert pool.outcomes(admit(2)) == ["held"]
    plan = pool.settle(Release(name), *(Requeue(pool.known[key]) for key in ("acme_1_1",)))
    assert [promotion.job_key for promotion in plan.todo.promotions] == ["acme_1_1"]
    assert plan.todo.promotions[0].reservation.runner_name != name


def test_a_job_that_has_a_runner_or_waits_is_not_queued_again() -> None:
    pool = Pool()
    two_jobs(pool)
    assert pool.settle(Requeue(pool.known["acme_1_1"])).results == (Applied(False),)
    assert len(pool.ledger.leases) == 2


def test_a_job_that_has_lost_many_runners_waits_before_it_gets_another() -> None:
    pool = Pool()
    one, _ = two_jobs(pool)
    pool.settle(Release(one))
    assert not pool.settle(Requeue(pool.known["acme_1_1"], pool.now + timedelta(seconds=60))).todo.promotions
    pool.now += timedelta(seconds=61)
    assert [p.job_key for p in pool.settle(Forget("none")).todo.promotions] == ["acme_1_1"]


# Idle runners


def idle_runner(pool: Pool, number: int = 1, rules: Policy | None = None, **job: Any) -> str:
    """A runner whose job was cancelled."""
    name = runner_of(pool.settle(admit(number, rules=rules, **job)).results[0])
    pool.settle(Forget(f"acme_1_{number}"))
    return name


def test_an_idle_runner_is_supply_for_the_next_fitting_job() -> None:
    pool = Pool()
    name = idle_runner(pool)
    result = pool.settle(admit(2, "large")).results[0]
    assert runner_of(result) == name
    assert isinstance(result, Decided)
    assert result.job.reservation is not None
    assert result.job.reservation.has_runner
    assert set(pool.ledger.leases) == {name}
    assert pool.ledger.leases[name].size == LARGE, "it grows to the job's size"


def test_an_idle_runner_that_loses_its_job_again_has_its_own_size_again() -> None:
    pool = Pool()
    name = idle_runner(pool)
    pool.settle(admit(2, "large"))
    pool.settle(Forget("acme_1_2"))
    assert lease_of(pool, name) == ("", "small", SMALL)


def test_an_idle_runner_with_other_labels_is_of_no_use() -> None:
    rules = policy(routes=[{"label_match": "*"}])
    pool = Pool()
    name = idle_runner(pool, rules=rules, labels=("arm",))
    assert runner_of(pool.settle(admit(2, rules=rules, labels=("x64",))).results[0]) != name


def test_an_idle_runner_takes_a_place_until_it_is_gone() -> None:
    document = policy_document()
    document["scale_sets"]["ci"] |= {"max_runners": 1, "labels": ["ci"]}
    rules = parse_policy(document)
    pool = Pool()
    name = idle_runner(pool, rules=rules)
    assert len(pool.ledger.leases) == 1
    pool.settle(Release(name))
    assert runner_of(pool.settle(admit(2, rules=rules)).results[0]) != name


def test_an_idle_runner_that_is_not_needed_is_given_up() -> None:
    pool = Pool()
    name = idle_runner(pool)
    (result,) = pool.settle(Retire(name)).results
    assert isinstance(result, Retired)
    assert result.lease is not None
    assert runner_of(pool.settle(admit(7)).results[0]) != name, "no job may count on it any more"
    assert name in pool.ledger.leases, "it takes up its place until it has gone"


def test_a_runner_that_is_being_given_up_can_be_given_up_again() -> None:
    """Whoever gave up its place has perhaps not come as far as GitHub: the next one must."""
    pool = Pool()
    name = idle_runner(pool)
    pool.settle(Retire(name))
    (again,) = pool.settle(Retire(name)).results
    assert isinstance(again, Retired)
    assert not again.is_needed
    pool.settle(Release(name))
    assert pool.settle(Retire(name)).results == (Retired(is_needed=False),)


def test_a_runner_that_a_job_counts_on_is_not_given_up() -> None:
    pool = Pool()
    one, _ = two_jobs(pool)
    assert pool.settle(Retire(one)).results == (Retired(is_needed=True),)


def test_a_runner_that_could_not_be_stopped_is_there_again() -> None:
    pool = Pool()
    name = idle_runner(pool)
    lease = pool.ledger.leases[name]
    pool.settle(Retire(name))
    assert pool.settle(Restore(name, lease)).results == (Applied(True),)
    assert pool.ledger.leases == {name: lease}
    assert pool.settle(Restore(name, lease)).results == (Applied(False),)


def test_a_job_whose_start_is_told_before_its_beginning_takes_no_second_place() -> None:
    pool = Pool()
    one = runner_of(pool.settle(admit(1)).results[0])
    plan = pool.settle(Start(one, "acme_1_2", "small", SMALL, "acme/app"), admit(2))
    assert runner_of(plan.results[1]) == one
    assert [promotion.job_key for promotion in plan.todo.promotions] == ["acme_1_1"]
    assert Counter(lease.job_key for lease in pool.ledger.leases.values()) == {"acme_1_1": 1, "acme_1_2": 1}


# Warm runners


def warm_policy(keep: int = 2, **scale_set: Any) -> Policy:
    document = policy_document()
    document["profiles"]["tiny"] = {"cpus": "0.25", "memory": "256m"}
    document["scale_sets"]["ci"] |= {"labels": ["ci"], "min_runners": keep, "warm_profile": "tiny"} | scale_set
    return parse_policy(document)


TINY = Size(250, GIB // 4)


def refresh(rules: Policy) -> Refresh:
    return Refresh("acme", terms_by_pool(rules, ACME)["default"])


def warm_admit(number: int, rules: Policy, name: str = "build") -> Admit:
    return replace(admit(number, name, rules=rules), warm=plan_warm_supply(rules, "ci", ACME))


def test_idle_runners_are_made_before_any_job_asks_for_them() -> None:
    pool = Pool()
    plan = pool.settle(refresh(warm_policy(2)))
    assert len(plan.todo.warm_ups) == 2
    assert {w.runner_name for w in plan.todo.warm_ups} == set(pool.ledger.leases)
    assert all(w.plan.labels == ("ci",) and w.plan.profile.name == "tiny" for w in plan.todo.warm_ups)
    assert pool.reserved == TINY + TINY
    assert not pool.settle(refresh(warm_policy(2))).todo.warm_ups


def test_a_job_takes_an_idle_runner_and_another_is_made_in_the_same_moment() -> None:
    pool, rules = Pool(), warm_policy(2)
    before = {w.runner_name for w in pool.settle(refresh(rules)).todo.warm_ups}
    plan = pool.settle(warm_admit(1, rules, "large"))
    assert runner_of(plan.results[0]) in before
    assert len(plan.todo.warm_ups) == 1
    assert pool.reserved == LARGE + TINY + TINY


def test_a_warm_runner_that_github_gives_a_job_that_nobody_announced_is_replaced() -> None:
    pool = Pool()
    warm = pool.settle(refresh(warm_policy(1))).todo.warm_ups[0].runner_name
    plan = pool.settle(start(warm, 7, "large", LARGE))
    assert len(plan.todo.warm_ups) == 1
    assert lease_of(pool, warm) == ("acme_1_7", "large", LARGE)


def test_a_warm_runner_that_dies_is_replaced() -> None:
    pool = Pool()
    warm = pool.settle(refresh(warm_policy(1))).todo.warm_ups[0].runner_name
    plan = pool.settle(Release(warm))
    assert [w.runner_name for w in plan.todo.warm_ups] == list(pool.ledger.leases)
    assert warm not in pool.ledger.leases


@pytest.mark.parametrize(
    ("scale_set", "taken", "made"),
    [
        ({}, 1, 1),
        ({"scale_up_threshold": 2}, 1, 0),
        ({"scale_up_threshold": 2}, 2, 0),
        ({"scale_up_threshold": 2}, 3, 3),
    ],
)
def test_idle_runners_are_made_up_to_the_minimum_when_fewer_than_the_threshold_are_left(
    scale_set: dict[str, int], taken: int, made: int
) -> None:
    pool, rules = Pool(), warm_policy(4, **scale_set)
    pool.settle(refresh(rules))
    plan = pool.settle(*(warm_admit(number, rules) for number in range(taken)))
    assert len(plan.todo.warm_ups) == made


def test_idle_runners_beyond_the_minimum_are_given_up_and_the_others_kept() -> None:
    pool, rules = Pool(), warm_policy(1)
    pool.settle(refresh(rules))
    pool.settle(warm_admit(1, rules))
    pool.settle(Forget("acme_1_1"))
    first, second = pool.ledger.leases
    assert isinstance(pool.settle(Retire(first)).results[0], Retired)
    assert [name for name, lease in pool.ledger.leases.items() if lease.is_idle] == [second]
    assert pool.settle(Retire(second)).results == (Retired(is_needed=True),)


def test_more_may_stay_idle_when_the_policy_says_so() -> None:
    pool, rules = Pool(), warm_policy(1, scale_down_threshold=2)
    pool.settle(refresh(rules))
    pool.settle(warm_admit(1, rules))
    pool.settle(Forget("acme_1_1"))
    assert pool.settle(Retire(next(iter(pool.ledger.leases)))).results == (Retired(is_needed=True),)


def test_waiting_jobs_come_before_idle_runners() -> None:
    pool, rules = Pool(hosts=(Size(1000, 2 * GIB),)), warm_policy(1)
    held = pool.settle(warm_admit(1, rules), warm_admit(2, rules))
    assert [outcome(result) for result in held.results] == ["self_hosted", "held"]
    assert not held.todo.warm_ups
    plan = pool.settle(Release(runner_of(held.results[0]), "acme_1_1"))
    assert [p.job_key for p in plan.todo.promotions] == ["acme_1_2"]
    assert not plan.todo.warm_ups


def test_idle_runners_take_no_more_places_and_room_than_there_are() -> None:
    assert len(Pool().settle(refresh(warm_policy(3, max_runners=3))).todo.warm_ups) == 3
    assert len(Pool(hosts=(Size(600, 32 * GIB),)).settle(refresh(warm_policy(4))).todo.warm_ups) == 2
    assert not Pool(hosts=()).settle(refresh(warm_policy(4))).todo.warm_ups


def test_idle_runners_are_spread_over_the_hosts() -> None:
    pool = Pool(hosts=(LARGE, LARGE, LARGE))
    plan = pool.settle(refresh(warm_policy(6)))
    assert Counter(w.host for w in plan.todo.warm_ups) == {"host-1": 2, "host-2": 2, "host-3": 2}
    pool.settle(*(Release(w.runner_name) for w in plan.todo.warm_ups if w.host == "host-2"))
    assert Counter(lease.host for lease in pool.ledger.leases.values()) == {"host-1": 2, "host-2": 2, "host-3": 2}


def test_while_github_gives_no_runners_none_are_made_ahead() -> None:
    pool = Pool()
    warm = pool.settle(refresh(warm_policy(1))).todo.warm_ups[0]
    plan = pool.settle(Postpone(warm.runner_name, "acme/ci", NOW + timedelta(seconds=30), "rate limit"))
    assert not plan.todo.warm_ups
    assert not pool.ledger.leases
    pool.now += timedelta(seconds=31)
    assert len(pool.settle(refresh(warm_policy(1))).todo.warm_ups) == 1


def test_a_policy_that_keeps_fewer_makes_no_more_and_lets_the_others_go() -> None:
    pool = Pool()
    names = [w.runner_name for w in pool.settle(refresh(warm_policy(2))).todo.warm_ups]
    pool.settle(Refresh("acme"))
    assert all(isinstance(r, Retired) and r.lease for r in pool.settle(*map(Retire, names)).results)


def test_users_have_no_idle_runners() -> None:
    assert plan_warm_supply(warm_policy(2), "ci", Account("octocat", is_organization=False)) is None


# Whatever comes


class SupplyMachine(RuleBasedStateMachine):
    """A GitHub that hands any job to any of our runners or to somebody else's; runners that die; jobs that end."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool(hosts=(Size(6000, 12 * GIB),))
        self.policy = warm_policy(1, max_runners=6)
        self.queued: dict[str, WorkflowJob] = {}
        self.running: dict[str, str] = {}
        """job key → runner"""
        self._last = 0

    def settle(self, *requests: Any) -> tuple[Result, ...]:
        plan = self.pool.settle(*requests)
        results = plan.results
        while plan.todo.displaced:
            again = [self.queued[key] for key in plan.todo.displaced if key in self.queued]
            plan = self.pool.settle(*(Requeue(job) for job in again))
        return results

    @rule(name=st.sampled_from(["large", "small"]))
    def queue(self, name: str) -> None:
        self._last += 1
        (result,) = self.settle(warm_admit(self._last, self.policy, name))
        assert isinstance(result, Decided)
        if outcome(result) in {"self_hosted", "held"}:
            job = result.job.model_copy(update={"plan": result.job.plan or runner_plan()})
            self.queued[job.key] = job

    @rule(data=st.data())
    def hand_out(self, data: st.DataObject) -> None:
        idle = sorted(set(self.pool.ledger.leases) - set(self.running.values()))
        if self.queued and idle:
            key = data.draw(st.sampled_from(sorted(self.queued)))
            name = data.draw(st.sampled_from(idle))
            job = self.queued.pop(key)
            assert job.plan is not None
            self.running[key] = name
            profile = job.plan.profile
            self.settle(Start(name, key, profile.name, profile.size, job.repository))

    @rule(data=st.data())
    def lose_to_somebody_else(self, data: st.DataObject) -> None:
        if self.queued:
            key = data.draw(st.sampled_from(sorted(self.queued)))
            del self.queued[key]
            self.settle(Forget(key))

    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        if self.running:
            key = data.draw(st.sampled_from(sorted(self.running)))
            self.settle(Release(self.running.pop(key), key))

    @rule(data=st.data())
    def die_idle(self, data: st.DataObject) -> None:
        idle = sorted(set(self.pool.ledger.leases) - set(self.running.values()))
        if idle:
            self.settle(Release(data.draw(st.sampled_from(idle))))

    @rule(data=st.data())
    def retire(self, data: st.DataObject) -> None:
        if self.pool.ledger.leases:
            self.settle(Retire(data.draw(st.sampled_from(sorted(self.pool.ledger.leases)))))

    @invariant()
    def every_queued_job_waits_or_counts_on_one_runner_that_is_not_another_jobs(self) -> None:
        leases: dict[str, Lease] = self.pool.ledger.leases
        counted = Counter(lease.job_key for lease in leases.values() if lease.job_key)
        assert not counted or max(counted.values()) == 1
        for key in self.queued:
            assert (key in counted) != (key in self.pool.ledger.queue), key
        assert set(counted) == (set(self.queued) - set(self.pool.ledger.queue)) | set(self.running)

    @invariant()
    def every_running_job_holds_its_own_runner(self) -> None:
        for key, name in self.running.items():
            assert self.pool.ledger.leases[name].job_key == key

    @invariant()
    def nobody_waits_beside_an_idle_runner(self) -> None:
        idle = [lease for lease in self.pool.ledger.leases.values() if lease.is_idle]
        fits = [
            w for w in self.pool.ledger.queue.values() if w.size.fits_into(Size(6000, 12 * GIB) - self.pool.reserved)
        ]
        assert not (idle and fits)


TestSupply = SupplyMachine.TestCase
TestSupply.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
