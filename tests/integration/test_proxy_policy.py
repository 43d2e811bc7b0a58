"""What a profile's rules do to connections: refused, recorded, slowed down, cut when the rules change."""

import ipaddress
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from controller.proxy import rules as proxy_rules
from controller.proxy import server as proxy_server
from functions.documents.workflow_job import RunnerEgress, RunnerEgressRule
from functions.routing.policy import EgressMode
from tests.integration.proxy_tools import (
    ESTABLISHED,
    MB,
    Origin,
    ThreadProxy,
    connect_to,
    eventually,
    exchange,
    proxy_in_thread,
    read_all,
    read_exactly,
    read_head,
    reset,
    runner,
    send_whole,
)

PUBLIC = ipaddress.ip_network("127.0.8.0/24")
NAMES = ("good.test", "bad.test", "other.example")


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin("127.0.8.1") as only:
        yield only


@pytest.fixture
def proxy(tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadProxy]:
    """127.0.8.0/24 stands in for the public internet; three names lead to the origin."""
    refuse = proxy_rules.refuse_address
    monkeypatch.setattr(proxy_rules, "refuse_address", lambda found: None if found in PUBLIC else refuse(found))
    with proxy_in_thread(tmp_path, hosts=dict.fromkeys(NAMES, origin.address[0])) as running:
        yield running


def egress(mode: EgressMode = EgressMode.ENFORCE, **changes: Any) -> RunnerEgress:
    written = (
        RunnerEgressRule(name="no-bad", is_allowed=False, targets=("bad.test",)),
        RunnerEgressRule(name="tests", is_allowed=True, targets=("*.test:*",)),
    )
    return RunnerEgress(mode=mode, rules=written, **changes)


def named(name: str, origin: Origin) -> bytes:
    return connect_to(f"{name}:{origin.address[1]}")


def test_enforce_refuses_with_the_rules_name_and_resolves_nothing(proxy: ThreadProxy, origin: Origin) -> None:
    proxy.set_table(runner(egress=egress()))
    denied, unlisted = proxy.ask(named("bad.test", origin)), proxy.ask(connect_to("evil.example:443"))
    assert (denied.status, unlisted.status) == (403, 403)
    assert denied.text == (f"runyard proxy: bad.test:{origin.address[1]} is denied by rule no-bad of profile small\n")
    assert unlisted.text.startswith("runyard proxy: evil.example:443 is not allowed by profile small")
    lines = proxy.lines(2)
    assert [(line["decision"], line["rule"], line["policy"]) for line in lines] == [
        ("refused", "no-bad", "refused"),
        ("refused", "none", "refused"),
    ]
    assert proxy.server._resolver._known == {}
    assert not origin.has_caller()


def test_a_refusal_can_be_read_where_clients_show_only_the_status_line(proxy: ThreadProxy, origin: Origin) -> None:
    proxy.set_table(runner(egress=egress()))
    client = proxy.connect()
    client.sendall(named("bad.test", origin))
    status_line = read_head(client).split(b"\r\n")[0].decode()
    assert status_line == f"HTTP/1.1 403 bad.test:{origin.address[1]} is denied by rule no-bad of profile small"


def test_enforce_lets_through_what_a_rule_allows(proxy: ThreadProxy, origin: Origin) -> None:
    proxy.set_table(runner(egress=egress()))
    client = proxy.connect()
    client.sendall(named("good.test", origin))
    assert read_head(client) == ESTABLISHED
    reset(client)
    line = proxy.lines(1)[0]
    assert (line["decision"], line["rule"], line["policy"]) == ("tunnel", "tests", "allowed")


@pytest.mark.parametrize("mode", [EgressMode.AUDIT, EgressMode.LEARN])
def test_what_is_not_enforced_goes_through_and_says_what_enforcing_would_do(
    proxy: ThreadProxy, origin: Origin, mode: EgressMode
) -> None:
    proxy.set_table(runner(egress=egress(mode)))
    for name in NAMES:
        client = proxy.connect()
        client.sendall(named(name, origin))
        assert read_head(client) == ESTABLISHED
        reset(client)
    lines = {line["target"].partition(":")[0]: line for line in proxy.lines(3)}
    assert [(lines[name]["rule"], lines[name]["policy"]) for name in NAMES] == [
        ("tests", "allowed"),
        ("no-bad", "refused"),
        ("none", "refused"),
    ]
    assert (proxy.usage_of()["unlisted"], proxy.usage_of()["refused"]) == (2, 0)


def test_learn_lists_more_targets_than_audit(proxy: ThreadProxy) -> None:
    proxy.set_table(runner(1, egress=egress(EgressMode.LEARN)), runner(2, egress=egress(EgressMode.AUDIT)))
    for number in (1, 2):
        for port in range(1, 121):
            assert proxy.ask(connect_to(f"10.0.0.1:{port}"), number).status == 403
    proxy.lines(240)
    learned, audited = proxy.usage_of(1), proxy.usage_of(2)
    assert (len(learned["targets"]), learned["connectionsToOthers"]) == (120, 0)
    assert (len(audited["targets"]), audited["connectionsToOthers"]) == (100, 20)


