"""What deliveries say: recorded ones, broken ones and arbitrary ones."""

import copy
import json
from collections.abc import Iterator
from dataclasses import astuple, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.routing.job import JobFacts
from functions.webhook.event import Action, Ignored, JobEvent, MalformedPayload, Ping, parse_event

PAYLOADS = Path(__file__).parents[2] / "payloads"
BROKEN = PAYLOADS / "broken"
JSON, FORM = "application/json", "application/x-www-form-urlencoded"

at = datetime.fromisoformat

GRAFANA_QUEUED = JobEvent(
    action=Action.QUEUED,
    owner="foo",
    is_organization=False,
    facts=JobFacts("foo/webhook-testing", "pre-commit", ("ubuntu-latest",), "Tests", "main"),
    run_id=6454805877,
    run_attempt=10,
    job_id=17556730984,
    created_at=at("2023-10-13T10:11:27Z"),
    head_sha="4d6ee57193c29fc3b23723c386f462287b60bf87",
    html_url="https://github.com/foo/webhook-testing/actions/runs/6454805877/job/17556730984",
    started_at=None,
    completed_at=None,
    conclusion=None,
    runner_id=None,
    runner_name=None,
    installation_id=None,
)
OCTOKIT_IN_PROGRESS = JobEvent(
    action=Action.IN_PROGRESS,
    owner="Octocoders",
    is_organization=True,
    facts=JobFacts("Codertocat/Hello-World", "Analyze (javascript)", ("ubuntu-latest",), "CodeQL", "main"),
    run_id=2202229078,
    run_attempt=1,
    job_id=289782451,
    created_at=at("2021-09-13T02:21:13Z"),
    head_sha="3484a3fb816e0859fd6e1cea078d76385ff50625",
    html_url="https://github.com/octo-org/octo-repo/runs/1291536064",
    started_at=at("2021-09-13T02:21:13Z"),
    completed_at=None,
    conclusion=None,
    runner_id=5,
    runner_name="GitHub Actions 5",
    installation_id=1,
)
RECORDED: dict[str, JobEvent | Ping | Ignored] = {
    "derived.workflow_job.completed.cancelled-while-queued.json": JobEvent(
        action=Action.COMPLETED,
        owner="foo",
        is_organization=False,
        facts=JobFacts("foo/webhook-testing", "build (arm64)", ("self-hosted", "arm64"), "slack-notifier", "main"),
        run_id=4738060033,
        run_attempt=1,
        job_id=12848997134,
        created_at=at("2023-04-19T00:03:12Z"),
        head_sha="4d6ee57193c29fc3b23723c386f462287b60bf87",
        html_url="https://github.com/foo/webhook-testing/actions/runs/6454805877/job/17556730984",
        started_at=None,
        completed_at=at("2023-04-19T00:03:42Z"),
        conclusion="cancelled",
        runner_id=None,
        runner_name=None,
        installation_id=None,
    ),
    "derived.workflow_job.queued.group-only.json": replace(
        GRAFANA_QUEUED, facts=JobFacts("foo/webhook-testing", "deploy", (), "Tests", "main")
    ),
    "derived.workflow_job.queued.non-ascii.json": replace(
        GRAFANA_QUEUED,
        facts=JobFacts(
            "foo/webhook-testing",
            "テスト (ubuntu-24.04, naïve café ✓)",
            ("self-hosted", "linux", "größe-xl"),
            "Tests",
            "feature/äöü-日本語",
        ),
    ),
    "other.installation.created.octokit.json": Ignored(
        "event 'installation' is not subscribed to: send workflow_job only"
    ),
    "other.installation.deleted.octokit.json": Ignored(
        "event 'installation' is not subscribed to: send workflow_job only"
    ),
    "other.installation_repositories.added.octokit.json": Ignored(
        "event 'installation_repositories' is not subscribed to: send workflow_job only"
    ),
    "other.workflow_run.requested.octokit.json": Ignored(
        "event 'workflow_run' is not subscribed to: send workflow_job only"
    ),
    "ping.app.octokit.json": Ping("Anything added dilutes everything else."),
    "ping.repo.octokit.json": Ping("Anything added dilutes everything else."),
    "workflow_job.completed.check-run-in-disguise.grafana.json": Ignored(
        "a skipped job, or a check run that never was a job"
    ),
    "workflow_job.completed.failure.org.octokit.json": replace(
        OCTOKIT_IN_PROGRESS,
        action=Action.COMPLETED,
        facts=JobFacts("Codertocat/Hello-World", "linters", ("ubuntu-latest",), "CodeQL", "main"),
        created_at=at("2021-08-05T10:33:58Z"),
        started_at=at("2021-08-05T10:34:58Z"),
        completed_at=at("2021-08-05T10:38:16Z"),
        conclusion="failure",
        installation_id=None,
    ),
    "workflow_job.completed.failure.self-hosted-lost.tarantool.json": JobEvent(
        action=Action.COMPLETED,
        owner="tarantool",
        is_organization=True,
        facts=JobFacts("tarantool/tarantool", "osx_11_lto", ("macos-11",)),
        run_id=2934728824,
        run_attempt=1,
        job_id=8039369388,
        created_at=at("2022-08-26T15:16:28Z"),
        head_sha="48a3ecdac4c95d69f69ea17c5ccadb549d0d65b5",
        html_url="https://github.com/tarantool/tarantool/runs/8039369388?check_suite_focus=true",
        started_at=at("2022-08-26T15:16:28Z"),
        completed_at=at("2022-08-26T15:28:00Z"),
        conclusion="failure",
        runner_id=244,
        runner_name="tntmac06",
        installation_id=None,
    ),
    "workflow_job.completed.skipped.org.otel.json": Ignored("a skipped job, or a check run that never was a job"),
    "workflow_job.completed.success.real-attempt10.grafana.json": replace(
        GRAFANA_QUEUED,
        action=Action.COMPLETED,
        started_at=at("2023-10-13T10:11:34Z"),
        completed_at=at("2023-10-13T10:11:44Z"),
        conclusion="success",
        runner_id=2,
        runner_name="GitHub Actions 2",
    ),
    "workflow_job.completed.success.with-headers.sentry.json": JobEvent(
        action=Action.COMPLETED,
        owner="armenzg",
        is_organization=False,
        facts=JobFacts("armenzg/sentry-hackweek", "salutation", ("ubuntu-latest",)),
        run_id=1113865931,
        run_attempt=2,
        job_id=3283437728,
        created_at=at("2021-08-09T18:12:37Z"),
        head_sha="2238b40c4b398874db76239c1d60325af9037563",
        html_url="https://github.com/armenzg/sentry-hackweek/runs/3283437728",
        started_at=None,
        completed_at=at("2021-08-09T18:12:41Z"),
        conclusion="success",
        runner_id=None,
        runner_name=None,
        installation_id=None,
    ),
    "workflow_job.in_progress.matrix-name.octokit.json": OCTOKIT_IN_PROGRESS,
    "workflow_job.queued.action-queued-status-waiting.octokit.json": Ignored("the job is waiting, not queued yet"),
    "workflow_job.queued.octokit.json": replace(
        OCTOKIT_IN_PROGRESS,
        action=Action.QUEUED,
        facts=JobFacts("Codertocat/Hello-World", "update", ("ubuntu-latest",), "CodeQL", "main"),
        started_at=None,
        installation_id=3456996,
    ),
    "workflow_job.queued.org.custom-label.arc.json": JobEvent(
        action=Action.QUEUED,
        owner="MYORG",
        is_organization=True,
        facts=JobFacts("MYORG/MYREPO", "build", ("label1",)),
        run_id=1234567890,
        run_attempt=1,
        job_id=1234567890,
        created_at=at("2021-09-28T23:45:29Z"),
        head_sha="1234567890123456789012345678901234567890",
        html_url="https://github.com/MYORG/MYREPO/runs/1234567890",
        started_at=None,
        completed_at=None,
        conclusion=None,
        runner_id=None,
        runner_name=None,
        installation_id=None,
    ),
    "workflow_job.queued.real-attempt10.grafana.json": GRAFANA_QUEUED,
    "workflow_job.queued.self-hosted-only.terraform-aws.json": JobEvent(
        action=Action.QUEUED,
        owner="github-aws-runners",
        is_organization=True,
        facts=JobFacts("github-aws-runners/terraform-aws-github-runner", "build", ("self-hosted",)),
        run_id=1068820843,
        run_attempt=1,
        job_id=3169272040,
        created_at=at("2021-07-27T07:33:38Z"),
        head_sha="3a8defcc0a6acc14b4839aec403eb3eca05069f8",
        html_url="https://github.com/github-aws-runners/terraform-aws-github-runner/runs/3169272040",
        started_at=None,
        completed_at=None,
        conclusion=None,
        runner_id=None,
        runner_name=None,
        installation_id=None,
    ),
    "workflow_job.waiting.octokit.json": Ignored("action 'waiting' needs nothing"),
}
# file, and what the refusal must say
BROKEN_PAYLOADS = {
    "ping.body-is-text.json": "the body is not a JSON object",
    "ping.zen-is-a-map.json": "not a ping payload: zen: ",
    "ping.zen-is-half-a-surrogate-pair.json": "not a ping payload: zen: ",
    "workflow_job.action-is-a-list.json": "payload: action: ",
    "workflow_job.action-is-missing.json": "payload: action: Field required",
    "workflow_job.body-is-a-form.json": "the body is not JSON",
    "workflow_job.body-is-a-list.json": "the body is not a JSON object",
    "workflow_job.body-is-cut-off.json": "the body is not JSON",
    "workflow_job.body-is-empty.json": "the body is not JSON",
    "workflow_job.body-is-json.form": "the body is not a form",
    "workflow_job.body-is-latin-1.json": "the body is not JSON",
    "workflow_job.bytes-beyond-ascii.form": "the body is not a form",
    "workflow_job.created-at-is-no-time.json": "payload: workflow_job.created_at: ",
    "workflow_job.eleven-fields.form": "the body is not a form",
    "workflow_job.id-exceeds-64-bits.json": "payload: workflow_job.id: ",
    "workflow_job.id-has-a-fraction.json": "payload: workflow_job.id: ",
    "workflow_job.id-is-a-name.json": "payload: workflow_job.id: ",
    "workflow_job.id-is-negative.json": "payload: workflow_job.id: ",
    "workflow_job.id-is-not-a-number.json": "payload: workflow_job.id: ",
    "workflow_job.installation-is-a-number.json": "payload: installation: ",
    "workflow_job.job-is-a-list.json": "payload: workflow_job: ",
    "workflow_job.job-is-missing.json": "payload: workflow_job: Field required",
    "workflow_job.label-is-a-number.json": "payload: workflow_job.labels.1: ",
    "workflow_job.labels-are-null.json": "payload: workflow_job.labels: ",
    "workflow_job.labels-are-text.json": "payload: workflow_job.labels: ",
    "workflow_job.labels-exceed-a-hundred.json": "payload: workflow_job.labels: ",
    "workflow_job.name-is-half-a-surrogate-pair.json": "payload: workflow_job.name: ",
    "workflow_job.name-is-null.json": "payload: workflow_job.name: ",
    "workflow_job.nested-ten-thousand-deep.json": "not JSON",
    "workflow_job.number-of-5000-digits.json": "the body is not JSON",
    "workflow_job.owner-is-null.json": "payload: repository.owner: ",
    "workflow_job.owner-login-ends-with-a-line-break.json": "payload: repository.owner.login: ",
    "workflow_job.owner-login-has-a-slash.json": "payload: repository.owner.login: ",
    "workflow_job.payload-is-cut-off.form": "the body is not JSON",
    "workflow_job.payload-is-empty.form": "the form has no field 'payload'",
    "workflow_job.payload-is-missing.form": "the form has no field 'payload'",
    "workflow_job.repository-is-missing.json": "payload: repository: Field required",
    "workflow_job.repository-name-has-no-owner.json": "payload: repository.full_name: ",
    "workflow_job.repository-name-is-a-path.json": "payload: repository.full_name: ",
    "workflow_job.run-attempt-exceeds-64-bits.json": "payload: workflow_job.run_attempt: ",
    "workflow_job.runner-id-exceeds-64-bits.json": "payload: workflow_job.runner_id: ",
    "workflow_job.started-at-has-no-time-zone.json": "payload: workflow_job.started_at: ",
    "workflow_job.started-at-is-missing.json": "payload: workflow_job.started_at: Field required",
    "workflow_job.status-is-missing.json": "payload: workflow_job.status: Field required",
    "workflow_job.url-has-half-a-surrogate-pair.json": "payload: workflow_job.html_url: ",
}


