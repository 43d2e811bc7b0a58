"""The usual way: everything that the requirements offer and some request may need is imported at the top."""

import jwt  # noqa: F401
import nacl.public
import nacl.secret  # noqa: F401
from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: F401
from google.cloud import firestore_admin_v1  # noqa: F401

from .libraries import github_webhook

__all__ = ["github_webhook"]
