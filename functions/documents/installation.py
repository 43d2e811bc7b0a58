"""`installations/{org}`: an organization's routing policy and what became of the last edit."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from pydantic import ValidationError, ValidatorFunctionWrapHandler, WrapValidator

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


def _unless_unreadable(default: Any) -> WrapValidator:
    """Whatever an operator has typed into one field, the others can still be read."""

    def validate(value: Any, validator: ValidatorFunctionWrapHandler) -> Any:
        try:
            return validator(value)
        except ValidationError:
            return default

    return WrapValidator(validate)


class Installation(Document):
    """The policy as an operator wrote it: not checked yet, whoever may have edited it."""

    policy: Any = None
    revision: Annotated[int, _unless_unreadable(0)] = 0
    github_installation_id: Annotated[int | None, _unless_unreadable(None)] = None
    last_good: Annotated[LastGood | None, _unless_unreadable(None)] = None
    last_error: Annotated[LastError | None, _unless_unreadable(None)] = None


def installation_id(owner: str) -> str:
    """The document's id for a GitHub login."""
    return owner.lower()


def has_policy(installation: Installation | None) -> bool:
    """Whether an operator has set this organization up."""
    return installation is not None and isinstance(installation.policy, Mapping)