def event_name(file_name: str) -> str:
    """The event that a file is named for."""
    return file_name.removeprefix("derived.").removeprefix("other.").partition(".")[0]


def delivered(file_name: str) -> Any:
    """The recorded body; one file keeps its delivery's headers too."""
    document = json.loads((PAYLOADS / file_name).read_bytes())
    return document["payload"] if "headers" in document else document


def queued(**job: Any) -> dict[str, Any]:
    """The recorded delivery of a queued job, with some of the job's fields changed."""
    document: dict[str, Any] = delivered("workflow_job.queued.real-attempt10.grafana.json")
    return document | {"workflow_job": document["workflow_job"] | job}


def parse(document: object, event: str = "workflow_job") -> JobEvent | Ping | Ignored:
    return parse_event(event, JSON, json.dumps(document).encode())


def parse_job(document: object) -> JobEvent:
    event = parse(document)
    assert isinstance(event, JobEvent)
    return event


def test_every_recorded_payload_has_a_stated_result() -> None:
    assert {path.name for path in PAYLOADS.glob("*.json")} == RECORDED.keys()


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_payload_is_read_as_stated(name: str) -> None:
    assert parse(delivered(name), event_name(name)) == RECORDED[name]


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.parametrize("content_type", [FORM, FORM.upper(), f"{FORM}; charset=utf-8"])
def test_a_form_says_the_same_as_json(name: str, content_type: str) -> None:
    body = urlencode({"payload": json.dumps(delivered(name), ensure_ascii=False)}).encode()
    assert parse_event(event_name(name), content_type, body) == RECORDED[name]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_json_is_read_in_every_encoding_of_unicode(encoding: str) -> None:
    body = json.dumps(queued(name="größe ✓"), ensure_ascii=False).encode(encoding)
    event = parse_event("workflow_job", JSON, body)
    assert isinstance(event, JobEvent)
    assert event.facts.name == "größe ✓"


