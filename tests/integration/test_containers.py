"""Runners' containers on a real Docker engine: limits, rights, and no way out but the proxy and the gate."""

import asyncio
import contextlib
import gc
import ipaddress
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import docker.errors
import docker.types
import pytest

from controller.bridges import Bridges
from controller.cgroup import read_limits
from controller.containers import DockerEngine
from controller.errors import CannotResize, CannotStart, ContainerGone, EngineUnavailable
from controller.networks import BridgePlan
from functions.routing.capacity import Size
from functions.routing.policy import Privileges
from tests.integration.container_tools import MIB, PREFIX, SMALL, Host


def test_the_container_has_the_profiles_limits_as_the_job_itself_reads_them(host: Host, bridge: BridgePlan) -> None:
    state = host.start("sleep 60", bridge)
    limits = read_limits(state.pid)
    assert limits is not None
    assert (limits.cpu_millis, limits.memory_bytes) == (200, 64 * MIB)


@pytest.mark.parametrize("size", [Size(400, 256 * MIB), Size(100, 48 * MIB), Size(200, 128 * MIB)])
def test_a_running_container_is_resized_up_and_down(host: Host, bridge: BridgePlan, size: Size) -> None:
    state = host.start("sleep 60", bridge)
    host.engine.resize(state.container_id, size, 32)
    limits = read_limits(state.pid)
    assert limits is not None
    assert (limits.cpu_millis, limits.memory_bytes) == (size.cpu_millis, size.memory_bytes)


def test_memory_below_what_is_used_is_refused_and_nothing_changes(host: Host, bridge: BridgePlan) -> None:
    program = 'x = bytearray(40 << 20); print("ready", flush=True); import time; time.sleep(60)'
    state = host.start(f"python3 -ISE -c '{program}'", bridge)
    deadline = time.monotonic() + 30
    while "ready" not in host.engine.read_log(state.container_id, 10):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with pytest.raises(CannotResize):
        host.engine.resize(state.container_id, Size(100, 16 * MIB), 32)
    limits = read_limits(state.pid)
    assert limits is not None
    assert (limits.cpu_millis, limits.memory_bytes) == (200, 64 * MIB)
    assert host.engine.inspect(state.container_id).is_running


def test_resizing_a_container_that_is_gone_says_so(host: Host, bridge: BridgePlan) -> None:
    state = host.start("sleep 60", bridge)
    host.engine.remove(state.container_id)
    with pytest.raises(ContainerGone):
        host.engine.resize(state.container_id, SMALL, 32)


def test_more_processes_than_the_profile_allows_cannot_be_started(host: Host, bridge: BridgePlan) -> None:
    script = "for i in $(seq 200); do sleep 5 & done 2>&1; wait"
    assert "fork" in host.output(script, bridge)


ROOT_CHECK = "setuid-sh -p -c 'python3 -ISE -c \"import os; print(os.geteuid())\"'"


@pytest.mark.parametrize(("privileges", "uid"), [(Privileges.NONE, "1001"), (Privileges.SUDO, "0")])
def test_root_can_be_had_only_with_privileges_sudo(
    host: Host, bridge: BridgePlan, privileges: Privileges, uid: str
) -> None:
    assert host.output(ROOT_CHECK, bridge, host.runner(privileges)).split() == [uid]


RAW_SOCKET = "import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)"


@pytest.mark.parametrize("privileges", list(Privileges))
def test_no_privileges_give_raw_sockets(host: Host, bridge: BridgePlan, privileges: Privileges) -> None:
    output = host.output(f"setuid-sh -p -c 'python3 -ISE -c \"{RAW_SOCKET}\"' 2>&1", bridge, host.runner(privileges))
    assert "PermissionError" in output


def test_without_privileges_there_are_no_capabilities_at_all(host: Host, bridge: BridgePlan) -> None:
    status = host.output("cat /proc/self/status", bridge)
    assert "CapBnd:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status


