"""The head of a proxy request: bytes in, event or error out. Pure.

What follows the head is not read here: it belongs to the tunnel, or to the request's body.
"""

import ipaddress
import re
from functools import lru_cache
from typing import NamedTuple

LARGEST_HEAD = 32 * 1024
"""bytes; more is answered with 431"""
_AUTHORITIES_KEPT = 1024

# RFC 9110, section 5.6.2: token. Here and below nothing is given back once it has matched (`++`, `*+`): no input may
# make the expressions try one way after the other.
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_METHOD = re.compile(_TOKEN)
# RFC 9112, section 3: request-line. The target holds no space and no control character.
_REQUEST_LINE = rb"(?P<method>" + _TOKEN + rb") (?P<target>[!-~]++) HTTP/1\.(?P<minor>[01])"
# RFC 9112, section 5: field-line; obs-fold is refused, as section 5.2 allows a server. The white space around the value
# is cut off afterwards.
_FIELD = rb"(?P<name>" + _TOKEN + rb"):(?P<value>[^\x00-\x08\x0a-\x1f\x7f]*+)"
_HEAD = re.compile(_REQUEST_LINE + rb"\r\n(?P<fields>(?:" + _TOKEN + rb":[^\x00-\x08\x0a-\x1f\x7f]*+\r\n)*+)\r\n")
_LINE_OF_REQUEST = re.compile(_REQUEST_LINE)
_LINE_OF_FIELD = re.compile(_FIELD)
_FIELDS = re.compile(_FIELD + rb"\r\n")
# RFC 3986, section 3.2.2 and RFC 9110, section 7.2: host and port. Names as DNS has them, with underscores.
_AUTHORITY = re.compile(
    rb"(?:\[(?P<ipv6>[0-9A-Fa-f:.]{2,45})\]|(?P<name>[0-9A-Za-z_](?:[0-9A-Za-z_.-]{0,252})))(?::(?P<port>[0-9]{1,5}))?"
)
# RFC 9112, section 3.2.2: absolute-form.
_ABSOLUTE = re.compile(rb"(?i:http)://(?P<authority>[^/?#]+)(?P<rest>[/?][!-~]*)?")
# RFC 9110, section 7.6.1: what concerns one connection only. Transfer-Encoding stays: bodies are passed on as they are.
_HOP_BY_HOP = {b"connection", b"proxy-connection", b"keep-alive", b"proxy-authorization", b"te", b"upgrade"}
_FRAMING = {b"transfer-encoding", b"content-length", b"host"}


class Head(NamedTuple):
    """A request for a connection to a target."""

    host: str
    """name or address, lower case, without brackets"""
    port: int
    target: str
    """`host:port`, IPv6 in brackets"""
    size: int
    """bytes of the buffer that the head took"""
    origin_head: bytes | None
    """what to send to the target first; None for CONNECT"""
    body_size: int | None = None
    """bytes of the request that follow the head; None when all that comes belongs to it"""

    @property
    def is_connect(self) -> bool:
        return self.origin_head is None