def test_every_broken_payload_is_in_the_table() -> None:
    assert {path.name for path in BROKEN.iterdir()} == BROKEN_PAYLOADS.keys()


@pytest.mark.parametrize(("name", "place"), BROKEN_PAYLOADS.items(), ids=BROKEN_PAYLOADS)
def test_a_broken_payload_is_refused_with_the_place_of_its_defect(name: str, place: str) -> None:
    path = BROKEN / name
    with pytest.raises(MalformedPayload) as refused:
        parse_event(event_name(name), JSON if path.suffix == ".json" else FORM, path.read_bytes())
    assert place in str(refused.value)


@pytest.mark.parametrize("action", ["requested", "", "QUEUED", "queued "])
def test_an_action_that_github_may_add_is_ignored(action: str) -> None:
    assert parse(queued() | {"action": action}) == Ignored(f"action '{action}' needs nothing")


@pytest.mark.parametrize("status", ["waiting", "pending", "requested", "completed"])
def test_a_queued_job_that_may_not_run_yet_is_ignored(status: str) -> None:
    assert parse(queued(status=status)) == Ignored(f"the job is {status}, not queued yet")


@pytest.mark.parametrize("action", ["in_progress", "completed"])
def test_only_for_queued_jobs_does_the_status_count(action: str) -> None:
    assert parse_job(queued(status="queued") | {"action": action}).action == action


