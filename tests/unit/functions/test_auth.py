"""How a GitHub App proves who it is."""

from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from pydantic import SecretStr

from functions.github.auth import AppCredentials, sign_app_token
from functions.github.errors import Refused

NOW = datetime(2026, 11, 23, 12, 0, 0, 999_999, tzinfo=UTC)
PEM, PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
OPEN = serialization.NoEncryption()

RSA = rsa.generate_private_key(65537, 2048)
RSA_PEM = RSA.private_bytes(PEM, PKCS8, OPEN).decode()
OLD_RSA_PEM = RSA.private_bytes(PEM, serialization.PrivateFormat.TraditionalOpenSSL, OPEN).decode()
"""as GitHub gives it for download"""

NO_KEYS = {
    "nothing": "",
    "no key": "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "half a key": RSA_PEM[:800],
    "a public key": RSA.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode(),
    "an SSH public key": RSA.public_key()
    .public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    .decode(),
    "an elliptic curve": ec.generate_private_key(ec.SECP256R1()).private_bytes(PEM, PKCS8, OPEN).decode(),
    "an Edwards curve": ed25519.Ed25519PrivateKey.generate().private_bytes(PEM, PKCS8, OPEN).decode(),
    "a key with a passphrase": RSA.private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(b"x")).decode(),
}


def sign(key: str, now: datetime = NOW) -> str:
    return sign_app_token(AppCredentials("Iv23liABC", SecretStr(key)), now).get_secret_value()


def claims_of(token: str) -> dict[str, Any]:
    """The claims, once the signature is found right; whether they hold today is another question."""
    unchecked = {"verify_exp": False, "verify_iat": False}
    claims: dict[str, Any] = jwt.decode(token, RSA.public_key(), algorithms=["RS256"], options=unchecked)  # type: ignore[arg-type]
    return claims


@pytest.mark.parametrize("key", [RSA_PEM, OLD_RSA_PEM, RSA_PEM.replace("\n", "\r\n")], ids=["new", "old", "CRLF"])
def test_a_token_is_signed_with_the_apps_key(key: str) -> None:
    assert claims_of(sign(key))["iss"] == "Iv23liABC"


def test_a_token_allows_for_drifting_clocks_at_both_ends() -> None:
    """GitHub refuses what was issued in its future, and what ends more than ten minutes ahead of its clock."""
    claims = claims_of(sign(RSA_PEM))
    now = datetime(2026, 11, 23, 12, 0, tzinfo=UTC).timestamp()
    assert (claims["iat"], claims["exp"]) == (now - 60, now + 540)


def test_tokens_follow_the_time_that_they_are_given() -> None:
    first, later = (claims_of(sign(RSA_PEM, NOW + timedelta(seconds=s))) for s in (0, 90))
    assert later["iat"] - first["iat"] == later["exp"] - first["exp"] == 90


@pytest.mark.parametrize("key", NO_KEYS.values(), ids=NO_KEYS)
def test_anything_but_an_open_rsa_private_key_is_refused(key: str) -> None:
    with pytest.raises(Refused, match="GITHUB_APP_PRIVATE_KEY is not an RSA private key in PEM"):
        sign(key)


def test_neither_key_nor_token_is_shown() -> None:
    app = AppCredentials("1", SecretStr(RSA_PEM))
    token = sign_app_token(app, NOW)
    shown = f"{app} {app!r} {token} {token!r}"
    assert "PRIVATE" not in shown
    assert token.get_secret_value() not in shown


def test_a_refusal_does_not_show_the_key() -> None:
    with pytest.raises(Refused) as refused:
        sign("not-a-key-but-a-password")
    assert "password" not in f"{refused.value!r}"
    assert refused.value.__suppress_context__