# When the rules change


def test_new_rules_hold_for_the_next_connection_of_a_runner_that_is_running(proxy: ThreadProxy, origin: Origin) -> None:
    proxy.set_table(runner(egress=egress(EgressMode.AUDIT)))
    client = proxy.connect()
    client.sendall(named("good.test", origin))
    assert read_head(client) == ESTABLISHED
    proxy.set_table(runner(egress=RunnerEgress(mode=EgressMode.ENFORCE)))
    assert proxy.ask(named("good.test", origin)).status == 403


def test_new_rules_end_the_tunnels_that_they_refuse_and_no_others(proxy: ThreadProxy, origin: Origin) -> None:
    proxy.set_table(runner(egress=egress(EgressMode.AUDIT)))
    bad, good = proxy.connect(), proxy.connect()
    for client, name in ((bad, "bad.test"), (good, "good.test")):
        client.sendall(named(name, origin))
        assert read_head(client) == ESTABLISHED
    origin.accept()
    good_server = origin.accept()
    proxy.set_table(runner(egress=egress()))
    with pytest.raises(ConnectionResetError):
        bad.recv(1)
    good.sendall(b"still here")
    assert read_exactly(good_server, 10) == b"still here"
    line = proxy.lines(1)[0]
    assert (line["decision"], line["rule"]) == ("refused", "no-bad")
    assert line["reason"].startswith("the rules have changed: bad.test:")
    assert proxy.usage_of()["refused"] == 1


# Limits


def test_a_profile_may_have_fewer_connections_than_others(proxy: ThreadProxy, origin: Origin) -> None:
    proxy.set_table(runner(1, egress=egress(connections=2)), runner(2))
    tunnels = []
    for _ in range(2):
        client = proxy.connect()
        client.sendall(named("good.test", origin))
        assert read_head(client) == ESTABLISHED
        tunnels.append(client)
    reply = proxy.ask(named("good.test", origin))
    assert (reply.status, reply.text) == (503, "runyard proxy: this runner has 2 connections already\n")
    for _ in range(4):
        client = proxy.connect(2)
        client.sendall(named("good.test", origin))
        assert read_head(client) == ESTABLISHED
    assert len(tunnels) == 2


def open_pair(proxy: ThreadProxy, origin: Origin, number: int = 1) -> tuple[Any, Any]:
    client = proxy.connect(number)
    client.sendall(named("good.test", origin))
    assert read_head(client) == ESTABLISHED
    return client, origin.accept()


def test_a_runners_bandwidth_holds_for_all_its_tunnels_together_and_loses_nothing(
    proxy: ThreadProxy, origin: Origin
) -> None:
    """4 MB a second, of which a quarter is there at once: 6 MB, over two tunnels and both ways, need 1.25 s."""
    proxy.set_table(runner(1, egress=egress(bytes_per_s=4 * MB)), runner(2))
    data, reply = bytes(range(256)) * (2 * MB // 256), bytes(range(256)) * (MB // 256)
    pairs = [open_pair(proxy, origin) for _ in range(2)]
    free, far_end = open_pair(proxy, origin, 2)
    started = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(exchange, client, data, server, reply) for client, server in pairs]
        # The neighbour waits for nobody.
        free.sendall(b"ping")
        assert read_exactly(far_end, 4) == b"ping"
        assert not any(one.done() for one in running)
        for one in running:
            assert one.result() == (reply, data)
    assert time.monotonic() - started >= 1.2


def test_no_tunnel_of_a_slowed_runner_starves(proxy: ThreadProxy, origin: Origin) -> None:
    proxy.set_table(runner(1, egress=egress(bytes_per_s=2 * MB)))
    pairs = [open_pair(proxy, origin) for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        sending = [pool.submit(send_whole, client, bytes(MB)) for client, _ in pairs]
        received = [pool.submit(read_for, server, 0.8) for _, server in pairs]
        sizes = [one.result() for one in received]
        assert min(sizes) > max(sizes) // 8, sizes
        rest = [pool.submit(read_all, server) for _, server in pairs]
        assert [size + len(one.result()) for size, one in zip(sizes, rest, strict=True)] == [MB] * 4
        for one in sending:
            one.result()


def read_for(sock: Any, seconds: float) -> int:
    """How much comes in a time."""
    until, size = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        size += len(sock.recv(16 * 1024))
    return size


def test_another_list_of_githubs_hosts_is_taken_up_while_the_proxy_runs_and_a_broken_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy_server, "_LOOK_AT_FILE_EVERY_S", 0.05)
    path = tmp_path / "hosts.json"
    path.write_text('{"as_of": "2026-11-01", "hosts": ["old.invalid"]}')
    with proxy_in_thread(tmp_path, github_hosts_file=path) as proxy:
        proxy.set_table(runner(egress=RunnerEgress(mode=EgressMode.ENFORCE)))

        def status(name: str) -> int:
            return proxy.ask(connect_to(f"{name}:443")).status

        # A name that is allowed is looked up, in vain; another one is refused.
        assert (status("old.invalid"), status("new.invalid")) == (502, 403)
        path.write_text('{"as_of": "2026-12-01", "hosts": ["new.invalid"]}')
        eventually(lambda: status("new.invalid") == 502, "the new list is in force")
        assert status("old.invalid") == 403
        path.write_text('{"as_of": "2026-12-02", "hosts": []}')
        time.sleep(0.2)
        assert status("new.invalid") == 502


