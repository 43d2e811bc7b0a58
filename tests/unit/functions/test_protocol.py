"""GitHub's REST API as values: requests, answers and errors."""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.github import protocol
from functions.github.errors import GitHubError, NameTaken, Refused, RunnerBusy, TryLater
from functions.github.protocol import Answer, Request, RunnerOrder, Scope

API = Path(__file__).parents[2] / "payloads" / "api"
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
ORG, REPO = Scope.organization("acme"), Scope.repository("acme/app")
SECRET = "ghs_16C7e42F292c6912E7710c838347Ae178B4a"


def recorded(name: str) -> Any:
    return json.loads((API / name).read_text())


def answer(status: int, body: Any = None, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, named, body if isinstance(body, bytes) else json.dumps(body).encode())


def recorded_answer(name: str) -> Answer:
    """The answer in a file whose name tells the status."""
    document = recorded(name)
    status = next(int(part) for part in name.split(".") if part.isdecimal())
    return answer(status, document.get("body", document))


def recorded_error(case: str) -> Answer:
    [found] = [error for error in recorded("errors.json") if error["case"] == case]
    return Answer(found["status"], found.get("headers", {}), json.dumps(found["body"]).encode())


def refusal_of(refused: Answer) -> GitHubError:
    with pytest.raises(GitHubError) as caught:
        protocol.read_jit_runner(refused, NOW)
    return caught.value


# Requests


@pytest.mark.parametrize(
    ("scope", "path", "is_organization"),
    [
        (ORG, "/orgs/acme", True),
        (REPO, "/repos/acme/app", False),
        (Scope.repository("acme/a.b_c-d"), "/repos/acme/a.b_c-d", False),
        (Scope.organization("acme/../users"), "/orgs/acme%2F..%2Fusers", True),
        (Scope.repository("acme/app?x=1#y"), "/repos/acme/app%3Fx%3D1%23y", False),
    ],
    ids=lambda value: value.path if isinstance(value, Scope) else "",
)
def test_a_scope_is_a_path_that_its_name_cannot_leave(scope: Scope, path: str, is_organization: bool) -> None:
    assert (scope.path, scope.is_organization) == (path, is_organization)


def test_a_jit_runner_is_asked_for_as_in_the_recorded_exchange() -> None:
    exchange = recorded("generate-jitconfig.org.201.recorded.json")["request"]
    asked = exchange["body"]
    scope = Scope.organization("BeaverSoftware")
    order = RunnerOrder(scope, asked["name"], "Default", tuple(asked["labels"]))
    request = protocol.generate_jit_config(order, asked["runner_group_id"])
    assert (request.method, request.path) == (exchange["method"], exchange["path"])
    assert request.body == asked | {"work_folder": "_work"}


@pytest.mark.parametrize(
    ("request_", "method", "path", "query"),
    [
        (protocol.find_runner(ORG, "ry-1"), "GET", "/orgs/acme/actions/runners", {"name": "ry-1"}),
        (protocol.delete_runner(REPO, 7), "DELETE", "/repos/acme/app/actions/runners/7", {}),
        (protocol.list_runner_groups(ORG), "GET", "/orgs/acme/actions/runner-groups", {"per_page": "100"}),
        (protocol.find_installation(REPO), "GET", "/repos/acme/app/installation", {}),
        (protocol.create_installation_token(5), "POST", "/app/installations/5/access_tokens", {}),
    ],
    ids=["find a runner", "delete a runner", "list groups", "find the installation", "create a token"],
)
def test_a_request_has_githubs_method_path_and_query(
    request_: Request, method: str, path: str, query: dict[str, str]
) -> None:
    assert request_ == Request(method, path, None, query)


# Answers


def test_a_recorded_jit_runner_is_read() -> None:
    runner = protocol.read_jit_runner(recorded_answer("generate-jitconfig.org.201.recorded.json"), NOW)
    assert (runner.runner_id, runner.name, runner.config.get_secret_value()) == (545658, "self_hosted", "fake")


def test_a_jit_runner_of_githubs_documentation_is_read() -> None:
    runner = protocol.read_jit_runner(recorded_answer("generate-jitconfig.201.docs.json"), NOW)
    assert (runner.runner_id, runner.name, runner.config.get_secret_value()) == (23, "New runner", "abc123")


