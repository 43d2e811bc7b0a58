"""What the simulated GitHub knows and decides."""

import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.world import PATIENCE, ApiError, HandOut, Job, JobSpec, Runner, World

ORG = "/orgs/acme"
START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def new_world(seed: int = 1, hand_out: HandOut = HandOut.IN_ORDER) -> World:
    return World(lambda: START, random.Random(seed), hand_out)  # noqa: S311 - repeatable on purpose


@pytest.fixture
def world() -> World:
    return new_world()


def queue(world: World, *labels: str, repository: str = "acme/app") -> Job:
    (job,) = world.dispatch(repository, "ci", "main", [JobSpec("build", labels)])
    return job


def register(world: World, name: str = "ry-1", *labels: str, scope: str = ORG) -> Runner:
    return world.register_runner(scope, name, 1, labels or ("ci",))


def listen(world: World, name: str = "ry-1", *labels: str, scope: str = ORG) -> Runner:
    """A runner that is online and waits for a job."""
    runner = register(world, name, *labels, scope=scope)
    world.open_session(runner.id, runner.secret)
    runner.is_listening = True
    return runner


def status_of(error: pytest.ExceptionInfo[ApiError]) -> int:
    return error.value.status


@pytest.mark.parametrize(
    ("wanted", "offered", "is_served"),
    [
        pytest.param(["ci"], ["ci"], True, id="the same label"),
        pytest.param(["ci"], ["ci", "large"], True, id="a runner with more labels"),
        pytest.param(["ci", "large"], ["large", "ci"], True, id="another order"),
        pytest.param(["CI"], ["ci"], True, id="upper and lower case"),
        pytest.param(["ci", "large"], ["ci"], False, id="a runner that lacks a label"),
        pytest.param(["ci"], ["c", "i"], False, id="a runner with other labels"),
        pytest.param([], ["ci"], True, id="a job that asks for none"),
    ],
)
def test_a_runner_gets_jobs_of_which_it_has_every_label(
    world: World, wanted: list[str], offered: list[str], is_served: bool
) -> None:
    listen(world, "ry-1", *offered)
    job = queue(world, *wanted)
    assert world.hand_out_jobs() == ([job] if is_served else [])


@pytest.mark.parametrize(
    ("scope", "repository", "is_served"),
    [
        pytest.param("/orgs/acme", "acme/app", True, id="an organization's runner, its repository"),
        pytest.param("/orgs/acme", "other/app", False, id="an organization's runner, a stranger's repository"),
        pytest.param("/repos/acme/app", "acme/app", True, id="a repository's runner, its own job"),
        pytest.param("/repos/acme/app", "acme/web", False, id="a repository's runner, a neighbour's job"),
        pytest.param("/repos/acme/app", "acme/app2", False, id="a repository with a longer name"),
    ],
)
def test_a_runner_serves_where_it_is_registered(world: World, scope: str, repository: str, is_served: bool) -> None:
    listen(world, scope=scope)
    queue(world, "ci", repository=repository)
    assert bool(world.hand_out_jobs()) is is_served


def test_only_a_runner_that_listens_gets_a_job(world: World) -> None:
    runner = register(world)
    job = queue(world, "ci")
    assert world.hand_out_jobs() == []
    world.open_session(runner.id, runner.secret)
    assert world.hand_out_jobs() == []
    runner.is_listening = True
    assert world.hand_out_jobs() == [job]


def test_a_job_that_is_handed_out_says_who_has_it_and_since_when(world: World) -> None:
    runner = listen(world)
    job = queue(world, "ci")
    world.hand_out_jobs()
    assert (job.status, job.started_at) == ("in_progress", START)
    assert (job.runner_id, job.runner_name, job.runner_group_id) == (runner.id, "ry-1", 1)
    assert runner.job is job


def test_in_order_the_oldest_job_goes_to_the_first_runner(world: World) -> None:
    runners = [listen(world, f"ry-{number}") for number in range(3)]
    jobs = [queue(world, "ci") for _ in range(3)]
    world.hand_out_jobs()
    assert [runner.job for runner in runners] == jobs


