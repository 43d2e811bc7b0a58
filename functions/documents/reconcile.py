"""`reconciles/{…}`: what each reconcile run has done, and `reconciles/cursor`: where the next one goes on."""

from datetime import datetime, timedelta

from .model import Document

COLLECTION = "reconciles"
CURSOR_ID = "cursor"
KEPT_FOR = timedelta(days=7)


class FailedEvent(Document):
    """An event of which no delivery has succeeded yet."""

    newest_id: int
    """of its deliveries"""
    failed_at: datetime
    """the first of them"""
    attempts: int = 0
    """redeliveries that were asked for"""
    next_at: datetime
    """when the next one is due"""


class HookCursor(Document):
    """How far one webhook's deliveries have been looked through."""

    until: datetime | None = None
    """all that were delivered before are accounted for"""
    newest: datetime | None = None
    """of the scan that is under way: it accounts for everything before"""
    query: dict[str, str] = {}
    """of the page with which that scan goes on"""
    failed: dict[str, FailedEvent] = {}
    """by the event's GUID"""


class ScopeCursor(Document):
    """An organization or repository in which runners of ours may be registered."""

    listed_at: datetime | None = None
    """when all of its runners were last looked through"""
    used_at: datetime
    """when it was last known to have runners of ours"""


class Cursor(Document):
    """Where the next run goes on."""

    hooks: dict[str, HookCursor] = {}
    """by the webhook's path"""
    repositories: dict[str, datetime] = {}
    """when each was last looked through"""
    scopes: dict[str, ScopeCursor] = {}
    """by path: `/orgs/acme` or `/repos/acme/app`"""
    jobs_after: str = ""
    """key of the last unfinished job that was asked about"""


class StepReport(Document):
    """What one step of a run has done."""

    name: str
    done: dict[str, int] = {}
    """how often it did what"""
    notes: tuple[str, ...] = ()
    """what went wrong, or must be known"""
    is_complete: bool = True
    """False when the rest was left to the next run"""
    took_ms: float = 0


class Report(Document):
    """What one run has done."""

    started_at: datetime
    took_ms: float = 0
    requests: int = 0
    """to GitHub, those left out that cost nothing because nothing had changed"""
    steps: tuple[StepReport, ...] = ()
    expire_at: datetime
