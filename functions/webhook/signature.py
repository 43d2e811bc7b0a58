"""GitHub's webhook signature: HMAC-SHA256 over the raw body, in `X-Hub-Signature-256`.

Source: GitHub docs, "Validating webhook deliveries".
"""

import hashlib
import hmac
from collections.abc import Sequence

from pydantic import SecretStr

HEADER = "X-Hub-Signature-256"
_PREFIX = "sha256="


def sign(body: bytes, secret: SecretStr) -> str:
    """The header's value for a body."""
    return _PREFIX + hmac.new(secret.get_secret_value().encode(), body, hashlib.sha256).hexdigest()


def find_fault(body: bytes, header: str | None, secrets: Sequence[SecretStr]) -> str | None:
    """Why a delivery is not GitHub's, in words; None when its signature is right for any of the secrets.

    Every secret is tried, whichever fits, so the time taken does not tell which one is in use.
    """
    if header is None:
        return f"the {HEADER} header is missing: give the webhook a secret"
    if not header.startswith(_PREFIX) or len(header) != len(_PREFIX) + 64:
        return f"the {HEADER} header is malformed"
    expected = [sign(body, secret).encode() for secret in secrets]
    # surrogatepass: header bytes that are no UTF-8 must lead to a refusal, not to an exception.
    given = header.encode(errors="surrogatepass")
    matches = [hmac.compare_digest(given, candidate) for candidate in expected]
    return None if any(matches) else "the signature does not match: check the webhook's secret"
