"""What the rules may look at in a job."""

from dataclasses import dataclass
from enum import StrEnum


class Trust(StrEnum):
    """Where a job's code comes from."""

    TRUSTED = "trusted"
    """from a branch of the repository itself"""
    FORK = "fork"
    """from a fork, by a pull request"""


@dataclass(frozen=True)
class JobFacts:
    """The part of a workflow job that routing depends on. All of it is user-controlled text."""

    repository: str
    """`owner/name`"""
    name: str
    """display name, with matrix values: `test (ubuntu, 3.12)`"""
    labels: tuple[str, ...]
    """as written in `runs-on`"""
    workflow: str = ""
    branch: str = ""
    event: str | None = None
    """what started the run, such as `push`; None while it is not known: webhooks do not tell it"""
    trust: Trust | None = None
    """None while it is not known"""