@pytest.mark.parametrize(
    ("file", "name", "runner_id"),
    [
        pytest.param("runners.list.org.200.recorded.json", "self_hosted", 545658, id="offline and idle"),
        pytest.param("runners.list.org.200.recorded.json", "windows-2022-64core_6112ccf1efa9", None, id="online"),
        pytest.param("runners.list.org.200.recorded.json", "self_host", None, id="part of a name"),
        pytest.param("runners.list.repo.200.docs.json", "linux_runner", None, id="online and busy"),
        pytest.param("runners.list.repo.200.docs.json", "mac_runner", 24, id="offline, in a repository"),
    ],
)
def test_only_an_offline_idle_runner_of_that_very_name_is_a_leftover(
    file: str, name: str, runner_id: int | None
) -> None:
    assert protocol.read_idle_runner_id(recorded_answer(file), name, NOW) == runner_id


@pytest.mark.parametrize(("status", "is_busy"), [("offline", True), ("online", False), ("online", True)])
def test_a_runner_that_may_have_a_job_is_no_leftover(status: str, is_busy: bool) -> None:
    runners = {"runners": [{"id": 7, "name": "ry-1", "status": status, "busy": is_busy}]}
    assert protocol.read_idle_runner_id(answer(200, runners), "ry-1", NOW) is None


def test_an_installation_token_is_read_with_its_end() -> None:
    token = protocol.read_installation_token(recorded_answer("installation-token.201.docs.json"), NOW)
    assert token.token.get_secret_value() == "ghs_TRUNCATED_EXAMPLE"
    assert token.expires_at == datetime(2016, 7, 11, 22, 14, 10, tzinfo=UTC)


def test_an_installation_is_read() -> None:
    assert protocol.read_installation_id(answer(200, {"id": 23154469, "app_id": 1}), NOW) == 23154469


GROUPS = {"total_count": 2, "runner_groups": [{"id": 1, "name": "Default"}, {"id": 9, "name": "GPU"}]}


@pytest.mark.parametrize(("name", "group_id"), [("GPU", 9), ("gpu", 9), ("default", 1)])
def test_a_runner_group_is_found_by_name_whatever_its_case(name: str, group_id: int) -> None:
    assert protocol.read_group_id(answer(200, GROUPS), name, NOW) == group_id


@pytest.mark.parametrize(("groups", "known"), [(GROUPS["runner_groups"], "Default, GPU"), ([], "none")], ids=str)
def test_a_missing_runner_group_is_refused_with_those_that_exist(groups: object, known: str) -> None:
    with pytest.raises(Refused, match=f"no runner group 'arm' .known: {known}.: create it at GitHub or name another"):
        protocol.read_group_id(answer(200, {"runner_groups": groups}), "arm", NOW)


@pytest.mark.parametrize("status", [204, 404])
def test_a_runner_that_is_gone_is_deleted(status: int) -> None:
    protocol.check_deleted(answer(status, {"message": "Not Found"}), NOW)


def test_a_busy_runner_is_not_deleted() -> None:
    with pytest.raises(RunnerBusy, match="is still running a job"):
        protocol.check_deleted(recorded_error("delete runner that runs a job"), NOW)


# Errors


@pytest.mark.parametrize(
    ("case", "kind", "words"),
    [
        ("generate-jitconfig name taken", NameTaken, "A runner with the name *** already exists"),
        ("delete runner that runs a job", Refused, "still running a job"),
        ("no admin right", Refused, "'Administration: write' (repository)"),
        ("unknown installation", Refused, "Is the App installed"),
        ("permission not granted to installation", Refused, "permissions requested are not granted"),
        ("primary rate limit", TryLater, "GitHub's rate limit is used up: API rate limit exceeded"),
        ("secondary rate limit", TryLater, "GitHub's rate limit is used up: You have exceeded a secondary"),
    ],
)
def test_a_recorded_error_is_told_by_what_to_do_about_it(case: str, kind: type[GitHubError], words: str) -> None:
    error = refusal_of(recorded_error(case))
    assert type(error) is kind
    assert words in str(error)
    assert (error.retry_at is not None) is (kind is TryLater)


