"""What a tunnel promises: every byte, both ways, whoever is slow, early, late or gone."""

import hashlib
import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.integration.proxy_tools import (
    ESTABLISHED,
    MB,
    Origin,
    ThreadProxy,
    connect_to,
    exchange,
    fill,
    origins,
    proxy_in_thread,
    read_all,
    read_exactly,
    read_head,
    reset,
    send_whole,
)

UPLOAD, DOWNLOAD = os.urandom(8 * MB), os.urandom(8 * MB)


@pytest.fixture
def origin() -> Iterator[Origin]:
    with origins(1) as (only,):
        yield only


@pytest.fixture
def proxy(tmp_path: Path, origin: Origin) -> Iterator[ThreadProxy]:
    with proxy_in_thread(tmp_path, origin) as running:
        yield running


# The end of one direction


def test_a_client_that_has_sent_all_still_gets_the_reply(proxy: ThreadProxy, origin: Origin) -> None:
    client, server = proxy.tunnel(origin)
    send_whole(client, b"the question")
    assert read_all(server) == b"the question"
    send_whole(server, b"the reply")
    assert read_all(client) == b"the reply"


def test_an_origin_that_has_sent_all_still_gets_the_late_upload(proxy: ThreadProxy, origin: Origin) -> None:
    client, server = proxy.tunnel(origin)
    send_whole(server, b"the greeting")
    assert read_all(client) == b"the greeting"
    send_whole(client, b"the upload")
    assert read_all(server) == b"the upload"


def test_a_client_that_ends_first_with_8_mb_under_way_both_ways_loses_nothing(
    proxy: ThreadProxy, origin: Origin
) -> None:
    client, server = proxy.tunnel(origin)
    assert exchange(client, UPLOAD, server, DOWNLOAD) == (DOWNLOAD, UPLOAD)


def test_an_end_that_nobody_has_read_up_to_does_not_overtake_8_mb(proxy: ThreadProxy, origin: Origin) -> None:
    """Each side in turn has sent and ended everything before the other reads its first byte."""
    with ThreadPoolExecutor(1) as pool:
        client, server = proxy.tunnel(origin)
        sent = pool.submit(send_whole, client, UPLOAD)
        send_whole(server, b"first")
        assert read_all(client) == b"first"
        assert read_all(server) == UPLOAD
        sent.result()

        client, server = proxy.tunnel(origin)
        sent = pool.submit(send_whole, server, DOWNLOAD)
        send_whole(client, b"first")
        assert read_all(server) == b"first"
        assert read_all(client) == DOWNLOAD
        sent.result()


def test_an_end_right_after_the_head_is_passed_on(proxy: ThreadProxy, origin: Origin) -> None:
    client = proxy.connect()
    send_whole(client, connect_to(origin.target) + b"all that I have")
    server = origin.accept()
    assert read_all(server) == b"all that I have"
    send_whole(server, b"thanks")
    assert read_all(client) == ESTABLISHED + b"thanks"


# The beginning


def test_payload_in_the_same_segment_as_the_head_reaches_the_origin(proxy: ThreadProxy, origin: Origin) -> None:
    client = proxy.connect()
    client.sendall(connect_to(origin.target) + b"client hello")
    server = origin.accept()
    assert read_exactly(server, 12) == b"client hello"
    assert read_head(client) == ESTABLISHED
    server.sendall(b"server hello")
    assert read_exactly(client, 12) == b"server hello"


def test_payload_larger_than_the_head_may_be_follows_in_one_go(proxy: ThreadProxy, origin: Origin) -> None:
    with ThreadPoolExecutor(1) as pool:
        client = proxy.connect()
        sent = pool.submit(send_whole, client, connect_to(origin.target) + UPLOAD)
        assert read_all(origin.accept()) == UPLOAD
        sent.result()


