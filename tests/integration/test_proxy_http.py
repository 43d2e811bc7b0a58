"""Plain HTTP: what the origin gets of a request for an absolute URL, and what it must not get."""

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.integration.proxy_tools import (
    MB,
    Origin,
    ThreadProxy,
    eventually,
    origins,
    proxy_in_thread,
    read_all,
    read_exactly,
    read_head,
    reset,
    send_whole,
)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


@pytest.fixture
def origin() -> Iterator[Origin]:
    with origins(1) as (only,):
        yield only


@pytest.fixture
def proxy(tmp_path: Path, origin: Origin) -> Iterator[ThreadProxy]:
    with proxy_in_thread(tmp_path, origin) as running:
        yield running


def request(proxy: ThreadProxy, text: str, body: bytes = b"") -> socket.socket:
    """Sends a request, written with plain line ends."""
    client = proxy.connect()
    client.sendall(text.strip().replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
    return client


def test_the_origin_gets_the_origin_form_without_what_is_meant_for_the_proxy(
    proxy: ThreadProxy, origin: Origin
) -> None:
    client = request(
        proxy,
        f"""
GET http://{origin.target}/a/b?c=%20d HTTP/1.1
Host: somebody.else
User-Agent: test
Proxy-Connection: keep-alive
Proxy-Authorization: Basic c2VjcmV0
Connection: keep-alive, X-Hop
X-Hop: for the next one only
Keep-Alive: timeout=5
TE: trailers
Upgrade: h2c
X-End: stays
""",
    )
    server = origin.accept()
    assert read_head(server).decode().split("\r\n") == [
        "GET /a/b?c=%20d HTTP/1.1",
        f"Host: {origin.target}",
        "User-Agent: test",
        "X-End: stays",
        "Via: 1.1 runyard",
        "Connection: close",
        "",
        "",
    ]
    send_whole(server, OK)
    assert read_all(client) == OK
    client.close()
    line = proxy.lines(1)[0]
    assert (line["kind"], line["decision"], line["target"]) == ("HTTP", "tunnel", origin.target)
    assert (line["bytes_up"], line["bytes_down"]) == ("0", str(len(OK)))


def test_a_url_without_a_path_asks_for_the_root(proxy: ThreadProxy, origin: Origin) -> None:
    request(proxy, f"GET http://{origin.target}?q HTTP/1.1")
    assert read_head(origin.accept()).startswith(b"GET /?q HTTP/1.1\r\n")
    request(proxy, f"HEAD HTTP://{origin.target} HTTP/1.1")
    assert read_head(origin.accept()).startswith(b"HEAD / HTTP/1.1\r\n")


def test_a_body_is_passed_on_whole(proxy: ThreadProxy, origin: Origin) -> None:
    body = os.urandom(3 * MB)
    with ThreadPoolExecutor(1) as pool:
        client = request(proxy, f"PUT http://{origin.target}/x HTTP/1.1\nContent-Length: {len(body)}", body[:100])
        server = origin.accept()
        assert b"\r\nContent-Length: 3145728\r\n" in read_head(server)
        sent = pool.submit(client.sendall, body[100:])
        assert read_exactly(server, len(body)) == body
        sent.result()
    send_whole(server, OK)
    assert read_all(client) == OK
    client.close()
    assert proxy.lines(1)[0]["bytes_up"] == str(len(body))


def test_a_chunked_body_is_passed_on_as_it_is(proxy: ThreadProxy, origin: Origin) -> None:
    client = request(proxy, f"POST http://{origin.target}/x HTTP/1.1\nTransfer-Encoding: chunked", b"3\r\nabc\r\n")
    server = origin.accept()
    assert b"\r\nTransfer-Encoding: chunked\r\n" in read_head(server)
    assert read_exactly(server, 8) == b"3\r\nabc\r\n"
    client.sendall(b"0\r\n\r\n")
    assert read_exactly(server, 5) == b"0\r\n\r\n"
    send_whole(server, OK)
    assert read_all(client) == OK


def test_a_large_answer_arrives_whole(proxy: ThreadProxy, origin: Origin) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 8388608\r\n\r\n" + os.urandom(8 * MB)
    client = request(proxy, f"GET http://{origin.target}/ HTTP/1.1")
    server = origin.accept()
    read_head(server)
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(send_whole, server, answer)
        assert read_all(client) == answer
        sent.result()


@pytest.mark.parametrize(
    "framing", ["X-Nothing: here", "Content-Length: 4"], ids=["after a request without a body", "after a body"]
)
@pytest.mark.parametrize("is_at_once", [True, False], ids=["pipelined", "after the answer"])
def test_a_second_request_on_a_connection_never_reaches_the_first_origin(
    tmp_path: Path, framing: str, *, is_at_once: bool
) -> None:
    """Even one that keeps its connection open against our `Connection: close`."""
    with origins(2) as (first, second), proxy_in_thread(tmp_path, first, second) as proxy:
        body = b"body" if framing.startswith("Content-Length") else b""
        other = f"GET http://{second.target}/secret HTTP/1.1\r\nCookie: of the second\r\n\r\n".encode()
        client = request(
            proxy, f"POST http://{first.target}/ HTTP/1.1\n{framing}", body + (other if is_at_once else b"")
        )
        server = first.accept()
        read_head(server)
        assert read_exactly(server, len(body)) == body
        server.sendall(OK)
        assert read_exactly(client, len(OK)) == OK
        if not is_at_once:
            client.sendall(other)
        # All that the client sends is read, or the answer could be lost in a reset; the end shows that it was.
        client.shutdown(socket.SHUT_WR)
        assert read_all(server) == b""
        server.close()
        assert read_all(client) == b""
        assert not second.has_caller()
        assert proxy.lines(1)[0]["bytes_up"] == str(len(body))


def test_requests_to_two_origins_on_connections_of_their_own_reach_both(tmp_path: Path) -> None:
    with origins(2) as both, proxy_in_thread(tmp_path, *both) as proxy:
        for origin in both:
            client = request(proxy, f"GET http://{origin.target}/ HTTP/1.1")
            server = origin.accept()
            assert f"\r\nHost: {origin.target}\r\n".encode() in read_head(server)
            send_whole(server, OK)
            assert read_all(client) == OK


def test_an_answer_that_breaks_off_does_not_look_whole(proxy: ThreadProxy, origin: Origin) -> None:
    """Without a length only the connection's end tells the end, so a reset must stay a reset."""
    client = request(proxy, f"GET http://{origin.target}/ HTTP/1.1")
    server = origin.accept()
    read_head(server)
    server.sendall(b"HTTP/1.0 200 OK\r\n\r\nhalf of the ans")
    assert read_exactly(client, 34).endswith(b"half of the ans")
    reset(server)
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_a_client_that_goes_away_stops_the_answer(proxy: ThreadProxy, origin: Origin) -> None:
    client = request(proxy, f"GET http://{origin.target}/ HTTP/1.1")
    server = origin.accept()
    read_head(server)
    client.close()
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        server.sendall(bytes(64 * MB))
    eventually(lambda: proxy.log().count("\n") == 1, "the connection is over")
