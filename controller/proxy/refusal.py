"""What the proxy itself answers, in plain words. Pure."""

import re

# RFC 9112, section 4: what a reason phrase may hold; we keep to ASCII, which every client can show.
_NO_PHRASE = re.compile(r"[^ -~]+")


def format_refusal(status: int, reason: str) -> bytes:
    """A whole answer. The reason also stands in the status line, which is all that pip, curl or Node.js show of it."""
    body = f"runyard proxy: {reason}\n".encode()
    head = (
        f"HTTP/1.1 {status} {_NO_PHRASE.sub('?', reason)}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