def test_a_head_in_single_bytes_is_understood(proxy: ThreadProxy, origin: Origin) -> None:
    client = proxy.connect()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in connect_to(origin.target):
        client.sendall(bytes([byte]))
        time.sleep(0.001)
    assert read_head(client) == ESTABLISHED
    server = origin.accept()
    client.sendall(b"ping")
    assert read_exactly(server, 4) == b"ping"


def test_an_origin_that_speaks_first_is_heard_after_the_200(proxy: ThreadProxy, origin: Origin) -> None:
    with ThreadPoolExecutor(1) as pool:
        for _ in range(50):
            greeted = pool.submit(lambda: origin.accept().sendall(b"220 welcome\r\n"))
            client = proxy.connect()
            client.sendall(connect_to(origin.target))
            assert read_exactly(client, len(ESTABLISHED) + 13) == ESTABLISHED + b"220 welcome\r\n"
            greeted.result()


# Slow ends


def test_a_slow_reader_gets_every_byte(proxy: ThreadProxy, origin: Origin) -> None:
    client, server = proxy.tunnel(origin, receive_buffer=16 * 1024)
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(send_whole, server, DOWNLOAD)
        received = bytearray()
        for _ in range(20):
            received += read_exactly(client, 1000)
            time.sleep(0.01)
        received += read_all(client)
        sent.result()
    assert received == DOWNLOAD


def test_a_slow_origin_gets_every_byte(proxy: ThreadProxy, origin: Origin) -> None:
    client, server = proxy.tunnel(origin)
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(send_whole, client, UPLOAD)
        received = bytearray()
        for _ in range(20):
            received += read_exactly(server, 1000)
            time.sleep(0.01)
        received += read_all(server)
        sent.result()
    assert received == UPLOAD


def test_more_stalled_downloads_than_there_are_pipes_leave_other_tunnels_alone(
    proxy: ThreadProxy, origin: Origin
) -> None:
    stalled = [proxy.tunnel(origin) for _ in range(80)]
    sent = fill(*(server for _, server in stalled))
    assert sent > 80 * 64 * 1024

    client, server = proxy.tunnel(origin)
    assert exchange(client, UPLOAD, server, DOWNLOAD) == (DOWNLOAD, UPLOAD)

    received = 0
    for _, server in stalled:
        server.shutdown(socket.SHUT_WR)
    for client, _ in stalled:
        received += len(read_all(client))
    assert received == sent


def test_a_stalled_upload_does_not_stop_the_download_of_the_same_tunnel(proxy: ThreadProxy, origin: Origin) -> None:
    client, server = proxy.tunnel(origin)
    fill(client)
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(send_whole, server, DOWNLOAD)
        assert read_all(client) == DOWNLOAD
        sent.result()


# Ends that break


def test_a_client_that_resets_takes_the_origin_with_it(proxy: ThreadProxy, origin: Origin) -> None:
    client, server = proxy.tunnel(origin)
    client.sendall(b"half")
    assert read_exactly(server, 4) == b"half"
    reset(client)
    assert is_over(server)
    assert proxy.lines(1)[0]["reason"].startswith("broken")


def test_an_origin_that_resets_takes_the_client_with_it(proxy: ThreadProxy, origin: Origin) -> None:
    client, server = proxy.tunnel(origin)
    server.sendall(b"half")
    assert read_exactly(client, 4) == b"half"
    reset(server)
    assert is_over(client)
    assert proxy.lines(1)[0]["reason"].startswith("broken")


def test_a_client_that_resets_in_the_middle_of_a_download_stops_it(proxy: ThreadProxy, origin: Origin) -> None:
    client, server = proxy.tunnel(origin)
    fill(server)
    reset(client)
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        server.sendall(DOWNLOAD * 8)
    proxy.lines(1)


def test_a_client_that_resets_while_the_origin_stalls_is_not_kept(proxy: ThreadProxy, origin: Origin) -> None:
    """Nothing can be written, so only the event tells."""
    client, _ = proxy.tunnel(origin)
    fill(client)
    reset(client)
    assert proxy.lines(1)[0]["reason"].startswith("broken")


