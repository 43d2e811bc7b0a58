"""A proxy on loopback: pairs of addresses stand in for the runners' bridges, plain sockets for clients and origins.

A test plays both ends itself: it sends at one, and reads at the other. Every socket has a time-out, so that a failure
fails instead of hanging.
"""

import json
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml

from controller.attribution import Attribution
from controller.proxy.connection import ProxyConfig
from controller.proxy.control import ControlSocket
from controller.proxy.journal import Journal
from controller.proxy.server import ProxyServer

T = TypeVar("T")
ROOT = Path(__file__).parent.parent.parent
TIMEOUT_S = 20.0
MB = 1 << 20
RESET_ON_CLOSE = (1).to_bytes(4, sys.byteorder) + (0).to_bytes(4, sys.byteorder)
IP_BIND_ADDRESS_NO_PORT = 24
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


def gateway(number: int) -> str:
    """The host's address on a runner's bridge."""
    return f"127.0.{number}.1"


def address(number: int) -> str:
    """The runner's address there."""
    return f"127.0.{number}.2"


def runner(number: int = 1, **changes: Any) -> Attribution:
    """A runner, as the controller describes it to the proxy."""
    fields: dict[str, Any] = {
        "gateway": gateway(number),
        "address": address(number),
        "runner_name": f"runner-{number}",
        "profile": "small",
        "job_name": f"build {number}",
        "job_key": f"acme_1_{number}",
    }
    return Attribution(**fields | changes)


def eventually(claim: Callable[[], bool], what: str) -> None:
    """Waits until something is so."""
    until = time.monotonic() + TIMEOUT_S
    while not claim():
        assert time.monotonic() < until, f"in vain: {what}"
        time.sleep(0.01)


class Sockets:
    """Closes what a test has opened."""

    def __init__(self) -> None:
        self._all: list[socket.socket] = []

    def keep(self, sock: socket.socket) -> socket.socket:
        sock.settimeout(TIMEOUT_S)
        self._all.append(sock)
        return sock

    def close_sockets(self) -> None:
        for sock in self._all:
            sock.close()
        self._all.clear()

    def close(self) -> None:
        self.close_sockets()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Origin(Sockets):
    """A server that listens; the test says what it does with each connection."""

    def __init__(self, host: str = "127.0.9.1", port: int = 0, backlog: int = 512):
        super().__init__()
        self._listener = socket.socket()
        self._listener.settimeout(TIMEOUT_S)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((host, port))
        if backlog >= 0:
            self._listener.listen(backlog)
        self.address: tuple[str, int] = self._listener.getsockname()

    def close(self) -> None:
        super().close()
        self._listener.close()

    @property
    def target(self) -> str:
        return f"{self.address[0]}:{self.address[1]}"

    def accept(self) -> socket.socket:
        return self.keep(self._listener.accept()[0])

    def has_caller(self) -> bool:
        """Somebody has connected and waits to be accepted."""
        self._listener.setblocking(False)
        try:
            self.keep(self._listener.accept()[0])
        except BlockingIOError:
            return False
        finally:
            self._listener.settimeout(TIMEOUT_S)
        return True


class Control:
    """The controller's end of the control socket."""

    def __init__(self, path: Path):
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(TIMEOUT_S)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        self._lines = self._socket.makefile("rb")

    def ask(self, request: dict[str, Any] | bytes) -> dict[str, Any]:
        """The answer to one line: bytes as they are, a dictionary as JSON."""
        line = request if isinstance(request, bytes) else json.dumps(request).encode()
        self._socket.sendall(line + b"\n")
        answer: dict[str, Any] = json.loads(self._lines.readline())
        return answer

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


class Runners(Sockets):
    """The runners' side of a proxy."""

    def __init__(self, port: int):
        super().__init__()
        self.port = port

    def connect(self, number: int = 1, source: str | None = None, receive_buffer: int | None = None) -> socket.socket:
        """A connection from a runner to its gateway."""
        client = self.keep(socket.socket())
        if receive_buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        # The port is chosen when the other end is known: thousands of connections would use them up otherwise.
        client.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        client.bind((source or address(number), 0))
        client.connect((gateway(number), self.port))
        return client

    def ask(self, request: bytes, number: int = 1) -> "Reply":
        """What the proxy itself answers to a request; like most clients, closes then."""
        client = self.connect(number)
        client.sendall(request)
        return answer_of(client)

    def tunnel(self, origin: Origin, number: int = 1, **options: Any) -> tuple[socket.socket, socket.socket]:
        """Both ends of a new tunnel: the client's, and the origin's."""
        client = self.connect(number, **options)
        client.sendall(connect_to(origin.target))
        assert read_head(client) == ESTABLISHED
        return client, origin.accept()


