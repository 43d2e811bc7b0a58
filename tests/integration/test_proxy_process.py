"""The proxy as the controller runs it: a process, its control socket, its memory and its descriptors."""

import json
import select
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from controller.proxy.relay import MOST_PIPES
from tests.integration.proxy_tools import (
    ESTABLISHED,
    MB,
    Control,
    Origin,
    ProcessProxy,
    connect_to,
    eventually,
    fill,
    origins,
    proxy_process,
    read_exactly,
    read_head,
    reset,
    runner,
    send_until_cut_off,
)


@pytest.fixture(scope="module")
def shared_origin() -> Iterator[Origin]:
    with origins(1) as (only,):
        yield only


@pytest.fixture(scope="module")
def shared_proxy(tmp_path_factory: pytest.TempPathFactory, shared_origin: Origin) -> Iterator[ProcessProxy]:
    """One process for all tests that leave it as it was."""
    with proxy_process(tmp_path_factory.mktemp("proxy"), shared_origin) as running:
        yield running
        assert running.errors() == ""


@pytest.fixture
def origin(shared_origin: Origin) -> Iterator[Origin]:
    yield shared_origin
    while shared_origin.has_caller():
        pass
    shared_origin.close_sockets()


@pytest.fixture
def proxy(shared_proxy: ProcessProxy) -> Iterator[ProcessProxy]:
    yield shared_proxy
    shared_proxy.close_sockets()


# The control socket


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"5",
        b'"runners"',
        b"{}",
        b'{"runners": 5}',
        b'{"runners": [{"gateway": "127.0.1.1"}]}',
        b'{"runners": null}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
    ids=lambda line: line[:20].decode("ascii", "replace"),
)
def test_a_malformed_line_is_answered_with_an_error_and_changes_nothing(
    proxy: ProcessProxy, origin: Origin, line: bytes
) -> None:
    answer = proxy.control.ask(line)
    assert answer["ok"] is False
    assert answer["error"]
    proxy.tunnel(origin)
    assert proxy.control.ask({"usage": "runner-1"})["ok"]


def test_requests_may_come_in_pieces_and_several_at_once(proxy: ProcessProxy) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(proxy.control_socket))
        client.sendall(b'{"usage": "nobo')
        time.sleep(0.05)
        client.sendall(b'dy"}\n{"usage": "nobody"}\nnonsense\n')
        answers = b""
        while answers.count(b"\n") < 3:
            answers += client.recv(65536)
        assert [json.loads(answer)["ok"] for answer in answers.splitlines()] == [True, True, False]


def test_a_second_controller_is_heard_beside_the_first(proxy: ProcessProxy) -> None:
    with closing(Control(proxy.control_socket)) as second:
        assert second.ask({"usage": "nobody"})["ok"]
    assert proxy.control.ask({"usage": "nobody"})["ok"]


def test_a_controller_that_asks_and_never_reads_does_not_stop_the_proxy(proxy: ProcessProxy, origin: Origin) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(proxy.control_socket))
        send_until_cut_off(client, b'{"usage": "nobody"}\n' * 1000, 200)
    proxy.tunnel(origin)


def test_only_its_owner_may_use_the_control_socket(proxy: ProcessProxy) -> None:
    assert proxy.control_socket.stat().st_mode & 0o777 == 0o600


# Its life


def test_the_first_connection_after_a_crash_is_attributed(tmp_path: Path, origin: Origin) -> None:
    with proxy_process(tmp_path, origin) as proxy:
        proxy.set_table(runner(1), runner(2, job_key="acme_1_22", has_job=True))
        proxy.tunnel(origin, 2)
        assert proxy.end(signal.SIGKILL) == -signal.SIGKILL
        proxy.launch()
        client = proxy.wait_for(lambda: proxy.connect(2))
        client.sendall(connect_to(origin.target))
        assert read_head(client) == ESTABLISHED
        proxy.connect_control()
        proxy.set_table()
        line = proxy.lines(1)[0]
        assert (line["runner_name"], line["job_id"], line["has_job"]) == ("runner-2", "acme_1_22", "yes")


def test_a_table_file_that_is_damaged_is_an_empty_table(tmp_path: Path, origin: Origin) -> None:
    with proxy_process(tmp_path, origin) as proxy:
        proxy.end(signal.SIGKILL)
        (tmp_path / "attribution.json").write_text('[{"gateway": "127.0.')
        proxy.launch()
        proxy.connect_control()
        assert proxy.ask(connect_to(origin.target)).status == 403
        proxy.set_table(runner())
        proxy.tunnel(origin)