def test_the_secret_reaches_the_runner_and_nobody_else(
    host: Host, bridge: BridgePlan, docker_api: docker.APIClient
) -> None:
    secret = "canary-" + uuid.uuid4().hex * 130
    script = (
        'echo "length ${#ACTIONS_RUNNER_INPUT_JITCONFIG}"; cat /proc/self/cmdline; read x; echo "stdin $?"; sleep 60'
    )
    state = host.start(script, bridge, secret=secret)
    deadline = time.monotonic() + 20
    while "stdin" not in (log := host.engine.read_log(state.container_id, 50)):
        assert time.monotonic() < deadline, log
        time.sleep(0.1)
    assert f"length {len(secret)}" in log
    assert "stdin 1" in log, "the job must not find the controller at the other end of its input"
    assert secret not in log
    assert secret not in str(docker_api.inspect_container(state.container_id))
    assert secret not in Path(f"/proc/{state.pid}/cmdline").read_text()
    written = {change["Path"] for change in docker_api.diff(state.container_id) or []}
    assert written <= {"/opt", "/opt/runyard", "/sbin", "/sbin/docker-init"}, "only the engine's own mount points"


def test_what_is_mounted_cannot_be_changed_from_inside(host: Host, bridge: BridgePlan) -> None:
    script = "echo evil > /opt/runyard/job-started.sh; setuid-sh -p -c 'echo evil > /opt/runyard/entry.sh'"
    assert host.output(script + " 2>&1", bridge, host.runner(Privileges.SUDO)).count("Read-only file system") == 2


def test_a_missing_image_is_told_in_words(host: Host, bridge: BridgePlan) -> None:
    with pytest.raises(CannotStart, match="image no-such-image:1 is not on this host"):
        host.start("true", bridge, host.runner(image="no-such-image:1"))


# The SDK leaves the socket that could not connect to the garbage collector, which says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_engine_that_does_not_answer_is_told_in_words(tmp_path: Path) -> None:
    engine = DockerEngine(f"unix://{tmp_path}/nobody.sock", "test")
    with pytest.raises(EngineUnavailable, match="no Docker engine answers"):
        engine.describe()
    gc.collect()


def test_what_is_gone_can_be_removed_again(host: Host, bridge: BridgePlan) -> None:
    state = host.start("true", bridge)
    for _ in range(2):
        host.engine.remove(state.container_id)
    host.engine.remove_bridge("no-such-bridge")
    with pytest.raises(ContainerGone):
        host.engine.inspect(state.container_id)


def test_the_end_of_a_container_is_told_at_once(host: Host, bridge: BridgePlan, docker_host: str) -> None:
    names: list[str] = []
    seen = threading.Event()

    def follow() -> None:
        with contextlib.suppress(EngineUnavailable):
            for name in watcher.watch_deaths():
                names.append(name)
                seen.set()

    watcher = DockerEngine(docker_host, host.facts.host_id)
    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    time.sleep(0.5)
    state = host.start("exit 3", bridge)
    assert seen.wait(20)
    watcher.close()
    thread.join(5)
    assert not thread.is_alive()
    assert state.name in names
    ended = host.engine.inspect(state.container_id)
    assert (ended.is_running, ended.exit_code) == (False, 3)


@contextlib.contextmanager
def listener(address: str, port: int) -> Iterator[Callable[[], int]]:
    """A server on the host that says hello; how many have come."""
    count = 0
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((address, port))
    server.listen()

    def serve() -> None:
        nonlocal count
        with contextlib.suppress(OSError):
            while True:
                client, _ = server.accept()
                count += 1
                client.sendall(b"hello")
                client.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield lambda: count
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(5)


def connect(*targets: tuple[str, int]) -> str:
    """A program that tries to connect to each target, and prints what it got."""
    return f"""python3 -ISE - 2>&1 <<'PY'
import socket
for target in {list(targets)!r}:
    try:
        with socket.create_connection(target, 2) as connection:
            print(target[0], target[1], "open", connection.recv(9).decode())
    except OSError as error:
        print(target[0], target[1], "closed", type(error).__name__)
PY
"""


def host_addresses() -> list[str]:
    """Every address of this machine but loopback."""
    output = subprocess.run(["ip", "-4", "-o", "addr"], capture_output=True, text=True, check=True).stdout
    addresses = [line.split()[3].partition("/")[0] for line in output.splitlines()]
    return [address for address in addresses if not address.startswith("127.")]


