"""Which pending runners a host should claim now."""

from datetime import timedelta

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from controller.host_ledger import HostLedger
from controller.placement import GRACE, choose
from functions.documents.pending_runner import PendingRunner
from functions.documents.workflow_job import RunnerProfile
from functions.routing.capacity import NOTHING, Size
from tests.fakes.examples import NOW, pending_runner

HOSTS = ("host-1", "host-2", "host-3", "host-4")
ROOM = HostLedger(Size(1_000_000, 1_000_000))
few = settings(max_examples=40, deadline=None)
LATER = NOW + timedelta(minutes=1)


def waiting(name: str, cpus: int = 1, memory: int = 1, age_s: float = 0) -> PendingRunner:
    profile = RunnerProfile(name="small", cpu_millis=cpus, memory_bytes=memory, pids=100)
    return pending_runner(name, profile=profile, created_at=NOW - timedelta(seconds=age_s))


def names(chosen: list[PendingRunner]) -> list[str]:
    return [runner.runner_name for runner in chosen]


def size_of(runner: PendingRunner) -> Size:
    return Size(runner.profile.cpu_millis, runner.profile.memory_bytes)


PENDING = st.lists(
    st.builds(
        waiting,
        st.uuids().map(lambda number: f"ry-{number}"),
        st.integers(1, 3000),
        st.integers(1, 3000),
        st.integers(0, 5),
    ),
    max_size=8,
    unique_by=lambda runner: runner.runner_name,
)
LEDGERS = st.builds(
    HostLedger,
    st.builds(Size, st.integers(0, 8000), st.integers(0, 8000)),
    st.dictionaries(st.sampled_from(["a", "b"]), st.builds(Size, st.integers(0, 5000), st.integers(0, 5000))),
)


@few
@given(PENDING, LEDGERS)
def test_a_host_never_claims_more_than_it_has_room_for(pending: list[PendingRunner], ledger: HostLedger) -> None:
    chosen = choose(pending, ledger, "host-1", HOSTS, LATER)
    assert not chosen or sum(map(size_of, chosen), NOTHING).fits_into(ledger.free)


@few
@given(PENDING, LEDGERS)
def test_the_oldest_go_first_and_nobody_waits_for_whom_there_is_room(
    pending: list[PendingRunner], ledger: HostLedger
) -> None:
    chosen = choose(pending, ledger, "host-1", HOSTS, LATER)
    left = ledger.free
    expected = []
    for runner in sorted(pending, key=lambda runner: runner.created_at):
        if size_of(runner).fits_into(left):
            expected.append(runner)
            left -= size_of(runner)
    assert chosen == expected


@few
@given(PENDING, st.sets(st.sampled_from(HOSTS), min_size=1))
def test_when_all_hosts_live_each_runner_is_for_exactly_one_of_them_at_first(
    pending: list[PendingRunner], hosts: set[str]
) -> None:
    pending = [runner.model_copy(update={"created_at": NOW}) for runner in pending]
    chosen = [name for host in hosts for name in names(choose(pending, ROOM, host, hosts, NOW))]
    assert sorted(chosen) == sorted(names(pending))


@few
@given(st.uuids(), st.sets(st.sampled_from(HOSTS), min_size=1))
def test_each_further_grace_lets_one_more_host_have_a_runner(number: object, hosts: set[str]) -> None:
    runner = waiting(f"ry-{number}")
    for graces in range(len(hosts)):
        now = NOW + graces * GRACE
        assert sum(bool(choose([runner], ROOM, host, hosts, now)) for host in hosts) == graces + 1


@few
@given(st.uuids(), st.sets(st.sampled_from(HOSTS), min_size=2))
def test_a_dead_host_costs_a_grace_and_not_the_job(number: object, hosts: set[str]) -> None:
    runner = waiting(f"ry-{number}")
    (first,) = [host for host in hosts if choose([runner], ROOM, host, hosts, NOW)]
    others = hosts - {first}
    assert sum(bool(choose([runner], ROOM, host, hosts, NOW + GRACE)) for host in others) == 1
    # Once it is known to be dead, it costs nothing.
    assert sum(bool(choose([runner], ROOM, host, others, NOW)) for host in others) == 1


@few
@given(st.uuids(), st.sets(st.sampled_from(HOSTS), min_size=2), st.sampled_from(HOSTS))
def test_a_host_that_leaves_changes_nothing_for_the_runners_of_the_others(
    number: object, hosts: set[str], leaving: str
) -> None:
    runner = waiting(f"ry-{number}")
    (first,) = [host for host in hosts if choose([runner], ROOM, host, hosts, NOW)]
    assume(leaving != first)
    assert choose([runner], ROOM, first, hosts - {leaving}, NOW) == [runner]


def test_the_runners_are_spread_over_the_hosts() -> None:
    pending = [waiting(f"ry-{number}") for number in range(400)]
    for host in HOSTS:
        assert 60 < len(choose(pending, ROOM, host, HOSTS, NOW)) < 140


@pytest.mark.parametrize("hosts", [(), ("host-2",)], ids=["no heartbeat was read yet", "its own is not seen yet"])
def test_a_host_counts_itself_though_nobody_else_does(hosts: tuple[str, ...]) -> None:
    runner = waiting("ry-1", age_s=len(hosts) * GRACE.total_seconds())
    assert choose([runner], ROOM, "host-1", hosts, NOW) == [runner]


def test_a_runner_that_is_too_large_does_not_stop_those_behind_it() -> None:
    pending = [waiting("ry-large", cpus=5000, age_s=2), waiting("ry-small", cpus=1000, age_s=1)]
    assert names(choose(pending, HostLedger(Size(4000, 10)), "host-1", (), NOW)) == ["ry-small"]


def test_a_runner_that_is_left_to_another_host_takes_no_room_from_those_behind_it() -> None:
    pending = [waiting(f"ry-{number}") for number in range(20)]
    ours = choose(pending, ROOM, "host-1", HOSTS, NOW)[0]
    theirs = next(runner for runner in pending if not choose([runner], ROOM, "host-1", HOSTS, NOW))
    older = theirs.model_copy(update={"created_at": NOW - GRACE / 2})
    assert choose([older, ours], HostLedger(Size(1, 1)), "host-1", HOSTS, NOW) == [ours]
