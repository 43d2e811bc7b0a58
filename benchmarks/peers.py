"""Functions to measure ours against: one that does nothing, and two ways of admission that are often written.

Both read and check the webhook as ours do, and then only admit: they ask GitHub for nothing. functions-framework starts
them like any other function.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any

import functions_framework.aio
from google.api_core.exceptions import GoogleAPICallError
from google.cloud import firestore
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from functions.webhook import signature
from functions.webhook.event import JobEvent, parse_event

ANSWER_WITHIN_S = 9.0
"""as ours: GitHub marks a delivery as failed after 10 s"""


@functions_framework.aio.http
async def empty(request: Request) -> Response:
    """The floor: what functions-framework costs by itself."""
    return Response()


@functions_framework.aio.http
async def count_then_write(request: Request) -> Response:
    """Counts the admitted jobs, and writes one more if there is room."""
    return await _serve(request, _count_then_write)


@functions_framework.aio.http
async def counter(request: Request) -> Response:
    """Counts in one document, in a transaction."""
    return await _serve(request, _raise_counter)


async def _serve(request: Request, admit: Callable[[JobEvent], Awaitable[bool]]) -> Response:
    body = await request.body()
    secret = SecretStr(os.environ["GITHUB_WEBHOOK_SECRET"])
    if signature.find_fault(body, request.headers.get(signature.HEADER), [secret]) is not None:
        return JSONResponse({"outcome": "unauthenticated"}, 401)
    event = parse_event("workflow_job", request.headers["Content-Type"], body)
    if not isinstance(event, JobEvent):
        return JSONResponse({"outcome": "ignored"})
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            is_admitted = await admit(event)
    except (GoogleAPICallError, ValueError, TimeoutError) as error:
        # A ValueError is how the library says that a transaction was tried too often.
        return JSONResponse({"outcome": "failed", "reason": str(error)[:200]}, 503)
    return JSONResponse({"outcome": "self_hosted" if is_admitted else "held"})


async def _count_then_write(event: JobEvent) -> bool:
    jobs = _client().collection(f"jobs-of-{event.owner}")
    query: Any = jobs.where(filter=firestore.FieldFilter("isAdmitted", "==", True)).count()
    ((counted,),) = await query.get()
    is_admitted = int(counted.value) < _places()
    await jobs.document(str(event.job_id)).create({"name": event.facts.name, "isAdmitted": is_admitted})
    return is_admitted


async def _raise_counter(event: JobEvent) -> bool:
    taken_reference = _client().collection("counters").document(event.owner)
    job_reference = _client().collection(f"jobs-of-{event.owner}").document(str(event.job_id))

    @firestore.async_transactional
    async def admit(transaction: Any) -> bool:
        snapshot = await taken_reference.get(transaction=transaction)
        taken = snapshot.get("taken") if snapshot.exists else 0
        is_admitted: bool = taken < _places()
        if is_admitted:
            transaction.set(taken_reference, {"taken": taken + 1})
        transaction.create(job_reference, {"name": event.facts.name, "isAdmitted": is_admitted})
        return is_admitted

    admitted: bool = await admit(_client().transaction())
    return admitted


def _places() -> int:
    return int(os.environ["PLACES"])


@cache
def _client() -> firestore.AsyncClient:
    return firestore.AsyncClient(project=os.environ["GOOGLE_CLOUD_PROJECT"])
