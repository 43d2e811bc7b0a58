"""Who and what is refused, in words; and that nobody can hold the proxy up."""

import ipaddress
import select
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from controller.proxy import rules, server
from tests.integration.proxy_tools import (
    ESTABLISHED,
    MB,
    Origin,
    Reply,
    ThreadProxy,
    address,
    answer_of,
    connect_to,
    eventually,
    gateway,
    origins,
    proxy_in_thread,
    read_all,
    read_exactly,
    read_head,
    reset,
    runner,
    send_until_cut_off,
)


@pytest.fixture
def origin() -> Iterator[Origin]:
    with origins(1) as (only,):
        yield only


@pytest.fixture
def proxy(tmp_path: Path, origin: Origin) -> Iterator[ThreadProxy]:
    with proxy_in_thread(tmp_path, origin) as running:
        yield running


# Strangers


def test_an_unknown_address_is_refused_and_the_log_says_so(proxy: ThreadProxy, origin: Origin) -> None:
    client = proxy.connect(source="127.0.1.3")
    client.sendall(connect_to(origin.target))
    reply = answer_of(client)
    assert (reply.status, reply.text) == (403, "runyard proxy: 127.0.1.3 is not a runner of this host\n")
    line = proxy.lines(1)[0]
    assert (line["decision"], line["source_ip"], line["runner_name"]) == ("refused", "127.0.1.3", "")
    assert not origin.has_caller()


def test_a_runner_at_the_gateway_of_another_is_nobody(proxy: ThreadProxy, origin: Origin) -> None:
    proxy.set_table(runner(1), runner(2))
    client = proxy.connect(2, source=address(1))
    client.sendall(connect_to(origin.target))
    assert answer_of(client).status == 403
    assert proxy.lines(1)[0]["runner_name"] == ""
    assert not origin.has_caller()


def test_a_refused_stranger_that_stays_is_closed(proxy: ThreadProxy) -> None:
    client = proxy.connect(source="127.0.1.3")
    assert Reply(read_all(client)).status == 403
    assert proxy.lines(1)[0]["decision"] == "refused"


# Targets


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("127.0.0.1:22", "a loopback address"),
        ("localhost:22", "a loopback address"),
        ("127.1:22", "a loopback address"),
        ("2130706433:22", "a loopback address"),
        ("[::1]:22", "a loopback address"),
        ("[::ffff:127.0.0.1]:22", "a loopback address"),
        ("0.0.0.0:22", "a loopback address"),
        (f"{gateway(1)}:3128", "a loopback address"),
        ("10.0.0.1:443", "a private address"),
        ("192.168.1.1:443", "a private address"),
        ("[fd00::1]:443", "a private address"),
        ("169.254.169.254:80", "a link-local address, where clouds keep their metadata"),
        ("[fe80::1]:80", "a link-local address, where clouds keep their metadata"),
    ],
)
def test_a_target_inside_is_refused(proxy: ThreadProxy, target: str, reason: str) -> None:
    reply = proxy.ask(connect_to(target))
    assert reply.status == 403
    assert reply.text.endswith(f" is {reason}\n")
    line = proxy.lines(1)[0]
    assert (line["decision"], line["runner_name"]) == ("refused", "runner-1")


def test_an_exempt_target_is_exempt_with_its_port_only(proxy: ThreadProxy, origin: Origin) -> None:
    proxy.tunnel(origin)
    assert proxy.ask(connect_to(f"{origin.address[0]}:{origin.address[1] - 1}")).status == 403


def test_a_plain_request_for_a_target_inside_is_refused(proxy: ThreadProxy) -> None:
    request = b"GET http://169.254.169.254/latest/meta-data/ HTTP/1.1\r\nHost: example.com\r\n\r\n"
    assert proxy.ask(request).status == 403
    assert proxy.lines(1)[0]["target"] == "169.254.169.254:80"


def test_a_name_that_does_not_resolve_is_a_502(proxy: ThreadProxy) -> None:
    reply = proxy.ask(connect_to("no-such-host.invalid:443"))
    assert reply.status == 502
    assert "no-such-host.invalid does not resolve" in reply.text
    assert proxy.lines(1)[0]["decision"] == "failed"


# Names


class Names:
    """A name server that may change its mind."""

    def __init__(self, *answers: tuple[str, ...], delay_s: float = 0):
        self._answers = list(answers)
        self._delay_s = delay_s
        self.questions: list[str] = []

    def getaddrinfo(self, name: str, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        self.questions.append(name)
        time.sleep(self._delay_s)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (found, 0)) for found in self._answers.pop(0)]