@pytest.mark.parametrize(
    "runner",
    [
        {"runner_id": None, "runner_name": None},
        {"runner_id": 0, "runner_name": ""},
        {"runner_id": 0, "runner_name": "ry-1"},
        {"runner_id": 7, "runner_name": ""},
        {"runner_id": 7, "runner_name": None},
    ],
    ids=str,
)
def test_a_job_has_a_runner_only_with_both_its_id_and_its_name(runner: dict[str, Any]) -> None:
    event = parse_job(queued(**runner) | {"action": "completed"})
    assert (event.runner_id, event.runner_name, event.started_at) == (None, None, None)


def test_a_job_without_labels_that_had_a_runner_was_a_job() -> None:
    """A job for a runner group alone has no labels either."""
    event = parse_job(queued(labels=[], runner_id=7, runner_name="ry-1") | {"action": "completed"})
    assert event.runner_name == "ry-1"


def test_a_conclusion_counts_only_when_the_job_is_completed() -> None:
    fields = {"conclusion": "success", "completed_at": "2023-10-13T10:12:00Z"}
    running, done = (parse_job(queued(**fields) | {"action": action}) for action in ("in_progress", "completed"))
    assert (running.conclusion, running.completed_at) == (None, None)
    assert (done.conclusion, done.completed_at) == ("success", at("2023-10-13T10:12:00Z"))


