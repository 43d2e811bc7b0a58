"""Which policy decides: the one in the document if it is valid, else the last one that was. Pure."""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from ..routing.classify import CompiledPolicy
from ..routing.policy import PolicyError, parse_policy
from .installation import Installation, LastError, LastGood

_PROBLEMS_SHOWN = 50


class Standing(StrEnum):
    """Which policy decides. Log lines carry it, and metrics count it: the words stay as they are."""

    NEWEST = "newest"
    """the one in the document"""
    LAST_GOOD = "last_good"
    """the one in the document is broken: an earlier one"""
    NONE = "none"
    """the one in the document is broken, and there is no earlier one"""


@dataclass(frozen=True)
class InForce:
    """The policy that decides, and what the document should say about the last edit."""

    policy: CompiledPolicy | None
    """None when there is neither a valid policy nor an earlier one"""
    revision: int
    problems: tuple[str, ...] = ()
    """of the policy in the document, when it is not the one in force"""
    note_good: LastGood | None = None
    """to be written: this policy is new, and valid"""
    note_error: LastError | None = None
    """to be written: this edit is new, and broken"""

    @property
    def standing(self) -> Standing:
        if self.policy is None:
            return Standing.NONE
        return Standing.LAST_GOOD if self.problems else Standing.NEWEST


class PolicyInForce:
    """Remembers what it parsed, so that a policy is checked once for each edit and process."""

    def __init__(self) -> None:
        self._parsed: dict[str, tuple[Any, CompiledPolicy | PolicyError]] = {}

    def resolve(self, owner: str, installation: Installation, now: datetime) -> InForce:
        written = self._parse(owner, installation.policy)
        good = installation.last_good
        if isinstance(written, CompiledPolicy):
            is_noted = good is not None and good.policy == installation.policy and installation.last_error is None
            note = None if is_noted else LastGood(policy=dict(installation.policy), revision=installation.revision)
            return InForce(written, installation.revision, note_good=note)
        # A document holds 1 MiB, and whoever mends these sees the rest then.
        problems = tuple(str(problem)[:500] for problem in written.problems[:_PROBLEMS_SHOWN])
        error = LastError(problems=problems, at=now, policy_hash=_hash(installation.policy))
        noted = installation.last_error
        note_error = None if noted is not None and noted.policy_hash == error.policy_hash else error
        fallback = None if good is None else self._parse(f"{owner} last good", good.policy)
        policy = fallback if isinstance(fallback, CompiledPolicy) else None
        return InForce(policy, good.revision if good else 0, problems, note_error=note_error)

    def _parse(self, key: str, document: Any) -> CompiledPolicy | PolicyError:
        known = self._parsed.get(key)
        if known is not None and known[0] == document:
            return known[1]
        try:
            parsed: CompiledPolicy | PolicyError = CompiledPolicy(parse_policy(document))
        except PolicyError as error:
            parsed = error
        self._parsed[key] = (document, parsed)
        return parsed


def _hash(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True, default=str).encode()).hexdigest()[:16]
