"""The steps of setting up, each of which ends in findings: what is as it should be, and what somebody has to mend."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from pydantic import SecretStr

from functions.github.auth import AppCredentials, sign_app_token
from functions.github.protocol import Answer, Request, Scope, find_installation

from . import calls
from .rights import EVENT, Right, missing_of_app, missing_of_classic

_PING_WITHIN_S = 15.0
_LOOK_EVERY_S = 0.5


class Unreachable(Exception):
    """Nobody answers at an address; the message says why."""


class GitHub(Protocol):
    """What the steps need of the network. Both raise `Unreachable`."""

    def call(self, request: Request, token: SecretStr | None) -> Answer: ...
    def ping(self, webhook_url: str, secret: SecretStr) -> Answer: ...


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    text: str
    mend: str = ""
    """what to do about it; empty when there is nothing to do"""

    @property
    def is_good(self) -> bool:
        return not self.mend


@dataclass(frozen=True)
class Webhook:
    """The webhook as it is to be."""

    url: str
    secret: SecretStr


@dataclass(frozen=True)
class NewApp:
    """What GitHub tells of a new App, once."""

    app_id: str
    slug: str
    private_key: SecretStr
    webhook_secret: SecretStr


class CannotCreate(Exception):
    """GitHub has not made the App; the message is GitHub's."""


def set_up_with_token(
    github: GitHub, token: SecretStr, scope: Scope, webhook: Webhook, needed: Sequence[Right]
) -> Iterator[Finding]:
    """Checks a token's rights, installs the webhook or puts it right, and has GitHub ping it."""
    seen = github.call(calls.list_runners(scope), token)
    if seen.status == 401:
        yield Finding(
            "GitHub does not accept the token", "make a new one: GITHUB_TOKEN is expired, revoked or mistyped"
        )
        return
    yield from _check_classic_scopes(seen, needed)
    yield _check_registration(github, token, scope, needed[0])
    hooks = github.call(calls.list_hooks(scope), token)
    if hooks.status != 200:
        yield _refused("the webhooks cannot be listed", hooks, needed[1])
        return
    known = calls.find_hook(hooks, webhook.url)
    secret = webhook.secret.get_secret_value()
    request = (
        calls.create_hook(scope, webhook.url, secret)
        if known is None
        else calls.update_hook(scope, known["id"], webhook.url, secret)
    )
    written = github.call(request, token)
    hook = calls.body_of(written)
    if written.status not in {200, 201} or not isinstance(hook, dict):
        yield _refused("the webhook cannot be installed", written, needed[1])
        return
    how = "installed" if known is None else "put right"
    yield Finding(f"the webhook {hook['id']} is {how}: event {EVENT}, content type json, with the secret")
    yield _ping(github, token, scope, hook["id"])


def set_up_app(
    github: GitHub, app: AppCredentials, scope: Scope, webhook: Webhook, needed: Sequence[Right], now: datetime
) -> Iterator[Finding]:
    """Checks an App's permissions, events and installation, puts its webhook right, and asks the function."""
    token = sign_app_token(app, now)
    seen = github.call(calls.get_app(), token)
    if seen.status != 200:
        yield Finding(calls.message_of(seen), "check GITHUB_APP_ID and the App's private key, and this machine's clock")
        return
    about = calls.body_of(seen) or {}
    yield from _check_permissions("the App", about, needed, "change it on the App's page, under Permissions & events")
    if EVENT in about.get("events", []):
        yield Finding(f"the App is told of {EVENT}")
    else:
        yield Finding(f"the App is not told of {EVENT}", "tick Workflow job on its page, under Permissions & events")
    changed = github.call(calls.update_app_hook(webhook.url, webhook.secret.get_secret_value()), token)
    if changed.status == 200:
        yield Finding("the App's webhook is put right: address, content type json, with the secret")
    else:
        yield Finding(calls.message_of(changed), "tick Active under Webhook on the App's page")
    yield from _check_installation(github, token, scope, needed)
    yield ask_function(github, webhook)


def create_app(github: GitHub, code: str) -> NewApp:
    """The App that the operator has just let GitHub make.

    Raises:
        CannotCreate: GitHub does not know the code (any more).
    """
    answer = github.call(calls.convert_manifest(code), None)
    body = calls.body_of(answer)
    if answer.status != 201 or not isinstance(body, dict):
        raise CannotCreate(calls.message_of(answer))
    return NewApp(str(body["id"]), body["slug"], SecretStr(body["pem"]), SecretStr(body["webhook_secret"]))