@pytest.mark.parametrize("privileges", list(Privileges))
def test_only_proxy_and_gate_can_be_reached(host: Host, bridge: BridgePlan, privileges: Privileges) -> None:
    with listener("0.0.0.0", 23128) as proxied, listener("0.0.0.0", 23129), listener("0.0.0.0", 23130) as other:  # noqa: S104
        own = [(bridge.gateway, port) for port in (23128, 23129, 23130, 22, 80)]
        addresses = [(address, 23130) for address in host_addresses() if address != bridge.gateway]
        beyond = [("169.254.169.254", 80), ("8.8.8.8", 53), ("1.1.1.1", 443), ("10.214.15.2", 80)]
        output = host.output(connect(*own, *addresses, *beyond), bridge, host.runner(privileges))
    open_ports = {line.split()[1] for line in output.splitlines() if " open " in line}
    assert open_ports == {"23128", "23129"}, output
    assert (proxied(), other()) == (1, 0)
    assert output.count(" closed ") == len(own) + len(addresses) + len(beyond) - 2


def test_names_are_not_resolved_and_udp_goes_nowhere(host: Host, bridge: BridgePlan) -> None:
    script = f"""GATEWAY={bridge.gateway} python3 -IS - 2>&1 <<'PY'
import os, socket, time
started = time.monotonic()
try:
    print("resolved", socket.getaddrinfo("example.com", 80))
except OSError as error:
    print("refused", error)
print("waited", time.monotonic() - started)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
    udp.settimeout(2)
    for address in ("8.8.8.8", os.environ["GATEWAY"]):
        try:
            udp.connect((address, 53)); udp.send(b"x" * 12); print("answered", udp.recv(100))
        except OSError as error:
            print("nothing", type(error).__name__)
PY
"""
    output = host.output(script, bridge)
    assert "resolved" not in output
    assert "answered" not in output
    waited = float(output.partition("waited ")[2].split()[0])
    assert waited < 5, "a lookup must fail soon, or every job hangs on it"


def test_two_runners_cannot_reach_each_other(host: Host, bridge: BridgePlan) -> None:
    other = asyncio.run(host.bridges.acquire())
    try:
        serve = "python3 -ISE -m http.server 8000 --bind 0.0.0.0"
        host.start(serve, other)
        time.sleep(1)
        assert " open " not in host.output(connect((other.address, 8000), (other.gateway, 8000)), bridge)
    finally:
        host.clean_up()
        asyncio.run(host.bridges.release(other.slot))


def test_an_address_that_a_runner_gives_itself_leads_nowhere(host: Host, bridge: BridgePlan) -> None:
    """Without NET_ADMIN it cannot even try; the kernel refuses."""
    script = "setuid-sh -p -c 'busybox ip addr add 10.214.0.5/29 dev eth0' 2>&1; echo code $?"
    output = host.output(script, bridge, host.runner(Privileges.SUDO))
    assert "code 0" not in output


def test_ipv6_is_off_on_the_bridge(host: Host, bridge: BridgePlan) -> None:
    switch = Path(f"/proc/sys/net/ipv6/conf/{bridge.interface}/disable_ipv6")
    assert not switch.exists() or switch.read_text().strip() == "1"


def test_bridges_of_somebody_else_are_passed_over(host: Host, docker_api: docker.APIClient) -> None:
    """By name and by addresses, as the engine refuses them."""
    bridges = Bridges(host.engine, host.firewall, ipaddress.IPv4Network("10.214.16.0/24"), f"{PREFIX}x", 0)
    pool = docker.types.IPAMPool(subnet="10.214.16.8/29")
    addresses = docker.types.IPAMConfig(pool_configs=[pool])
    strangers = [
        docker_api.create_network(bridges.plan(0).name, internal=True)["Id"],
        docker_api.create_network(f"{PREFIX}-stranger", internal=True, ipam=addresses)["Id"],
    ]
    try:
        plan = asyncio.run(bridges.acquire())
        assert plan.slot == 2
        host.engine.remove_bridge(plan.name)
    finally:
        for stranger in strangers:
            docker_api.remove_network(stranger)
