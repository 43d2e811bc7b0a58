"""What Runyard must be allowed at GitHub, in the words of each kind of credentials; docs/github.md tells the same.

Source: GitHub docs, "REST API endpoints for self-hosted runners", "… webhooks", "Scopes for OAuth apps",
"Permissions required for GitHub Apps".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Right:
    """One thing that must be allowed."""

    what: str
    classic: str
    """scope of a classic personal access token"""
    fine_grained: str
    """permission of a fine-grained token"""
    app: tuple[str, str] | None
    """permission of a GitHub App as its API calls it, and how much of it; None when an App needs none"""


REGISTER: Mapping[bool, Right] = {
    True: Right(
        "register and remove runners",
        "admin:org",
        "organization: Self-hosted runners: write",
        ("organization_self_hosted_runners", "write"),
    ),
    False: Right(
        "register and remove runners", "repo", "repository: Administration: write", ("administration", "write")
    ),
}
"""by whether runners are registered at the organization"""

HOOKS: Mapping[bool, Right] = {
    True: Right("install the webhook", "admin:org_hook", "organization: Webhooks: write", None),
    False: Right("install the webhook", "repo", "repository: Webhooks: write", None),
}
"""an App has a webhook of its own"""

JOBS = Right("read jobs, and be told of them", "repo", "repository: Actions: read", ("actions", "read"))
CANCEL = Right("cancel rejected runs (cancel: true)", "repo", "repository: Actions: write", ("actions", "write"))
VARIABLES = Right(
    "switch a variable (mechanism: variable)",
    "admin:org",
    "organization: Variables: write",
    ("organization_actions_variables", "write"),
)

EVENT = "workflow_job"
_MORE = {"read": 1, "write": 2, "admin": 3}


def rights(*, at_organization: bool, cancels: bool = False, switches: bool = False) -> tuple[Right, ...]:
    """What is needed; `cancels` and `switches` say which parts of a policy are to be used."""
    needed = [REGISTER[at_organization], HOOKS[at_organization], CANCEL if cancels else JOBS]
    return (*needed, VARIABLES) if switches else tuple(needed)


def app_permissions(needed: Sequence[Right]) -> dict[str, str]:
    """The permissions that an App asks for."""
    return {"metadata": "read"} | dict(right.app for right in needed if right.app is not None)


def missing_of_app(needed: Sequence[Right], granted: Mapping[str, str]) -> list[tuple[Right, str, str]]:
    """What an App's permissions do not cover: the right, the permission and how much of it."""
    return [
        (right, *right.app)
        for right in needed
        if right.app is not None and _MORE.get(granted.get(right.app[0], ""), 0) < _MORE[right.app[1]]
    ]


def missing_of_classic(needed: Sequence[Right], scopes: str) -> list[Right]:
    """What the scopes of a classic token, as the header `X-OAuth-Scopes` lists them, do not cover."""
    granted = {scope.strip() for scope in scopes.split(",")}
    return [right for right in needed if right.classic not in granted]