def test_sigterm_ends_every_tunnel_and_writes_its_line(tmp_path: Path, origin: Origin) -> None:
    with proxy_process(tmp_path, origin) as proxy:
        tunnels = [proxy.tunnel(origin) for _ in range(3)]
        assert proxy.end(signal.SIGTERM) == 0
        assert [line["reason"] for line in proxy.lines(3)] == ["the proxy stops"] * 3
        for _, server in tunnels:
            with pytest.raises(ConnectionResetError):
                server.recv(1)
        assert proxy.errors() == ""


# Memory


def test_8_stalled_downloads_and_8_stalled_uploads_stay_in_the_kernel(proxy: ProcessProxy, origin: Origin) -> None:
    tunnels = [proxy.tunnel(origin) for _ in range(16)]
    before = proxy.memory()
    sent = fill(*(server for _, server in tunnels[:8]), *(client for client, _ in tunnels[8:]))
    assert sent > 16 * MB
    assert proxy.memory() - before < 8 * MB


def test_endless_headers_are_431_in_bounded_memory(proxy: ProcessProxy) -> None:
    before = proxy.memory()
    clients = [proxy.connect() for _ in range(20)]
    for client in clients:
        client.sendall(b"GET http://example.com/ HTTP/1.1\r\nX-Endless: ")
    with ThreadPoolExecutor(len(clients)) as pool:
        assert {line[:13] for line in pool.map(send_until_answered, clients)} == {b"HTTP/1.1 431 "}
    assert proxy.memory() - before < 8 * MB


def send_until_answered(client: socket.socket) -> bytes:
    """The status line that a client gets who would go on for ever."""
    block = b"x" * 65536
    client.setblocking(False)
    for _ in range(100_000):
        readable, writable, _ = select.select([client], [client], [], 20)
        if readable:
            return client.recv(65536).partition(b"\r\n")[0]
        if writable:
            client.send(block)
    return b"no answer"


# Descriptors


def test_thousands_of_tunnels_leave_no_descriptor_and_little_memory(proxy: ProcessProxy, origin: Origin) -> None:
    def round_trip(number: int) -> None:
        client, server = proxy.tunnel(origin)
        if number % 10 == 0:
            server.sendall(bytes(200_000))
            read_exactly(client, 200_000)
        elif number % 10 == 1:
            reset(client)
        elif number % 10 == 2:
            reset(server)
        client.close()
        server.close()

    descriptors = proxy.descriptors()
    for number in range(100):
        round_trip(number)
    memory = proxy.memory()
    for number in range(2000):
        round_trip(number)
    eventually(lambda: proxy.descriptors() <= descriptors + 2 * MOST_PIPES, "all but the pool of pipes is closed")
    assert proxy.memory() - memory < 4 * MB


def test_tunnels_that_break_with_bytes_in_their_pipes_leave_no_pipe(tmp_path: Path, origin: Origin) -> None:
    with proxy_process(tmp_path, origin) as proxy:
        before = proxy.descriptors()
        tunnels = [proxy.tunnel(origin) for _ in range(30)]
        fill(*(server for _, server in tunnels))
        assert proxy.descriptors() >= before + 30 * 4
        for client, _ in tunnels:
            reset(client)
        eventually(lambda: proxy.descriptors() < before + 30, "the pipes are closed")


def test_used_up_descriptors_are_waited_for_and_not_spun_on(tmp_path: Path, origin: Origin) -> None:
    with proxy_process(tmp_path, origin) as proxy:
        proxy.limit_descriptors(proxy.descriptors() + 20)
        clients = [proxy.connect() for _ in range(40)]
        for client in clients:
            client.sendall(b"CONNECT slow.example:443 HTTP/1.1\r\n")
        eventually(lambda: "accepting waits" in proxy.errors(), "the limit is reached")
        # The control socket cannot be served either; that must not spin, and not be the proxy's end.
        with closing(Control(proxy.control_socket)) as second:
            before, warnings = proxy.cpu_s(), proxy.errors().count("\n")
            time.sleep(1)
            assert proxy.cpu_s() - before < 0.5
            assert proxy.errors().count("\n") - warnings < 20

            for client in clients:
                client.close()
            proxy.lines(40)
            client, server = proxy.tunnel(origin)
            client.sendall(b"ping")
            assert read_exactly(server, 4) == b"ping"
            assert second.ask({"usage": "nobody"})["ok"]


def test_a_target_that_no_descriptor_is_left_for_is_a_502(tmp_path: Path, origin: Origin) -> None:
    with proxy_process(tmp_path, origin) as proxy:
        proxy.tunnel(origin)
        proxy.limit_descriptors(proxy.descriptors() + 1)
        reply = proxy.ask(connect_to(origin.target))
        assert (reply.status, reply.text.rpartition(": ")[2]) == (502, "Too many open files\n")
