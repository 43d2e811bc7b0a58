"""Who may start a reconcile run: the scheduler's service account, by the identity token that it sends."""

from collections.abc import Mapping
from typing import Any

from ..oidc import InvalidToken, TokenVerifier

_REMOVED = ".SIGNATURE_REMOVED_BY_GOOGLE"


class CallerVerifier:
    """Verifies the tokens that Cloud Scheduler gets from Google for a service account.

    Source: Cloud Scheduler docs, "Use authentication with HTTP targets"; Google Identity docs, "Verify ID tokens".
    """

    def __init__(self, issuer: str, audience: str, email: str):
        self._tokens = TokenVerifier(issuer, audience, ("email",))
        self._email = email

    async def verify(self, token: str) -> None:
        """Returns when the token is the scheduler's.

        Raises:
            InvalidToken: it is not; the message says why.
            KeysUnavailable: the issuer's keys cannot be fetched.
        """
        if token.endswith(_REMOVED):
            raise InvalidToken(
                "Google's front end has taken the token's signature away, as it does in front of services that ask for "
                "authentication: let allUsers invoke this function, it checks the token itself"
            )
        check_caller(await self._tokens.verify(token), self._email)


def check_caller(claims: Mapping[str, Any], email: str) -> None:
    """Raises InvalidToken unless the claims are those of the service account with this address."""
    if claims["email"] != email:
        raise InvalidToken("the token is another account's: RECONCILE_CALLER names the one that may call")
    if claims.get("email_verified") is not True:
        raise InvalidToken("the token's address is not verified")
