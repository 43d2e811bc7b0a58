"""One suite, two subjects: the store in memory and the functions' Firestore adapter on the real emulator."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.cloud import firestore
from pydantic import SecretStr

from functions.admission.group import Admission
from functions.admission.requests import Decided, Promotion, Release
from functions.documents.errors import Moved, StoreUnavailable, Unreadable
from functions.documents.firestore import FirestoreStore
from functions.documents.host import Host
from functions.documents.installation import LastError, LastGood
from functions.documents.ledger import Lease, Ledger
from functions.documents.lifecycle import JobState, RunnerState
from functions.documents.pending_runner import SeenRunner
from functions.documents.reconcile import Cursor, HookCursor, Report, StepReport
from functions.documents.reconcile_store import ReconcileStore
from functions.documents.sealing import seal, unseal
from functions.documents.workflow_job import (
    DecisionRecord,
    Phases,
    Reservation,
    RunnerRef,
    WorkflowJob,
)
from tests.fakes.examples import GIB, HOST_KEY, NOW, admit, host, job, pending_runner, policy, policy_document
from tests.fakes.memory_store import MemoryStore


class Subject:
    """A store, and a way to put documents into it that others would write."""

    def __init__(self, store: Any, client: firestore.AsyncClient | None):
        self.store = store
        self._client = client

    async def put_ledger(self, fields: dict[str, Any]) -> None:
        """Overwrites the ledger, as a person in the console would."""
        if self._client is not None:
            await self._client.collection("pools").document("default").set(fields)
        else:
            self.store.ledgers["default"] = (fields, NOW)

    async def ledger(self) -> Ledger:
        found: Ledger = (await self.store.read_ledger("default", []))[0]
        return found

    async def put(self, collection: str, key: str, fields: dict[str, Any]) -> None:
        if self._client is not None:
            await self._client.collection(collection).document(key).set(fields)
        elif collection == "installations":
            self.store.installations[key] = fields
        elif collection == "pendingRunners":
            self.store.runners[key] = fields
        elif collection == "hosts":
            self.store.hosts[key] = Host.from_firestore(fields)
        else:
            raise AssertionError(collection)


@pytest.fixture(params=["memory", "emulator"])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    if request.param == "memory":
        yield Subject(MemoryStore(), None)
        return
    project = request.getfixturevalue("project")
    yield Subject(ReconcileStore(project), firestore.AsyncClient(project=project))


def a_lease(number: int) -> Lease:
    return Lease(
        cpu_millis=1000,
        memory_bytes=GIB,
        scale_set="ci",
        profile="small",
        repository="acme/app",
        job_key=f"acme_1_{number}",
        since=NOW,
    )


async def test_there_is_no_policy_until_somebody_writes_one(subject: Subject) -> None:
    assert await subject.store.read_installation("Acme") is None


async def test_a_policy_is_found_whatever_the_case_of_the_login(subject: Subject) -> None:
    await subject.put("installations", "acme", {"policy": policy_document(), "revision": 3})
    found = await subject.store.read_installation("ACME")
    assert (found.policy, found.revision) == (policy_document(), 3)


@pytest.mark.parametrize("garbage", ["text", 5, ["a", "list"], {"routes": 1}, None, True])
async def test_whatever_an_operator_has_typed_can_be_read(subject: Subject, garbage: object) -> None:
    await subject.put("installations", "acme", {"policy": garbage, "revision": "not a number"})
    found = await subject.store.read_installation("acme")
    assert found.policy == garbage


async def test_a_good_policy_clears_the_last_error(subject: Subject) -> None:
    await subject.put("installations", "acme", {"policy": policy_document()})
    await subject.store.note_policy_error("acme", LastError(problems=("routes[0]: broken",), at=NOW))
    assert (await subject.store.read_installation("acme")).last_error.problems == ("routes[0]: broken",)
    await subject.store.note_good_policy("acme", LastGood(policy=policy_document(), revision=2))
    found = await subject.store.read_installation("acme")
    assert found.last_error is None
    assert found.last_good.policy == policy_document()
    assert found.policy == policy_document()


async def test_every_edit_is_seen_by_the_next_read(subject: Subject) -> None:
    for revision in (1, 2, 3):
        await subject.put("installations", "acme", {"policy": policy_document(), "revision": revision})
        found = await asyncio.gather(*(subject.store.read_installation(owner) for owner in ("acme", "ACME", "nobody")))
        assert [one and one.revision for one in found] == [revision, revision, None]


async def test_a_note_does_not_overwrite_what_came_after_the_policy_that_it_is_about(subject: Subject) -> None:
    """Two instances have read revision 1; before one of them notes that, the other has noted revision 2."""
    await subject.put("installations", "acme", {"policy": policy_document(), "revision": 1})
    await subject.store.read_installation("acme")
    newer = {"policy": policy_document(), "revision": 2, "lastGood": {"policy": policy_document(), "revision": 2}}
    await subject.put("installations", "acme", newer)
    await subject.store.note_good_policy("acme", LastGood(policy=policy_document(), revision=1))
    assert (await subject.store.read_installation("acme")).last_good.revision == 2


async def test_many_who_note_the_same_are_all_served(subject: Subject) -> None:
    await subject.put("installations", "acme", {"policy": policy_document(), "revision": 1})
    await subject.store.read_installation("acme")
    note = LastGood(policy=policy_document(), revision=1)
    await asyncio.gather(*(subject.store.note_good_policy("acme", note) for _ in range(20)))
    assert (await subject.store.read_installation("acme")).last_good == note


async def test_the_first_commit_creates_the_ledger(subject: Subject) -> None:
    ledger, version, known = await subject.store.read_ledger("default", ["acme_1_1"])
    assert (ledger, version, known) == (Ledger(), None, {})
    written = await subject.store.commit_ledger("default", None, Ledger(leases={"ry-1": a_lease(1)}), [job(1)])
    ledger, version, known = await subject.store.read_ledger("default", ["acme_1_1", "acme_1_2"])
    assert version == written
    assert ledger.leases == {"ry-1": a_lease(1)}
    assert set(known) == {"acme_1_1"}


async def test_a_commit_on_an_old_version_writes_nothing(subject: Subject) -> None:
    first = await subject.store.commit_ledger("default", None, Ledger(token="a"), [])
    await subject.store.commit_ledger("default", first, Ledger(token="b"), [])
    with pytest.raises(Moved):
        await subject.store.commit_ledger("default", first, Ledger(token="c"), [job(1)])
    with pytest.raises(Moved):
        await subject.store.commit_ledger("default", None, Ledger(token="d"), [job(1)])
    ledger, _, known = await subject.store.read_ledger("default", ["acme_1_1"])
    assert (ledger.token, known) == ("b", {})


async def test_a_commit_with_a_job_that_exists_writes_nothing(subject: Subject) -> None:
    assert await subject.store.create_job(job(1))
    with pytest.raises(Moved):
        await subject.store.commit_ledger("default", None, Ledger(token="a"), [job(1), job(2)])
    _, version, known = await subject.store.read_ledger("default", ["acme_1_2"])
    assert (version, known) == (None, {})


async def test_a_released_lease_is_gone_from_the_document(subject: Subject) -> None:
    two = Ledger(leases={"ry-1": a_lease(1), "ry-2": a_lease(2)})
    version = await subject.store.commit_ledger("default", None, two, [])
    await subject.store.commit_ledger("default", version, Ledger(leases={"ry-2": a_lease(2)}), [])
    ledger, _, _ = await subject.store.read_ledger("default", [])
    assert set(ledger.leases) == {"ry-2"}


async def test_pools_do_not_see_each_other(subject: Subject) -> None:
    await subject.store.commit_ledger("one", None, Ledger(leases={"ry-1": a_lease(1)}), [])
    assert (await subject.store.read_ledger("two", []))[0] == Ledger()


async def test_a_job_is_created_once(subject: Subject) -> None:
    assert await subject.store.create_job(job(1, name="first"))
    assert not await subject.store.create_job(job(1, name="second"))
    assert (await subject.store.read_job("acme_1_1")).name == "first"
    assert await subject.store.read_job("acme_1_2") is None


async def test_of_many_jobs_created_at_once_only_those_that_exist_are_refused(subject: Subject) -> None:
    await subject.store.create_job(job(3, name="first"))
    created = await asyncio.gather(
        *(subject.store.create_job(job(number, name="second")) for number in (1, 2, 3, 4, 4))
    )
    assert created[:3] == [True, True, False]
    assert sorted(created[3:]) == [False, True]
    assert (await subject.store.read_job("acme_1_3")).name == "first"


async def test_events_of_one_job_that_come_at_once_are_all_kept(subject: Subject) -> None:
    await asyncio.gather(*(subject.store.merge_job(event) for event in events() * 2))
    found = await subject.store.read_job("acme_1_1")
    assert (found.state, found.conclusion, found.runner.name) == (JobState.COMPLETED, "success", "ry-1")


def events() -> list[WorkflowJob]:
    """What three events write, each its own fields."""
    return [
        job(1, rank=JobState.IN_PROGRESS, phases=Phases(started_at=NOW), runner=RunnerRef(name="ry-1", id=5)),
        job(1, rank=JobState.COMPLETED, phases=Phases(completed_at=NOW), conclusion="success"),
        job(1, rank=JobState.REGISTERED, phases=Phases(provisioned_at=NOW)),
    ]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2, 1), (1, 1, 2, 0, 0)])
async def test_events_in_any_order_and_number_give_one_document(subject: Subject, order: tuple[int, ...]) -> None:
    for index in order:
        await subject.store.merge_job(events()[index])
    found = await subject.store.read_job("acme_1_1")
    assert found.state is JobState.COMPLETED
    assert found.phases == Phases(started_at=NOW, completed_at=NOW, provisioned_at=NOW)
    assert (found.conclusion, found.runner) == ("success", RunnerRef(name="ry-1", id=5))


async def test_a_late_event_does_not_lower_the_state_of_a_created_job(subject: Subject) -> None:
    await subject.store.create_job(job(1, rank=JobState.RESERVED))
    await subject.store.merge_job(events()[1])
    await subject.store.merge_job(events()[2])
    assert (await subject.store.read_job("acme_1_1")).state is JobState.COMPLETED


async def test_a_runner_is_published_once(subject: Subject) -> None:
    sealed = seal(SecretStr("jit"), {"host-1": host().public_key})
    runner = pending_runner("ry-1", sealed_config=sealed)
    await subject.store.publish_runner(runner)
    await subject.store.publish_runner(runner.model_copy(update={"job_name": "again"}))
    assert await subject.store.read_runner("ry-1") == runner


async def test_only_a_runner_that_nobody_has_claimed_can_be_cancelled(subject: Subject) -> None:
    await subject.put("pendingRunners", "ry-1", pending_runner("ry-1").to_firestore())
    claimed = pending_runner("ry-2", status=RunnerState.SCHEDULING)
    await subject.put("pendingRunners", "ry-2", claimed.to_firestore())
    assert (await subject.store.cancel_runner("ry-1", "its job ended", NOW)).runner_name == "ry-1"
    assert await subject.store.cancel_runner("ry-1", "again", NOW) is None
    assert await subject.store.cancel_runner("ry-2", "too late", NOW) is None
    assert await subject.store.cancel_runner("ry-3", "never was", NOW) is None
    cancelled = await subject.store.read_runner("ry-1")
    assert (cancelled.status, cancelled.reason) == (RunnerState.CANCELLED, "its job ended")
    assert cancelled.sealed_config is None


async def test_promoted_jobs_are_written_with_the_ledger(subject: Subject) -> None:
    await subject.store.create_job(job(1, decision=DecisionRecord(outcome="held", reason="full", rule="routes[0]")))
    reservation = Reservation(pool="default", scale_set="ci", profile="small", runner_name="ry-1", token="t")
    promotion = Promotion("acme_1_1", reservation, "held since noon")
    await subject.store.commit_ledger("default", None, Ledger(leases={"ry-1": a_lease(1)}), [], [promotion])
    found = await subject.store.read_job("acme_1_1")
    assert found.reservation == reservation
    assert found.state is JobState.RESERVED
    assert (found.decision.outcome, found.decision.reason, found.decision.rule) == (
        "self_hosted",
        "held since noon",
        "routes[0]",
    )


async def test_several_instances_admit_exactly_and_hand_every_place_on(subject: Subject) -> None:
    document = policy_document()
    document["scale_sets"]["ci"]["max_runners"] = 7
    rules = policy(**document)
    await subject.put("hosts", "host-1", host(cpus=1000, gib=4000).to_firestore())
    instances = [Admission("default", subject.store, lambda: NOW, unhurried_s=0) for _ in range(3)]
    first = await asyncio.gather(*(instances[n % 3].submit(admit(n, rules=rules)) for n in range(40)))
    jobs = [s.result.job for s in first if isinstance(s.result, Decided)]
    names = [job.reservation.runner_name for job in jobs if job.reservation is not None]
    assert len(names) == 7
    assert (await subject.ledger()).leases.keys() == set(names)
    assert len((await subject.ledger()).queue) == 33
    served = set(names)
    while names:
        released = await asyncio.gather(*(instances[n % 3].submit(Release(name)) for n, name in enumerate(names * 2)))
        names = [p.reservation.runner_name for settled in released for p in settled.todo.promotions]
        assert len(names) == len(set(names)) <= 7
        served |= set(names)
    assert len(served) == 40
    assert not (await subject.ledger()).leases
    assert not (await subject.ledger()).queue


# What reconciling needs besides


SPOILT = {"leases": {"ry-1": a_lease(1).to_firestore(), "ry-2": "mine"}, "queue": 5, "token": "t"}


async def test_a_ledger_that_somebody_has_spoilt_admits_nobody_until_it_is_mended(subject: Subject) -> None:
    """To go on without the part that cannot be read could admit too many."""
    await subject.put_ledger(SPOILT)
    with pytest.raises(Unreadable, match=r"pools/default cannot be read: leases\.ry-2"):
        await subject.store.read_ledger("default", [])
    seen = (await subject.store.list_ledgers())["default"]
    assert "ry-2" in seen.problem
    assert seen.ledger.leases == {"ry-1": a_lease(1)}
    assert await subject.store.mend_ledger("default", seen)
    assert (await subject.ledger()).leases == {"ry-1": a_lease(1)}
    assert not await subject.store.mend_ledger("default", seen), "it has changed since"
    assert not (await subject.store.list_ledgers())["default"].problem


async def publish(subject: Subject, name: str, status: RunnerState, **changes: Any) -> SeenRunner:
    await subject.store.publish_runner(pending_runner(name, status=status, **changes))
    seen: SeenRunner = (await subject.store.read_runners([name]))[name]
    return seen


async def test_runners_are_listed_by_what_is_left_to_do_for_them(subject: Subject) -> None:
    for status in RunnerState:
        await publish(subject, f"ry-{status}", status)
    await publish(subject, "ry-gone", RunnerState.FAILED, is_registered=False)
    live = {seen.runner.runner_name for seen in await subject.store.list_live_runners()}
    assert live == {"ry-pending", "ry-scheduling", "ry-scheduled"}
    left = {seen.runner.runner_name for seen in await subject.store.list_left_runners()}
    assert left == {"ry-failed", "ry-cancelled"}
    assert set(await subject.store.read_runners(["ry-gone", "ry-never"])) == {"ry-gone"}
    assert await subject.store.read_runners([]) == {}


async def test_a_runner_is_changed_only_as_it_was_seen(subject: Subject) -> None:
    seen = await publish(subject, "ry-1", RunnerState.SCHEDULED, reason="x", sealed_config=seal(SecretStr("jit"), {}))
    assert await subject.store.change_runner(seen, {"isUnwanted": True, "sealedConfig": None})
    assert not await subject.store.change_runner(seen, {"isUnwanted": False}), "it has changed since"
    found = (await subject.store.read_runners(["ry-1"]))["ry-1"]
    assert (found.runner.is_unwanted, found.runner.sealed_config, found.runner.reason) == (True, None, "x")
    assert await subject.store.change_runner(found, {"isUnwanted": False})


async def test_a_runner_that_was_given_up_is_never_handed_over(subject: Subject) -> None:
    tombstone = pending_runner("ry-1", status=RunnerState.CANCELLED, runner_id=0)
    assert await subject.store.give_up_runner(tombstone)
    assert await subject.store.give_up_runner(tombstone), "asked twice, or by two at once"
    assert not await subject.store.publish_runner(pending_runner("ry-1"))
    assert (await subject.store.read_runner("ry-1")).status is RunnerState.CANCELLED


async def test_a_runner_that_was_handed_over_is_not_given_up(subject: Subject) -> None:
    assert await subject.store.publish_runner(pending_runner("ry-1"))
    assert await subject.store.publish_runner(pending_runner("ry-1")), "an answer was lost"
    assert not await subject.store.give_up_runner(pending_runner("ry-1", status=RunnerState.CANCELLED, runner_id=0))
    assert (await subject.store.read_runner("ry-1")).status is RunnerState.PENDING


async def test_open_jobs_are_those_that_may_need_a_runner_of_ours(subject: Subject) -> None:
    def recorded(number: int, outcome: str, rank: JobState) -> WorkflowJob:
        return job(number, decision=DecisionRecord(outcome=outcome, reason=""), rank=rank)

    for number, rank in enumerate(JobState):
        await subject.store.create_job(recorded(number, "self_hosted", rank))
    for number, outcome in enumerate(("held", "overflow", "ignored", "rejected", "github_hosted"), start=20):
        await subject.store.create_job(recorded(number, outcome, JobState.QUEUED))
    found = await subject.store.list_open_jobs()
    assert [one.key for one in found] == [f"acme_1_{n}" for n in (0, 1, 2, 20, 21, 3)]
    assert [one.job_id for one in await subject.store.list_open_jobs("acme_1_20")] == [21, 3]


async def test_jobs_are_found_by_the_runner_that_had_them_and_by_their_number(subject: Subject) -> None:
    await subject.store.create_job(job(1, runner=RunnerRef(name="ry-1", id=7)))
    await subject.store.create_job(job(2))
    assert [one.job_id for one in await subject.store.find_jobs_of_runner("ry-1")] == [1]
    assert [one.job_id for one in await subject.store.find_jobs_by_id(2)] == [2]
    assert await subject.store.find_jobs_by_id(3) == ()


async def test_the_whole_picture_names_every_owner_host_and_ledger(subject: Subject) -> None:
    await subject.put("installations", "acme", {"policy": policy_document(), "revision": 1})
    await subject.put("hosts", "host-1", host().to_firestore())
    await subject.put("hosts", "host-2", host("host-2", pool="gpu").to_firestore())
    assert await subject.store.list_owners() == ("acme",)
    assert {one.host_id for one in await subject.store.list_all_hosts()} == {"host-1", "host-2"}
    assert await subject.store.list_ledgers() == {}
    await subject.store.commit_ledger("gpu", None, Ledger(token="a"), [])
    assert set(await subject.store.list_ledgers()) == {"gpu"}


async def test_the_cursor_is_where_the_last_run_left_off(subject: Subject) -> None:
    assert await subject.store.read_cursor() == Cursor()
    cursor = Cursor(
        hooks={"/orgs/acme/hooks/1": HookCursor(until=NOW, query={"cursor": "v1_5"})},
        repositories={"acme/a.b": NOW},
        jobs_after="acme_1_1",
    )
    await subject.store.write_cursor(cursor)
    assert await subject.store.read_cursor() == cursor
    await subject.store.write_cursor(Cursor())
    assert await subject.store.read_cursor() == Cursor()


async def test_a_report_is_kept(subject: Subject) -> None:
    step = StepReport(name="jobs", done={"found": 1}, notes=("x",))
    await subject.store.write_report("2026", Report(started_at=NOW, steps=(step,), expire_at=NOW))
    assert await subject.store.read_cursor() == Cursor(), "it is not taken for the cursor"


async def test_a_firestore_that_nobody_serves_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", "127.0.0.1:9")
    store = FirestoreStore("nobody")
    with pytest.raises(StoreUnavailable):
        await store.read_installation("acme")


async def test_an_opened_config_is_what_was_sealed(subject: Subject) -> None:
    sealed = seal(SecretStr("jit"), {"host-1": host().public_key})
    await subject.put("pendingRunners", "ry-1", pending_runner("ry-1", sealed_config=sealed).to_firestore())
    found = await subject.store.read_runner("ry-1")
    assert unseal(found.sealed_config, "host-1", HOST_KEY).get_secret_value() == "jit"