class Proxy(Runners, ABC):
    """A running proxy, however it is run."""

    def __init__(self, port: int, control_socket: Path):
        super().__init__(port)
        self.control_socket = control_socket
        self.control: Control

    def close(self) -> None:
        super().close()
        self.control.close()

    def set_table(self, *entries: Attribution) -> None:
        answer = self.control.ask({"runners": [entry.model_dump() for entry in entries]})
        assert answer == {"ok": True, "runners": len(entries)}

    def usage_of(self, number: int = 1, *, forget: bool = False) -> dict[str, Any]:
        answer = self.control.ask({"usage": f"runner-{number}", "forget": forget})
        assert answer["ok"] is True
        usage: dict[str, Any] = answer["usage"]
        return usage

    def targets_of(self, number: int = 1) -> dict[str, int]:
        """Connections to each target that the runner has named."""
        return {target["target"]: target["connections"] for target in self.usage_of(number)["targets"]}

    @abstractmethod
    def log(self) -> str:
        """The access log up to now."""

    def lines(self, count: int) -> list[dict[str, str]]:
        """The lines of the log, once there are so many."""
        eventually(lambda: self.log().count("\n") >= count, f"{count} lines in the log:\n{self.log()}")
        lines = [parse_line(line) for line in self.log().splitlines()]
        assert len(lines) == count, self.log()
        return lines


class Reply:
    """An answer of the proxy itself."""

    def __init__(self, data: bytes):
        head, _, body = data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 "), data[:200]
        self.status = int(head.split(b" ")[1])
        self.text = body.decode()
        assert f"Content-Length: {len(body)}".encode() in head


def answer_of(client: socket.socket) -> Reply:
    """What the proxy answers, up to the end of the connection."""
    with client:
        return Reply(read_all(client))


class ThreadProxy(Proxy):
    """The proxy in a thread of the test, where names and clocks can be bent."""

    def __init__(self, folder: Path, config: ProxyConfig):
        self._chunks: list[str] = []
        self.server = ProxyServer(config, self._chunks.append, Journal(folder / "usage.jsonl"))
        super().__init__(self.server.port, folder / f"{self.server.port}.sock")
        self._control_socket = ControlSocket(self.server, self.control_socket, folder / "attribution.json")
        self._thread = threading.Thread(target=self.server.run, name="proxy")
        self._thread.start()
        self.control = Control(self.control_socket)

    def log(self) -> str:
        return "".join(self._chunks)

    def stop(self) -> None:
        """Ends it as the controller does."""
        assert self.control.ask({"stop": True}) == {"ok": True}
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()

    def close(self) -> None:
        if self._thread.is_alive():
            self.stop()
        self._control_socket.close()
        super().close()


@contextmanager
def proxy_in_thread(folder: Path, *origins: Origin, **config: Any) -> Iterator[ThreadProxy]:
    """A proxy that lets runner 1 reach the origins, which are private as all of loopback is."""
    config["private_targets"] = frozenset(config.get("private_targets", ())) | {origin.target for origin in origins}
    proxy = ThreadProxy(folder, ProxyConfig(host_id="host-a", port=0, **config))
    try:
        proxy.set_table(runner())
        yield proxy
    finally:
        proxy.close()


