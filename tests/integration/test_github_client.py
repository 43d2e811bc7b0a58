"""The GitHub client against the simulated GitHub, over TLS."""

import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import pytest
from pydantic import SecretStr

from functions.github.client import GitHubClient
from functions.github.errors import NoAnswer, Refused, TryLater
from functions.github.protocol import RunnerOrder, Scope
from local.stack import Stack
from tests.integration.github_tools import app_of, client_of, github_alone, now

ORG = Scope.organization("acme")


@pytest.fixture(scope="module")
def github(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """It accepts a token and an App."""
    with github_alone(tmp_path_factory.mktemp("github"), is_app=True) as stack:
        yield stack


@pytest.fixture
async def client(github: Stack, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GitHubClient]:
    async with client_of(github, SecretStr(github.github_token), monkeypatch) as client:
        yield client


@pytest.fixture
async def app_client(github: Stack, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GitHubClient]:
    async with client_of(github, app_of(github), monkeypatch) as client:
        yield client


def a_name() -> str:
    return f"ry-{uuid.uuid4().hex[:10]}"


async def create(client: GitHubClient, name: str, scope: Scope = ORG) -> int:
    return (await client.create_jit_runner(RunnerOrder(scope, name, "default", ("ci",)))).runner_id


async def test_a_runner_is_registered_with_exactly_the_labels_asked_for(client: GitHubClient, github: Stack) -> None:
    name = a_name()
    runner = await client.create_jit_runner(RunnerOrder(ORG, name, "default", ("self-hosted", "CI")))
    (found,) = [r for r in github.github_state()["runners"] if r["name"] == name]
    assert found["id"] == runner.runner_id
    assert [label["name"] for label in found["labels"]] == ["self-hosted", "CI"]
    assert runner.config.get_secret_value() not in repr(runner)


async def test_a_leftover_of_a_lost_answer_is_replaced(client: GitHubClient) -> None:
    """GitHub has the runner, we never heard of it, and the next try with that name is answered 409."""
    name = a_name()
    first = await create(client, name)
    assert await create(client, name) != first


async def test_a_name_that_somebody_else_uses_is_tried_again_later_with_another(
    client: GitHubClient, github: Stack
) -> None:
    github.control("POST", "/faults", {"operation": "generate-jitconfig", "status": 409})
    with pytest.raises(TryLater, match="is there already"):
        await create(client, a_name())


SECONDARY = {
    "status": 403,
    "headers": {"retry-after": "60"},
    "body": '{"message": "You have exceeded a secondary rate limit."}',
}


async def test_whoever_was_refused_for_asking_too_much_asks_nothing_until_the_time_is_over(
    client: GitHubClient, github: Stack
) -> None:
    """GitHub bans those who go on asking."""
    github.control("POST", "/faults", {"operation": "generate-jitconfig", **SECONDARY})
    with pytest.raises(TryLater) as first:
        await create(client, a_name())
    before = len(github.github_state()["requests"])
    for scope in (ORG, Scope.repository("acme/app")):
        with pytest.raises(TryLater) as second:
            await create(client, a_name(), scope)
        assert abs(second.value.retry_at - first.value.retry_at) < timedelta(seconds=1)  # type: ignore[operator]
    assert len(github.github_state()["requests"]) == before
    client._now = lambda: now() + timedelta(seconds=61)
    assert await create(client, a_name())


async def test_the_last_call_of_an_hour_is_known_to_be_the_last(client: GitHubClient, github: Stack) -> None:
    github.control("POST", "/rate-limit", {"limit": 100, "used": 99, "reset_in_s": 600})
    assert await create(client, a_name())
    before = len(github.github_state()["requests"])
    with pytest.raises(TryLater) as caught:
        await create(client, a_name())
    assert caught.value.retry_at is not None
    assert timedelta(minutes=9) < caught.value.retry_at - now() < timedelta(minutes=11)
    assert len(github.github_state()["requests"]) == before


async def test_an_app_asks_for_another_token_when_one_has_been_revoked(app_client: GitHubClient, github: Stack) -> None:
    await create(app_client, a_name())
    app_client._tokens["acme"] = app_client._tokens["acme"].model_copy(update={"token": SecretStr("ghs_revoked")})
    with pytest.raises(Refused):
        await create(app_client, a_name())
    assert await create(app_client, a_name())


async def test_one_token_is_good_for_all_repositories_of_an_owner(app_client: GitHubClient, github: Stack) -> None:
    before = len(github.github_state()["requests"])
    for scope in (ORG, Scope.repository("acme/app"), Scope.repository("Acme/other")):
        await create(app_client, a_name(), scope)
    paths = [path for _, path in github.github_state()["requests"][before:]]
    assert sum(path.endswith("/access_tokens") for path in paths) == 1


async def test_silence_ends_in_time_and_says_when_to_try_again(client: GitHubClient, github: Stack) -> None:
    github.control("POST", "/faults", {"operation": "generate-jitconfig", "delay_s": 60})
    with pytest.raises(NoAnswer) as caught:
        await create(client, a_name())
    assert caught.value.retry_at is not None
    assert caught.value.retry_at > now()


async def test_deleting_what_is_gone_is_no_error(client: GitHubClient) -> None:
    runner_id = await create(client, a_name())
    await client.delete_runner(ORG, runner_id, None)
    await client.delete_runner(ORG, runner_id, None)


async def test_a_wrong_token_is_refused_without_showing_it(github: Stack, client: GitHubClient) -> None:
    stranger = GitHubClient(github.github_url, SecretStr("ghp_wrong"), now)
    with pytest.raises(Refused, match="credentials") as caught:
        await create(stranger, a_name())
    assert "ghp_wrong" not in str(caught.value)
    await stranger.close()


async def test_an_app_finds_its_installation_and_keeps_the_token(app_client: GitHubClient, github: Stack) -> None:
    before = len(github.github_state()["requests"])
    for _ in range(3):
        await create(app_client, a_name())
    paths = [path for _, path in github.github_state()["requests"][before:]]
    assert paths.count("/orgs/acme/installation") == 1
    assert sum(path.endswith("/access_tokens") for path in paths) == 1
    assert sum(path.endswith("/generate-jitconfig") for path in paths) == 3


async def test_an_app_gets_a_new_token_before_the_old_one_expires(github: Stack, app_client: GitHubClient) -> None:
    await create(app_client, a_name())
    before = len(github.github_state()["requests"])
    app_client._now = lambda: now() + timedelta(minutes=56)
    with pytest.raises(Refused):
        # The simulated GitHub does not believe a JWT from the future, which shows that a new token was asked for.
        await create(app_client, a_name())
    assert len(github.github_state()["requests"]) > before


async def test_nobody_at_the_address_is_no_answer(client: GitHubClient) -> None:
    lost = GitHubClient("https://127.0.0.1:9", SecretStr("t"), now)
    with pytest.raises(NoAnswer, match="cannot be reached"):
        await create(lost, a_name())
    await lost.close()
