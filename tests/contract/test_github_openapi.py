"""Our requests and the simulated GitHub's answers and webhooks, against GitHub's own OpenAPI description.

`github-openapi.json` is cut out of the npm package @octokit/openapi by scripts/extract-openapi.
"""

import json
import random
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from openapi_schema_validator import OAS30Validator
from referencing import Registry
from referencing.jsonschema import DRAFT4

from controller.proxy.github_hosts import hosts_of_meta
from functions.github import listings, protocol
from functions.github.listings import APP_HOOK, Hook
from functions.github.protocol import Request, RunnerOrder, Scope
from simulator import payloads
from simulator.deliveries import Delivery, Event
from simulator.world import ApiError, Job, JobSpec, Runner, World


def _with_null(node: dict[str, Any]) -> dict[str, Any]:
    """GitHub writes `nullable` beside an enum without null and sends null all the same: recorded in payloads/."""
    if node.get("nullable") and "enum" in node and None not in node["enum"]:
        node["enum"].append(None)
    return node


DESCRIPTION: dict[str, Any] = json.loads(
    (Path(__file__).parent / "github-openapi.json").read_text(), object_hook=_with_null
)
_REGISTRY: Registry[Any] = Registry().with_resource("urn:github", DRAFT4.create_resource(DESCRIPTION))
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
ORG_HOOK, REPOSITORY_HOOK = Hook("/orgs/acme/hooks/1"), Hook("/repos/acme/app/hooks/1")
ORG, REPOSITORY = Scope.organization("acme"), Scope.repository("acme/app")


def validate(schema: dict[str, Any], value: Any) -> None:
    """Fails with every difference between a value and a schema of the description."""
    absolute = json.loads(json.dumps(schema).replace('"#/', '"urn:github#/'))
    problems = list(OAS30Validator(absolute, registry=_REGISTRY).iter_errors(value))
    assert not problems, "\n".join(f"{list(p.absolute_path)}: {p.message}" for p in problems)


def operation(request: Request) -> dict[str, Any]:
    """The description of the call that a request makes."""
    for template, methods in DESCRIPTION["paths"].items():
        pattern = re.sub(r"\{\w+\}", "[^/]+", template)
        if re.fullmatch(pattern, request.path) and request.method.lower() in methods:
            found: dict[str, Any] = methods[request.method.lower()]
            return found
    raise AssertionError(f"GitHub has no {request.method} {request.path}")


