"""Who a workflow is: GitHub's OIDC tokens for workflow runs, verified.

Source: GitHub docs, "OpenID Connect reference".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..oidc import InvalidToken, TokenVerifier

_REQUIRED = ("repository", "repository_owner", "run_id")


@dataclass(frozen=True)
class WorkflowClaims:
    """What a token says of the workflow run that asked for it."""

    owner: str
    repository: str
    """`owner/name`"""
    run_id: int
    workflow: str
    branch: str
    event: str


class WorkflowVerifier:
    """Verifies the tokens of workflow runs."""

    def __init__(self, issuer: str, audience: str):
        self._tokens = TokenVerifier(issuer, audience, _REQUIRED)

    async def verify(self, token: str) -> WorkflowClaims:
        """The claims of a token.

        Raises:
            InvalidToken: issuer, audience, signature, time or claims are not right.
            KeysUnavailable: the keys cannot be fetched.
        """
        return _read_claims(await self._tokens.verify(token))


def _read_claims(claims: Mapping[str, Any]) -> WorkflowClaims:
    owner, repository, run_id = claims["repository_owner"], claims["repository"], str(claims["run_id"])
    if not isinstance(owner, str) or not isinstance(repository, str) or not repository.startswith(f"{owner}/"):
        raise InvalidToken("the token names no repository of its owner")
    if not (run_id.isascii() and run_id.isdigit() and len(run_id) < 19):
        raise InvalidToken("the token names no workflow run")
    branch = str(claims.get("head_ref") or claims.get("ref") or "")
    return WorkflowClaims(
        owner=owner,
        repository=repository,
        run_id=int(run_id),
        workflow=str(claims.get("workflow") or ""),
        branch=branch.removeprefix("refs/heads/"),
        event=str(claims.get("event_name") or ""),
    )
