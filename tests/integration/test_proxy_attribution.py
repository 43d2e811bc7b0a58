"""Who did what: the lines of the log, the sums for each runner, and the table that names them."""

import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.integration.proxy_tools import (
    ESTABLISHED,
    MB,
    Origin,
    ThreadProxy,
    connect_to,
    eventually,
    exchange,
    origins,
    proxy_in_thread,
    read_all,
    read_exactly,
    read_head,
    runner,
    send_whole,
)


@pytest.fixture
def origin() -> Iterator[Origin]:
    with origins(1) as (only,):
        yield only


@pytest.fixture
def proxy(tmp_path: Path, origin: Origin) -> Iterator[ThreadProxy]:
    with proxy_in_thread(tmp_path, origin) as running:
        yield running


def close_both(client: socket.socket, server: socket.socket) -> None:
    send_whole(client, b"")
    assert read_all(server) == b""
    send_whole(server, b"")
    assert read_all(client) == b""


# The log


def test_a_connection_is_one_line_with_who_where_how_much_and_how_long(proxy: ThreadProxy, origin: Origin) -> None:
    client, server = proxy.tunnel(origin)
    client.sendall(b"a question")
    assert read_exactly(server, 10) == b"a question"
    server.sendall(b"the reply")
    assert read_exactly(client, 9) == b"the reply"
    close_both(client, server)
    line = proxy.lines(1)[0]
    assert 0 <= int(line.pop("duration_ms")) < 20_000
    assert line.pop("time").endswith("Z")
    assert line == {
        "kind": "CONNECT",
        "runner_name": "runner-1",
        "profile": "small",
        "job_name": "build 1",
        "job_id": "acme_1_1",
        "has_job": "no",
        "target": origin.target,
        "source_ip": "127.0.1.2",
        "host": "host-a",
        "decision": "tunnel",
        "reason": "",
        "rule": "private_targets",
        "policy": "allowed",
        "sni": "",
        "bytes_up": "10",
        "bytes_down": "9",
    }


def test_bytes_are_payload_only_and_all_of_it(proxy: ThreadProxy, origin: Origin) -> None:
    """Copied, spliced, or sent along with the head; neither the head nor our 200 counts."""
    client = proxy.connect()
    client.sendall(connect_to(origin.target) + b"x" * 1000)
    assert read_head(client) == ESTABLISHED
    server = origin.accept()
    assert read_exactly(server, 1000)
    exchange(client, bytes(3 * MB), server, bytes(5 * MB))
    line = proxy.lines(1)[0]
    assert (line["bytes_up"], line["bytes_down"]) == (str(3 * MB + 1000), str(5 * MB))


def test_every_connection_gets_exactly_one_line(proxy: ThreadProxy, origin: Origin) -> None:
    for _ in range(20):
        close_both(*proxy.tunnel(origin))
    assert proxy.ask(b"garbage\r\n\r\n").status == 400
    assert proxy.ask(connect_to("10.0.0.1:1")).status == 403
    proxy.connect(source="127.0.1.9").close()
    proxy.connect().close()
    tunnels = [proxy.tunnel(origin) for _ in range(3)]
    lines = proxy.lines(24)
    proxy.stop()
    ended = proxy.lines(27)[24:]
    assert len(tunnels) == 3
    assert [line["reason"] for line in ended] == ["the proxy stops"] * 3
    assert [line["decision"] for line in lines].count("tunnel") == 20
    assert [line["decision"] for line in lines].count("refused") == 3


def test_a_line_names_the_job_that_became_known_while_the_connection_was_open(
    proxy: ThreadProxy, origin: Origin
) -> None:
    client, server = proxy.tunnel(origin)
    proxy.set_table(runner(job_name="test (3.11)", job_key="acme_1_77", profile="large", has_job=True))
    close_both(client, server)
    line = proxy.lines(1)[0]
    assert (line["job_name"], line["job_id"], line["profile"]) == ("test (3.11)", "acme_1_77", "large")
    assert line["has_job"] == "yes"


def test_a_line_names_the_job_even_when_the_runner_is_gone_by_then(proxy: ThreadProxy, origin: Origin) -> None:
    """Long polls are open from the first minute to the container's end."""
    proxy.tunnel(origin)
    proxy.set_table(runner(job_key="acme_1_77", has_job=True))
    proxy.set_table()
    line = proxy.lines(1)[0]
    assert (line["job_id"], line["has_job"], line["reason"]) == ("acme_1_77", "yes", "the runner is gone")


def test_a_line_does_not_name_the_next_runner_on_the_bridge(proxy: ThreadProxy, origin: Origin) -> None:
    proxy.tunnel(origin)
    proxy.set_table(runner(runner_name="runner-9", job_key="acme_1_9"))
    line = proxy.lines(1)[0]
    assert (line["runner_name"], line["job_id"], line["reason"]) == ("runner-1", "acme_1_1", "the runner is gone")