# The name that TLS asks for


def first_words(name: str) -> bytes:
    """What a TLS client sends first."""
    outgoing = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("pieces", [1, 7, 500])
@pytest.mark.parametrize("with_head", [True, False], ids=["with the head", "after the answer"])
def test_a_tls_client_that_asks_for_the_name_it_named_is_let_through_with_every_byte(
    proxy: ThreadProxy, origin: Origin, pieces: int, *, with_head: bool
) -> None:
    proxy.set_table(runner(egress=egress()))
    hello = first_words("GOOD.test")
    client = proxy.connect()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    size = len(hello) // pieces + 1
    parts = [hello[at : at + size] for at in range(0, len(hello), size)]
    client.sendall(named("good.test", origin) + (parts.pop(0) if with_head else b""))
    assert read_head(client) == ESTABLISHED
    for part in parts:
        client.sendall(part)
    server = origin.accept()
    assert read_exactly(server, len(hello)) == hello
    server.sendall(b"and back")
    assert read_exactly(client, 8) == b"and back"
    client.sendall(b"more" * 100_000)
    assert read_exactly(server, 400_000) == b"more" * 100_000
    reset(client)
    line = proxy.lines(1)[0]
    assert (line["sni"], line["policy"], line["bytes_up"]) == ("good.test", "allowed", str(len(hello) + 400_000))


@pytest.mark.parametrize("pieces", [1, 3])
def test_enforce_cuts_a_tls_client_that_asks_for_another_name_before_the_target_hears_of_it(
    proxy: ThreadProxy, origin: Origin, pieces: int
) -> None:
    proxy.set_table(runner(egress=egress()))
    client = proxy.connect()
    client.sendall(named("good.test", origin))
    assert read_head(client) == ESTABLISHED
    server, hello = origin.accept(), first_words("bad.test")
    size = len(hello) // pieces + 1
    for at in range(0, len(hello), size):
        client.sendall(hello[at : at + size])
    for sock in (client, server):
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    line = proxy.lines(1)[0]
    assert (line["decision"], line["rule"], line["policy"]) == ("refused", "server-name", "refused")
    assert line["reason"] == "TLS asks for bad.test, but the proxy was asked for good.test"
    assert (line["sni"], line["bytes_up"]) == ("bad.test", "0")
    assert proxy.usage_of()["refused"] == 1


def test_a_tls_client_that_does_not_wait_for_the_answer_is_told_in_words(proxy: ThreadProxy, origin: Origin) -> None:
    proxy.set_table(runner(egress=egress()))
    reply = proxy.ask(named("good.test", origin) + first_words("bad.test"))
    assert reply.status == 403
    assert reply.text == "runyard proxy: TLS asks for bad.test, but the proxy was asked for good.test\n"
    line = proxy.lines(1)[0]
    assert (line["decision"], line["rule"], line["sni"]) == ("refused", "server-name", "bad.test")


def test_audit_only_says_that_tls_asks_for_another_name(proxy: ThreadProxy, origin: Origin) -> None:
    proxy.set_table(runner(egress=egress(EgressMode.AUDIT)))
    client = proxy.connect()
    client.sendall(named("good.test", origin) + first_words("bad.test"))
    assert read_head(client) == ESTABLISHED
    server = origin.accept()
    assert server.recv(3)
    reset(client)
    line = proxy.lines(1)[0]
    assert (line["decision"], line["rule"], line["policy"], line["sni"]) == (
        "tunnel",
        "server-name",
        "refused",
        "bad.test",
    )


@pytest.mark.parametrize("data", [b"SSH-2.0-x\r\n", b"\x16", b"\x16\x03\x01\x02"], ids=["SSH", "a byte", "a part"])
def test_what_is_no_whole_hello_is_passed_on_at_the_clients_end(
    proxy: ThreadProxy, origin: Origin, data: bytes
) -> None:
    client = proxy.connect()
    client.sendall(named("good.test", origin))
    assert read_head(client) == ESTABLISHED
    send_whole(client, data)
    server = origin.accept()
    assert read_all(server) == data
    send_whole(server, b"bye")
    assert read_all(client) == b"bye"


def test_a_server_that_speaks_first_is_not_kept_waiting(proxy: ThreadProxy, origin: Origin) -> None:
    client = proxy.connect()
    client.sendall(named("good.test", origin))
    assert read_head(client) == ESTABLISHED
    server = origin.accept()
    server.sendall(b"220 welcome")
    assert read_exactly(client, 11) == b"220 welcome"
