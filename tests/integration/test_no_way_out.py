"""A hostile job finds no way out of its container but the proxy, whatever its privileges.

The world is a network namespace behind this machine, where somebody listens to everything. A control group, a container
on the engine's default network, shows that the attacks do work where nothing stands in their way.
"""

import asyncio
import ipaddress
import json
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import docker
import pytest

from controller.attribution import Attribution
from controller.networks import BridgePlan
from controller.proxy.connection import ProxyConfig
from functions.routing.policy import Privileges
from tests.integration.container_tools import Host
from tests.integration.proxy_tools import ThreadProxy, parse_line

INSIDE = Path(__file__).parent / "inside"
WORLD, WORLD_GATEWAY = "198.18.77.2", "198.18.77.1"
METADATA = "169.254.169.254"
LINK_LOCAL = "169.254.77.77"
"""stands in for it: this machine may need its own"""
PORT, DNS_PORT, PROXY_PORT, GATE_PORT = 23777, 53, 23128, 23129


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


class Listener:
    """Whoever can be reached at an address: says what has come."""

    def __init__(self, *prefix: str):
        self._process = subprocess.Popen(
            [*prefix, sys.executable, INSIDE / "listen_to_all.py", str(PORT)], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        self.heard: list[str] = []
        self._thread = threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True)
        self._thread.start()

    def _listen(self, lines: Iterator[str]) -> None:
        self.heard.extend(lines)

    def close(self) -> list[str]:
        self._process.kill()
        self._process.wait()
        self._thread.join(5)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return [line for line in self.heard if "hostile" in line]


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[str, ...]]:
    """How to run a command on another machine, one hop away, which is also at a link-local address."""
    name = f"rytest-{uuid.uuid4().hex[:6]}"
    inside = ("ip", "netns", "exec", name)
    with ExitStack() as stack:
        run("ip", "netns", "add", name)
        stack.callback(run, "ip", "netns", "delete", name)
        run("ip", "link", "add", "ryworld0", "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "addr", "add", f"{WORLD_GATEWAY}/30", "dev", "ryworld0")
        run("ip", "link", "set", "ryworld0", "up")
        run("ip", "route", "add", f"{LINK_LOCAL}/32", "via", WORLD)
        # This machine forwards for everybody whom nothing else stops.
        for direction in ("-i", "-o"):
            rule = ("FORWARD", direction, "ryworld0", "-j", "ACCEPT")
            run("iptables", "-w", "-A", *rule)
            stack.callback(run, "iptables", "-w", "-D", *rule)
        for command in (
            f"ip addr add {WORLD}/30 dev eth0",
            f"ip addr add {LINK_LOCAL}/32 dev lo",
            "ip link set lo up",
            "ip link set eth0 up",
            f"ip route add default via {WORLD_GATEWAY}",
        ):
            run(*inside, *command.split())
        yield inside


def own_addresses(bridge: BridgePlan) -> list[str]:
    """Everything that this machine is called, and what a container may call it."""
    listed = run("ip", "-o", "addr").splitlines()
    found = [line.split()[3].partition("/")[0] for line in listed if line.split()[2] in {"inet", "inet6"}]
    wanted = [bridge.gateway, "172.17.0.1", "192.0.2.2"]
    wanted += [address for address in found if not ipaddress.ip_address(address).is_loopback]
    link_local = "%eth0"
    named = [a + link_local if ipaddress.ip_address(a).is_link_local else a for a in dict.fromkeys(wanted)]
    # Other engineers' bridges are many, and alike.
    return [address for address in named if not address.startswith("10.") or address == bridge.gateway]


def plan_of_attack(bridge: BridgePlan, neighbour: BridgePlan) -> dict[str, Any]:
    return {
        "gateway": bridge.gateway,
        "proxy_port": PROXY_PORT,
        "port": PORT,
        "dns_port": DNS_PORT,
        "world": WORLD,
        "addresses": [
            WORLD,
            LINK_LOCAL,
            METADATA,
            "8.8.8.8",
            neighbour.address,
            neighbour.gateway,
            *own_addresses(bridge),
        ],
        "other_ports": [22, 2375, 2376, 23130],
        "neighbour": neighbour.address,
        "neighbours_gateway": neighbour.gateway,
        "allowed": f"{WORLD}:{PORT}",
        "proxied": [
            f"{METADATA}:80",
            f"{LINK_LOCAL}:{PORT}",
            f"[::ffff:{METADATA}]:80",
            "[fe80::1]:80",
            "127.0.0.1:22",
            "localhost:22",
            "2130706433:22",
            "0x7f.1:22",
            "[::1]:22",
            f"{bridge.gateway}:{GATE_PORT}",
            f"{neighbour.address}:{PORT}",
            f"{neighbour.gateway}:{PORT}",
            f"172.17.0.1:{PORT}",
            f"{WORLD}:22",
        ],
    }


def script(plan: dict[str, Any], privileges: Privileges) -> str:
    """The attack as a runner's program; as root where a job can become root."""
    program = (INSIDE / "hostile.py").read_text()
    attack = f"cat > /tmp/hostile.py <<'PY'\n{program}\nPY\ncat > /tmp/plan.json <<'JSON'\n{json.dumps(plan)}\nJSON\n"
    run_it = "python3 -ISE /tmp/hostile.py < /tmp/plan.json 2>&1"
    return attack + (f"setuid-sh -p -c '{run_it}'" if privileges is Privileges.SUDO else run_it)


def outcomes(output: str) -> dict[str, str]:
    lines = [line.split(" ", 2) for line in output.splitlines()]
    return {line[0]: line[1] for line in lines if len(line) > 1 and line[1] in {"reached", "blocked"}}


@pytest.mark.parametrize("privileges", list(Privileges))
def test_the_proxy_is_the_only_way_out(
    host: Host, bridge: BridgePlan, world: tuple[str, ...], tmp_path: Path, privileges: Privileges
) -> None:
    neighbour = asyncio.run(host.bridges.acquire())
    try:
        host.start(f"python3 -ISE -m http.server {PORT} --bind 0.0.0.0", neighbour)
        plan = plan_of_attack(bridge, neighbour)
        proxy = proxy_on_host(tmp_path, bridge, neighbour)
        abroad, at_home = Listener(*world), Listener()
        try:
            output = host.output(script(plan, privileges), bridge, host.runner(privileges))
            log = proxy.log()
        finally:
            proxy.close()
            heard_abroad, heard_at_home = abroad.close(), at_home.close()
    finally:
        host.clean_up()
        asyncio.run(host.bridges.release(neighbour.slot))
    found = outcomes(output)
    assert len(found) > 80, output
    assert {name for name, outcome in found.items() if outcome == "reached"} == {"allowed"}, output
    assert heard_at_home == []
    # What the proxy was let through for is the only thing that has arrived, and it came from this machine.
    assert heard_abroad == []
    lines = [parse_line(line) for line in log.splitlines()]
    assert [line["target"] for line in lines if line["decision"] == "tunnel"] == [f"{WORLD}:{PORT}"]
    assert {line["runner_name"] for line in lines if line["decision"] == "tunnel"} == {"attacker"}
    assert "neighbour" not in {line["runner_name"] for line in lines}


def proxy_on_host(folder: Path, bridge: BridgePlan, neighbour: BridgePlan) -> ThreadProxy:
    config = ProxyConfig(host_id="host-a", port=PROXY_PORT, private_targets=frozenset({f"{WORLD}:{PORT}"}))
    proxy = ThreadProxy(folder, config)
    proxy.set_table(
        *(
            Attribution(
                gateway=plan.gateway, address=plan.address, runner_name=name, profile="p", job_name=name, job_key=name
            )
            for plan, name in ((bridge, "attacker"), (neighbour, "neighbour"))
        )
    )
    return proxy


def test_the_attacks_do_work_where_nothing_stands_in_their_way(
    host: Host, bridge: BridgePlan, world: tuple[str, ...], docker_api: docker.APIClient
) -> None:
    """Else the test above would prove nothing."""
    plan = plan_of_attack(bridge, bridge) | {"gateway": "172.17.0.1", "addresses": [WORLD, LINK_LOCAL, "172.17.0.1"]}
    abroad, at_home = Listener(*world), Listener()
    config = docker_api.create_host_config(network_mode="bridge", cap_add=["NET_ADMIN"])
    created = docker_api.create_container(
        host.image, ["-c", script(plan, Privileges.NONE)], entrypoint=["/bin/sh"], user="0", host_config=config
    )
    try:
        docker_api.start(created["Id"])
        docker_api.wait(created["Id"])
        output = docker_api.logs(created["Id"]).decode()
    finally:
        docker_api.remove_container(created["Id"], force=True, v=True)
        heard_abroad, heard_at_home = abroad.close(), at_home.close()
    reached = {name for name, outcome in outcomes(output).items() if outcome == "reached"}
    expected = {f"{how}-{where}" for how in ("tcp", "ping", "raw-ping") for where in (WORLD, LINK_LOCAL)}
    expected |= {f"udp-{WORLD}", f"dns-{WORLD}"}
    expected |= {"tcp-172.17.0.1", "udp-172.17.0.1", "frame", "forged", "own-address"}
    assert expected <= reached, output
    assert any(f"tcp-{WORLD}" in line for line in heard_abroad)
    assert any("udp-172.17.0.1" in line for line in heard_at_home)