def test_times_keep_their_moment_whatever_their_zone() -> None:
    assert parse_job(queued(created_at="2023-10-13T12:11:27+02:00")).created_at == at("2023-10-13T10:11:27Z")


@pytest.mark.parametrize(
    ("owner_type", "organization", "is_organization"),
    [("User", None, False), ("Organization", None, True), ("User", {"login": "foo"}, True)],
)
def test_an_organization_is_known_by_the_owner_or_by_the_delivery(
    owner_type: str, organization: dict[str, str] | None, is_organization: bool
) -> None:
    document = queued() | {"organization": organization}
    document["repository"]["owner"]["type"] = owner_type
    assert parse_job(document).is_organization is is_organization


def test_fields_that_github_may_add_do_no_harm() -> None:
    assert parse(queued(priority=[{}]) | {"enterprise": 5}) == GRAFANA_QUEUED


def test_of_a_key_given_twice_the_last_one_counts() -> None:
    body = json.dumps(queued()).replace('"name": "pre-commit"', '"name": "first", "name": "second"').encode()
    event = parse_event("workflow_job", JSON, body)
    assert isinstance(event, JobEvent)
    assert event.facts.name == "second"


def test_a_display_name_of_100_kb_is_read() -> None:
    assert len(parse_job(queued(name="x" * 100_000)).facts.name) == 100_000


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "x" * 100_001),
        ("head_branch", "x" * 100_001),
        ("workflow_name", "x" * 100_001),
        ("html_url", "x" * 2_001),
        ("head_sha", "x" * 2_001),
        ("status", "x" * 2_001),
        ("conclusion", "x" * 2_001),
        ("runner_name", "x" * 2_001),
        ("labels", ["x" * 257]),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 50 else "",
)
def test_no_text_is_so_long_that_it_could_not_be_recorded(field: str, value: object) -> None:
    with pytest.raises(MalformedPayload, match=f"workflow_job.{field}"):
        parse(queued(**{field: value}))


