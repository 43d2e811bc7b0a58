"""`installations/{org}`: an organization's routing policy and what became of the last edit."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import Field

from .model import Document

COLLECTION = "installations"


class LastGood(Document):
    """The newest policy that was valid when it was last read."""

    policy: dict[str, Any]
    revision: int = 0


class LastError(Document):
    """Why the policy in the document cannot be used."""

    problems: tuple[str, ...]
    at: datetime
    policy_hash: str = ""


class Installation(Document):
    """The policy as an operator wrote it: not checked yet, whoever may have edited it."""

    policy: Any = Field(None)
    revision: int = 0
    github_installation_id: int | None = None
    last_good: LastGood | None = None
    last_error: LastError | None = None


def installation_id(owner: str) -> str:
    """The document's id for a GitHub login."""
    return owner.lower()


def has_policy(installation: Installation | None) -> bool:
    """Whether an operator has set this organization up."""
    return installation is not None and isinstance(installation.policy, Mapping)
