"""Which pending runners this host should claim now. Pure."""

import hashlib
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from functions.documents.pending_runner import PendingRunner
from functions.routing.capacity import Size

from .host_ledger import HostLedger

GRACE = timedelta(seconds=1)
"""how long each host leaves a runner to those that come before it"""


def choose(
    pending: Sequence[PendingRunner], ledger: HostLedger, host_id: str, hosts: Collection[str], now: datetime
) -> list[PendingRunner]:
    """The runners to claim, oldest first, no more than there is room for.

    Which host goes first differs from runner to runner, so that hosts which see the same documents at the same moment
    seldom race; a host that does not come costs a grace, not the job.
    """
    chosen: list[PendingRunner] = []
    for runner in sorted(pending, key=lambda runner: runner.created_at):
        size = Size(runner.profile.cpu_millis, runner.profile.memory_bytes)
        if not ledger.has_room_for(runner.runner_name, size):
            continue
        if now < runner.created_at + _rank(runner, host_id, hosts) * GRACE:
            continue
        ledger = ledger.with_runner(runner.runner_name, size)
        chosen.append(runner)
    return chosen


def _rank(runner: PendingRunner, host_id: str, hosts: Collection[str]) -> int:
    """This host's place in the runner's order of hosts: the one that it was meant for, then by rendezvous hashing."""

    def order(host: str) -> tuple[bool, bytes]:
        return host != runner.preferred_host, hashlib.sha256(f"{host} {runner.runner_name}".encode()).digest()

    return sorted({*hosts, host_id}, key=order).index(host_id)
