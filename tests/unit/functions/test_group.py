"""Group commit against a store in memory: exact whatever is lost, doubled or in each other's way."""

import asyncio
import itertools

import pytest

from functions.admission.group import Admission, Settled
from functions.admission.requests import Applied, Decided, Known, Release
from functions.documents.errors import Moved, StoreUnavailable
from functions.routing.policy import Policy
from tests.fakes.examples import NOW, admit, host, policy, policy_document
from tests.fakes.memory_store import MemoryStore, lose_every


def places(count: int) -> Policy:
    document = policy_document()
    document["scale_sets"]["ci"]["max_runners"] = count
    return policy(**document)


def admissions(store: MemoryStore, count: int = 1) -> list[Admission]:
    """Several function instances on one store with one large host."""
    store.hosts = {"host-1": host(cpus=1000, gib=4000)}
    return [Admission("default", store, lambda: NOW, unhurried_s=0) for _ in range(count)]


def is_admitted(settled: Settled) -> bool:
    return isinstance(settled.result, Decided) and settled.result.job.reservation is not None


async def test_requests_at_once_go_together() -> None:
    store = MemoryStore()
    (admission,) = admissions(store)
    results = await asyncio.gather(*(admission.submit(admit(n)) for n in range(8)))
    assert all(map(is_admitted, results))
    assert store.commits == 1


@pytest.mark.parametrize("instances", [1, 2, 5])
async def test_a_burst_admits_exactly_as_many_as_there_are_places(instances: int) -> None:
    store = MemoryStore()
    rules = places(20)
    submits = zip(range(100), itertools.cycle(admissions(store, instances)), strict=False)
    results = await asyncio.gather(*(a.submit(admit(n, rules=rules)) for n, a in submits))
    assert sum(map(is_admitted, results)) == 20
    assert len(store.ledger().leases) == 20
    assert len(store.ledger().queue) == 80
    assert len(store.jobs) == 100


async def test_a_lost_answer_is_found_to_be_our_own_write() -> None:
    store = MemoryStore()
    store.after_commit = lose_every(1)
    (admission,) = admissions(store)
    result = await admission.submit(admit(1))
    assert is_admitted(result)
    assert store.commits == 1


@pytest.mark.parametrize("error", [StoreUnavailable("no answer"), Moved("sent again by the library: it exists")])
async def test_a_lost_answer_is_ours_although_somebody_has_written_since(error: Exception) -> None:
    store = MemoryStore()
    (admission, other) = admissions(store, 2)

    def lose_after_another_commit() -> None:
        store.after_commit = None
        fields, _ = store.ledgers["default"]
        store.ledgers["default"] = (fields | {"token": "another's"}, store._tick())
        raise error

    store.after_commit = lose_after_another_commit
    assert is_admitted(await admission.submit(admit(1)))
    assert isinstance((await other.submit(admit(1))).result, Known)
    assert len(store.ledger().leases) == 1


async def test_a_lost_race_costs_one_read_however_many_jobs_have_lost_it() -> None:
    store = MemoryStore()
    slow, fast = admissions(store, 2)
    await slow.submit(admit(1))
    await fast.submit(admit(2))
    store.documents_read = 0
    results = await asyncio.gather(*(slow.submit(admit(number)) for number in range(10, 50)))
    assert all(isinstance(settled.result, Decided) for settled in results)
    assert store.documents_read == 1


@pytest.mark.parametrize("every", [2, 3])
async def test_instances_stay_exact_while_answers_are_lost(every: int) -> None:
    store = MemoryStore()
    store.after_commit = lose_every(every)
    rules = places(10)
    submits = zip(range(60), itertools.cycle(admissions(store, 3)), strict=False)
    results = await asyncio.gather(*(a.submit(admit(n, rules=rules)) for n, a in submits))
    assert sum(map(is_admitted, results)) == len(store.ledger().leases) == 10
    assert len(store.jobs) == 60


async def test_the_same_delivery_at_two_instances_takes_one_place() -> None:
    store = MemoryStore()
    results = await asyncio.gather(*(a.submit(admit(1)) for a in admissions(store, 4)))
    assert sorted(type(s.result).__name__ for s in results) == ["Decided", "Known", "Known", "Known"]
    assert len(store.ledger().leases) == 1


def runner_of(settled: Settled) -> str:
    assert isinstance(settled.result, Decided)
    assert settled.result.job.reservation is not None
    return settled.result.job.reservation.runner_name