def test_a_name_is_connected_to_at_exactly_the_address_that_was_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: a second lookup would lead elsewhere."""
    with (
        origins(1) as (checked,),
        proxy_in_thread(tmp_path, private_targets=[f"moving.test:{checked.address[1]}"]) as proxy,
    ):
        elsewhere = Origin("127.0.9.2", checked.address[1])
        names = Names((checked.address[0],), (elsewhere.address[0],))
        monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
        for _ in range(3):
            client = proxy.connect()
            client.sendall(connect_to(f"moving.test:{checked.address[1]}"))
            assert read_head(client) == ESTABLISHED
            checked.accept()
        assert names.questions == ["moving.test"]
        assert not elsewhere.has_caller()
        elsewhere.close()


def test_a_name_with_a_fixed_address_needs_no_name_server(tmp_path: Path, origin: Origin) -> None:
    """Names are the same in whatever case they are written, here and there."""
    port = origin.address[1]
    options = {"hosts": {"Origin.test": origin.address[0]}, "private_targets": [f"Origin.Test:{port}"]}
    with proxy_in_thread(tmp_path, **options) as proxy:
        client = proxy.connect()
        client.sendall(connect_to(f"ORIGIN.test:{port}"))
        assert read_head(client) == ESTABLISHED
        assert origin.has_caller()


def test_of_a_names_addresses_only_the_allowed_ones_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.8.0/24 stands in for the public internet."""
    public = ipaddress.ip_network("127.0.8.0/24")
    refuse = rules.refuse_address
    monkeypatch.setattr(rules, "refuse_address", lambda found: None if found in public else refuse(found))
    with Origin("127.0.9.1") as inside, proxy_in_thread(tmp_path) as proxy:
        outside = Origin("127.0.8.1", inside.address[1])
        names = Names((inside.address[0], outside.address[0]))
        monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
        client = proxy.connect()
        client.sendall(connect_to(f"both.test:{inside.address[1]}"))
        assert read_head(client) == ESTABLISHED
        assert outside.has_caller()
        assert not inside.has_caller()
        outside.close()


def test_a_dead_address_does_not_hide_the_living_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One address refuses, one swallows everything, the third answers."""
    with hanging_origin("127.0.9.3") as hanging:
        port = hanging.address[1]
        living = Origin("127.0.9.2", port)
        names = Names(("127.0.9.1", "127.0.9.3", "127.0.9.2"))
        monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
        options = {"private_targets": [f"three.test:{port}"], "connect_timeout_s": 1}
        with proxy_in_thread(tmp_path, **options) as proxy:
            client = proxy.connect()
            client.sendall(connect_to(f"three.test:{port}"))
            assert read_head(client) == ESTABLISHED
            assert living.has_caller()
        living.close()


def test_a_lookup_that_hangs_ends_in_a_504_and_stops_nobody(
    tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", Names((), delay_s=1.5).getaddrinfo)
    with proxy_in_thread(tmp_path, origin, connect_timeout_s=0.5) as proxy:
        waiting = proxy.connect()
        waiting.sendall(connect_to("slow.test:443"))
        proxy.tunnel(origin)
        assert answer_of(waiting).status == 504


# Origins that do not answer


def test_an_origin_that_refuses_is_a_502(tmp_path: Path) -> None:
    with Origin(backlog=-1) as deaf, proxy_in_thread(tmp_path, deaf) as proxy:
        reply = proxy.ask(connect_to(deaf.target))
        assert (reply.status, reply.text) == (
            502,
            f"runyard proxy: {deaf.target} cannot be reached: Connection refused\n",
        )
        line = proxy.lines(1)[0]
        assert (line["decision"], line["target"]) == ("failed", deaf.target)


def test_an_origin_that_hangs_is_a_504(tmp_path: Path) -> None:
    with hanging_origin() as hanging, proxy_in_thread(tmp_path, hanging, connect_timeout_s=0.5) as proxy:
        reply = proxy.ask(connect_to(hanging.target))
        assert (reply.status, reply.text) == (504, f"runyard proxy: {hanging.target} did not answer in time\n")
        assert proxy.lines(1)[0]["decision"] == "failed"


def test_a_client_that_gives_up_before_the_origin_answers_is_forgotten(tmp_path: Path) -> None:
    with hanging_origin() as hanging, proxy_in_thread(tmp_path, hanging) as proxy:
        client = proxy.connect()
        client.sendall(connect_to(hanging.target))
        eventually(lambda: proxy.targets_of() == {hanging.target: 1}, "the head is read")
        reset(client)
        assert proxy.lines(1)[0]["reason"] == "the client went away"


# Heads


@pytest.mark.parametrize(
    "start", [b"", b"CONNECT example.com:443 HT", b"CONNECT example.com:443 HTTP/1.1\r\nHost: exa"], ids=len
)
def test_half_a_head_and_then_silence_is_a_408(tmp_path: Path, start: bytes) -> None:
    with proxy_in_thread(tmp_path, head_timeout_s=0.5) as proxy:
        assert proxy.ask(start).status == 408
        assert proxy.lines(1)[0]["decision"] == "refused"


def test_a_head_that_drips_for_ever_is_a_408(tmp_path: Path) -> None:
    """The time counts from the connection's beginning, not from its last byte."""
    with proxy_in_thread(tmp_path, head_timeout_s=0.5) as proxy:
        client = proxy.connect()
        client.sendall(b"CONNECT example.com:443 HTTP/1.1\r\nX: ")
        for _ in range(100):
            if select.select([client], [], [], 0.05)[0]:
                assert answer_of(client).status == 408
                return
            client.sendall(b"x")
        raise AssertionError("it may drip for ever")


