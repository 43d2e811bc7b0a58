"""A benchmark's figures are only as good as its counter."""

import time
from collections.abc import Callable, Iterator

import pytest
from google.api_core.exceptions import AlreadyExists
from google.cloud import firestore

from benchmarks.counting import CountingProxy, counting_proxy


@pytest.fixture
def counted(
    emulator_host: str, project: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[firestore.Client, CountingProxy]]:
    """A client whose calls are counted."""
    with counting_proxy(emulator_host) as (address, proxy):
        monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", address)
        client = firestore.Client(project=project)
        yield client, proxy
        client.close()  # type: ignore[no-untyped-call]


def test_writes_and_deletes_count_when_they_have_landed(counted: tuple[firestore.Client, CountingProxy]) -> None:
    client, proxy = counted
    batch = client.batch()
    batch.set(client.document("jobs/1"), {"n": 1})
    batch.set(client.document("pools/1"), {"n": 1})
    batch.commit()
    with pytest.raises(AlreadyExists):
        client.document("jobs/1").create({})
    client.document("jobs/1").delete()
    bill = proxy.take_bill()
    assert (bill.writes, bill.deletes) == ({"jobs": 1, "pools": 1}, {"jobs": 1})
    assert (bill.commits, bill.commits_lost) == (3, 1)
    assert proxy.take_bill().commits == 0, "each is told once"


def test_missing_documents_and_empty_queries_are_billed_too(counted: tuple[firestore.Client, CountingProxy]) -> None:
    client, proxy = counted
    for number in range(3):
        client.document(f"jobs/{number}").set({"n": number})
    client.document("jobs/0").get()
    client.document("jobs/9").get()
    assert len(client.collection("jobs").get()) == 3
    assert not client.collection("hosts").get()
    assert proxy.take_bill().reads == {"jobs": 5, "hosts": 1}


def until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_listener_reads_what_changes_and_not_all_of_its_result_again(
    counted: tuple[firestore.Client, CountingProxy],
) -> None:
    client, proxy = counted
    shown: list[int] = []
    pending = client.collection("runners").where(filter=firestore.FieldFilter("status", "==", "pending"))
    watch = pending.on_snapshot(lambda documents, changes, at: shown.append(len(documents)))
    until(lambda: shown == [0])
    for number in range(3):
        client.document(f"runners/{number}").set({"status": "pending"})
        until(lambda number=number: shown[-1] == number + 1)  # type: ignore[misc]
    assert proxy.take_bill().reads == {"runners": 3}
    client.document("runners/0").update({"status": "claimed"})
    until(lambda: shown[-1] == 2)
    assert proxy.take_bill().reads == {"runners": 1}, "it has left the result because it was changed"
    watch.unsubscribe()  # type: ignore[no-untyped-call]