def wait_for_installation(
    github: GitHub, app: AppCredentials, scope: Scope, now: Callable[[], datetime], within_s: float
) -> bool:
    """Whether somebody installs the App in time."""
    deadline = time.monotonic() + within_s
    while github.call(find_installation(scope), sign_app_token(app, now())).status != 200:
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_EVERY_S)
    return True


def ask_function(github: GitHub, webhook: Webhook) -> Finding:
    """A ping from here: the function is there and knows the same secret."""
    try:
        answer = github.ping(webhook.url, webhook.secret)
    except Unreachable as error:
        return Finding(str(error), "deploy the function, or mend the address")
    if answer.status == 200:
        return Finding("the webhook function answers, and knows the secret")
    return _explain_answer(answer.status)


def _check_classic_scopes(seen: Answer, needed: Sequence[Right]) -> Iterator[Finding]:
    """Only classic tokens tell their scopes; what others may do shows when they do it."""
    scopes = seen.headers.get("x-oauth-scopes")
    if scopes is None:
        return
    missing = missing_of_classic(needed, scopes)
    for right in missing:
        yield Finding(f"the token may not {right.what}", f"add the scope {right.classic} to it")
    if not missing:
        yield Finding(f"the token has the scopes: {scopes}")


def _check_registration(github: GitHub, token: SecretStr, scope: Scope, right: Right) -> Finding:
    answer = github.call(calls.create_registration_token(scope), token)
    if answer.status == 201:
        return Finding("the token may register runners")
    return _refused("the token may not register runners", answer, right)


def _check_installation(github: GitHub, token: SecretStr, scope: Scope, needed: Sequence[Right]) -> Iterator[Finding]:
    found = github.call(find_installation(scope), token)
    if found.status != 200:
        yield Finding(f"the App is not installed at {scope.path[1:]}", "install it there: its page, under Install App")
        return
    body = calls.body_of(found) or {}
    yield Finding(f"the App is installed at {scope.path[1:]}, installation {body.get('id')}")
    if "permissions" in body:
        mend = "an owner has to accept the App's new permissions, on the page of the installation"
        yield from _check_permissions("the installation", body, needed, mend)


def _check_permissions(who: str, body: dict[str, Any], needed: Sequence[Right], mend: str) -> Iterator[Finding]:
    missing = missing_of_app(needed, body.get("permissions", {}))
    for right, permission, level in missing:
        yield Finding(f"{who} may not {right.what}: {permission} is not {level}", f"{right.fine_grained}: {mend}")
    if not missing:
        yield Finding(f"{who} has every permission that is needed")


def _ping(github: GitHub, token: SecretStr, scope: Scope, hook_id: int) -> Finding:
    before = _pings(github, token, scope, hook_id).keys()
    pinged = github.call(calls.ping_hook(scope, hook_id), token)
    if pinged.status != 204:
        return Finding(calls.message_of(pinged), "ping the webhook on its page at GitHub")
    deadline = time.monotonic() + _PING_WITHIN_S
    while time.monotonic() < deadline:
        pings = _pings(github, token, scope, hook_id)
        if ours := pings.keys() - before:
            status = pings[max(ours)]
            return Finding("GitHub's ping was answered") if status == 200 else _explain_answer(status)
        time.sleep(_LOOK_EVERY_S)
    return Finding("GitHub has not shown its ping yet", "look at Recent Deliveries on the webhook's page")


def _pings(github: GitHub, token: SecretStr, scope: Scope, hook_id: int) -> dict[int, int]:
    """How the deliveries that were pings were answered: id → status, 0 for no answer."""
    listed = calls.body_of(github.call(calls.list_deliveries(scope, hook_id), token))
    deliveries = listed if isinstance(listed, list) else []
    return {d["id"]: int(d.get("status_code") or 0) for d in deliveries if d.get("event") == "ping"}


def _explain_answer(status: int) -> Finding:
    match status:
        case 401:
            mend = "give the function the same secret: GITHUB_WEBHOOK_SECRET"
        case 403 | 404:
            mend = "check the address, and that everybody may call the function: it checks signatures itself"
        case 0:
            mend = "check the address: GitHub reached nobody there"
        case _:
            mend = "look at the function's log"
    return Finding(f"the webhook function answered {status} to a ping" if status else "nobody answered a ping", mend)


def _refused(what: str, answer: Answer, right: Right) -> Finding:
    return Finding(
        f"{what}: {calls.message_of(answer)}",
        f"needed is {right.classic} (classic token) or {right.fine_grained} (fine-grained token)",
    )
