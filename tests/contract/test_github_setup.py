"""What `runyard github` asks of GitHub, and what the simulated one answers, against GitHub's OpenAPI description."""

import pytest

from controller.github_setup import calls
from functions.github.protocol import Request, Scope
from simulator.deliveries import Delivery, Event
from simulator.payloads import delivery_json
from simulator.setting_up import hook_json
from tests.contract.test_github_openapi import NOW, answer_schema, operation, resolve, validate

ORG, REPOSITORY = Scope.organization("acme"), Scope.repository("acme/app")
URL, SECRET = "https://runyard.acme.example/", "s3cret"
REQUESTS = {
    f"{what}, {where}": request
    for where, scope in (("organization", ORG), ("repository", REPOSITORY))
    for what, request in {
        "runners": calls.list_runners(scope),
        "registration token": calls.create_registration_token(scope),
        "webhooks": calls.list_hooks(scope),
        "a new webhook": calls.create_hook(scope, URL, SECRET),
        "update of a webhook": calls.update_hook(scope, 1, URL, SECRET),
        "ping": calls.ping_hook(scope, 1),
        "deliveries": calls.list_deliveries(scope, 1),
    }.items()
} | {
    "App": calls.get_app(),
    "the App's webhook": calls.update_app_hook(URL, SECRET),
    "App from a manifest": calls.convert_manifest("a code"),
}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_every_request_is_one_that_github_describes(request_: Request) -> None:
    described = operation(request_)
    parameters = {p["name"] for p in map(resolve, described.get("parameters", [])) if p["in"] == "query"}
    assert set(request_.query) <= parameters
    if request_.body is not None:
        schema = resolve(described["requestBody"]["content"]["application/json"]["schema"])
        validate(schema, request_.body)
        assert set(request_.body) <= set(schema["properties"])


@pytest.mark.parametrize("scope", [ORG, REPOSITORY], ids=["organization", "repository"])
def test_the_simulated_webhooks_and_their_deliveries_are_githubs(scope: Scope) -> None:
    hook = hook_json(scope.path, URL, "json")
    validate(answer_schema(calls.list_hooks(scope), 200), [hook])
    validate(answer_schema(calls.create_hook(scope, URL, SECRET), 201), hook)
    event = Event("0b989ba4-242f-11e5-81e1-c7b6966d2516", "ping", {"repository": {"full_name": "acme/app"}})
    delivery = Delivery(1, event, NOW, False, "OK", 200, 0.31, "")
    validate(answer_schema(calls.list_deliveries(scope, 1), 200), [delivery_json(delivery, None)])
