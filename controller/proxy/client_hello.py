"""The name that a TLS client asks for: read from its first message, which is not encrypted. Pure."""

from typing import NamedTuple

LARGEST = 64 * 1024
"""bytes that are looked at; longer ones are let pass without a name"""
_HANDSHAKE, _CLIENT_HELLO, _SERVER_NAME, _HOST_NAME = 22, 1, 0, 0


class FirstWords(NamedTuple):
    """What a client says first."""

    is_tls: bool
    server_name: str = ""
    """lower case; empty when it asks for none"""


class _Cut(Exception):
    """The message ends before what it announces."""


class _Reader:
    """Takes fields off the front of some bytes."""

    def __init__(self, data: bytes):
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise _Cut
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def block(self, size: int) -> bytes:
        """As TLS has them: their length, in so many bytes, before them."""
        return self.take(self.number(size))

    def __bool__(self) -> bool:
        return self._at < len(self._data)


def read_first_words(data: bytes) -> FirstWords | None:
    """What the bytes at the start of a connection say; None while there are not enough of them."""
    if not data:
        return None
    # RFC 8446, section 5.1: a record is its type, a version whose first byte is 3, and its length.
    if data[0] != _HANDSHAKE or (len(data) > 1 and data[1] != 3) or len(data) > LARGEST:
        return FirstWords(False)
    try:
        message = _read_message(data)
    except _Cut:
        return None
    if message is None:
        return FirstWords(False)
    try:
        return FirstWords(True, _read_server_name(message))
    except (_Cut, UnicodeDecodeError):
        return FirstWords(True)


def _read_message(data: bytes) -> bytes | None:
    """The client's hello, put together from its records; None when it is something else.

    Raises:
        _Cut: more has to come.
    """
    records, message = _Reader(data), b""
    while True:
        kind, major, _ = records.take(3)
        if kind != _HANDSHAKE or major != 3:
            return None
        message += records.block(2)
        # RFC 8446, section 4: a handshake message is its type and its length, in three bytes.
        if message and message[0] != _CLIENT_HELLO:
            return None
        if len(message) >= 4 and len(message) >= 4 + int.from_bytes(message[1:4], "big"):
            return message[4 : 4 + int.from_bytes(message[1:4], "big")]


def _read_server_name(message: bytes) -> str:
    """RFC 8446, section 4.1.2, and RFC 6066, section 3.

    Raises:
        _Cut, UnicodeDecodeError: it is malformed.
    """
    hello = _Reader(message)
    hello.take(2 + 32)  # version and random
    hello.block(1)  # session
    hello.block(2)  # cipher suites
    hello.block(1)  # compression methods
    extensions = _Reader(hello.block(2)) if hello else _Reader(b"")
    while extensions:
        kind, content = extensions.number(2), extensions.block(2)
        if kind == _SERVER_NAME:
            names = _Reader(_Reader(content).block(2))
            while names:
                name_kind, name = names.number(1), names.block(2)
                if name_kind == _HOST_NAME:
                    return name.decode("ascii").lower()
    return ""
