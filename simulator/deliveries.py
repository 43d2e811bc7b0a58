"""Signs and sends webhooks, and remembers how that went."""

import asyncio
import hashlib
import hmac
import json
import time
import uuid
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import httpx

GIVE_UP_AFTER_S = 10.0
"""GitHub's own limit for an answer"""


@dataclass(frozen=True)
class Delivery:
    """One attempt to deliver an event."""

    id: int
    guid: str
    event: str
    action: str | None
    job_id: int | None
    status_code: int
    """0 when there was no answer"""
    duration_s: float
    answer: str


class Deliveries:
    """Sends to one webhook. Events of one job go in order, those of different jobs side by side."""

    def __init__(self, url: str, secret: str, content_type: str = "json"):
        self.url = url
        """empty as long as nobody has installed a webhook"""
        self.content_type = content_type
        self._secret = secret
        self._http = httpx.AsyncClient(timeout=GIVE_UP_AFTER_S, limits=httpx.Limits(max_connections=200))
        self._last_of: dict[int | None, asyncio.Task[None]] = {}
        self.done: list[Delivery] = []

    def configure(self, url: str, secret: str, content_type: str) -> None:
        """What is sent from now on goes there, signed with this secret."""
        self.url, self._secret, self.content_type = url, secret, content_type

    def send(self, event: str, payload: dict[str, Any], job_id: int | None = None) -> None:
        """Sends in the background."""
        if not self.url:
            return
        previous = self._last_of.get(job_id)
        self._last_of[job_id] = asyncio.create_task(self._send_after(previous, event, payload, job_id))

    async def _send_after(
        self, previous: asyncio.Task[None] | None, event: str, payload: dict[str, Any], job_id: int | None
    ) -> None:
        if previous is not None:
            await asyncio.wait([previous])
        text = json.dumps(payload, ensure_ascii=False)
        is_form = self.content_type == "form"
        body = (urlencode({"payload": text}) if is_form else text).encode()
        guid = str(uuid.uuid4())
        headers = {
            "Content-Type": "application/x-www-form-urlencoded" if is_form else "application/json",
            "User-Agent": "GitHub-Hookshot/simulated",
            "X-GitHub-Delivery": guid,
            "X-GitHub-Event": event,
            "X-GitHub-Hook-ID": "1",
            "X-GitHub-Hook-Installation-Target-ID": "1",
            "X-GitHub-Hook-Installation-Target-Type": "repository",
            "X-Hub-Signature": "sha1=" + hmac.new(self._secret.encode(), body, hashlib.sha1).hexdigest(),
            "X-Hub-Signature-256": "sha256=" + hmac.new(self._secret.encode(), body, hashlib.sha256).hexdigest(),
        }
        started = time.monotonic()
        try:
            response = await self._http.post(self.url, content=body, headers=headers)
            status, answer = response.status_code, response.text
        except httpx.HTTPError as error:
            status, answer = 0, f"{type(error).__name__}: {error}"
        took_s = time.monotonic() - started
        number = len(self.done) + 1
        self.done.append(Delivery(number, guid, event, payload.get("action"), job_id, status, took_s, answer))

    async def settle(self) -> None:
        """Waits until everything sent so far has been answered or given up."""
        while pending := [task for task in self._last_of.values() if not task.done()]:
            await asyncio.wait(pending)