def test_which_of_two_jobs_a_runner_gets_is_left_to_chance() -> None:
    jobs_of_first_runner = set()
    for seed in range(20):
        world = new_world(seed, HandOut.RANDOM)
        first, _ = listen(world, "ry-1"), listen(world, "ry-2")
        jobs = [queue(world, "ci"), queue(world, "ci")]
        world.hand_out_jobs()
        assert first.job is not None
        jobs_of_first_runner.add(jobs.index(first.job))
    assert jobs_of_first_runner == {0, 1}


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 99),
    wanted=st.lists(st.sets(st.sampled_from("abc"), min_size=1), max_size=6),
    offered=st.lists(st.sets(st.sampled_from("abc"), min_size=1), max_size=6),
)
def test_each_runner_gets_one_job_and_nothing_fits_afterwards(
    seed: int, wanted: list[set[str]], offered: list[set[str]]
) -> None:
    world = new_world(seed, HandOut.RANDOM)
    runners = [listen(world, f"ry-{number}", *labels) for number, labels in enumerate(offered)]
    jobs = [queue(world, *labels) for labels in wanted]
    started = world.hand_out_jobs()
    pairs = [(runner, runner.job) for runner in runners if runner.job is not None]
    assert sorted(job.id for _, job in pairs) == sorted(job.id for job in started)
    assert all(runner.serves(job) for runner, job in pairs)
    queued = [job for job in jobs if job.status == "queued"]
    assert not any(runner.serves(job) for runner in runners if runner.is_idle for job in queued)
    assert world.hand_out_jobs() == []


def test_the_same_seed_hands_out_the_same_way() -> None:
    def names(seed: int) -> list[str | None]:
        world = new_world(seed, HandOut.RANDOM)
        for number in range(5):
            listen(world, f"ry-{number}")
        jobs = [queue(world, "ci") for _ in range(5)]
        world.hand_out_jobs()
        return [job.runner_name for job in jobs]

    assert names(3) == names(3)


def test_a_jit_config_is_good_for_one_job(world: World) -> None:
    runner = listen(world)
    queue(world, "ci")
    world.hand_out_jobs()
    world.finish(runner, "success")
    assert runner.id not in world.runners
    with pytest.raises(ApiError, match="registration has been deleted") as error:
        world.open_session(runner.id, runner.secret)
    assert status_of(error) == 401


def test_a_jit_config_is_good_for_one_session_at_a_time(world: World) -> None:
    runner = listen(world)
    with pytest.raises(ApiError, match="session for this runner already exists") as error:
        world.open_session(runner.id, runner.secret)
    assert status_of(error) == 409


def test_a_runner_that_went_offline_without_a_job_may_come_back(world: World) -> None:
    runner = listen(world)
    assert runner.session is not None
    world.close_session(runner.session)
    assert runner.session is None
    world.open_session(runner.id, runner.secret)
    assert runner.session is not None


def test_a_session_needs_the_secret_of_its_own_runner(world: World) -> None:
    one, two = register(world, "ry-1"), register(world, "ry-2")
    with pytest.raises(ApiError) as error:
        world.open_session(one.id, two.secret)
    assert status_of(error) == 401


def test_a_session_leads_to_its_runner_and_an_unknown_one_to_nobody(world: World) -> None:
    runner = listen(world)
    listen(world, "ry-2")
    assert runner.session is not None
    assert world.runner_of_session(runner.session) is runner
    with pytest.raises(ApiError) as error:
        world.runner_of_session("")
    assert status_of(error) == 401


def test_a_name_in_use_is_a_conflict(world: World) -> None:
    register(world)
    with pytest.raises(ApiError, match="A runner with the name ry-1 already exists") as error:
        register(world)
    assert status_of(error) == 409


def test_a_name_is_free_elsewhere_and_after_its_runner_has_gone(world: World) -> None:
    runner = register(world)
    register(world, scope="/repos/acme/app")
    world.delete_runner(ORG, runner.id)
    assert register(world).id != runner.id
    assert world.runners_seen == 3


@pytest.mark.parametrize(
    ("scope", "group_id", "labels"),
    [
        pytest.param(ORG, 1, [], id="no labels"),
        pytest.param(ORG, 1, [f"label-{number}" for number in range(101)], id="too many labels"),
        pytest.param(ORG, 2, ["ci"], id="a group that does not exist"),
        pytest.param("/repos/acme/app", 5, ["ci"], id="a group in a repository"),
    ],
)
def test_what_github_does_not_accept_cannot_be_registered(scope: str, group_id: int, labels: list[str]) -> None:
    world = new_world()
    world.groups["large"] = 5
    with pytest.raises(ApiError) as error:
        world.register_runner(scope, "ry-1", group_id, labels)
    assert status_of(error) == 422
    assert not world.runners


def test_a_runner_with_a_job_cannot_be_deleted(world: World) -> None:
    runner = listen(world)
    queue(world, "ci")
    world.hand_out_jobs()
    with pytest.raises(ApiError, match='Runner "ry-1" is still running a job') as error:
        world.delete_runner(ORG, runner.id)
    assert status_of(error) == 422


