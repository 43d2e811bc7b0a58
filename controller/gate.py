"""The gate: every job waits here, before its first step, until its container has the job's size.

Only runner containers can reach it; who is asking is known by the addresses, so it needs no secret.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

_LARGEST_BODY = 4096
_BODY_WITHIN_S = 10.0


@dataclass(frozen=True)
class Question:
    """A job has started on a runner."""

    gateway: str
    address: str
    run_id: int | None
    run_attempt: int | None


@dataclass(frozen=True)
class Answer:
    """Whether the job may go on, with a line for its log."""

    may_run: bool
    text: str


class HalfOpenProtocol(H11Protocol):
    """Answers clients that close their sending side after the request, as `nc` does when its input ends."""

    def eof_received(self) -> bool:  # type: ignore[override]
        return True


def make_gate(decide: Callable[[Question], Awaitable[Answer | None]]) -> Starlette:
    """The gate as an ASGI application. `decide` returns None for whoever is not a runner."""

    async def job_started(request: Request) -> Response:
        try:
            async with asyncio.timeout(_BODY_WITHIN_S):
                body = await _read_body(request)
        except TimeoutError:
            return PlainTextResponse("the request did not come in time\n", 408)
        if body is None:
            return PlainTextResponse("the request is too large\n", 413)
        if request.client is None:
            return PlainTextResponse("you have no address\n", 403)
        fields = parse_qs(body.decode("ascii", "replace"))
        server = request.scope["server"]
        question = Question(
            gateway=server[0],
            address=request.client.host,
            run_id=_number(fields, "run_id"),
            run_attempt=_number(fields, "run_attempt"),
        )
        answer = await decide(question)
        if answer is None:
            return PlainTextResponse(f"{question.address} is not a runner of this host\n", 403)
        return PlainTextResponse(answer.text + "\n", 200 if answer.may_run else 409)

    return Starlette(routes=[Route("/job-started", job_started, methods=["POST"])])


async def _read_body(request: Request) -> bytes | None:
    """None for one that is too large."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LARGEST_BODY:
            return None
    return body


def _number(fields: dict[str, list[str]], name: str) -> int | None:
    text = fields.get(name, [""])[0]
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