class ProcessProxy(Proxy):
    """The proxy as the controller starts it."""

    def __init__(self, folder: Path, private_targets: list[str]):
        super().__init__(free_port(), folder / "proxy.sock")
        self._folder = folder
        settings = {
            "host_id": "host-a",
            "project": "a-project",
            "run_dir": str(folder),
            "proxy": {"port": self.port, "log_file": str(folder / "access.log"), "private_targets": private_targets},
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
        self.launch()
        self.connect_control()

    def launch(self) -> None:
        """Starts it, for the first time or again."""
        self.control_socket.unlink(missing_ok=True)
        command = [sys.executable, "-m", "controller.proxy", "--config", str(self._folder / "config.yaml")]
        with (self._folder / "stderr").open("ab") as errors:
            self._process = subprocess.Popen(command, cwd=ROOT, stderr=errors)

    def wait_for(self, connect: Callable[[], T]) -> T:
        """The first connection that can be made."""
        until = time.monotonic() + TIMEOUT_S
        while True:
            assert self._process.poll() is None, self.errors()
            assert time.monotonic() < until, "the proxy does not come up"
            with suppress(FileNotFoundError, ConnectionRefusedError):
                return connect()
            time.sleep(0.005)

    def connect_control(self) -> None:
        self.control = self.wait_for(lambda: Control(self.control_socket))

    def log(self) -> str:
        return (self._folder / "access.log").read_text()

    def errors(self) -> str:
        return (self._folder / "stderr").read_text()

    def end(self, number: signal.Signals) -> int:
        """Ends it with a signal; its exit code."""
        self._process.send_signal(number)
        code = self._process.wait(TIMEOUT_S)
        self.control.close()
        return code

    def close(self) -> None:
        if self._process.poll() is None:
            self.end(signal.SIGKILL)
        super().close()

    def memory(self) -> int:
        """Bytes of RAM that it has now."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    def cpu_s(self) -> float:
        """Seconds of CPU that it has used."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self._process.pid}/fd").iterdir()))

    def limit_descriptors(self, count: int) -> None:
        resource.prlimit(self._process.pid, resource.RLIMIT_NOFILE, (count, count))


@contextmanager
def proxy_process(folder: Path, *origins: Origin) -> Iterator[ProcessProxy]:
    """The real process, which lets runner 1 reach the origins."""
    proxy = ProcessProxy(folder, [origin.target for origin in origins])
    try:
        proxy.set_table(runner())
        yield proxy
    finally:
        proxy.close()


@contextmanager
def origins(count: int) -> Iterator[list[Origin]]:
    """Servers with addresses of their own."""
    with ExitStack() as stack:
        made = [Origin(f"127.0.9.{number}") for number in range(1, count + 1)]
        for origin in made:
            stack.callback(origin.close)
        yield made


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def connect_to(target: str) -> bytes:
    return f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode()


def read_head(sock: socket.socket) -> bytes:
    """Up to the empty line and not a byte more."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        assert byte, f"the connection ended after {head!r}"
        head += byte
    return head


def read_exactly(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        chunk = sock.recv(min(MB, size - len(data)))
        assert chunk, f"the connection ended after {len(data)} of {size} bytes"
        data += chunk
    return bytes(data)


def read_all(sock: socket.socket) -> bytes:
    """Up to the end."""
    data = bytearray()
    while chunk := sock.recv(MB):
        data += chunk
    return bytes(data)


def send_whole(sock: socket.socket, data: bytes) -> None:
    """Sends, and tells the other side that this was all."""
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


def exchange(one: socket.socket, data: bytes, other: socket.socket, reply: bytes) -> tuple[bytes, bytes]:
    """Sends both ways at the same time; what arrived at `one`, and at `other`."""
    with ThreadPoolExecutor(4) as pool:
        sending = [pool.submit(send_whole, one, data), pool.submit(send_whole, other, reply)]
        arrived_at_one, arrived_at_other = pool.submit(read_all, one), pool.submit(read_all, other)
        for sent in sending:
            sent.result()
        return arrived_at_one.result(), arrived_at_other.result()


def reset(sock: socket.socket) -> None:
    """Ends a connection as a process does that dies."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    sock.close()


def fill(*socks: socket.socket) -> int:
    """Sends until none has taken anything for half a second; how much that was."""
    block, sent = bytes(256 * 1024), 0
    for sock in socks:
        sock.setblocking(False)
    while ready := select.select([], socks, [], 0.5)[1]:
        for sock in ready:
            with suppress(BlockingIOError):
                sent += sock.send(block)
    for sock in socks:
        sock.settimeout(TIMEOUT_S)
    return sent


def send_until_cut_off(sock: socket.socket, block: bytes, times: int) -> None:
    """What a client does that never stops."""
    with suppress(ConnectionResetError, BrokenPipeError):
        for _ in range(times):
            sock.sendall(block)
        raise AssertionError("nobody cuts it off")


_FIELD = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\S*)')


def parse_line(line: str) -> dict[str, str]:
    """A line of the log, as a reader of logfmt sees it."""
    time_, kind, decision, fields = line.split(" ", 3)
    values = {key: json.loads(value) if value.startswith('"') else value for key, value in _FIELD.findall(fields)}
    assert values["decision"] == decision
    return values | {"time": time_, "kind": kind}
