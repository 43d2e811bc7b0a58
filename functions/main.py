"""HTTP entry of the Cloud Functions: builds the adapters once, turns typed errors into statuses.

The functions are asynchronous, so that one instance takes many webhooks at once and commits them together.
"""

import gc

# Nearly everything that is made while a thousand modules are imported stays: to look for garbage among it costs 7 % of
# a cold start.
gc.disable()

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

import functions_framework.aio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from .admission.group import Admission, Settled
from .admission.requests import Request as AdmissionRequest
from .documents.errors import StoreRefused, StoreUnavailable
from .documents.firestore import FirestoreStore
from .documents.in_force import Standing
from .github.client import GitHubClient
from .log import canonical, configure_logging
from .settings import Settings, read_settings
from .timing import watch_github
from .webhook import signature
from .webhook.event import MalformedPayload, parse_event
from .webhook.handle import Reply, WebhookHandler
from .webhook.provision import Provisioner

# Little of what a burst makes is garbage, either. Looking after every 700 objects, as the collector does by itself,
# takes a fifth of a webhook's time.
gc.freeze()
gc.set_threshold(10_000, 20, 50)
gc.enable()

if TYPE_CHECKING:
    from cloudevents.http.event import CloudEvent

    from .commands.handle import CommandHandler
    from .github.oidc import WorkflowVerifier
    from .preflight.handle import PreflightHandler
    from .reconcile.caller import CallerVerifier
    from .reconcile.run import Reconciler

LARGEST_BODY = 25 * 1024 * 1024
"""bytes; GitHub drops larger events itself"""
LARGEST_QUESTION = 512 * 1024
"""bytes of a question to `route`: 256 jobs with long names"""
ANSWER_WITHIN_S = 9.0
"""GitHub marks a delivery as failed after 10 s"""
COMMAND_WITHIN_S = 30.0
RECONCILE_WITHIN_S = 58.0
"""a run ends by itself before; then comes the next"""
RECONCILE_CALL_WITHIN_S = 14.0
"""for one call to GitHub: nobody waits, and it may be slow"""
_CONTENT_TYPES = ("application/json", "application/x-www-form-urlencoded")
_log = logging.getLogger("runyard.webhook")

configure_logging()
_settings: Settings = read_settings(os.environ)


def _now() -> datetime:
    return datetime.now(UTC)


class _Admissions:
    """One group committer for each pool."""

    def __init__(self, store: FirestoreStore):
        self._store = store
        self._pools: dict[str, Admission] = {}

    async def submit(self, pool: str, request: AdmissionRequest) -> Settled:
        if pool not in self._pools:
            self._pools[pool] = Admission(pool, self._store, _now)
        return await self._pools[pool].submit(request)


@cache
def _store() -> FirestoreStore:
    return FirestoreStore(_settings.project, _settings.database)


@cache
def _admissions() -> _Admissions:
    return _Admissions(_store())


@cache
def _github() -> GitHubClient:
    return GitHubClient(_settings.github_api_url, _settings.github_credentials, _now)


@cache
def _webhook_handler() -> WebhookHandler:
    return WebhookHandler(_store(), _admissions(), _github(), _now)


@functions_framework.aio.http
async def github_webhook(request: Request) -> Response:
    """Receives GitHub's webhook deliveries."""
    fields = {"delivery": request.headers.get("X-GitHub-Delivery"), "event": request.headers.get("X-GitHub-Event")}
    return await _serve("webhook", request, _receive, fields)


@functions_framework.aio.http
async def route(request: Request) -> Response:
    """Tells a workflow which labels its next jobs should use."""
    return await _serve("route", request, _advise, {})


@functions_framework.aio.cloud_event
async def commands(event: "CloudEvent") -> None:
    """Does what a controller has asked for in a new document of `commands`. Firestore triggers it.

    Source of the event's form: Google Cloud docs, "Firestore triggers"; the subject is `documents/commands/ID`.
    """
    started = time.monotonic()
    command_id = str(event.get("subject") or "").rpartition("/")[2]
    # What is raised here makes the trigger fire again.
    async with asyncio.timeout(COMMAND_WITHIN_S):
        answer = await _command_handler().handle(command_id) if command_id else None
    canonical(
        _log,
        logging.INFO,
        "command",
        command=command_id,
        may_stop=answer.may_stop if answer is not None else None,
        reason=answer.reason if answer is not None else "there is no such command without an answer",
        duration_ms=round((time.monotonic() - started) * 1000, 1),
    )


@cache
def _command_handler() -> "CommandHandler":
    from .commands.handle import CommandHandler  # noqa: PLC0415

    return CommandHandler(_store(), _admissions(), _github(), _now)


@functions_framework.aio.http
async def reconcile(request: Request) -> Response:
    """Finds what was lost and finishes what was left half-done; called by a scheduler every minute."""
    return await _serve("reconcile", request, _reconcile, {}, RECONCILE_WITHIN_S)


Work = Callable[[Request], Awaitable[tuple[int, dict[str, Any]]]]
_HEADERS = {405: {"Allow": "POST"}, 503: {"Retry-After": "5"}}


async def _serve(
    name: str, request: Request, work: Work, fields: Mapping[str, str | None], within_s: float = ANSWER_WITHIN_S
) -> Response:
    """Answers, logs one line, and says in the answer where the time went."""
    started, github = time.monotonic(), watch_github()
    status, body = await _answer(request, work, within_s)
    duration_ms = round((time.monotonic() - started) * 1000, 1)
    canonical(
        _log,
        _level_of(status, body),
        name,
        status=status,
        duration_ms=duration_ms,
        github_ms=github.milliseconds,
        **fields,
        **body,
    )
    timing = {"Server-Timing": f"total;dur={duration_ms}, github;dur={github.milliseconds}"}
    return JSONResponse(body, status, timing | _HEADERS.get(status, {}))


