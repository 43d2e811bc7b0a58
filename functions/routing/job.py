"""What the rules may look at in a job."""

from dataclasses import dataclass


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
