"""A Docker host for tests: an engine with bridges and firewall rules, and a way to run a command as a runner would."""

import asyncio
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from controller.bridges import Bridges
from controller.container_spec import ContainerSpec, HostFacts, specify
from controller.containers import ContainerState, DockerEngine
from controller.daemon import host_facts, prepare_folders
from controller.firewall import Firewall
from controller.networks import BridgePlan
from controller.settings import Settings
from functions.documents.pending_runner import PendingRunner
from functions.documents.workflow_job import RunnerProfile
from functions.routing.capacity import Size
from functions.routing.policy import Privileges
from tests.fakes.examples import pending_runner

MIB = 1 << 20
SMALL = Size(200, 64 * MIB)
PREFIX = "rytest"


class Host:
    """One host with everything that a runner needs but its controller."""

    def __init__(self, engine: DockerEngine, firewall: Firewall, bridges: Bridges, facts: HostFacts, image: str):
        self.engine = engine
        self.firewall = firewall
        self.bridges = bridges
        self.facts = facts
        self.image = image
        self._started: list[ContainerState] = []

    def runner(self, privileges: Privileges = Privileges.NONE, size: Size = SMALL, **changes: object) -> PendingRunner:
        profile = RunnerProfile(
            name="small",
            cpu_millis=size.cpu_millis,
            memory_bytes=size.memory_bytes,
            pids=64,
            privileges=privileges,
        )
        fields: dict[str, Any] = {"profile": profile, "image": self.image} | changes
        return pending_runner(f"ry-test-{uuid.uuid4().hex[:8]}", **fields)

    def start(
        self, script: str, bridge: BridgePlan, runner: PendingRunner | None = None, secret: str = "jit"
    ) -> ContainerState:
        """Starts a container whose runner program is a shell script."""
        facts = HostFacts(**(vars(self.facts) | {"runner_command": ("/bin/sh", "-c", script)}))
        spec: ContainerSpec = specify(runner or self.runner(), bridge, facts)
        state = self.engine.start(spec, SecretStr(secret))
        self._started.append(state)
        return state

    def output(self, script: str, bridge: BridgePlan, runner: PendingRunner | None = None, secret: str = "jit") -> str:
        """What a script prints, run to its end."""
        state = self.start(script, bridge, runner, secret)
        deadline = time.monotonic() + 60
        while self.engine.inspect(state.container_id).is_running:
            assert time.monotonic() < deadline, "the script did not end"
            time.sleep(0.05)
        lines = self.engine.read_log(state.container_id, 200).splitlines()
        self.engine.remove(state.container_id)
        return "\n".join(line.partition(" ")[2] for line in lines)

    def clean_up(self) -> None:
        for state in self._started:
            self.engine.remove(state.container_id)


@pytest.fixture(scope="module")
def host(docker_host: str, standin_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("host")
    settings = Settings.model_validate(
        {
            "host_id": f"test-{uuid.uuid4().hex[:8]}",
            "project": "none",
            "state_dir": folder / "state",
            "run_dir": folder / "run",
            "network": {"range": "10.214.0.0/20", "bridge_prefix": PREFIX},
            "proxy": {"port": 23128},
            "gate": {"port": 23129},
        }
    )
    prepare_folders(settings)
    engine = DockerEngine(docker_host, settings.host_id)
    firewall = Firewall(PREFIX, (settings.proxy.port, settings.gate.port))
    firewall.ensure()
    bridges = Bridges(engine, firewall, settings.network.range, PREFIX, 0)
    yield Host(engine, firewall, bridges, host_facts(settings), standin_image)
    for container in engine.list_runners():
        engine.remove(container.container_id)
    for name in engine.list_bridges().values():
        engine.remove_bridge(name)
    firewall.remove()
    engine.close()


@pytest.fixture
def bridge(host: Host) -> Iterator[BridgePlan]:
    plan = asyncio.run(host.bridges.acquire())
    yield plan
    host.clean_up()
    asyncio.run(host.bridges.release(plan.slot))
