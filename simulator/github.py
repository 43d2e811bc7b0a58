"""The simulated GitHub as a whole: world, deliveries, credentials and faults, shared by its servers."""

import asyncio
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from .deliveries import Deliveries
from .oidc import OidcIssuer
from .payloads import workflow_job_webhook
from .world import Job, World

TOKEN_LIFETIME = timedelta(hours=1)


@dataclass
class Fault:
    """What goes wrong with the next calls of one kind."""

    operation: str
    """name of the REST operation, such as `generate-jitconfig`"""
    times: int = 1
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: str = '{"message": "simulated fault"}'
    delay_s: float = 0
    loses_answer: bool = False
    """does what was asked, and then says nothing for a minute"""


@dataclass
class RateLimit:
    """How many calls are left in this hour; for all together."""

    limit: int = 5000
    used: int = 0
    reset_at: float = field(default_factory=lambda: time.time() + 3600)

    @property
    def remaining(self) -> int:
        return max(0, self.limit - self.used)

    def begin(self) -> None:
        """A new hour, if it is time."""
        if time.time() >= self.reset_at:
            self.used, self.reset_at = 0, time.time() + 3600

    def headers(self) -> dict[str, str]:
        return {
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": str(self.remaining),
            "X-RateLimit-Used": str(self.used),
            "X-RateLimit-Reset": str(int(self.reset_at)),
            "X-RateLimit-Resource": "core",
        }


@dataclass
class App:
    """A GitHub App that may ask for installation tokens."""

    app_id: str
    public_key: bytes
    """PEM"""
    installation_id: int
    permissions: dict[str, str] = field(default_factory=dict)
    events: tuple[str, ...] = ()
    is_installed: bool = True


@dataclass
class GitHub:
    """Everything behind the simulated GitHub's doors."""

    world: World
    deliveries: Deliveries
    token: str
    """a personal access token with all rights"""
    broker_url: str
    oidc: OidcIssuer
    app: App | None = None
    variables: dict[str, dict[str, str]] = field(default_factory=dict)
    """scope → name → value"""
    faults: list[Fault] = field(default_factory=list)
    rate_limit: RateLimit = field(default_factory=RateLimit)
    installation_tokens: dict[str, datetime] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    """method and path of every REST call so far"""
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    """notified whenever a runner might have got a job"""

    def take_fault(self, operation: str) -> Fault | None:
        for fault in self.faults:
            if fault.operation == operation and fault.times > 0:
                fault.times -= 1
                return fault
        return None

    def is_authorized(self, token: str) -> bool:
        if secrets.compare_digest(token.encode(), self.token.encode()):
            return True
        expires_at = self.installation_tokens.get(token)
        return expires_at is not None and expires_at > datetime.now(UTC)

    def new_installation_token(self) -> tuple[str, datetime]:
        token = "ghs_" + secrets.token_hex(20)
        self.installation_tokens[token] = datetime.now(UTC) + TOKEN_LIFETIME
        return token, self.installation_tokens[token]

    async def hand_out_jobs(self) -> None:
        """Lets GitHub decide who works on what, and wakes the runners that got something."""
        if self.world.hand_out_jobs():
            async with self.changed:
                self.changed.notify_all()

    def announce(self, action: str, jobs: Iterable[Job]) -> None:
        """Sends the webhook of an action for each job, as it is now."""
        installation_id = self.app.installation_id if self.app else None
        for job in jobs:
            payload = workflow_job_webhook(action, job, self.world, installation_id)
            self.deliveries.send("workflow_job", payload)
