"""What GitHub shows of itself: pages, and what is read out of recorded ones."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from functions.github import listings
from functions.github.errors import TryLater
from functions.github.listings import APP_HOOK, Delivery, Hook, Repository
from functions.github.protocol import Answer, Scope

API = Path(__file__).parents[2] / "payloads" / "api"
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
ORG = Scope.organization("acme")


def answer(body: Any, status: int = 200, **headers: str) -> Answer:
    return Answer(status, headers, json.dumps(body).encode())


def recorded(name: str) -> Any:
    document = json.loads((API / name).read_text())
    return document["body"] if isinstance(document, dict) and "body" in document else document


def delivery(**changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = recorded("app-hook-deliveries.list.200.docs.json")[0]
    return fields | changes


def test_the_deliveries_of_githubs_documentation_are_read() -> None:
    page = listings.read_deliveries(answer(recorded("app-hook-deliveries.list.200.docs.json")), NOW)
    first, second = page.items
    guid = "0b989ba4-242f-11e5-81e1-c7b6966d2516"
    assert first == Delivery(12345678, guid, datetime(2019, 6, 3, 0, 57, 16, tzinfo=UTC), True, "issues")
    assert second.guid == first.guid, "a redelivery has a new id and the same guid"
    assert page.next_query is None


@pytest.mark.parametrize(
    ("status_code", "is_ok"), [(200, True), (202, True), (0, False), (302, False), (400, False), (503, False)]
)
def test_only_an_answer_in_the_two_hundreds_is_a_success(status_code: int, is_ok: bool) -> None:
    """GitHub's own filter for failures leaves out those without an answer, which have status 0."""
    [found] = listings.read_deliveries(answer([delivery(status_code=status_code)]), NOW).items
    assert found.is_ok is is_ok


@pytest.mark.parametrize(
    ("link", "query"),
    [
        ("", None),
        ('<https://api.github.com/x?page=1>; rel="prev"', None),
        (
            '<https://api.github.com/x?page=1>; rel="prev", <https://api.github.com/y?per_page=100&page=3>; rel="next"',
            {"per_page": "100", "page": "3"},
        ),
        (
            '<https://api.github.com/app/hook/deliveries?cursor=v1_17%2C5>; rel="next"',
            {"cursor": "v1_17,5"},
        ),
        ("<>; rel=next", None),
        ('rel="next"', None),
    ],
)
def test_the_next_page_is_the_links_query(link: str, query: dict[str, str] | None) -> None:
    assert listings.read_deliveries(answer([], link=link), NOW).next_query == query


def test_a_further_page_is_asked_of_the_same_path() -> None:
    request = listings.next_page(listings.list_deliveries(APP_HOOK), {"cursor": "v1_5"})
    assert (request.path, request.query) == ("/app/hook/deliveries", {"per_page": "100", "cursor": "v1_5"})


def hook(**changes: Any) -> dict[str, Any]:
    config = {"url": "https://runyard.example/hook", "content_type": "json"}
    return {"id": 7, "active": True, "events": ["push", "workflow_job"], "config": config} | changes


@pytest.mark.parametrize(
    ("changes", "is_ours"),
    [
        ({}, True),
        ({"events": ["*"]}, True),
        ({"config": {"url": "https://runyard.example/hook/"}}, True),
        ({"events": ["push"]}, False),
        ({"active": False}, False),
        ({"config": {"url": "https://other.example/hook"}}, False),
        ({"config": {}}, False),
    ],
    ids=["ours", "all events", "a slash more", "other events", "switched off", "elsewhere", "no address"],
)
def test_only_webhooks_that_send_jobs_to_us_are_ours(changes: dict[str, Any], is_ours: bool) -> None:
    page = listings.read_hooks(answer([hook(**changes)]), ORG, "https://runyard.example/hook", NOW)
    assert page.items == ((Hook("/orgs/acme/hooks/7"),) if is_ours else ())


def test_a_hook_knows_whose_it_is() -> None:
    assert Hook("/repos/acme/app/hooks/7").scope == Scope.repository("acme/app")
    assert APP_HOOK.is_of_app
    assert not Hook("/orgs/acme/hooks/7").is_of_app


def test_recorded_runs_and_jobs_are_read() -> None:
    assert listings.read_run_ids(answer(recorded("runs.list.queued.200.json")), NOW).items == (30433642,)
    jobs = listings.read_jobs(answer(recorded("run-jobs.list.200.recorded.json")), NOW).items
    assert len(jobs) == 5
    assert jobs[0]["name"] == "test (Python 3.7)"


def test_recorded_runners_are_read() -> None:
    found = listings.read_runners(answer(recorded("runners.list.org.200.recorded.json")), NOW).items
    assert found
    assert all(runner.runner_id and runner.name for runner in found)


def test_what_is_gone_is_none_and_what_is_refused_is_not() -> None:
    assert listings.read_job(answer({"message": "Not Found"}, 404), NOW) is None
    with pytest.raises(TryLater):
        listings.read_job(answer({"message": "oops"}, 502), NOW)


def test_repositories_that_take_no_jobs_any_more_are_left_out() -> None:
    def repository(name: str, **changes: Any) -> dict[str, Any]:
        return {"full_name": name, "owner": {"login": name.partition("/")[0], "type": "Organization"}} | changes

    body = [repository("acme/app"), repository("acme/old", archived=True), repository("acme/off", disabled=True)]
    body.append(repository("me/x", owner={"login": "me", "type": "User"}))
    found = listings.read_repositories(answer(body), NOW).items
    assert found == (Repository("acme/app", True), Repository("me/x", False))
    assert found == listings.read_installation_repositories(answer({"repositories": body}), NOW).items
    assert found[0].owner == "acme"