def test_every_recorded_error_is_refused() -> None:
    assert all(str(refusal_of(recorded_error(error["case"]))) for error in recorded("errors.json"))


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (200, Refused, "GitHub answered 200"),
        (301, Refused, "GitHub answered 301"),
        (401, Refused, "Check GITHUB_TOKEN or the App's key"),
        (403, Refused, "'Self-hosted runners: write' (organization)"),
        (404, Refused, "does the token see it?"),
        (409, NameTaken, "GitHub answered 409"),
        (422, Refused, "GitHub answered 422"),
        (429, TryLater, "rate limit"),
        (500, TryLater, "GitHub answered 500"),
        (502, TryLater, "GitHub answered 502"),
    ],
)
def test_a_status_decides_between_later_and_never(status: int, kind: type[GitHubError], words: str) -> None:
    error = refusal_of(answer(status, {"message": "Because"}))
    assert type(error) is kind
    assert words in str(error)
    assert "Because" in str(error)


def test_after_a_server_error_a_few_seconds_are_enough() -> None:
    assert refusal_of(answer(503)).retry_at == NOW + timedelta(seconds=15)


RESET = str(int(NOW.timestamp()) + 600)


@pytest.mark.parametrize("status", [403, 429])
@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        pytest.param({"retry_after": "42"}, 42, id="retry-after"),
        pytest.param({"retry_after": "0"}, 0, id="retry-after at once"),
        pytest.param(
            {"retry_after": "42", "x_ratelimit_remaining": "0", "x_ratelimit_reset": RESET}, 42, id="retry-after first"
        ),
        pytest.param({"x_ratelimit_remaining": "0", "x_ratelimit_reset": RESET}, 600, id="then the reset"),
        pytest.param({"x_ratelimit_remaining": "0", "x_ratelimit_reset": "1372700873"}, 1, id="a reset in the past"),
        pytest.param({"x_ratelimit_remaining": "7", "x_ratelimit_reset": RESET}, 60, id="something remains"),
        pytest.param({"x_ratelimit_remaining": "0"}, 60, id="no reset"),
        pytest.param({"retry_after": "Mon, 23 Nov 2026 12:00:42 GMT"}, 60, id="retry-after as a date"),
        pytest.param({"retry_after": "²"}, 60, id="retry-after as no number"),
        pytest.param({"x_ratelimit_remaining": "0", "x_ratelimit_reset": "²"}, 60, id="a reset that is no number"),
        pytest.param({"retry_after": "9" * 5000}, 86_400, id="retry-after without end"),
        pytest.param({"x_ratelimit_remaining": "0", "x_ratelimit_reset": "9" * 30}, 86_400, id="a reset without end"),
        pytest.param({}, 60, id="then a minute"),
    ],
)
def test_a_rate_limit_says_how_long_to_wait(status: int, headers: dict[str, str], wait_s: int) -> None:
    error = refusal_of(answer(status, {"message": "You have exceeded a secondary rate limit."}, **headers))
    assert error.retry_at == NOW + timedelta(seconds=wait_s)


@pytest.mark.parametrize(
    ("message", "headers"),
    [
        ("Must have admin rights to Repository.", {}),
        ("Resource not accessible by integration", {"x_ratelimit_remaining": "4978", "x_ratelimit_reset": RESET}),
    ],
)
def test_a_missing_permission_is_no_rate_limit(message: str, headers: dict[str, str]) -> None:
    error = refusal_of(answer(403, {"message": message}, **headers))
    assert (type(error), error.retry_at) == (Refused, None)


def test_recorded_headers_of_a_success_mean_no_rate_limit() -> None:
    headers = {name.lower(): value for name, value in recorded("response-headers.recorded.json").items()}
    assert refusal_of(Answer(403, headers, b"{}")).retry_at is None


@pytest.mark.parametrize(("refusals", "minutes"), [(0, 1), (1, 2), (3, 8), (4, 16), (50, 16)])
def test_a_secondary_limit_without_a_time_is_waited_for_longer_each_time(refusals: int, minutes: int) -> None:
    """GitHub docs, "Best practices": at least a minute, then exponentially longer."""
    refused = answer(403, {"message": "You have exceeded a secondary rate limit."})
    assert protocol.rate_limit_wait(refused, NOW, refusals) == timedelta(minutes=minutes)
    timed = answer(403, {"message": "You have exceeded a secondary rate limit."}, retry_after="7")
    assert protocol.rate_limit_wait(timed, NOW, refusals) == timedelta(seconds=7)


