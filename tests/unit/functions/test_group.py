"""Group commit against a store in memory: exact whatever is lost, doubled or in each other's way."""

import asyncio
import itertools

import pytest

from functions.admission.group import Admission
from functions.admission.plan import Applied, Decided, Known, Release, Result
from functions.documents.errors import StoreUnavailable
from functions.documents.ledger import Ledger
from functions.routing.capacity import Size
from functions.routing.policy import Policy
from tests.fakes.examples import GIB, NOW, admit, policy, policy_document
from tests.fakes.memory_store import MemoryStore, lose_every

HOSTS = (Size(1_000_000, 4000 * GIB),)


def places(count: int) -> Policy:
    document = policy_document()
    document["scale_sets"]["ci"]["max_runners"] = count
    return policy(**document)


def admissions(store: MemoryStore, count: int = 1) -> list[Admission]:
    """Several function instances on one store."""
    return [Admission("default", store, lambda: NOW) for _ in range(count)]


def is_admitted(result: Result) -> bool:
    return isinstance(result, Decided) and result.job.reservation is not None


async def test_requests_at_once_go_together() -> None:
    store = MemoryStore()
    (admission,) = admissions(store)
    results = await asyncio.gather(*(admission.submit(admit(n, hosts=HOSTS)) for n in range(8)))
    assert all(map(is_admitted, results))
    assert store.commits == 1


@pytest.mark.parametrize("instances", [1, 2, 5])
async def test_a_burst_admits_exactly_as_many_as_there_are_places(instances: int) -> None:
    store = MemoryStore()
    rules = places(20)
    submits = zip(range(100), itertools.cycle(admissions(store, instances)), strict=False)
    results = await asyncio.gather(*(a.submit(admit(n, hosts=HOSTS, rules=rules)) for n, a in submits))
    assert sum(map(is_admitted, results)) == 20
    assert len(store.ledger().leases) == 20
    assert store.ledger().held == {"ci": 80}
    assert len(store.jobs) == 100


async def test_a_lost_answer_is_found_to_be_our_own_write() -> None:
    store = MemoryStore()
    store.after_commit = lose_every(1)
    (admission,) = admissions(store)
    result = await admission.submit(admit(1, hosts=HOSTS))
    assert is_admitted(result)
    assert store.commits == 1


async def test_a_lost_answer_is_ours_although_somebody_has_written_since() -> None:
    store = MemoryStore()
    (admission, other) = admissions(store, 2)

    def lose_after_another_commit() -> None:
        store.after_commit = None
        ledger, version = store.ledgers["default"]
        store.ledgers["default"] = (Ledger.from_firestore(ledger).with_token("other").to_firestore(), version)
        raise StoreUnavailable("the answer was lost")

    store.after_commit = lose_after_another_commit
    assert is_admitted(await admission.submit(admit(1, hosts=HOSTS)))
    assert isinstance(await other.submit(admit(1, hosts=HOSTS)), Known)
    assert len(store.ledger().leases) == 1


@pytest.mark.parametrize("every", [2, 3])
async def test_instances_stay_exact_while_answers_are_lost(every: int) -> None:
    store = MemoryStore()
    store.after_commit = lose_every(every)
    rules = places(10)
    submits = zip(range(60), itertools.cycle(admissions(store, 3)), strict=False)
    results = await asyncio.gather(*(a.submit(admit(n, hosts=HOSTS, rules=rules)) for n, a in submits))
    assert sum(map(is_admitted, results)) == len(store.ledger().leases) == 10
    assert len(store.jobs) == 60


async def test_the_same_delivery_at_two_instances_takes_one_place() -> None:
    store = MemoryStore()
    results = await asyncio.gather(*(a.submit(admit(1, hosts=HOSTS)) for a in admissions(store, 4)))
    assert sorted(type(result).__name__ for result in results) == ["Decided", "Known", "Known", "Known"]
    assert len(store.ledger().leases) == 1


async def test_a_release_is_never_concluded_from_an_old_snapshot() -> None:
    """The lease was made by another instance after this one had read the ledger."""
    store = MemoryStore()
    old, new = admissions(store, 2)
    await old.submit(admit(1, hosts=HOSTS))
    await new.submit(admit(2, hosts=HOSTS))
    assert await old.submit(Release("ry-2")) == Applied(True)
    assert set(store.ledger().leases) == {"ry-1"}


async def test_a_release_that_comes_twice_frees_once() -> None:
    store = MemoryStore()
    (admission,) = admissions(store)
    await admission.submit(admit(1, hosts=HOSTS))
    assert await admission.submit(Release("ry-1")) == Applied(True)
    assert await admission.submit(Release("ry-1")) == Applied(False)


async def test_a_store_that_is_away_fails_those_who_wait_and_nobody_else() -> None:
    store = MemoryStore()
    (admission,) = admissions(store)

    def be_away() -> None:
        raise StoreUnavailable("away")

    store.before_commit = be_away
    with pytest.raises(StoreUnavailable):
        await admission.submit(admit(1, hosts=HOSTS))
    store.before_commit = None
    assert is_admitted(await admission.submit(admit(2, hosts=HOSTS)))
    assert set(store.ledger().leases) == {"ry-2"}


async def test_a_ledger_that_somebody_else_always_changes_first_is_given_up_in_the_end() -> None:
    store = MemoryStore()
    (admission,) = admissions(store)
    await admission.submit(admit(1, hosts=HOSTS))

    def interfere() -> None:
        fields, _ = store.ledgers["default"]
        store.ledgers["default"] = (fields, store._tick())

    store.before_commit = interfere
    with pytest.raises(StoreUnavailable, match="too busy"):
        await admission.submit(admit(2, hosts=HOSTS))
