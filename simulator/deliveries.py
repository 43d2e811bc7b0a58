"""Signs and sends webhooks, remembers how that went, and sends again when asked to."""

import asyncio
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from urllib.parse import urlencode

import httpx

from .world import ApiError

GIVE_UP_AFTER_S = 10.0
"""GitHub's own limit for an answer"""


class Mishap(StrEnum):
    """What may happen to an event on its way."""

    LOST = "lost"
    """never sent, and GitHub knows nothing of it either"""
    FAILED = "failed"
    """did not get through: recorded as failed"""
    UNANSWERED = "unanswered"
    """got through, but the answer did not come in time: recorded with status 0"""
    DOUBLED = "doubled"
    """sent twice"""
    LATE = "late"
    """sent some seconds later, after the events that follow it"""


LATE_S = 3.0


@dataclass
class MishapOrder:
    """Mishaps to come."""

    mishap: Mishap
    action: str | None = None
    """only to events of this action"""
    times: int = 1


@dataclass(frozen=True)
class Event:
    """Something that GitHub tells, once or several times."""

    guid: str
    name: str
    payload: dict[str, Any]

    @property
    def action(self) -> str | None:
        return self.payload.get("action")

    @property
    def repository(self) -> str:
        return str(self.payload["repository"]["full_name"])

    @property
    def job_id(self) -> int | None:
        job = self.payload.get("workflow_job")
        return None if job is None else int(job["id"])


@dataclass(frozen=True)
class Delivery:
    """One attempt to deliver an event."""

    id: int
    event: Event
    delivered_at: datetime
    is_redelivery: bool
    status: str
    status_code: int
    """0 when there was no answer"""
    duration_s: float
    answer: str


class Deliveries:
    """Sends to one webhook. Events of one job go in order, those of different jobs side by side."""

    def __init__(self, url: str, secret: str, now: Callable[[], datetime], content_type: str = "json"):
        self.url = url
        """empty as long as nobody has installed a webhook"""
        self.content_type = content_type
        self._secret = secret
        self._now = now
        self._http = httpx.AsyncClient(timeout=GIVE_UP_AFTER_S, limits=httpx.Limits(max_connections=200))
        self._last_of: dict[int | None, asyncio.Task[None]] = {}
        self._asides: set[asyncio.Task[None]] = set()
        self.done: list[Delivery] = []
        self.orders: list[MishapOrder] = []

    def send(self, event: str, payload: dict[str, Any]) -> None:
        """Sends in the background."""
        if not self.url:
            return
        new = Event(str(uuid.uuid4()), event, payload)
        match self._take_order(new.action):
            case Mishap.LOST:
                return
            case Mishap.FAILED:
                self._record(new, False, "failed to connect to host", 502, 0.0, "")
            case Mishap.UNANSWERED:
                self._enqueue(new, is_answer_lost=True)
            case Mishap.DOUBLED:
                self._enqueue(new)
                self._enqueue(new)
            case Mishap.LATE:
                self._aside(self._send_late(new))
            case None:
                self._enqueue(new)

    def configure(self, url: str, secret: str, content_type: str) -> None:
        """What is sent from now on goes there, signed with this secret."""
        self.url, self._secret, self.content_type = url, secret, content_type

    def find(self, delivery_id: int) -> Delivery:
        for delivery in self.done:
            if delivery.id == delivery_id:
                return delivery
        raise ApiError(404, "Not Found")

    def redeliver(self, delivery_id: int) -> None:
        """Sends an event once more, with the same GUID."""
        self._aside(self._attempt(self.find(delivery_id).event, is_redelivery=True))

    async def settle(self) -> None:
        """Waits until everything sent so far has been answered or given up."""
        while pending := [task for task in [*self._last_of.values(), *self._asides] if not task.done()]:
            await asyncio.wait(pending)

    def _take_order(self, action: str | None) -> Mishap | None:
        for order in self.orders:
            if order.times > 0 and order.action in {None, action}:
                order.times -= 1
                return order.mishap
        return None

    def _enqueue(self, event: Event, *, is_answer_lost: bool = False) -> None:
        previous = self._last_of.get(event.job_id)
        self._last_of[event.job_id] = asyncio.create_task(self._send_after(previous, event, is_answer_lost))

    def _aside(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)

    async def _send_after(self, previous: asyncio.Task[None] | None, event: Event, is_answer_lost: bool) -> None:
        if previous is not None:
            await asyncio.wait([previous])
        await self._attempt(event, is_answer_lost=is_answer_lost)

    async def _send_late(self, event: Event) -> None:
        await asyncio.sleep(LATE_S)
        await self._attempt(event)

    async def _attempt(self, event: Event, *, is_redelivery: bool = False, is_answer_lost: bool = False) -> None:
        headers, body = self._sign(event)
        started = time.monotonic()
        try:
            response = await self._http.post(self.url, content=body, headers=headers)
            code, answer = response.status_code, response.text
            status = "OK" if response.is_success else f"Invalid HTTP Response: {code}"
        except httpx.HTTPError as error:
            status, code, answer = "timed out", 0, f"{type(error).__name__}: {error}"
        if is_answer_lost:
            status, code, answer = "timed out", 0, ""
        self._record(event, is_redelivery, status, code, time.monotonic() - started, answer)

    def _record(
        self, event: Event, is_redelivery: bool, status: str, code: int, duration_s: float, answer: str
    ) -> None:
        number = len(self.done) + 1
        self.done.append(Delivery(number, event, self._now(), is_redelivery, status, code, duration_s, answer))

    def _sign(self, event: Event) -> tuple[dict[str, str], bytes]:
        text = json.dumps(event.payload, ensure_ascii=False)
        is_form = self.content_type == "form"
        body = (urlencode({"payload": text}) if is_form else text).encode()
        headers = {
            "Content-Type": "application/x-www-form-urlencoded" if is_form else "application/json",
            "User-Agent": "GitHub-Hookshot/simulated",
            "X-GitHub-Delivery": event.guid,
            "X-GitHub-Event": event.name,
            "X-GitHub-Hook-ID": "1",
            "X-GitHub-Hook-Installation-Target-ID": "1",
            "X-GitHub-Hook-Installation-Target-Type": "repository",
            "X-Hub-Signature": "sha1=" + hmac.new(self._secret.encode(), body, hashlib.sha1).hexdigest(),
            "X-Hub-Signature-256": "sha256=" + hmac.new(self._secret.encode(), body, hashlib.sha256).hexdigest(),
        }
        return headers, body
