"""Identity tokens (OpenID Connect), verified with the keys that their issuer publishes.

Source: OpenID Connect Discovery 1.0. GitHub signs such tokens for workflow runs, Google for service accounts; both use
RS256 with keys that they rotate, and tokens that are good for minutes.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import jwt

LARGEST_TOKEN = 16 * 1024
_LEEWAY_S = 30
_KEYS_KEPT_FOR_S = 3600.0
_LOOK_AGAIN_AFTER_S = 10.0
"""whoever sends tokens with made-up key ids must not make us ask the issuer each time"""
_FETCH_TIMEOUT_S = 5.0
_REQUIRED = ("exp", "iat", "iss", "aud", "sub")


class InvalidToken(Exception):
    """Not a token that the issuer gave to anybody for us; the message says why, without the token."""


class KeysUnavailable(Exception):
    """The issuer's signing keys cannot be had now."""


class TokenVerifier:
    """Verifies one issuer's tokens; keeps its keys, and fetches them again when a new one is used."""

    def __init__(self, issuer: str, audience: str, required: Sequence[str] = ()):
        self._issuer = issuer.rstrip("/")
        self._audience = audience
        self._required = [*_REQUIRED, *required]
        self._http = httpx.AsyncClient(timeout=_FETCH_TIMEOUT_S)
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_at = float("-inf")

    async def verify(self, token: str) -> Mapping[str, Any]:
        """The claims of a token.

        Raises:
            InvalidToken: issuer, audience, signature or time is not right, or a claim is missing.
            KeysUnavailable: the keys cannot be fetched.
        """
        if len(token) > LARGEST_TOKEN:
            raise InvalidToken("the token is too long")
        key = await self._find_key(token)
        try:
            claims: Mapping[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=["RS256"],
                audience=self._audience,
                issuer=self._issuer,
                leeway=_LEEWAY_S,
                options={"require": self._required},
            )
        except jwt.InvalidTokenError as error:
            raise InvalidToken(f"the token is not valid: {error}") from None
        return claims

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
            raise InvalidToken(f"the token is signed with a key that {self._issuer} does not publish")
        return self._keys[key_id]

    async def _fetch_keys(self) -> None:
        try:
            description = await self._fetch(f"{self._issuer}/.well-known/openid-configuration")
            published = await self._fetch(str(description["jwks_uri"]))
            found = {
                key["kid"]: jwt.PyJWK.from_dict(key)
                for key in published["keys"]
                if key.get("kty") == "RSA" and key.get("use", "sig") == "sig"
            }
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError, jwt.PyJWTError) as error:
            raise KeysUnavailable(
                f"the signing keys of {self._issuer} cannot be had: {type(error).__name__}"
            ) from error
        self._keys, self._fetched_at = found, time.monotonic()

    async def _fetch(self, url: str) -> dict[str, Any]:
        response = await self._http.get(url)
        response.raise_for_status()
        document = response.json()
        if not isinstance(document, dict):
            raise TypeError(f"{url} is no JSON object")
        return document