def test_a_job_name_cannot_forge_a_line(proxy: ThreadProxy, origin: Origin) -> None:
    proxy.set_table(runner(job_name='x"\n2026-01-01 CONNECT tunnel runner_name=other \x1b[2J\u2028'))
    close_both(*proxy.tunnel(origin))
    line = proxy.lines(1)[0]
    assert line["runner_name"] == "runner-1"
    assert line["job_name"].startswith('x"\n2026')
    assert "\x1b" not in proxy.log()


def test_a_log_that_cannot_be_written_cuts_nobody_off(tmp_path: Path, origin: Origin) -> None:
    with proxy_in_thread(tmp_path, origin) as proxy:

        def fail(_: str) -> None:
            raise OSError(28, "No space left on device")

        write, proxy.server._write_log = proxy.server._write_log, fail
        client, server = proxy.tunnel(origin)
        close_both(*proxy.tunnel(origin))
        eventually(lambda: proxy.usage_of()["connections"] == 2 and not proxy.server._lines, "the line is lost")
        proxy.server._write_log = write
        close_both(client, server)
        proxy.lines(1)


# The table


def test_a_table_without_a_runner_ends_its_tunnels_and_nobody_elses(proxy: ThreadProxy, origin: Origin) -> None:
    proxy.set_table(runner(1), runner(2))
    gone = [proxy.tunnel(origin, 1) for _ in range(3)]
    stays, far_end = proxy.tunnel(origin, 2)
    proxy.set_table(runner(2))
    for sock in (sock for ends in gone for sock in ends):
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    stays.sendall(b"still here")
    assert read_exactly(far_end, 10) == b"still here"
    assert [line["runner_name"] for line in proxy.lines(3)] == ["runner-1"] * 3


def test_a_table_without_a_runner_ends_what_is_not_yet_a_tunnel(proxy: ThreadProxy) -> None:
    client = proxy.connect()
    client.sendall(b"CONNECT half")
    eventually(lambda: proxy.usage_of()["connections"] == 1, "it is accepted")
    proxy.set_table()
    # Reset, if what it sent had not been read yet.
    with suppress(ConnectionResetError):
        assert client.recv(1) == b""
    assert proxy.lines(1)[0]["decision"] == "failed"


def test_a_table_is_in_force_when_it_is_answered(proxy: ThreadProxy, origin: Origin) -> None:
    """A container is started right after the answer, and its first packet may be fast."""
    for number in range(2, 52):
        proxy.set_table(runner(number))
        proxy.tunnel(origin, number)
    assert {line["runner_name"] for line in proxy.lines(49)} == {f"runner-{number}" for number in range(2, 51)}


# The sums


def test_usage_counts_what_is_over_and_what_is_open(proxy: ThreadProxy, origin: Origin) -> None:
    client, server = proxy.tunnel(origin)
    client.sendall(b"12345")
    assert read_exactly(server, 5)
    close_both(client, server)
    proxy.lines(1)
    proxy.ask(connect_to("10.0.0.1:443"))
    client, server = proxy.tunnel(origin)
    server.sendall(b"1234567")
    assert read_exactly(client, 7)
    proxy.lines(2)
    usage = proxy.usage_of()
    in_all = {key: value for key, value in usage.items() if key != "targets"}
    assert in_all == {
        "connections": 3,
        "refused": 1,
        "unlisted": 1,
        "bytesUp": 5,
        "bytesDown": 7,
        "connectionsToOthers": 0,
    }
    assert usage["targets"] == [
        {"target": origin.target, "connections": 2, "refused": 0, "unlisted": 0, "bytesUp": 5, "bytesDown": 7},
        {"target": "10.0.0.1:443", "connections": 1, "refused": 1, "unlisted": 1, "bytesUp": 0, "bytesDown": 0},
    ]
    assert proxy.usage_of(2)["connections"] == 0


def test_a_refusal_counts_at_once(proxy: ThreadProxy) -> None:
    client = proxy.connect()
    client.sendall(connect_to("10.0.0.1:443"))
    assert read_head(client).startswith(b"HTTP/1.1 403 ")
    assert proxy.usage_of()["refused"] == 1


def test_usage_outlives_the_runner_until_it_is_forgotten(proxy: ThreadProxy, origin: Origin) -> None:
    close_both(*proxy.tunnel(origin))
    proxy.lines(1)
    proxy.set_table()
    assert proxy.usage_of(forget=True)["connections"] == 1
    assert proxy.usage_of()["connections"] == 0


def test_usage_of_runners_that_nobody_asks_for_is_not_kept_for_ever(proxy: ThreadProxy) -> None:
    for number in range(300):
        proxy.set_table(runner(runner_name=f"runner-{number}"))
        assert proxy.ask(connect_to("10.0.0.1:443")).status == 403
    proxy.set_table()
    assert len(proxy.server._usages) <= 256
    assert proxy.usage_of(299)["refused"] == 1


def test_no_more_than_100_targets_are_listed(tmp_path: Path) -> None:
    with proxy_in_thread(tmp_path) as proxy:
        for number in range(120):
            assert proxy.ask(connect_to(f"10.0.0.1:{number + 1}")).status == 403
        proxy.lines(120)
        usage = proxy.usage_of()
        assert (usage["connections"], len(usage["targets"])) == (120, 100)
