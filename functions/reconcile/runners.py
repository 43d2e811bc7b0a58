"""Runners' documents that nobody will move any more, and runners that GitHub has dropped."""

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Protocol

from ..documents.errors import StoreUnavailable
from ..documents.host import Host
from ..documents.lifecycle import RunnerEvent, RunnerState, move_runner
from ..documents.pending_runner import KEPT_FOR, PendingRunner, SeenRunner
from ..github.errors import GitHubError
from ..github.protocol import RegisteredRunner, Scope
from ..github.survey import OutOfRequests
from .tally import Tally

DEAD_AFTER = timedelta(minutes=5)
"""a host that was silent for so long does not come back soon; its jobs may run on all the same"""


class RunnerSurvey(Protocol):
    """What is asked of GitHub."""

    async def read_runner(self, scope: Scope, runner_id: int) -> RegisteredRunner | None: ...


class RunnerStore(Protocol):
    """What is needed of the store."""

    async def change_runner(self, seen: SeenRunner, fields: Mapping[str, Any]) -> bool: ...


async def look_after(
    survey: RunnerSurvey,
    store: RunnerStore,
    runners: Iterable[SeenRunner],
    hosts: Collection[Host],
    busy: Collection[str],
    now: Callable[[], datetime],
    grace: timedelta,
    tally: Tally,
) -> set[str]:
    """Ends what hangs; the names of the runners that live here, but that GitHub does not know any more.

    Args:
        survey: asks GitHub.
        store: changes documents.
        runners: those that live.
        hosts: all of them, dead ones too.
        busy: names of the runners that have a job, as far as we know.
        now: the clock.
        grace: how long anything may be on its way.
        tally: of this step.
    """
    dropped: set[str] = set()
    for seen in runners:
        runner = seen.runner
        try:
            if (reason := why_stuck(runner, hosts, now(), grace)) is not None:
                if await store.change_runner(seen, end_of(runner, reason, now())):
                    tally.count("ended")
            elif must_ask(runner, hosts, busy, now(), grace):
                if tally.is_time_over:
                    tally.leave_rest()
                    break
                registered = await survey.read_runner(Scope(runner.scope), runner.runner_id)
                tally.count("asked")
                if await _act_on(store, seen, registered, hosts, now(), tally):
                    dropped.add(runner.runner_name)
        except OutOfRequests as error:
            tally.leave_rest(str(error))
            break
        except (GitHubError, StoreUnavailable) as error:
            tally.note(f"{runner.runner_name}: {error}")
    return dropped


async def _act_on(
    store: RunnerStore,
    seen: SeenRunner,
    registered: RegisteredRunner | None,
    hosts: Collection[Host],
    now: datetime,
    tally: Tally,
) -> bool:
    """Whether the runner lives here although GitHub has dropped it."""
    runner = seen.runner
    if is_host_dead(runner, hosts, now):
        if registered is None or not (registered.is_online or registered.is_busy):
            host_id = runner.claim.host_id if runner.claim is not None else "?"
            if await store.change_runner(seen, end_of(runner, f"host {host_id} has gone, and the runner with it", now)):
                tally.count("ended")
        return False
    if registered is not None:
        return False
    if not runner.is_unwanted:
        await store.change_runner(seen, {"isUnwanted": True, "reason": "GitHub has dropped it before it got a job"})
        tally.count("dropped by GitHub")
    return True


def why_stuck(runner: PendingRunner, hosts: Collection[Host], now: datetime, grace: timedelta) -> str | None:
    """Why nobody will ever start a runner that waits or is being started; None while somebody may."""
    if runner.status is RunnerState.PENDING:
        sealed = runner.sealed_config
        if sealed is None:
            return "its document has lost the JIT config"
        recipients = [host for host in hosts if host.host_id in sealed.keys and not host.is_draining]
        if not any(host.lease_until + grace > now for host in recipients) and runner.created_at + grace <= now:
            return "no host that can open its JIT config is alive"
    if runner.status is RunnerState.SCHEDULING and is_host_dead(runner, hosts, now):
        is_claim_over = runner.claim is None or runner.claim.lease_until <= now
        return "the host that claimed it has gone" if is_claim_over else None
    return None


def must_ask(
    runner: PendingRunner, hosts: Collection[Host], busy: Collection[str], now: datetime, grace: timedelta
) -> bool:
    """Whether only GitHub knows if a runner that was started still is there."""
    if runner.status is not RunnerState.SCHEDULED:
        return False
    if is_host_dead(runner, hosts, now):
        return True
    since = runner.launched_at or runner.created_at
    return runner.runner_name not in busy and since + grace <= now


def is_host_dead(runner: PendingRunner, hosts: Collection[Host], now: datetime) -> bool:
    """Whether the host that has claimed a runner was silent for too long."""
    if runner.claim is None:
        return True
    host_id = runner.claim.host_id
    return not any(host.host_id == host_id and host.lease_until + DEAD_AFTER > now for host in hosts)


def end_of(runner: PendingRunner, reason: str, now: datetime) -> dict[str, Any]:
    """The fields of a runner's document that has come to nothing."""
    event = RunnerEvent.CANCEL if runner.status is RunnerState.PENDING else RunnerEvent.FAIL
    return {
        "status": move_runner(runner.status, event),
        "reason": reason,
        "endedAt": now,
        "expireAt": now + KEPT_FOR,
        "sealedConfig": None,
    }
