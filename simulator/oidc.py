"""GitHub's OIDC issuer for workflow runs: signs tokens, publishes its keys, changes them."""

import json
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

TOKEN_LIFETIME = timedelta(minutes=5)


class OidcIssuer:
    """Keys and tokens."""

    def __init__(self, url: str):
        self.url = url
        self._keys: dict[str, rsa.RSAPrivateKey] = {}
        self._current = ""
        self.rotate()

    def rotate(self) -> None:
        """Signs with a new key from now on; the one before is still published."""
        before = self._current
        self._current = secrets.token_hex(8)
        self._keys = {key_id: key for key_id, key in self._keys.items() if key_id == before}
        self._keys[self._current] = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def description(self) -> dict[str, Any]:
        """The issuer's discovery document."""
        return {"issuer": self.url, "jwks_uri": f"{self.url}/.well-known/jwks"}

    def published_keys(self) -> dict[str, Any]:
        """The JSON Web Key Set."""
        keys = []
        for key_id, key in self._keys.items():
            published = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
            keys.append(published | {"kid": key_id, "use": "sig", "alg": "RS256"})
        return {"keys": keys}

    def sign(self, audience: str, repository: str, run_id: int, claims: Mapping[str, Any] | None = None) -> str:
        """A token as GitHub gives it to a job with `id-token: write`; `claims` spoil it for tests."""
        now = datetime.now(UTC)
        owner = repository.partition("/")[0]
        standard = {
            "iss": self.url,
            "aud": audience,
            "sub": f"repo:{repository}:ref:refs/heads/main",
            "iat": now,
            "nbf": now,
            "exp": now + TOKEN_LIFETIME,
            "repository": repository,
            "repository_owner": owner,
            "run_id": str(run_id),
            "run_attempt": "1",
            "workflow": "ci",
            "ref": "refs/heads/main",
            "event_name": "push",
            "job_workflow_ref": f"{repository}/.github/workflows/ci.yml@refs/heads/main",
        }
        kept = {name: value for name, value in (standard | dict(claims or {})).items() if value is not None}
        return jwt.encode(kept, self._keys[self._current], algorithm="RS256", headers={"kid": self._current})
