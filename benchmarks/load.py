"""Sends many HTTP requests at once and takes the time of each, cheaply: the machine is for what is measured."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import httptools
import uvloop


@dataclass(frozen=True)
class Post:
    """One request, ready to be sent."""

    url: str
    body: bytes
    headers: Mapping[str, str]

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return str(parts.hostname), parts.port or 80

    def encode(self) -> bytes:
        """The bytes of an HTTP/1.1 request."""
        parts = urlsplit(self.url)
        fields = {"Host": parts.netloc, "Content-Length": str(len(self.body)), **self.headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"POST {parts.path or '/'} HTTP/1.1\r\n{head}\r\n".encode() + self.body


@dataclass
class Answered:
    """What came back; status 0 when nothing did."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    seconds: float = 0.0
    """from the request to the last byte of the answer"""


class _Connection(asyncio.Protocol):
    """One request at a time over a connection that is kept open."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport
        self._parser = httptools.HttpResponseParser(self)
        self._answered = Answered()
        self._done: asyncio.Future[Answered] | None = None
        self._started = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    async def send(self, request: bytes) -> Answered:
        self._answered, self._done = Answered(), asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._started = time.perf_counter()
        self._transport.write(request)
        return await self._done

    def close(self) -> None:
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._answered.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._answered.body += body

    def on_message_complete(self) -> None:
        self._answered.status = self._parser.get_status_code()
        self._finish()

    def _finish(self) -> None:
        if self._done is not None and not self._done.done():
            self._answered.seconds = time.perf_counter() - self._started
            self._done.set_result(self._answered)


def post_all(posts: Sequence[Post], at_once: int) -> tuple[list[Answered], float]:
    """Sends requests over connections that are open already; the answers in order, and the seconds that all took."""
    return uvloop.run(_post_all(posts, at_once))


async def _post_all(posts: Sequence[Post], at_once: int) -> tuple[list[Answered], float]:
    loop = asyncio.get_running_loop()
    connections = [(await loop.create_connection(_Connection, *post.address))[1] for post in posts[:at_once]]
    requests = [post.encode() for post in posts]
    answers = [Answered()] * len(posts)

    async def send_in_turn(first: int) -> None:
        for number in range(first, len(posts), len(connections)):
            answers[number] = await connections[first].send(requests[number])

    started = time.perf_counter()
    await asyncio.gather(*(send_in_turn(number) for number in range(len(connections))))
    took_s = time.perf_counter() - started
    for connection in connections:
        connection.close()
    return answers, took_s
