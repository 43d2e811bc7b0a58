"""`pendingRunners/{runnerName}`: one runner to be started, with all that a host needs for it.

The functions create it; from then on the controllers own it. A controller never reads the policy to launch: what holds
for this runner was resolved when it was admitted.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from .lifecycle import RunnerState
from .model import Document
from .sealing import SealedConfig
from .workflow_job import RunnerProfile, SizingRules

COLLECTION = "pendingRunners"
KEPT_FOR = timedelta(days=7)


class Claim(Document):
    """Who starts the runner, and until when nobody else may."""

    host_id: str
    token: str
    """of the commit that claimed it"""
    lease_until: datetime


class PendingRunner(Document):
    """A runner that was admitted and registered, and where it is in its life."""

    runner_name: str
    org: str
    repository: str
    job_key: str
    """the job that it was made for; GitHub may give it another. Empty for a runner that waits for any job"""
    job_name: str
    runner_id: int
    """GitHub's id of the runner; 0 when it has not told us, or has made none"""
    scope: str
    """where it is registered: `/orgs/acme` or `/repos/acme/app`"""
    labels: tuple[str, ...]
    scale_set: str
    pool: str
    image: str
    profile: RunnerProfile
    sizing: SizingRules = SizingRules()
    idle_timeout_s: int = 300
    preferred_host: str = ""
    """that should start it, so that idle runners are spread"""
    sealed_config: SealedConfig | None = None
    """gone once a host has claimed the runner"""
    status: RunnerState = RunnerState.PENDING
    reason: str = ""
    """why it failed or was cancelled"""
    claim: Claim | None = None
    attempts: int = 0
    created_at: datetime
    claimed_at: datetime | None = None
    launched_at: datetime | None = None
    registered_at: datetime | None = None
    ended_at: datetime | None = None
    exit_code: int | None = None
    is_registered: bool = True
    """GitHub may still know it; of a runner that has failed or was cancelled, reconciling removes it there"""
    is_unwanted: bool = False
    """GitHub does not know it any more: it holds no place, and its host stops it when it next asks about it"""
    expire_at: datetime | None = None


@dataclass(frozen=True)
class SeenRunner:
    """A runner's document and the version that a change must name."""

    runner: PendingRunner
    version: datetime
