"""Webhook deliveries that failed, and when GitHub is asked to deliver them again.

GitHub does not try again by itself, and keeps deliveries for three days. An event has failed when none of its
deliveries, which share a GUID, was answered with success. Source: GitHub docs, "Handling failed webhook deliveries".
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Protocol

from ..documents.reconcile import Cursor, FailedEvent, HookCursor
from ..github.errors import GitHubError
from ..github.listings import APP_HOOK, Delivery, Hook, Page
from ..github.protocol import Scope
from ..github.survey import OutOfRequests
from .tally import Tally

KEPT_BY_GITHUB = timedelta(days=3)
OVERLAP = timedelta(minutes=2)
"""a delivery appears in the list only when it has been answered or given up"""
MOST_FAILED = 500
"""events remembered for each webhook: what is lost beyond that, looking through the runs finds"""
MOST_AT_ONCE = 20
SPACING_S = 1.0
"""between calls that change something, as GitHub asks for"""
_FIRST_LOOK_BACK = timedelta(hours=1)
_FIRST_WAIT = timedelta(minutes=1)
_LONGEST_WAIT = timedelta(hours=6)


class DeliverySurvey(Protocol):
    """What is asked of GitHub."""

    @property
    def is_app(self) -> bool: ...
    async def list_deliveries(self, hook: Hook, cursor: Mapping[str, str]) -> Page[Delivery]: ...
    async def list_hooks(self, scope: Scope, url: str) -> tuple[Hook, ...]: ...
    async def redeliver(self, hook: Hook, delivery_id: int) -> None: ...


async def redeliver_failed(
    survey: DeliverySurvey,
    cursor: Cursor,
    hooks: Iterable[Hook],
    now: Callable[[], datetime],
    tally: Tally,
    sleep: Callable[[float], Awaitable[object]],
) -> Cursor:
    """Looks through what was delivered since the last run, and has failed events delivered again; the new cursor."""
    cursors = dict(cursor.hooks)
    left = MOST_AT_ONCE
    for hook in hooks:
        known = cursors.get(hook.path, HookCursor())
        try:
            known = await _scan(survey, hook, known, now(), tally)
        except OutOfRequests as error:
            tally.leave_rest(str(error))
        except GitHubError as error:
            tally.note(f"{hook.path}: {error}")
        for guid in find_due(known, now()):
            if tally.is_time_over or not left:
                tally.leave_rest()
                break
            if left < MOST_AT_ONCE:
                await sleep(SPACING_S)
            try:
                await survey.redeliver(hook, known.failed[guid].newest_id)
            except GitHubError as error:
                tally.note(f"{hook.path}: {error}")
                if error.retry_at is not None:
                    break
            else:
                tally.count("redelivered")
            left -= 1
            known = note_attempt(known, guid, now())
        cursors[hook.path] = known
    return cursor.model_copy(update={"hooks": cursors})


async def _scan(survey: DeliverySurvey, hook: Hook, known: HookCursor, now: datetime, tally: Tally) -> HookCursor:
    """Page by page, newest first, back to where everything is accounted for."""
    known = begin_scan(known, now)
    succeeded: set[str] = set()
    while known.newest is not None:
        if tally.is_time_over:
            tally.leave_rest()
            break
        try:
            page = await survey.list_deliveries(hook, known.query)
        except OutOfRequests as error:
            tally.leave_rest(str(error))
            break
        failed_before = len(known.failed)
        succeeded |= {delivery.guid for delivery in page.items if delivery.is_ok}
        known = account_for(known, page, succeeded, now)
        tally.count("failed", max(0, len(known.failed) - failed_before))
    return known


def begin_scan(known: HookCursor, now: datetime) -> HookCursor:
    """Goes on with the scan that is under way, or begins another."""
    if known.newest is not None:
        return known
    return known.model_copy(update={"newest": now - OVERLAP, "query": {}})


def account_for(known: HookCursor, page: Page[Delivery], succeeded: Collection[str], now: datetime) -> HookCursor:
    """The cursor after a page of deliveries.

    Args:
        known: the cursor before.
        page: deliveries, newest first.
        succeeded: GUIDs of the events that a delivery on this page, or on a newer one, was answered with success.
        now: the time.
    """
    horizon = max(known.until or now - _FIRST_LOOK_BACK, now - KEPT_BY_GITHUB)
    failed = {guid: event for guid, event in known.failed.items() if event.failed_at > now - KEPT_BY_GITHUB}
    for delivery in page.items:
        if delivery.event != "workflow_job" or delivery.guid in succeeded:
            failed.pop(delivery.guid, None)
            continue
        if delivery.delivered_at < horizon or (delivery.guid not in failed and len(failed) >= MOST_FAILED):
            continue
        before = failed.get(delivery.guid)
        if before is None:
            first = FailedEvent(newest_id=delivery.id, failed_at=delivery.delivered_at, next_at=now)
            failed[delivery.guid] = first
        else:
            newest = max(before.newest_id, delivery.id)
            since = min(before.failed_at, delivery.delivered_at)
            failed[delivery.guid] = before.model_copy(update={"newest_id": newest, "failed_at": since})
    is_done = page.next_query is None or any(delivery.delivered_at < horizon for delivery in page.items)
    if is_done:
        return HookCursor(until=known.newest, failed=failed)
    return known.model_copy(update={"failed": failed, "query": dict(page.next_query or {})})


def find_due(known: HookCursor, now: datetime) -> list[str]:
    """GUIDs of the events whose turn it is, oldest first."""
    due = [guid for guid, event in known.failed.items() if event.next_at <= now]
    return sorted(due, key=lambda guid: known.failed[guid].failed_at)


def note_attempt(known: HookCursor, guid: str, now: datetime) -> HookCursor:
    """A redelivery was asked for: whether it has succeeded, the next scan tells."""
    event = known.failed[guid]
    wait = min(_FIRST_WAIT * (1 << min(event.attempts, 16)), _LONGEST_WAIT)
    changed = event.model_copy(update={"attempts": event.attempts + 1, "next_at": now + wait})
    return known.model_copy(update={"failed": {**known.failed, guid: changed}})


async def find_hooks(
    survey: DeliverySurvey, scopes: Iterable[Scope], webhook_url: str | None, tally: Tally
) -> tuple[Hook, ...]:
    """The webhooks that deliver to us: the App's own, and those with our address."""
    hooks: list[Hook] = [APP_HOOK] if survey.is_app else []
    if webhook_url is None:
        if not survey.is_app:
            tally.note("GITHUB_WEBHOOK_URL is not set: failed deliveries are not looked for")
        return tuple(hooks)
    for scope in scopes:
        try:
            hooks += await survey.list_hooks(scope, webhook_url)
        except OutOfRequests as error:
            tally.leave_rest(str(error))
            break
        except GitHubError as error:
            tally.note(f"webhooks of {scope.path}: {error}")
    return tuple(hooks)