def resolve(node: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        _, _, kind, name = node["$ref"].split("/")
        node = DESCRIPTION["components"][kind][name]
    return node


def jit_request(scope: Scope, *labels: str) -> Request:
    return protocol.generate_jit_config(RunnerOrder(scope, "ry-1", "Default", labels), 1)


REQUESTS = {
    "JIT config, organization": protocol.generate_jit_config(RunnerOrder(ORG, "ry-1", "Default", ("ci",)), 1),
    "JIT config, repository": protocol.generate_jit_config(
        RunnerOrder(REPOSITORY, "ry-1", "Default", ("self-hosted", "ci")), 1
    ),
    "find runner, organization": protocol.find_runner(ORG, "ry-1"),
    "find runner, repository": protocol.find_runner(REPOSITORY, "ry-1"),
    "workflow run": protocol.get_run("acme/app", 1),
    "cancel of a run": protocol.cancel_run("acme/app", 1),
    "update of a variable": protocol.update_variable(ORG, "RUNNER", "[]"),
    "a new variable": protocol.create_variable(ORG, "RUNNER", "[]"),
    "delete runner, organization": protocol.delete_runner(ORG, 7),
    "delete runner, repository": protocol.delete_runner(REPOSITORY, 7),
    "runner groups": protocol.list_runner_groups(ORG),
    "installation of an organization": protocol.find_installation(ORG),
    "installation of a repository": protocol.find_installation(REPOSITORY),
    "installation of a user": protocol.find_installation(Scope.user("octocat")),
    "installation token": protocol.create_installation_token(1),
    "deliveries, App": listings.list_deliveries(APP_HOOK),
    "deliveries, organization": listings.list_deliveries(ORG_HOOK),
    "deliveries, repository": listings.next_page(listings.list_deliveries(REPOSITORY_HOOK), {"cursor": "v1_1"}),
    "redelivery, App": listings.redeliver(APP_HOOK, 1),
    "redelivery, organization": listings.redeliver(ORG_HOOK, 1),
    "redelivery, repository": listings.redeliver(REPOSITORY_HOOK, 1),
    "webhooks, organization": listings.list_hooks(ORG),
    "webhooks, repository": listings.list_hooks(REPOSITORY),
    "runs": listings.list_runs("acme/app", "queued"),
    "jobs of a run": listings.next_page(listings.list_jobs("acme/app", 1), {"page": "2"}),
    "a job": listings.get_job("acme/app", 1),
    "runners, organization": listings.list_runners(ORG),
    "a runner, repository": protocol.get_runner(REPOSITORY, 1),
    "repositories of an organization": listings.list_organization_repositories("acme"),
    "repositories of an installation": listings.list_installation_repositories(),
    "repositories of a user": listings.list_own_repositories(),
}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_every_request_is_one_that_github_describes(request_: Request) -> None:
    described = operation(request_)
    parameters = {p["name"] for p in map(resolve, described.get("parameters", [])) if p["in"] == "query"}
    assert set(request_.query) <= parameters
    body = described.get("requestBody")
    if request_.body is not None:
        assert body is not None
        schema = resolve(body["content"]["application/json"]["schema"])
        validate(schema, request_.body)
        assert set(request_.body) <= set(schema["properties"])
    else:
        assert body is None or not body.get("required")


def world() -> World:
    return World(now=lambda: NOW, rng=random.Random(1))  # noqa: S311


def a_runner(scope: Scope = ORG) -> Runner:
    return world().register_runner(scope.path, "ry-1", 1, ["self-hosted", "ci"])


def answer_schema(request: Request, status: int) -> dict[str, Any]:
    response = resolve(operation(request)["responses"][str(status)])
    schema: dict[str, Any] = response["content"]["application/json"]["schema"]
    return schema


@pytest.mark.parametrize("scope", [ORG, REPOSITORY], ids=["organization", "repository"])
def test_the_simulated_answers_are_githubs(scope: Scope) -> None:
    runner = a_runner(scope)
    config = payloads.encode_jit_config(runner, "https://github.simulated.test")
    jit = {"runner": payloads.runner_json(runner), "encoded_jit_config": config}
    validate(answer_schema(jit_request(scope, "ci"), 201), jit)
    listed = {"total_count": 1, "runners": [payloads.runner_json(runner)]}
    validate(answer_schema(protocol.find_runner(scope, "ry-1"), 200), listed)
    token = payloads.installation_token_json("ghs_x", NOW + timedelta(hours=1))
    validate(answer_schema(protocol.create_installation_token(1), 201), token)


def test_the_simulated_runner_groups_are_githubs() -> None:
    listed = {"total_count": 1, "runner_groups": [payloads.group_json("Default", 1, "acme")]}
    validate(answer_schema(protocol.list_runner_groups(ORG), 200), listed)


def test_the_simulated_meta_is_githubs_and_names_the_hosts_that_runners_need() -> None:
    schema = DESCRIPTION["paths"]["/meta"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    validate(schema, payloads.meta_json())
    assert {"github.com", "ghcr.io"} <= set(hosts_of_meta(payloads.meta_json(), NOW.date()).hosts)


def jobs() -> dict[str, tuple[World, Job]]:
    """A job in each of its states, by the webhook that tells of it."""
    states = {}
    for action in ("queued", "in_progress", "completed", "cancelled"):
        here = world()
        (job,) = here.dispatch("acme/app", "ci", "main", [JobSpec("build (1, größer)", ("ci",))])
        if action == "cancelled":
            here.cancel(job.id)
        elif action != "queued":
            runner = here.register_runner("/orgs/acme", "ry-1", 1, ["ci"])
            runner.session, runner.is_listening = "s", True
            assert here.hand_out_jobs() == [job]
            if action == "completed":
                here.finish(runner, "success")
        states[action] = (here, job)
    return states


@pytest.mark.parametrize("state", ["queued", "in_progress", "completed", "cancelled"])
def test_the_simulated_webhooks_are_githubs(state: str) -> None:
    here, job = jobs()[state]
    action = "completed" if state == "cancelled" else state
    payload = payloads.workflow_job_webhook(action, job, here, 5)
    name = f"workflow-job-{action.replace('_', '-')}"
    body = DESCRIPTION["x-webhooks"][name]["post"]["requestBody"]["content"]["application/json"]["schema"]
    validate(body, payload)


def test_the_simulated_ping_is_githubs() -> None:
    body = DESCRIPTION["x-webhooks"]["ping"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    validate(body, payloads.ping_webhook("acme/app", 1, world()))


@pytest.mark.parametrize("state", ["in_progress", "completed"])
def test_the_simulated_jobs_are_githubs(state: str) -> None:
    _, job = jobs()[state]
    request = Request("GET", f"/repos/acme/app/actions/runs/{job.run_id}/jobs")
    validate(answer_schema(request, 200), payloads.jobs_json([job]))


def test_the_simulated_run_is_githubs() -> None:
    here, job = jobs()["in_progress"]
    validate(answer_schema(protocol.get_run("acme/app", 1), 200), payloads.run_json([job], here))


def a_delivery(action: str = "queued", code: int = 200) -> Delivery:
    here, job = jobs()[action]
    event = Event("guid-1", "workflow_job", payloads.workflow_job_webhook(action, job, here, None))
    return Delivery(1, event, NOW, False, "OK", code, 0.1, "")


@pytest.mark.parametrize("hook", [APP_HOOK, ORG_HOOK, REPOSITORY_HOOK], ids=lambda hook: hook.path)
@pytest.mark.parametrize("code", [200, 502, 0])
def test_the_simulated_deliveries_are_githubs(hook: Hook, code: int) -> None:
    listed = [payloads.delivery_json(a_delivery(code=code), 5)]
    validate(answer_schema(listings.list_deliveries(hook), 200), listed)


def test_the_simulated_runs_and_repositories_are_githubs() -> None:
    here, job = jobs()["in_progress"]
    validate(answer_schema(listings.list_runs("acme/app", "queued"), 200), payloads.runs_json([[job]], here))
    validate(answer_schema(listings.get_job("acme/app", 1), 200), payloads.job_json(job))
    repository = payloads.repository_json("acme/app", is_users=False)
    validate(answer_schema(listings.list_organization_repositories("acme"), 200), [repository])
    validate(answer_schema(listings.list_own_repositories(), 200), [payloads.repository_json("me/x", is_users=True)])
    listed = {"total_count": 1, "repositories": [repository]}
    validate(answer_schema(listings.list_installation_repositories(), 200), listed)


def test_the_check_itself_can_fail() -> None:
    with pytest.raises(AssertionError, match="encoded_jit_config"):
        validate(answer_schema(REQUESTS["JIT config, organization"], 201), {"runner": payloads.runner_json(a_runner())})
    with pytest.raises(ApiError):
        world().register_runner("/orgs/acme", "ry-1", 1, [])
