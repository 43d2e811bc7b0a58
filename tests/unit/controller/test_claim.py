"""Claiming: exactly one host wins, whatever becomes of the answers."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.claim import LEASE, Claimed, Lost, claim_runners
from functions.documents.errors import Moved, StoreRefused, StoreUnavailable
from functions.documents.lifecycle import RunnerState
from functions.documents.pending_runner import PendingRunner
from functions.documents.sealing import SealedConfig
from tests.fakes.examples import NOW, pending_runner

SEALED = SealedConfig(ciphertext=b"secret", keys={})


class Fate(Enum):
    """What becomes of one commit."""

    FINE = auto()
    LANDS_BUT_LOOKS_LOST = auto()
    LANDS_WITHOUT_ANSWER = auto()
    NEVER_ARRIVES = auto()
    REFUSED = auto()


@dataclass(frozen=True)
class Seen:
    runner: PendingRunner
    version: datetime


class MemoryStore:
    """Pending runners with guarded commits, of which some do not go well."""

    def __init__(self, *names: str):
        runners = (pending_runner(name, sealed_config=SEALED) for name in names)
        self.seen = {runner.runner_name: Seen(runner, NOW) for runner in runners}
        self.fates: list[Fate] = []
        self.commits = 0
        self.can_be_read = True

    async def claim(self, seen: Sequence[Any], changes: Mapping[str, Any]) -> None:
        # As on a network, others get their turn.
        await asyncio.sleep(0)
        fate = self.fates.pop(0) if self.fates else Fate.FINE
        if fate is Fate.NEVER_ARRIVES:
            raise StoreUnavailable("Firestore does not answer")
        if fate is Fate.REFUSED:
            raise StoreRefused("permission denied")
        for one in seen:
            there = self.seen.get(one.runner.runner_name)
            if there is None or there.version != one.version:
                raise Moved(one.runner.runner_name)
        for one in seen:
            self.change(one.runner.runner_name, {**changes, "sealedConfig": None})
        self.commits += 1
        if fate is Fate.LANDS_BUT_LOOKS_LOST:
            raise Moved("the library tried again, and met itself")
        if fate is Fate.LANDS_WITHOUT_ANSWER:
            raise StoreUnavailable("Firestore does not answer")

    def change(self, name: str, fields: Mapping[str, Any]) -> None:
        old = self.seen[name]
        document = {**old.runner.to_firestore(), **fields}
        self.seen[name] = Seen(PendingRunner.from_firestore(document), old.version + timedelta(seconds=1))

    async def read_runner(self, runner_name: str) -> PendingRunner | None:
        if not self.can_be_read:
            raise StoreUnavailable("Firestore does not answer")
        found = self.seen.get(runner_name)
        return found.runner if found is not None else None

    def owners(self) -> dict[str, str]:
        return {name: one.runner.claim.host_id for name, one in self.seen.items() if one.runner.claim is not None}


async def claim(store: MemoryStore, seen: Sequence[Seen], host_id: str = "host-1") -> Sequence[Claimed | Lost]:
    return await claim_runners(store, seen, host_id, lambda: NOW)


def won(results: Sequence[Claimed | Lost]) -> set[str]:
    return {result.runner.runner_name for result in results if isinstance(result, Claimed)}


async def test_a_claimed_runner_is_this_hosts_until_its_lease_ends() -> None:
    store = MemoryStore("ry-1")
    (result,) = await claim(store, [store.seen["ry-1"]])
    assert isinstance(result, Claimed)
    for runner in (result.runner, store.seen["ry-1"].runner):
        assert runner.status is RunnerState.SCHEDULING
        assert runner.claimed_at == NOW
        assert runner.claim is not None
        assert (runner.claim.host_id, runner.claim.lease_until) == ("host-1", NOW + LEASE)


async def test_the_sealed_config_goes_from_the_document_to_the_one_who_claimed_it() -> None:
    store = MemoryStore("ry-1")
    (result,) = await claim(store, [store.seen["ry-1"]])
    assert isinstance(result, Claimed)
    assert result.runner.sealed_config == SEALED
    assert store.seen["ry-1"].runner.sealed_config is None


async def test_runners_that_come_together_are_claimed_in_one_commit() -> None:
    store = MemoryStore("ry-1", "ry-2", "ry-3")
    assert won(await claim(store, list(store.seen.values()))) == {"ry-1", "ry-2", "ry-3"}
    assert store.commits == 1


async def test_of_hosts_that_claim_the_same_runners_each_runner_has_one_winner() -> None:
    store = MemoryStore("ry-1", "ry-2", "ry-3")
    one, two, three = store.seen.values()
    results = await asyncio.gather(
        claim(store, [one, two], "host-1"), claim(store, [two, three], "host-2"), claim(store, [three, one], "host-3")
    )
    owners = store.owners()
    assert set(owners) == {"ry-1", "ry-2", "ry-3"}
    for host_id, result in zip(("host-1", "host-2", "host-3"), results, strict=True):
        assert won(result) == {name for name, owner in owners.items() if owner == host_id}


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"status": "cancelled"}, id="it was cancelled"),
        pytest.param({"attempts": 1}, id="it was handed back and is seen too late"),
    ],
)
async def test_a_runner_that_has_changed_is_lost_and_the_others_are_not(fields: dict[str, object]) -> None:
    store = MemoryStore("ry-1", "ry-2", "ry-3")
    seen = list(store.seen.values())
    store.change("ry-2", fields)
    results = await claim(store, seen)
    assert won(results) == {"ry-1", "ry-3"}
    assert results[1] == Lost("ry-2")


async def test_a_runner_that_is_gone_is_lost() -> None:
    store = MemoryStore("ry-1")
    seen = list(store.seen.values())
    store.seen.clear()
    assert await claim(store, seen) == [Lost("ry-1")]


@pytest.mark.parametrize("fate", [Fate.LANDS_BUT_LOOKS_LOST, Fate.LANDS_WITHOUT_ANSWER])
@pytest.mark.parametrize("names", [("ry-1",), ("ry-1", "ry-2", "ry-3")], ids=["one runner", "several runners"])
async def test_a_claim_that_landed_is_kept_though_its_answer_was_lost(fate: Fate, names: tuple[str, ...]) -> None:
    store = MemoryStore(*names)
    store.fates = [fate]
    results = await claim(store, list(store.seen.values()))
    assert won(results) == set(names)
    assert all(isinstance(result, Claimed) and result.runner.sealed_config == SEALED for result in results)
    assert store.commits == 1


async def test_another_hosts_claim_is_not_taken_for_our_own() -> None:
    store = MemoryStore("ry-1")
    seen = list(store.seen.values())
    await claim(store, seen, "host-2")
    assert await claim(store, seen, "host-1") == [Lost("ry-1")]
    assert store.owners() == {"ry-1": "host-2"}


async def test_a_claim_of_this_host_from_before_is_not_claimed_once_more() -> None:
    store = MemoryStore("ry-1")
    seen = list(store.seen.values())
    await claim(store, seen)
    assert await claim(store, seen) == [Lost("ry-1")]


@pytest.mark.parametrize(("fate", "error"), [(Fate.NEVER_ARRIVES, StoreUnavailable), (Fate.REFUSED, StoreRefused)])
async def test_a_store_that_does_not_serve_is_no_lost_race(fate: Fate, error: type[Exception]) -> None:
    store = MemoryStore("ry-1")
    store.fates = [fate]
    with pytest.raises(error):
        await claim(store, list(store.seen.values()))


async def test_nothing_is_concluded_while_the_store_cannot_be_read() -> None:
    store = MemoryStore("ry-1")
    store.fates, store.can_be_read = [Fate.LANDS_WITHOUT_ANSWER], False
    with pytest.raises(StoreUnavailable):
        await claim(store, list(store.seen.values()))


@pytest.mark.parametrize("fate", [Fate.NEVER_ARRIVES, Fate.REFUSED])
async def test_what_was_claimed_is_started_though_the_next_claim_fails(fate: Fate) -> None:
    store = MemoryStore("ry-1", "ry-2", "ry-3")
    seen = list(store.seen.values())
    store.change("ry-3", {"status": "cancelled"})
    # All together, which fails for ry-3; then ry-1; then ry-2.
    store.fates = [Fate.FINE, Fate.FINE, fate]
    assert won(await claim(store, seen)) == {"ry-1"}


@settings(max_examples=150, deadline=None)
@given(
    fates=st.lists(st.sampled_from(Fate), max_size=8),
    taken=st.sets(st.sampled_from(["ry-1", "ry-2", "ry-3"])),
)
def test_a_host_starts_exactly_what_the_documents_say_is_its_own(fates: list[Fate], taken: set[str]) -> None:
    async def scenario() -> None:
        store = MemoryStore("ry-1", "ry-2", "ry-3")
        seen = list(store.seen.values())
        await claim(store, [one for one in seen if one.runner.runner_name in taken], "host-2")
        store.fates = fates
        try:
            results = await claim(store, seen)
        except (StoreUnavailable, StoreRefused):
            results = []
        assert won(results) == {name for name, owner in store.owners().items() if owner == "host-1"}

    asyncio.run(scenario())