@pytest.mark.parametrize(
    "document",
    [queued() | {"action": "x" * 2_000}, queued(status="x" * 2_000)],
    ids=["action", "status"],
)
def test_a_reason_does_not_repeat_long_text(document: object) -> None:
    ignored = parse(document)
    assert isinstance(ignored, Ignored)
    assert len(ignored.reason) < 100


def test_a_job_may_have_no_page() -> None:
    assert parse_job(queued(html_url=None)).html_url == ""


def test_an_event_of_another_name_is_ignored_whatever_its_body() -> None:
    assert parse_event("push", JSON, b"\xff") == Ignored("event 'push' is not subscribed to: send workflow_job only")


def test_a_ping_may_say_nothing() -> None:
    assert parse({}, "ping") == Ping("")


TEXT = st.text(st.characters(), max_size=10)
"""with halves of surrogate pairs, which JSON can spell and UTF-8 cannot"""
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda values: st.lists(values, max_size=4) | st.dictionaries(TEXT, values, max_size=4),
    max_leaves=10,
)
EVENT_NAMES = st.sampled_from(["ping", "workflow_job", "push"])
CONTENT_TYPES = st.sampled_from([JSON, FORM, "", "text/plain"])
WHOLE_DOCUMENT = delivered("workflow_job.in_progress.matrix-name.octokit.json")


def places_in(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything inside a document."""
    inner = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in inner:
        yield (*path, key)
        yield from places_in(value, (*path, key))


READ_PLACES = [
    path
    for path in places_in(WHOLE_DOCUMENT)
    if path[0] in {"action", "workflow_job", "repository", "installation"} and "steps" not in path
]


def with_value(path: tuple[Any, ...], value: object) -> Any:
    document = copy.deepcopy(WHOLE_DOCUMENT)
    part = document
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return document


def leaves_of(value: object) -> Iterator[object]:
    if not isinstance(value, tuple):
        yield value
        return
    for part in value:
        yield from leaves_of(part)


def assert_can_be_recorded(event: JobEvent | Ping | Ignored) -> None:
    """Firestore keeps UTF-8 and 64-bit numbers."""
    for value in leaves_of(astuple(event)):
        match value:
            case str():
                value.encode()
            case int():
                assert 0 <= value < 1 << 63


def read_or_refuse(event: str, content_type: str, body: bytes) -> None:
    try:
        assert_can_be_recorded(parse_event(event, content_type, body))
    except MalformedPayload as error:
        str(error).encode()


@settings(max_examples=200, deadline=None)
@given(EVENT_NAMES, CONTENT_TYPES, st.binary(max_size=60) | st.binary(max_size=60).map(b"payload=".__add__))
def test_arbitrary_bytes_are_at_most_malformed(event: str, content_type: str, body: bytes) -> None:
    read_or_refuse(event, content_type, body)


@settings(max_examples=200, deadline=None)
@given(EVENT_NAMES, JSON_VALUES)
def test_arbitrary_json_is_at_most_malformed(event: str, document: object) -> None:
    read_or_refuse(event, JSON, json.dumps(document).encode())


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(READ_PLACES), JSON_VALUES)
def test_arbitrary_json_in_one_place_of_a_delivery_can_be_recorded_or_is_malformed(
    path: tuple[Any, ...], value: object
) -> None:
    read_or_refuse("workflow_job", JSON, json.dumps(with_value(path, value)).encode())


@pytest.mark.parametrize("unit", ["[", '{"a":'])
@pytest.mark.parametrize("depth", [100, 1_000, 100_000])
@pytest.mark.parametrize("event", ["ping", "workflow_job"])
def test_json_of_any_depth_is_at_most_malformed(event: str, depth: int, unit: str) -> None:
    closing = {"[": "]", '{"a":': "}"}[unit]
    with pytest.raises(MalformedPayload):
        parse_event(event, JSON, f'{{"zen": {unit * depth}1{closing * depth}}}'.encode())
