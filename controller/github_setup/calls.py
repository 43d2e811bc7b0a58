"""GitHub's REST API as far as setting up needs it, without any I/O.

Source: GitHub REST API description, version 2022-11-28; `tests/contract` checks these requests against it.
"""

import json
from typing import Any
from urllib.parse import quote

from functions.github.protocol import Answer, Request, Scope

from .rights import EVENT


def list_runners(scope: Scope) -> Request:
    return Request("GET", f"{scope.path}/actions/runners", query={"per_page": "1"})


def create_registration_token(scope: Scope) -> Request:
    """Needs the same right as to register a runner, and leaves nothing behind: the token ends by itself."""
    return Request("POST", f"{scope.path}/actions/runners/registration-token")


def list_hooks(scope: Scope) -> Request:
    return Request("GET", f"{scope.path}/hooks", query={"per_page": "100"})


def create_hook(scope: Scope, url: str, secret: str) -> Request:
    return Request("POST", f"{scope.path}/hooks", {"name": "web", **_hook(url, secret)})


def update_hook(scope: Scope, hook_id: int, url: str, secret: str) -> Request:
    return Request("PATCH", f"{scope.path}/hooks/{hook_id}", _hook(url, secret))


def ping_hook(scope: Scope, hook_id: int) -> Request:
    return Request("POST", f"{scope.path}/hooks/{hook_id}/pings")


def list_deliveries(scope: Scope, hook_id: int) -> Request:
    return Request("GET", f"{scope.path}/hooks/{hook_id}/deliveries", query={"per_page": "20"})


def convert_manifest(code: str) -> Request:
    """Turns the code that GitHub gave the browser into the App's credentials, once."""
    return Request("POST", f"/app-manifests/{quote(code, safe='')}/conversions")


def get_app() -> Request:
    return Request("GET", "/app")


def update_app_hook(url: str, secret: str) -> Request:
    return Request("PATCH", "/app/hook/config", _config(url, secret))


def _hook(url: str, secret: str) -> dict[str, Any]:
    return {"active": True, "events": [EVENT], "config": _config(url, secret)}


def _config(url: str, secret: str) -> dict[str, str]:
    # GitHub's own default is a form.
    return {"url": url, "content_type": "json", "secret": secret, "insecure_ssl": "0"}


def body_of(answer: Answer) -> Any:
    """The JSON of an answer; None when it is none."""
    try:
        return json.loads(answer.body)
    except ValueError:
        return None


def find_hook(answer: Answer, url: str) -> dict[str, Any] | None:
    """The webhook that goes to an address."""
    hooks = body_of(answer) or []
    return next((hook for hook in hooks if str(hook.get("config", {}).get("url")) == url), None)


def message_of(answer: Answer) -> str:
    """What GitHub says of a refusal, in one line."""
    body = body_of(answer)
    message = body.get("message", "") if isinstance(body, dict) else ""
    return f"GitHub answered {answer.status}: {' '.join(str(message).split())[:200] or 'no message'}"