async def test_a_release_is_never_concluded_from_an_old_snapshot() -> None:
    """The lease was made by another instance after this one had read the ledger."""
    store = MemoryStore()
    old, new = admissions(store, 2)
    first = runner_of(await old.submit(admit(1)))
    second = runner_of(await new.submit(admit(2)))
    assert (await old.submit(Release(second))).result == Applied(True)
    assert set(store.ledger().leases) == {first}


async def test_the_news_of_jobs_that_have_ended_gathers_until_a_job_comes_that_needs_a_place() -> None:
    store = MemoryStore()
    admissions(store)
    admission = Admission("default", store, lambda: NOW, unhurried_s=3600)
    names = [runner_of(await admission.submit(admit(number))) for number in (1, 2)]
    store.commits = 0
    releases = [asyncio.create_task(admission.submit(Release(name))) for name in names]
    for _ in range(20):
        await asyncio.sleep(0)
    assert store.commits == 0
    await admission.submit(admit(3))
    assert [settled.result for settled in await asyncio.gather(*releases)] == [Applied(True), Applied(True)]
    assert store.commits == 1


async def test_while_jobs_wait_for_a_place_one_that_comes_free_is_given_away_at_once() -> None:
    store = MemoryStore()
    admissions(store)
    admission = Admission("default", store, lambda: NOW, unhurried_s=3600)
    name = runner_of(await admission.submit(admit(1, rules=places(1))))
    await admission.submit(admit(2, rules=places(1)))
    settled = await admission.submit(Release(name))
    assert [promotion.job_key for promotion in settled.todo.promotions] == ["acme_1_2"]


async def test_a_release_that_comes_twice_frees_once() -> None:
    store = MemoryStore()
    (admission,) = admissions(store)
    name = runner_of(await admission.submit(admit(1)))
    assert (await admission.submit(Release(name))).result == Applied(True)
    assert (await admission.submit(Release(name))).result == Applied(False)


async def test_every_promoted_job_is_handed_to_exactly_one_caller() -> None:
    store = MemoryStore()
    rules = places(4)
    instances = admissions(store, 2)
    first = await asyncio.gather(*(instances[0].submit(admit(n, rules=rules)) for n in range(10)))
    runners = [runner_of(settled) for settled in first if is_admitted(settled)]
    released = await asyncio.gather(*(instances[n % 2].submit(Release(name)) for n, name in enumerate(runners)))
    promoted = [promotion.job_key for settled in released for promotion in settled.todo.promotions]
    assert len(promoted) == len(set(promoted)) == 4
    assert len(store.ledger().leases) == 4
    assert len(store.ledger().queue) == 2
    for key in promoted:
        assert store.jobs[key]["reservation"]["runnerName"] in store.ledger().leases


async def test_a_promotion_whose_answer_was_lost_is_still_handed_out() -> None:
    store = MemoryStore()
    rules = places(1)
    (admission,) = admissions(store)
    name = runner_of(await admission.submit(admit(1, rules=rules)))
    await admission.submit(admit(2, rules=rules))
    store.after_commit = lose_every(1)
    settled = await admission.submit(Release(name))
    assert [promotion.job_key for promotion in settled.todo.promotions] == ["acme_1_2"]


async def test_without_a_living_host_nothing_is_admitted() -> None:
    store = MemoryStore()
    (admission,) = admissions(store)
    store.hosts = {"host-1": host(lease_until=NOW), "host-2": host("host-2", is_draining=True)}
    settled = await admission.submit(admit(1))
    assert isinstance(settled.result, Decided)
    assert settled.result.job.decision is not None
    assert "no host of its pool is alive" in settled.result.job.decision.reason


async def test_a_store_that_is_away_fails_those_who_wait_and_nobody_else() -> None:
    store = MemoryStore()
    (admission,) = admissions(store)

    def be_away() -> None:
        raise StoreUnavailable("away")

    store.before_commit = be_away
    with pytest.raises(StoreUnavailable):
        await admission.submit(admit(1))
    store.before_commit = None
    name = runner_of(await admission.submit(admit(2)))
    assert set(store.ledger().leases) == {name}


async def test_a_ledger_that_somebody_else_always_changes_first_is_given_up_in_the_end() -> None:
    store = MemoryStore()
    (admission,) = admissions(store)
    await admission.submit(admit(1))

    def interfere() -> None:
        fields, _ = store.ledgers["default"]
        store.ledgers["default"] = (fields, store._tick())

    store.before_commit = interfere
    with pytest.raises(StoreUnavailable, match="too busy"):
        await admission.submit(admit(2))
