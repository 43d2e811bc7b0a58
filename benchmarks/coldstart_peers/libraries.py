"""The least that the libraries cost: each is used once, as a webhook needs it, without any of our code."""

import hashlib
import hmac
import os
import uuid

import functions_framework.aio
import httpx
from google.cloud import firestore
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response


class Job(BaseModel):
    """What a router must know of a job."""

    id: int
    run_id: int
    name: str
    labels: list[str]


class Owner(BaseModel):
    """Of the repository."""

    login: str


class Repository(BaseModel):
    """Where the job comes from."""

    full_name: str
    owner: Owner


class Payload(BaseModel):
    """The part of a webhook that is looked at."""

    action: str
    workflow_job: Job
    repository: Repository


_store = firestore.AsyncClient(project=os.environ["GOOGLE_CLOUD_PROJECT"])
_github = httpx.AsyncClient()


@functions_framework.aio.http
async def github_webhook(request: Request) -> Response:
    """Reads a policy, registers a runner, writes a document."""
    body = await request.body()
    signature = hmac.new(os.environ["GITHUB_WEBHOOK_SECRET"].encode(), body, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(f"sha256={signature}", request.headers["X-Hub-Signature-256"]):
        return JSONResponse({"outcome": "unauthenticated"}, 401)
    payload = Payload.model_validate_json(body)
    organization = payload.repository.owner.login
    await _store.collection("installations").document(organization).get()
    name = uuid.uuid4().hex
    registered = await _github.post(
        f"{os.environ['GITHUB_API_URL']}/orgs/{organization}/actions/runners/generate-jitconfig",
        json={"name": name, "runner_group_id": 1, "labels": payload.workflow_job.labels},
        headers={"Authorization": f"Bearer {os.environ['GITHUB_TOKEN']}"},
    )
    registered.raise_for_status()
    await _store.collection("peers").document(name).create({"config": registered.json()["encoded_jit_config"]})
    return JSONResponse({"outcome": "self_hosted"})
