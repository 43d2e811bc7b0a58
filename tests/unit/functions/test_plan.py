"""What a group of requests does to a ledger."""

from hypothesis import given, settings
from hypothesis import strategies as st

from functions.admission.plan import Applied, Decided, Known, Release, Request, Resize, Result, make_plan
from functions.documents.ledger import Ledger
from functions.documents.workflow_job import WorkflowJob
from functions.routing.capacity import Size
from tests.fakes.examples import GIB, NOW, admit, job, policy, policy_document

HOSTS = (Size(8000, 32 * GIB),)


def outcome(result: Result) -> str:
    assert isinstance(result, Decided)
    assert result.job.decision is not None
    return result.job.decision.outcome


def test_a_job_gets_a_lease_of_its_profiles_size_under_its_runners_name() -> None:
    plan = make_plan(Ledger(), [admit(1, "large-1", hosts=HOSTS)], {}, "token", NOW)
    lease = plan.ledger.leases["ry-1"]
    assert (lease.cpu_millis, lease.memory_bytes, lease.profile) == (4000, 8 * GIB, "large")
    assert [created.key for created in plan.creates] == ["acme_1_1"]
    reservation = plan.creates[0].reservation
    assert reservation is not None
    assert (reservation.runner_name, reservation.token) == ("ry-1", "token")


def test_the_requests_of_a_group_see_each_others_leases() -> None:
    plan = make_plan(Ledger(), [admit(n, "large", hosts=HOSTS) for n in (1, 2, 3)], {}, "token", NOW)
    assert [outcome(result) for result in plan.results] == ["self_hosted", "self_hosted", "held"]
    assert plan.ledger.held == {"ci": 1}


def test_max_runners_counts_places_whatever_their_size() -> None:
    document = policy_document()
    document["scale_sets"]["ci"]["max_runners"] = 2
    rules = policy(**document)
    plan = make_plan(Ledger(), [admit(n, hosts=HOSTS, rules=rules) for n in (1, 2, 3)], {}, "token", NOW)
    assert [outcome(result) for result in plan.results] == ["self_hosted", "self_hosted", "held"]


def test_a_job_twice_in_one_group_is_created_once() -> None:
    plan = make_plan(Ledger(), [admit(1, hosts=HOSTS), admit(1, hosts=HOSTS)], {}, "token", NOW)
    assert [type(result) for result in plan.results] == [Decided, Known]
    assert len(plan.creates) == len(plan.ledger.leases) == 1


def test_a_job_that_is_recorded_already_changes_nothing() -> None:
    plan = make_plan(Ledger(), [admit(1, hosts=HOSTS)], {"acme_1_1": job(1)}, "token", NOW)
    assert plan.results == (Known(job(1)),)
    assert not plan.needs_commit


def test_a_place_that_is_released_can_be_taken_in_the_same_group() -> None:
    full = make_plan(Ledger(), [admit(1, "large", hosts=HOSTS), admit(2, "large", hosts=HOSTS)], {}, "a", NOW).ledger
    plan = make_plan(full, [Release("ry-1"), admit(3, "large", hosts=HOSTS)], {}, "b", NOW)
    assert plan.results[0] == Applied(True)
    assert outcome(plan.results[1]) == "self_hosted"
    assert set(plan.ledger.leases) == {"ry-2", "ry-3"}


def test_releasing_what_is_not_held_changes_nothing_and_needs_no_commit() -> None:
    plan = make_plan(Ledger(), [Release("ry-9")], {}, "token", NOW)
    assert plan.results == (Applied(False),)
    assert not plan.needs_commit


def test_a_conclusion_drawn_from_the_ledger_is_committed_even_if_it_changes_no_lease() -> None:
    """`no room` is only true of the ledger that it was read from."""
    document = policy_document(routes=[{"label_match": "ci", "overflow": "reject"}])
    plan = make_plan(Ledger(), [admit(1, hosts=(), rules=policy(**document))], {}, "token", NOW)
    assert outcome(plan.results[0]) == "rejected"
    assert plan.needs_commit


def test_a_swapped_job_moves_the_lease_of_the_runner_that_got_it() -> None:
    ledger = make_plan(Ledger(), [admit(1, hosts=HOSTS)], {}, "a", NOW).ledger
    plan = make_plan(ledger, [Resize("ry-1", "large", Size(4000, 8 * GIB))], {}, "b", NOW)
    lease = plan.ledger.leases["ry-1"]
    assert (lease.size, lease.profile, lease.job_key) == (Size(4000, 8 * GIB), "large", "acme_1_1")


REQUESTS = st.lists(
    st.one_of(
        st.builds(
            lambda number, name: admit(number, name, hosts=HOSTS), st.integers(1, 30), st.sampled_from(["large", "x"])
        ),
        st.builds(lambda number: Release(f"ry-{number}"), st.integers(1, 30)),
    ),
    max_size=40,
)


@settings(max_examples=100)
@given(groups=st.lists(REQUESTS, max_size=5))
def test_no_sequence_of_groups_exceeds_places_or_hosts(groups: list[list[Request]]) -> None:
    ledger = Ledger()
    known: dict[str, WorkflowJob] = {}
    for number, requests in enumerate(groups):
        plan = make_plan(ledger, requests, known, str(number), NOW)
        known |= {created.key: created for created in plan.creates}
        ledger = plan.ledger
        assert len(plan.results) == len(requests)
        assert len(ledger.leases) <= 10
        assert ledger.reserved.fits_into(HOSTS[0])
        admitted = {created.reservation.runner_name for created in known.values() if created.reservation}
        assert set(ledger.leases) <= admitted