def test_the_last_call_of_an_hour_says_when_the_next_is_allowed() -> None:
    reset = str(int(NOW.timestamp()) + 90)
    headers = {"x_ratelimit_remaining": "0", "x_ratelimit_reset": reset}
    assert protocol.used_up_wait(answer(200, {}, **headers), NOW) == timedelta(seconds=90)
    assert protocol.used_up_wait(answer(200, {}, **headers | {"x_ratelimit_remaining": "1"}), NOW) is None


@pytest.mark.parametrize("status", [401, 404, 409, 422])
def test_only_403_and_429_are_about_rates(status: int) -> None:
    assert refusal_of(answer(status, {"message": "rate limit"}, retry_after="42")).retry_at is None


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>502 Bad Gateway</html>", b"\xff", b"null", b"[]", b"{}", b'"text"', b"[" * 100_000],
    ids=["empty", "HTML", "no UTF-8", "null", "a list", "no message", "text", "deep"],
)
def test_an_error_without_a_message_is_told_all_the_same(body: bytes) -> None:
    assert str(refusal_of(answer(500, body))) == "GitHub answered 500: no message"


def test_an_errors_message_is_one_short_line() -> None:
    error = refusal_of(answer(422, {"message": "a\n  b\tc\r\n" + "x" * 1000}))
    assert str(error).startswith("GitHub answered 422: a b c xxx")
    assert len(str(error)) < 350
    assert str(error).isprintable()


@pytest.mark.parametrize(
    ("body", "places"),
    [
        (b"", "the body"),
        (b"\xff", "the body"),
        (b"[]", "the body"),
        (b"{}", "runner, encoded_jit_config"),
        (b'{"runner": {"id": "x"}, "encoded_jit_config": 5}', "runner.id, runner.name, encoded_jit_config"),
        (b"[" * 100_000, "the body"),
    ],
    ids=["empty", "no UTF-8", "a list", "no fields", "wrong fields", "deep"],
)
def test_an_unreadable_success_is_worth_another_try_and_tells_its_places(body: bytes, places: str) -> None:
    error = refusal_of(answer(201, body))
    assert str(error) == f"GitHub answered 201 with something unreadable ({places})"
    assert error.retry_at == NOW + timedelta(seconds=15)


# Secrets


@pytest.mark.parametrize(
    "value",
    [
        answer(201, {"token": SECRET}),
        protocol.read_jit_runner(answer(201, {"runner": {"id": 1, "name": "x"}, "encoded_jit_config": SECRET}), NOW),
        protocol.read_installation_token(answer(201, {"token": SECRET, "expires_at": "2026-11-23T13:00:00Z"}), NOW),
    ],
    ids=["an answer", "a runner", "a token"],
)
def test_what_holds_a_secret_does_not_show_it(value: object) -> None:
    assert SECRET not in f"{value} {value!r}"


@pytest.mark.parametrize(
    "body",
    [
        {"encoded_jit_config": SECRET},
        {"runner": SECRET, "encoded_jit_config": SECRET},
        {"runner": {"id": SECRET, "name": [SECRET]}, "encoded_jit_config": [SECRET]},
        SECRET,
        {SECRET: SECRET},
    ],
    ids=["no runner", "text for a runner", "lists for texts", "text", "as a key"],
)
def test_an_error_does_not_show_the_secret_of_an_unreadable_success(body: object) -> None:
    error = refusal_of(answer(201, body))
    assert SECRET not in f"{error} {error!r}"
    assert error.__suppress_context__


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([200, 201, 204, 301, 400, 401, 403, 404, 409, 422, 429, 500, 503]) | st.integers(100, 999),
    st.dictionaries(
        st.sampled_from(["retry-after", "x-ratelimit-remaining", "x-ratelimit-reset"]),
        st.text(st.characters(codec="latin-1"), max_size=30) | st.integers(0).map(str),
    ),
    st.binary(max_size=30) | st.dictionaries(st.just("message"), st.text() | st.none()).map(json.dumps).map(str.encode),
)
def test_whatever_comes_back_is_a_value_or_a_githuberror(status: int, headers: dict[str, str], body: bytes) -> None:
    back = Answer(status, headers, body)
    for read in (protocol.read_jit_runner, protocol.read_installation_token, protocol.check_deleted):
        with suppress(GitHubError):
            read(back, NOW)