class BadHead(Exception):
    """A request that cannot be served."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status
        self.reason = reason


def parse_head(buffer: bytes) -> Head | None:
    """The head at the start of the buffer; None while it is not complete.

    Raises:
        BadHead: 400 for what is no proxy request, 431 for a head that is too large.
    """
    head = _HEAD.match(buffer)
    if head is None:
        _find_fault(buffer)
        return None
    size = head.end()
    if size > LARGEST_HEAD + 4:
        raise BadHead(431, f"the request's head is larger than {LARGEST_HEAD} bytes")
    if head["method"] == b"CONNECT":
        host, port, target = _parse_authority(head["target"], None)
        return Head(host, port, target, size, None)
    absolute = _ABSOLUTE.fullmatch(head["target"])
    if absolute is None:
        raise BadHead(400, "a proxy takes CONNECT host:port, or http:// URLs")
    host, port, target = _parse_authority(absolute["authority"], 80)
    fields = [(field["name"], field["value"].strip(b" \t")) for field in _FIELDS.finditer(head["fields"])]
    return Head(host, port, target, size, _origin_head(head["method"], absolute, fields), _body_size(fields))


def _find_fault(buffer: bytes) -> None:
    """Says what is wrong with what is no head, if it is not just its end that is missing."""
    end = buffer.find(b"\r\n\r\n")
    # The last three bytes may be the beginning of the end.
    if end > LARGEST_HEAD or (end < 0 and len(buffer) - 3 > LARGEST_HEAD):
        raise BadHead(431, f"the request's head is larger than {LARGEST_HEAD} bytes")
    if end < 0:
        _refuse_early(buffer)
        return
    request_line, *field_lines = buffer[:end].split(b"\r\n")
    if _LINE_OF_REQUEST.fullmatch(request_line) is None:
        raise BadHead(400, "not an HTTP/1.1 request")
    if not all(_LINE_OF_FIELD.fullmatch(line) for line in field_lines):
        raise BadHead(400, "a header line is malformed")


def _refuse_early(buffer: bytes) -> None:
    """What cannot become a request is refused before its end is seen."""
    start = buffer[:LARGEST_HEAD].split(b"\r\n", 1)
    if len(start) > 1 and _LINE_OF_REQUEST.fullmatch(start[0]) is None:
        raise BadHead(400, "not an HTTP/1.1 request")
    if start[0] and _METHOD.match(start[0]) is None:
        raise BadHead(400, "not an HTTP/1.1 request")


@lru_cache(_AUTHORITIES_KEPT)
def _parse_authority(text: bytes, default_port: int | None) -> tuple[str, int, str]:
    """Host, port, and both together."""
    authority = _AUTHORITY.fullmatch(text)
    if authority is None:
        raise BadHead(400, "the target is not host:port")
    port = default_port if authority["port"] is None else int(authority["port"])
    if port is None or not 0 < port < 65536:
        raise BadHead(400, "the target needs a port from 1 to 65535")
    if authority["ipv6"] is None:
        host = authority["name"].decode().lower()
        return host, port, f"{host}:{port}"
    try:
        host = str(ipaddress.IPv6Address(authority["ipv6"].decode()))
    except ValueError:
        raise BadHead(400, "the target is not an IPv6 address") from None
    return host, port, f"[{host}]:{port}"


def _body_size(fields: list[tuple[bytes, bytes]]) -> int | None:
    """RFC 9112, section 6.3. Where a chunked body ends only its reader knows: the origin, which reads nothing more."""
    if any(name.lower() == b"transfer-encoding" for name, _ in fields):
        return None
    sizes = {value for name, value in fields if name.lower() == b"content-length"}
    if not sizes:
        return 0
    size = sizes.pop()
    if sizes or not size.isdigit() or len(size) > 18:
        raise BadHead(400, "the request's Content-Length is not a number")
    return int(size)


def _origin_head(method: bytes, absolute: re.Match[bytes], fields: list[tuple[bytes, bytes]]) -> bytes:
    """The request as the origin gets it.

    One request for each connection: with `Connection: close` the origin cannot be asked a second time, so a second
    request for another origin cannot reach this one.
    """
    named = {
        name.strip().lower() for key, value in fields if key.lower() == b"connection" for name in value.split(b",")
    }
    dropped = (_HOP_BY_HOP | named) - _FRAMING | {b"host"}
    rest = absolute["rest"] or b"/"
    path = rest if rest.startswith(b"/") else b"/" + rest
    kept = [key + b": " + value for key, value in fields if key.lower() not in dropped]
    # RFC 9112, section 3.2.2: the target's host replaces what the client wrote as Host.
    lines = [method + b" " + path + b" HTTP/1.1", b"Host: " + absolute["authority"], *kept]
    return b"\r\n".join([*lines, b"Via: 1.1 runyard", b"Connection: close", b"", b""])
