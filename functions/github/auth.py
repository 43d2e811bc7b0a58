"""Who we are to GitHub: a fixed token, or a GitHub App that gets installation tokens."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import SecretStr

from .errors import Refused

TOKEN_MARGIN = timedelta(minutes=5)
"""a token that expires this soon is not used any more"""


@dataclass(frozen=True)
class AppCredentials:
    """A GitHub App's id (or client id) and private key in PEM."""

    app_id: str
    private_key: SecretStr


def sign_app_token(app: AppCredentials, now: datetime) -> SecretStr:
    """A JWT that proves to be the App, good for nine minutes.

    Source: GitHub docs, "Generating a JSON Web Token for a GitHub App": RS256, `iat` a minute back against clock drift,
    `exp` at most ten minutes ahead.

    Raises:
        Refused: the private key is none.
    """
    # Costs 40 ms of every cold start, and only Apps need it.
    import jwt  # noqa: PLC0415

    issued = int(now.timestamp())
    claims = {"iat": issued - 60, "exp": issued + 540, "iss": app.app_id}
    try:
        return SecretStr(jwt.encode(claims, app.private_key.get_secret_value(), algorithm="RS256"))
    except (ValueError, TypeError, AttributeError, jwt.exceptions.InvalidKeyError):
        # AttributeError: a public key, which cannot sign.
        raise Refused("GITHUB_APP_PRIVATE_KEY is not an RSA private key in PEM") from None
