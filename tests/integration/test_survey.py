"""A look around at GitHub: pages, ETags and a budget, against the simulated GitHub."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from functions.github.client import GitHubClient
from functions.github.errors import GitHubError
from functions.github.listings import APP_HOOK, Hook, Repository
from functions.github.protocol import Scope
from functions.github.survey import KeptAnswers, OutOfRequests, Survey
from local.stack import Stack
from tests.integration.github_tools import app_of, client_of, github_alone, now

ORG, REPOSITORY = Scope.organization("acme"), Repository("acme/app", True)
HOOK = Hook("/orgs/acme/hooks/1")


@pytest.fixture(scope="module")
def github(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with github_alone(tmp_path_factory.mktemp("github"), users="octocat") as stack:
        yield stack


@pytest.fixture(scope="module")
def app_github(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with github_alone(tmp_path_factory.mktemp("app"), is_app=True, users="octocat") as stack:
        yield stack


@pytest.fixture
async def client(github: Stack, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GitHubClient]:
    async with client_of(github, SecretStr(github.github_token), monkeypatch) as client:
        yield client


@pytest.fixture
async def app_client(app_github: Stack, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GitHubClient]:
    async with client_of(app_github, app_of(app_github), monkeypatch) as client:
        yield client


def look_around(client: GitHubClient, requests: int = 1000) -> Survey:
    survey = Survey(client, KeptAnswers(), now)
    survey.allow(requests)
    return survey


@pytest.fixture
def survey(client: GitHubClient) -> Survey:
    return look_around(client)


def queue(github: Stack, count: int, repository: str = "acme/app", **job: Any) -> list[dict[str, Any]]:
    jobs = [{"name": f"job {number}", "labels": ["ci"]} | job for number in range(count)]
    queued = github.dispatch(repository, jobs)
    github.control("POST", "/settle")
    return queued


async def test_every_delivery_is_found_newest_first_and_page_by_page(survey: Survey, github: Stack) -> None:
    queue(github, 120)
    first = await survey.list_deliveries(HOOK, {})
    assert first.next_query is not None
    second = await survey.list_deliveries(HOOK, first.next_query)
    ids = [delivery.id for page in (first, second) for delivery in page.items]
    assert len(first.items) == 100
    assert ids == sorted(ids, reverse=True)
    assert len(set(ids)) >= 120
    assert not any(delivery.is_ok for delivery in first.items), "there is nobody to deliver to"


async def test_a_redelivery_keeps_the_guid(survey: Survey, github: Stack) -> None:
    queue(github, 1)
    newest = (await survey.list_deliveries(HOOK, {})).items[0]
    await survey.redeliver(HOOK, newest.id)
    github.control("POST", "/settle")
    again = (await survey.list_deliveries(HOOK, {})).items[0]
    assert again.id != newest.id
    assert again.guid == newest.guid


async def test_a_hook_shows_only_its_own_deliveries(survey: Survey, github: Stack) -> None:
    queue(github, 1, "octocat/one")
    queue(github, 1, "octocat/one-more")
    (hook,) = await survey.list_hooks(Scope.repository("octocat/one"), github.function_url)
    assert len((await survey.list_deliveries(hook, {})).items) == 1
    assert await survey.list_hooks(Scope.repository("octocat/one"), "https://elsewhere.example") == ()


async def test_an_app_sees_its_deliveries_and_an_installations_repositories(
    app_client: GitHubClient, app_github: Stack
) -> None:
    survey = look_around(app_client)
    queue(app_github, 1)
    queue(app_github, 1, "octocat/mine")
    page = await survey.list_deliveries(APP_HOOK, {})
    assert len(page.items) == 2
    await survey.redeliver(APP_HOOK, page.items[0].id)
    assert await survey.list_repositories("acme") == (Repository("acme/app", True),)
    assert await survey.list_repositories("octocat") == (Repository("octocat/mine", False),)


async def test_repositories_of_organizations_and_of_users_are_found(survey: Survey, github: Stack) -> None:
    queue(github, 1, "acme/app")
    queue(github, 1, "octocat/mine")
    assert REPOSITORY in await survey.list_repositories("acme")
    assert Repository("octocat/mine", False) in await survey.list_repositories("octocat")


async def test_a_queued_job_is_found_in_a_run_that_is_in_progress(survey: Survey, github: Stack) -> None:
    first, second = queue(github, 2, "acme/half")
    assert github.control("POST", f"/cancel/{first['id']}") == {"cancelled": True}
    repository = Repository("acme/half", True)
    assert await survey.list_runs(repository) == (first["run_id"],)
    states = {job["id"]: job["status"] for job in await survey.list_jobs(repository, first["run_id"])}
    assert states == {first["id"]: "completed", second["id"]: "queued"}
    found = await survey.read_job(repository, second["id"])
    assert found is not None
    assert found["name"] == second["name"]
    assert await survey.read_job(repository, 1) is None


async def test_jobs_of_large_runs_are_all_found(survey: Survey, github: Stack) -> None:
    queued = queue(github, 256, "acme/large")
    found = await survey.list_jobs(Repository("acme/large", True), queued[0]["run_id"])
    assert [job["id"] for job in found] == [job["id"] for job in queued]


async def test_what_has_not_changed_costs_nothing(survey: Survey, github: Stack) -> None:
    queue(github, 1, "acme/quiet")
    repository = Repository("acme/quiet", True)
    first = await survey.list_runs(repository)
    before, used = survey.requests, github.github_state()["rate_limit_used"]
    assert await survey.list_runs(repository) == first
    assert (survey.requests, github.github_state()["rate_limit_used"]) == (before, used)
    queue(github, 1, "acme/quiet")
    assert len(await survey.list_runs(repository)) == 2
    assert survey.requests == before + 1


async def test_a_run_asks_no_more_than_it_may(client: GitHubClient, github: Stack) -> None:
    survey = look_around(client, 3)
    for number in range(3):
        await survey.read_job(REPOSITORY, number)
    with pytest.raises(OutOfRequests, match="3 requests are enough"):
        await survey.read_job(REPOSITORY, 4)


async def test_the_last_fifth_of_the_rate_limit_is_left_to_webhooks(survey: Survey, github: Stack) -> None:
    github.control("POST", "/rate-limit", {"limit": 1000, "used": 810, "reset_in_s": 600})
    await survey.read_job(REPOSITORY, 1)
    with pytest.raises(OutOfRequests, match="little is left"):
        await survey.read_job(REPOSITORY, 2)


async def test_a_runner_is_seen_as_github_sees_it(survey: Survey, client: GitHubClient, github: Stack) -> None:
    from functions.github.protocol import RunnerOrder

    made = await asyncio.gather(
        *(client.create_jit_runner(RunnerOrder(ORG, f"ry-many-{n}", "default", ("ci",))) for n in range(101))
    )
    listed = await survey.list_runners(ORG)
    assert {runner.runner_id for runner in made} <= {runner.runner_id for runner in listed}
    found = await survey.read_runner(ORG, made[0].runner_id)
    assert found is not None
    assert (found.name, found.is_online, found.is_busy) == ("ry-many-0", False, False)
    await survey.delete_runner(ORG, made[0].runner_id)
    assert await survey.read_runner(ORG, made[0].runner_id) is None


async def test_a_failure_in_the_middle_of_a_list_is_told(survey: Survey, github: Stack) -> None:
    """Half a list must not pass for the whole."""
    queue(github, 120, "acme/broken")
    run_id = (await survey.list_runs(Repository("acme/broken", True)))[0]
    github.control("POST", "/faults", {"operation": "list-run-jobs", "status": 502, "times": 1})
    with pytest.raises(GitHubError):
        await survey.list_jobs(Repository("acme/broken", True), run_id)


def test_no_more_answers_are_kept_than_there_is_room_for() -> None:
    from functions.github.protocol import Answer

    kept = KeptAnswers(most_bytes=100)
    for number in range(10):
        kept.keep(str(number), Answer(200, {"etag": str(number)}, b"x" * 30))
    assert [key for key in map(str, range(10)) if kept.find(key)] == ["7", "8", "9"]
    kept.keep("9", Answer(200, {}, b"without an etag"))
    assert kept.find("9") is None
