"""Claiming: a pending runner becomes this host's, or another's. Exactly one host wins."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from functions.documents.errors import Moved, StoreRefused, StoreUnavailable
from functions.documents.lifecycle import RunnerEvent, RunnerState, move_runner
from functions.documents.pending_runner import Claim, PendingRunner

LEASE = timedelta(minutes=2)
"""after which another host may take a claimed runner that was not started"""


class SeenRunner(Protocol):
    """A pending runner and the version of its document."""

    @property
    def runner(self) -> PendingRunner: ...
    @property
    def version(self) -> datetime: ...


class ClaimStore(Protocol):
    """What claiming needs of the store."""

    async def claim(self, seen: Sequence[Any], changes: Mapping[str, Any]) -> None: ...
    async def read_runner(self, runner_name: str) -> PendingRunner | None: ...


@dataclass(frozen=True)
class Claimed:
    """This host's now, with the sealed config that is no longer in the document."""

    runner: PendingRunner


@dataclass(frozen=True)
class Lost:
    """Not ours: another host was first, it was cancelled, or Firestore does not answer. What waits is seen again."""

    runner_name: str


async def claim_runners(
    store: ClaimStore, seen: Sequence[SeenRunner], host_id: str, now: Callable[[], datetime]
) -> Sequence[Claimed | Lost]:
    """Claims runners, all in one commit if nobody interferes, else one by one.

    Raises:
        StoreUnavailable, StoreRefused: as far as Firestore tells, none of them was claimed.
    """
    token = secrets.token_hex(8)
    try:
        return await _claim_all(store, seen, host_id, token, now())
    except Moved:
        return [await _claim_one(store, one, host_id, token, now()) for one in seen]


async def _claim_one(store: ClaimStore, one: SeenRunner, host_id: str, token: str, now: datetime) -> Claimed | Lost:
    """Claims one runner of several; whatever goes wrong with it, those that were claimed before it must be started."""
    try:
        (claimed,) = await _claim_all(store, [one], host_id, token, now)
    except (Moved, StoreUnavailable, StoreRefused):
        return Lost(one.runner.runner_name)
    return claimed


async def _claim_all(
    store: ClaimStore, seen: Sequence[SeenRunner], host_id: str, token: str, now: datetime
) -> list[Claimed]:
    claim = Claim(host_id=host_id, token=token, lease_until=now + LEASE)
    status = move_runner(RunnerState.PENDING, RunnerEvent.CLAIM)
    try:
        await store.claim(seen, {"status": status, "claim": claim.to_firestore(), "claimedAt": now})
    except (Moved, StoreUnavailable):
        # The commit may have landed although its answer was lost; for all of them or for none.
        found = await store.read_runner(seen[0].runner.runner_name)
        if found is None or found.claim is None or found.claim.token != token:
            raise
    update = {"status": status, "claim": claim, "claimed_at": now}
    return [Claimed(one.runner.model_copy(update=update)) for one in seen]