def _level_of(status: int, body: Mapping[str, Any]) -> int:
    if status >= 500:
        return logging.ERROR
    is_policy_broken = body.get("policy") in {Standing.LAST_GOOD, Standing.NONE}
    is_worth_a_look = status >= 400 or is_policy_broken or "notes" in body
    return logging.WARNING if is_worth_a_look else logging.INFO


async def _answer(request: Request, work: Work, within_s: float) -> tuple[int, dict[str, Any]]:
    if request.method != "POST":
        return 405, _refusal("method_not_allowed", "this function takes POST requests")
    try:
        async with asyncio.timeout(within_s):
            return await work(request)
    except TimeoutError:
        return 503, _refusal("timeout", f"not done within {within_s:g} s: deliver it again")
    except StoreUnavailable as error:
        return 503, _refusal("store_unavailable", str(error))
    except StoreRefused as error:
        return 500, _refusal("store_refused", str(error))


async def _receive(request: Request) -> tuple[int, dict[str, Any]]:
    body = await _read_body(request)
    if body is None:
        return 413, _refusal("too_large", f"the body is larger than {LARGEST_BODY} bytes")
    if fault := signature.find_fault(body, request.headers.get(signature.HEADER), _settings.webhook_secrets):
        return 401, _refusal("unauthenticated", fault)
    content_type = request.headers.get("Content-Type", "")
    if content_type.partition(";")[0].strip().lower() not in _CONTENT_TYPES:
        return 415, _refusal("unsupported_content_type", f"content type must be one of {', '.join(_CONTENT_TYPES)}")
    event_name = request.headers.get("X-GitHub-Event")
    if event_name is None:
        return 400, _refusal("malformed", "the X-GitHub-Event header is missing")
    try:
        event = parse_event(event_name, content_type, body)
    except MalformedPayload as error:
        return 400, _refusal("malformed", str(error))
    reply = await _webhook_handler().handle(event)
    return 200, reply.to_json()


async def _advise(request: Request) -> tuple[int, dict[str, Any]]:
    # Only this function needs these; the webhook's cold start does without.
    from .oidc import InvalidToken, KeysUnavailable  # noqa: PLC0415
    from .preflight.handle import MalformedQuestion, read_question  # noqa: PLC0415

    token = _bearer_token(request)
    if token is None:
        return 401, _refusal("unauthenticated", "send the workflow's OIDC token: Authorization: Bearer …")
    verifier, handler = _preflight()
    try:
        claims = await verifier.verify(token)
    except InvalidToken as error:
        return 401, _refusal("unauthenticated", str(error))
    except KeysUnavailable as error:
        return 503, _refusal("keys_unavailable", str(error))
    body = await _read_body(request, LARGEST_QUESTION)
    if body is None:
        return 413, _refusal("too_large", f"the body is larger than {LARGEST_QUESTION} bytes")
    try:
        question = read_question(body)
    except MalformedQuestion as error:
        return 400, _refusal("malformed", str(error))
    answer = await handler.answer(claims, question)
    return 200, answer.to_json() | {"repository": claims.repository, "run_id": claims.run_id}


@cache
def _preflight() -> "tuple[WorkflowVerifier, PreflightHandler]":
    from .github.oidc import WorkflowVerifier  # noqa: PLC0415
    from .preflight.handle import PreflightHandler  # noqa: PLC0415

    verifier = WorkflowVerifier(_settings.oidc_issuer, _settings.oidc_audience)
    provisioner = Provisioner(_store(), _admissions(), _github(), _now)
    return verifier, PreflightHandler(_store(), _admissions(), provisioner.follow_up, _now)


async def _reconcile(request: Request) -> tuple[int, dict[str, Any]]:
    from .oidc import InvalidToken, KeysUnavailable  # noqa: PLC0415
    from .reconcile.run import summarize  # noqa: PLC0415

    token = _bearer_token(request)
    if token is None:
        return 401, _refusal("unauthenticated", "send the scheduler's OIDC token: Authorization: Bearer …")
    verifier, reconciler = _reconciler()
    try:
        await verifier.verify(token)
    except InvalidToken as error:
        return 401, _refusal("unauthenticated", str(error))
    except KeysUnavailable as error:
        return 503, _refusal("keys_unavailable", str(error))
    return 200, summarize(await reconciler.run())


@cache
def _reconciler() -> "tuple[CallerVerifier, Reconciler]":
    from .documents.reconcile_store import ReconcileStore  # noqa: PLC0415
    from .reconcile.caller import CallerVerifier  # noqa: PLC0415
    from .reconcile.run import Reconciler  # noqa: PLC0415

    settings = _settings.reconcile
    store = ReconcileStore(_settings.project, _settings.database)
    github = GitHubClient(_settings.github_api_url, _settings.github_credentials, _now, RECONCILE_CALL_WITHIN_S)
    verifier = CallerVerifier(settings.issuer, settings.audience, settings.caller)
    return verifier, Reconciler(store, _Admissions(store), github, settings, _now)


def _bearer_token(request: Request) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


async def _read_body(request: Request, most: int = LARGEST_BODY) -> bytes | None:
    """The raw body; None as soon as it is known to be too large, without reading the rest."""
    announced = request.headers.get("Content-Length", "")
    if announced.isdigit() and int(announced) > most:
        return None
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > most:
                return None
            chunks.append(chunk)
    except ClientDisconnect:
        return b""
    return b"".join(chunks)


def _refusal(outcome: str, reason: str) -> dict[str, Any]:
    return Reply(outcome, reason).to_json()