def test_a_client_that_resets_after_its_own_end_is_not_kept(proxy: ThreadProxy, origin: Origin) -> None:
    """Nothing is read from it any more, so only the event tells."""
    client, server = proxy.tunnel(origin)
    send_whole(client, b"question")
    assert read_all(server) == b"question"
    reset(client)
    assert is_over(server, may_read=True)
    proxy.lines(1)


def test_an_origin_that_resets_after_its_own_end_is_not_kept(proxy: ThreadProxy, origin: Origin) -> None:
    client, server = proxy.tunnel(origin)
    send_whole(server, b"bye")
    assert read_all(client) == b"bye"
    reset(server)
    proxy.lines(1)


def test_what_an_origin_has_sent_before_it_reset_still_arrives(proxy: ThreadProxy, origin: Origin) -> None:
    """A slow reader may be in the middle of a download that its origin has long finished with."""
    client, server = proxy.tunnel(origin, receive_buffer=64 * 1024)
    sent = fill(server)
    # Unread input makes the kernel reset on close; what was sent before has been acknowledged by now.
    client.sendall(b"more!")
    time.sleep(0.2)
    server.close()
    time.sleep(0.2)
    received = 0
    try:
        while chunk := client.recv(MB):
            received += len(chunk)
    except ConnectionResetError:
        pass
    assert received > sent // 2


def test_an_early_answer_arrives_although_the_origin_reads_no_more(proxy: ThreadProxy, origin: Origin) -> None:
    client, server = proxy.tunnel(origin)
    fill(client)
    server.sendall(b"413 too large")
    server.close()
    assert read_exactly(client, 13) == b"413 too large"
    proxy.lines(1)


def test_a_plain_close_of_both_ends_is_one_tunnel_without_a_reason(proxy: ThreadProxy, origin: Origin) -> None:
    client, server = proxy.tunnel(origin)
    client.close()
    assert read_all(server) == b""
    server.close()
    line = proxy.lines(1)[0]
    assert (line["decision"], line["reason"]) == ("tunnel", "")


# Many


def test_200_tunnels_at_once_carry_exactly_what_they_are_given(proxy: ThreadProxy, origin: Origin) -> None:
    """Each uploads its own bytes in uneven pieces, and gets them back with their digest."""
    tunnels = [proxy.tunnel(origin) for _ in range(200)]
    with ThreadPoolExecutor(400) as pool:
        echoes = [pool.submit(echo, server) for _, server in tunnels]
        replies = [pool.submit(send_in_pieces, client, number) for number, (client, _) in enumerate(tunnels)]
        for number, reply in enumerate(replies):
            data = content(number)
            assert reply.result() == data + hashlib.sha256(data).digest()
        for echoed in echoes:
            echoed.result()


def content(number: int) -> bytes:
    return hashlib.shake_256(str(number).encode()).digest(200_000 + 1_001 * number)


def echo(server: socket.socket) -> None:
    digest = hashlib.sha256()
    while data := server.recv(50_000):
        digest.update(data)
        server.sendall(data)
    send_whole(server, digest.digest())
    server.close()


def send_in_pieces(client: socket.socket, number: int) -> bytes:
    data, received, offset = content(number), bytearray(), 0
    while offset < len(data):
        piece = data[offset : offset + 1 + (offset * 7 + number) % 70_000]
        client.sendall(piece)
        received += read_exactly(client, len(piece))
        offset += len(piece)
    client.shutdown(socket.SHUT_WR)
    received += read_all(client)
    return bytes(received)


def is_over(sock: socket.socket, *, may_read: bool = False) -> bool:
    """Ended or reset, in this time-out; `may_read`: what is written shows it."""
    try:
        if sock.recv(1):
            return False
        if may_read:
            for _ in range(100):
                sock.sendall(b"x")
                time.sleep(0.02)
            return False
    except (ConnectionResetError, BrokenPipeError):
        return True
    return not may_read
