"""`commands/{id}`: what a controller wants of GitHub and of the ledger, and cannot do itself.

A controller has no GitHub credentials. It writes what it wants; a function that Firestore triggers does it and writes
the answer into the same document. What the trigger has missed of a runner that is gone, reconciling finds in the
runner's own document; about an idle one the controller asks again.
"""

from datetime import datetime, timedelta
from enum import StrEnum

from .model import Document

COLLECTION = "commands"
KEPT_FOR = timedelta(days=1)


class CommandKind(StrEnum):
    """What is wanted."""

    RUNNER_GONE = "runner_gone"
    """a runner has ended, or could not be started, without a job: its place is free, and its job needs another"""
    RETIRE = "retire"
    """a runner has waited for long: may it be stopped?"""


class Answer(Document):
    """What was done."""

    at: datetime
    may_stop: bool = False
    """to `retire`: GitHub gives it no job any more"""
    reason: str = ""


class Command(Document):
    """One thing that is wanted."""

    kind: CommandKind
    runner_name: str
    pool: str
    host_id: str
    reason: str = ""
    """in words, of a runner that is gone"""
    created_at: datetime
    expire_at: datetime
    answer: Answer | None = None
