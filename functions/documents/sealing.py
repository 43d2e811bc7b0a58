"""JIT configs on their way through Firestore: readable only by the hosts that may run them.

The config is encrypted once with a fresh key, and that key once for each host, in libsodium's sealed boxes (anonymous
public-key encryption, the construction of GitHub's own secrets API).
"""

from collections.abc import Mapping
from contextlib import suppress

import nacl.exceptions
import nacl.public
import nacl.secret
import nacl.utils
from pydantic import SecretStr

from .model import Document


class CannotOpen(Exception):
    """A sealed config that this host has no key for, or that was damaged."""


class SealedConfig(Document):
    """An encrypted JIT config and, for each host that may open it, the sealed key."""

    ciphertext: bytes
    keys: dict[str, bytes]
    """host id → the key, sealed to that host"""


def new_host_key() -> bytes:
    """A fresh private key of a host, 32 bytes."""
    return bytes(nacl.public.PrivateKey.generate())


def public_key_of(private_key: bytes) -> bytes:
    """The part of a host's key that may be shown, 32 bytes."""
    return bytes(nacl.public.PrivateKey(private_key).public_key)


def seal(config: SecretStr, public_keys: Mapping[str, bytes]) -> SealedConfig:
    """Encrypts a JIT config to hosts, given as host id → public key; hosts with a broken key are left out."""
    key = nacl.utils.random(nacl.secret.SecretBox.KEY_SIZE)
    ciphertext = bytes(nacl.secret.SecretBox(key).encrypt(config.get_secret_value().encode()))
    keys: dict[str, bytes] = {}
    for host_id, public_key in public_keys.items():
        # A host that shows a broken key cannot run it; the others can.
        with suppress(nacl.exceptions.CryptoError, ValueError):
            keys[host_id] = bytes(nacl.public.SealedBox(nacl.public.PublicKey(public_key)).encrypt(key))
    return SealedConfig(ciphertext=ciphertext, keys=keys)


def unseal(sealed: SealedConfig, host_id: str, private_key: bytes) -> SecretStr:
    """The JIT config.

    Raises:
        CannotOpen: it was not sealed to this host and key.
    """
    if host_id not in sealed.keys:
        raise CannotOpen(f"the JIT config was not sealed to host {host_id}")
    try:
        key = nacl.public.SealedBox(nacl.public.PrivateKey(private_key)).decrypt(sealed.keys[host_id])
        return SecretStr(nacl.secret.SecretBox(key).decrypt(sealed.ciphertext).decode())
    except (nacl.exceptions.CryptoError, ValueError) as error:
        raise CannotOpen(f"the JIT config cannot be opened with the key of host {host_id}") from error
