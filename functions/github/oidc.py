"""Who a workflow is: GitHub's OIDC tokens for workflow runs, verified.

Source: GitHub docs, "OpenID Connect reference". Tokens are RS256, signed with keys that GitHub rotates, and good for
minutes.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import jwt

LARGEST_TOKEN = 16 * 1024
_LEEWAY_S = 30
_KEYS_KEPT_FOR_S = 3600.0
_LOOK_AGAIN_AFTER_S = 10.0
"""whoever sends tokens with made-up key ids must not make us ask GitHub each time"""
_FETCH_TIMEOUT_S = 5.0
_REQUIRED = ["exp", "iat", "iss", "aud", "sub", "repository", "repository_owner", "run_id"]


class InvalidToken(Exception):
    """Not a token that GitHub gave to a workflow for us; the message says why, without the token."""


class KeysUnavailable(Exception):
    """GitHub's signing keys cannot be had now."""


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


class OidcVerifier:
    """Verifies tokens; keeps the issuer's keys, and fetches them again when a new one is used."""

    def __init__(self, issuer: str, audience: str):
        self._issuer = issuer.rstrip("/")
        self._audience = audience
        self._http = httpx.AsyncClient(timeout=_FETCH_TIMEOUT_S)
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_at = float("-inf")

    async def verify(self, token: str) -> WorkflowClaims:
        """The claims of a token.

        Raises:
            InvalidToken: issuer, audience, signature, time or claims are not right.
            KeysUnavailable: the keys cannot be fetched.
        """
        if len(token) > LARGEST_TOKEN:
            raise InvalidToken("the token is too long")
        key = await self._find_key(token)
        try:
            claims = jwt.decode(
                token,
                key.key,
                algorithms=["RS256"],
                audience=self._audience,
                issuer=self._issuer,
                leeway=_LEEWAY_S,
                options={"require": _REQUIRED},
            )
        except jwt.InvalidTokenError as error:
            raise InvalidToken(f"the token is not valid: {error}") from None
        return _read_claims(claims)

    async def close(self) -> None:
        await self._http.aclose()

    async def _find_key(self, token: str) -> jwt.PyJWK:
        try:
            header = jwt.get_unverified_header(token)
        except jwt.InvalidTokenError:
            raise InvalidToken("this is no JSON Web Token") from None
        key_id = header.get("kid")
        if header.get("alg") != "RS256" or not isinstance(key_id, str):
            raise InvalidToken("the token is not signed with RS256 and a key id")
        age = time.monotonic() - self._fetched_at
        if age > _KEYS_KEPT_FOR_S or (key_id not in self._keys and age > _LOOK_AGAIN_AFTER_S):
            await self._fetch_keys()
        if key_id not in self._keys:
            raise InvalidToken("the token is signed with a key that GitHub does not publish")
        return self._keys[key_id]

    async def _fetch_keys(self) -> None:
        try:
            response = await self._http.get(f"{self._issuer}/.well-known/jwks")
            response.raise_for_status()
            found = {
                key["kid"]: jwt.PyJWK.from_dict(key)
                for key in response.json()["keys"]
                if key.get("kty") == "RSA" and key.get("use", "sig") == "sig"
            }
        except (httpx.HTTPError, ValueError, KeyError, TypeError, jwt.PyJWTError) as error:
            raise KeysUnavailable(f"GitHub's signing keys cannot be had: {type(error).__name__}") from error
        self._keys, self._fetched_at = found, time.monotonic()


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
