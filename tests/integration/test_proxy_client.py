"""The controller keeps the proxy running, and neither takes the other with it."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml

from controller.attribution import Attribution
from controller.proxy_client import ProxyClient, ProxyUnavailable
from tests.integration.proxy_tools import Origin, Runners, connect_to, free_port, read_exactly, runner

TIMEOUT_S = 30.0


def write_config(folder: Path, *origins: Origin, port: int | None = None) -> tuple[Path, int]:
    port = port or free_port()
    settings = {
        "host_id": "host-a",
        "project": "a-project",
        "run_dir": str(folder),
        "proxy": {
            "port": port,
            "log_file": str(folder / "access.log"),
            "private_targets": [origin.target for origin in origins],
        },
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path, port


@asynccontextmanager
async def controller(folder: Path, config: Path, *table: Attribution) -> AsyncIterator[ProxyClient]:
    """What a controller does with the proxy, from its start to its end."""
    client = ProxyClient(folder / "proxy.sock", config)
    running = asyncio.create_task(client.keep_running())
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await client.wait_until_alive()
            if table:
                await client.set_table(table)
        yield client
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await client.close()


def proxy_pid(folder: Path) -> int:
    """The process at the other end of the control socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(folder / "proxy.sock"))
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int.from_bytes(credentials[:4], "little")


async def test_a_controller_that_ends_and_comes_back_cuts_no_tunnel_and_loses_no_attribution(tmp_path: Path) -> None:
    with Origin("127.0.9.1") as origin:
        config, port = write_config(tmp_path, origin)
        async with controller(tmp_path, config, runner()):
            pid = proxy_pid(tmp_path)
            runners = Runners(port)
            client, server = await asyncio.to_thread(runners.tunnel, origin)
        client.sendall(b"while nobody watches")
        assert read_exactly(server, 20) == b"while nobody watches"
        # Who connects now is still known.
        await asyncio.to_thread(runners.tunnel, origin)
        async with controller(tmp_path, config) as second:
            assert proxy_pid(tmp_path) == pid, "the proxy that is there is taken over"
            client.sendall(b"and afterwards")
            assert read_exactly(server, 14) == b"and afterwards"
            summary = await second.usage_of("runner-1", forget=False)
            assert (summary.connections, summary.bytes_up) == (2, 34)
            runners.close()
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_proxy_that_ends_is_started_again_knows_everybody_and_goes_on_counting(
    tmp_path: Path, number: signal.Signals
) -> None:
    with Origin("127.0.9.1") as origin:
        config, port = write_config(tmp_path, origin)
        runners = Runners(port)
        async with controller(tmp_path, config, runner()) as client:
            for _ in range(3):
                sock, server = await asyncio.to_thread(runners.tunnel, origin)
                sock.sendall(b"12345")
                assert read_exactly(server, 5) == b"12345"
                sock.close()
                server.close()
            while (await client.usage_of("runner-1", forget=False)).connections < 3:
                await asyncio.sleep(0.01)
            # What has ended is written within the time of a log line.
            await asyncio.sleep(0.1)
            old = proxy_pid(tmp_path)
            os.kill(old, number)
            # These wait for the next one instead of failing a launch, or losing a summary.
            await client.set_table([runner(1), runner(2)])
            summary = await client.usage_of("runner-1", forget=False)
            assert (summary.connections, summary.bytes_up) == (3, 15)
            assert proxy_pid(tmp_path) != old
            await asyncio.to_thread(runners.tunnel, origin, 2)
            assert (await client.usage_of("runner-1", forget=True)).connections == 3
            assert (await client.usage_of("runner-1", forget=False)).connections == 0
            runners.close()
        os.kill(proxy_pid(tmp_path), signal.SIGKILL)


async def test_between_two_proxies_a_runner_is_refused_at_once_and_may_try_again(tmp_path: Path) -> None:
    """Refused, not left hanging: clients retry then."""
    with Origin("127.0.9.1") as origin:
        config, port = write_config(tmp_path, origin)
        runners = Runners(port)
        async with controller(tmp_path, config, runner()):
            os.kill(proxy_pid(tmp_path), signal.SIGKILL)
            answers = set()
            async with asyncio.timeout(TIMEOUT_S):
                while "200" not in answers:
                    answers.add(await asyncio.to_thread(try_once, runners, origin))
                    await asyncio.sleep(0.005)
            assert answers <= {"refused", "reset", "200"}
            runners.close()
        os.kill(proxy_pid(tmp_path), signal.SIGKILL)


def try_once(runners: Runners, origin: Origin) -> str:
    try:
        client = runners.connect()
        client.sendall(connect_to(origin.target))
        head = client.recv(100)
    except ConnectionRefusedError:
        return "refused"
    except ConnectionResetError:
        return "reset"
    return head.split(b" ")[1].decode() if head else "reset"


async def test_a_port_that_is_taken_is_told_in_words_and_tried_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Origin("0.0.0.0") as taken:  # noqa: S104 - where the proxy listens, too
        config, _ = write_config(tmp_path, port=taken.address[1])
        client = ProxyClient(tmp_path / "proxy.sock", config)
        running = asyncio.create_task(client.keep_running())
        text = ""
        async with asyncio.timeout(TIMEOUT_S):
            while text.count("runyard: the proxy cannot use port") < 2:
                await asyncio.sleep(0.05)
                text += capfd.readouterr().err
        assert f"the proxy cannot use port {taken.address[1]}: Address already in use" in text
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_proxy_that_does_not_come_back_fails_what_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.proxy_client._BACK_WITHIN_S", 0.2)
    with pytest.raises(ProxyUnavailable):
        await ProxyClient(tmp_path / "nobody.sock", tmp_path / "none").set_table([runner()])