def test_a_header_of_1_mb_is_a_431(proxy: ThreadProxy, origin: Origin) -> None:
    request = connect_to(origin.target)[:-2] + b"X-Large: " + b"x" * MB + b"\r\n\r\n"
    assert proxy.ask(request).status == 431
    assert not origin.has_caller()


def test_an_endless_header_is_a_431_and_is_not_read_for_ever(proxy: ThreadProxy, origin: Origin) -> None:
    client = proxy.connect()
    client.sendall(b"GET http://example.com/ HTTP/1.1\r\nX: ")
    send_until_cut_off(client, b"x" * 65536, 100_000)
    assert proxy.lines(1)[0]["reason"].startswith("the request's head is larger than")
    assert not origin.has_caller()


def test_a_client_that_floods_after_its_refusal_does_not_hold_the_others_up(proxy: ThreadProxy, origin: Origin) -> None:
    flood = proxy.connect()
    flood.sendall(b"\0 is no request\r\n\r\n")
    with ThreadPoolExecutor(1) as pool:
        flooding = pool.submit(send_until_cut_off, flood, b"x" * 65536, 100_000)
        for _ in range(5):
            client, server = proxy.tunnel(origin)
            client.sendall(b"ping")
            assert read_exactly(server, 4) == b"ping"
        flooding.result()


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\0" * 100,
        b"hello\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
        b"GET https://example.com/ HTTP/1.1\r\n\r\n",
        b"CONNECT example.com HTTP/1.1\r\n\r\n",
        b"CONNECT example.com:0 HTTP/1.1\r\n\r\n",
        b"CONNECT example.com:65536 HTTP/1.1\r\n\r\n",
        b"CONNECT user@example.com:443 HTTP/1.1\r\n\r\n",
        b"CONNECT http://example.com:443 HTTP/1.1\r\n\r\n",
        b"CONNECT [::g]:443 HTTP/1.1\r\n\r\n",
        b"CONNECT example.com:443 HTTP/2.0\r\n\r\n",
        b"CONNECT example.com:443\r\n\r\n",
        b"CONNECT example.com:443 HTTP/1.1\r\nno field\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST http://example.com/ HTTP/1.1\r\nContent-Length: many\r\n\r\n",
        b"POST http://example.com/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    ],
)
def test_garbage_is_a_400(proxy: ThreadProxy, request_: bytes) -> None:
    assert proxy.ask(request_).status == 400
    assert proxy.lines(1)[0]["decision"] == "refused"


# Limits


def test_one_connection_too_many_is_a_503_for_this_runner_only(tmp_path: Path, origin: Origin) -> None:
    with proxy_in_thread(tmp_path, origin, most_for_a_runner=3) as proxy:
        proxy.set_table(runner(1), runner(2))
        tunnels = [proxy.tunnel(origin) for _ in range(3)]
        reply = proxy.ask(connect_to(origin.target))
        assert (reply.status, reply.text) == (503, "runyard proxy: this runner has 3 connections already\n")
        proxy.tunnel(origin, 2)
        for sock in tunnels[0]:
            sock.close()
        proxy.lines(2)
        proxy.tunnel(origin)


def test_one_connection_too_many_for_the_proxy_is_a_503(tmp_path: Path, origin: Origin) -> None:
    with proxy_in_thread(tmp_path, origin, most_connections=2) as proxy:
        for _ in range(2):
            proxy.tunnel(origin)
        assert proxy.ask(connect_to(origin.target)).status == 503


def test_a_tunnel_where_nothing_happens_ends(tmp_path: Path, origin: Origin) -> None:
    with proxy_in_thread(tmp_path, origin, idle_timeout_s=1) as proxy:
        idle, far_end = proxy.tunnel(origin)
        busy, other_end = proxy.tunnel(origin)
        for _ in range(20):
            busy.sendall(b".")
            assert read_exactly(other_end, 1) == b"."
            time.sleep(0.1)
        for sock in (idle, far_end):
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        assert proxy.lines(1)[0]["reason"] == "nothing for 1 s"


def test_a_fault_of_ours_ends_one_connection_only(
    tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = rules.judge

    def broken_judge(target: str, *rest: Any, **options: Any) -> rules.Verdict:
        if target == "broken.test:443":
            raise ZeroDivisionError
        return judge(target, *rest, **options)

    monkeypatch.setattr(server, "judge", broken_judge)
    with proxy_in_thread(tmp_path, origin, hosts={"broken.test": "127.0.9.1"}, connect_timeout_s=0.5) as proxy:
        client = proxy.connect()
        client.sendall(connect_to("broken.test:443"))
        proxy.tunnel(origin)
        assert answer_of(client).status == 504


def hanging_origin(host: str = "127.0.9.1") -> Origin:
    """Its backlog is full, so the kernel drops every further SYN."""
    origin = Origin(host, backlog=0)
    for _ in range(4):
        caller = origin.keep(socket.socket())
        caller.setblocking(False)
        caller.connect_ex(origin.address)
    time.sleep(0.1)
    return origin