@pytest.mark.parametrize("scope", ["/orgs/other", "/repos/acme/app"])
def test_a_runner_is_not_found_under_another_scope(world: World, scope: str) -> None:
    runner = register(world)
    with pytest.raises(ApiError) as error:
        world.delete_runner(scope, runner.id)
    assert status_of(error) == 404
    assert world.list_runners(scope, None) == []
    assert world.list_runners(ORG, "ry-1") == [runner]
    assert world.list_runners(ORG, "ry-2") == []


def test_a_queued_job_can_be_cancelled_and_is_then_given_to_nobody(world: World) -> None:
    job = queue(world, "ci")
    assert world.cancel(job.id) is job
    assert (job.status, job.conclusion, job.started_at, job.completed_at) == ("completed", "cancelled", None, START)
    listen(world)
    assert world.hand_out_jobs() == []


@pytest.mark.parametrize("has_ended", [False, True])
def test_a_job_that_a_runner_has_or_had_cannot_be_cancelled(world: World, has_ended: bool) -> None:
    runner = listen(world)
    job = queue(world, "ci")
    world.hand_out_jobs()
    if has_ended:
        world.finish(runner, "success")
    assert world.cancel(job.id) is None
    assert job.conclusion == ("success" if has_ended else None)


def test_a_job_that_does_not_exist_cannot_be_cancelled(world: World) -> None:
    with pytest.raises(ApiError) as error:
        world.cancel(1)
    assert status_of(error) == 404


def test_the_job_of_a_runner_that_has_vanished_fails(world: World) -> None:
    runner = listen(world)
    job = queue(world, "ci")
    world.hand_out_jobs()
    world.now = lambda: START + timedelta(minutes=1)
    assert world.lose(runner) is job
    assert (job.status, job.conclusion, job.completed_at) == ("completed", "failure", START + timedelta(minutes=1))
    assert runner.id not in world.runners


def test_an_idle_runner_that_has_vanished_is_offline_and_still_registered(world: World) -> None:
    runner = listen(world)
    assert world.lose(runner) is None
    assert runner.session is None
    assert world.find_runner(ORG, runner.id) is runner


def test_a_runner_without_a_job_has_nothing_to_finish(world: World) -> None:
    with pytest.raises(ApiError) as error:
        world.finish(listen(world), "success")
    assert status_of(error) == 422


def test_the_jobs_of_one_dispatch_share_their_run(world: World) -> None:
    one, two = world.dispatch("acme/app", "ci", "main", [JobSpec("a", ("ci",)), JobSpec("b", ("ci",))])
    other = queue(world, "ci")
    assert (one.run_id, one.head_sha) == (two.run_id, two.head_sha)
    assert other.run_id != one.run_id
    assert len({one.id, two.id, other.id, one.run_id, other.run_id}) == 5


def with_own_runners(world: World, sizes: str) -> list[Job]:
    """A job of each size, and a listening runner that was made for it."""
    jobs = world.dispatch("acme/app", "ci", "main", [JobSpec(f"job-{n}", ("ci",), size=s) for n, s in enumerate(sizes)])
    for job in jobs:
        runner = world.register_runner("/orgs/acme", f"ry-default-{job.id}-a1", 1, ["ci"])
        runner.is_listening, runner.online_at = True, START
    return jobs


def test_an_adversary_hands_every_job_to_a_runner_of_another_size() -> None:
    world = new_world(hand_out=HandOut.WRONG)
    jobs = with_own_runners(world, "aabb")
    world.hand_out_jobs()
    size_of = {f"ry-default-{job.id}-a1": job.size for job in jobs}
    assert all(job.runner_name is not None and size_of[job.runner_name] != job.size for job in jobs)


def test_an_adversary_waits_for_the_wrong_runner_but_not_for_ever() -> None:
    world = new_world(hand_out=HandOut.WRONG)
    with_own_runners(world, "a")
    assert world.hand_out_jobs() == []
    world.now = lambda: START + 2 * PATIENCE[HandOut.WRONG]
    assert len(world.hand_out_jobs()) == 1


def test_swapped_jobs_get_each_others_runners_in_one_cycle() -> None:
    world = new_world(hand_out=HandOut.SWAPPED)
    jobs = with_own_runners(world, "abc")
    assert len(world.hand_out_jobs()) == 3
    assert [job.runner_name for job in jobs] == [f"ry-default-{job.id}-a1" for job in (*jobs[1:], jobs[0])]


def test_somebody_elses_runner_can_take_a_job_that_is_queued() -> None:
    world = new_world()
    (job,) = with_own_runners(world, "a")
    world.steal(job.id, "somebody-elses-1")
    assert (job.status, job.runner_name) == ("in_progress", "somebody-elses-1")
    assert world.hand_out_jobs() == []
    with pytest.raises(ApiError):
        world.steal(job.id, "somebody-elses-2")
