"""The one door to the Docker engine. Its verbs are idempotent: what is there is not made again, what is gone is gone.

The SDK is synchronous; the daemon calls it from threads.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import docker
import docker.errors
import docker.types
import requests.exceptions
from pydantic import SecretStr

from functions.routing.capacity import Size

from .container_spec import CPU_PERIOD_US, LABEL, ContainerSpec
from .errors import CannotResize, CannotStart, ContainerGone, EngineUnavailable
from .networks import BridgePlan, BridgeTaken

_log = logging.getLogger("runyard.docker")
_CALL_TIMEOUT_S = 60
_LOG_LIMITS = {"max-size": "10m", "max-file": "2"}
_HEADER_OF_A_FRAME = 8


@dataclass(frozen=True)
class ContainerState:
    """A runner's container as the engine sees it."""

    container_id: str
    name: str
    labels: Mapping[str, str]
    status: str
    """created, running, exited, …"""
    pid: int = 0
    exit_code: int | None = None
    was_oom_killed: bool = False
    error: str = ""
    started_at: datetime | None = None

    @property
    def is_running(self) -> bool:
        return self.status in {"running", "paused", "restarting"}


@dataclass(frozen=True)
class EngineFacts:
    """What the engine says of itself."""

    version: str
    has_live_restore: bool


class _Client(docker.APIClient):
    """The SDK's client with the one call that it lacks."""

    def update_limits(self, container_id: str, limits: Mapping[str, int]) -> None:
        """`POST /containers/{id}/update`; the SDK's own method has no PidsLimit."""
        url = self._url("/containers/{0}/update", container_id)  # type: ignore[attr-defined]
        self._result(self._post_json(url, data=dict(limits)), json=True)  # type: ignore[attr-defined]


class DockerEngine:
    """Containers and networks of one host's runners."""

    def __init__(self, base_url: str, host_id: str):
        self._host_id = host_id
        self._base_url = base_url
        self._api: _Client | None = None
        self._events: Any = None

    def describe(self) -> EngineFacts:
        """Asks the engine who it is.

        Raises:
            EngineUnavailable: it does not answer.
        """
        with self._translated():
            info = self._client().info()
        return EngineFacts(str(info["ServerVersion"]), bool(info.get("LiveRestoreEnabled")))

    def close(self) -> None:
        """Closes the kept-open connections, and ends whoever watches deaths."""
        if self._events is not None:
            self._events.close()
        if self._api is not None:
            self._api.close()

    def create_bridge(self, plan: BridgePlan) -> None:
        """Makes a runner's network, if it is not there.

        Raises:
            BridgeTaken: somebody else's network has its name, its interface or its addresses.
            EngineUnavailable: the engine does not answer.
        """
        with self._translated():
            api = self._client()
            if any(network["Name"] == plan.name for network in self._networks()):
                return
            pool = docker.types.IPAMPool(subnet=plan.subnet, gateway=plan.gateway)
            try:
                api.create_network(
                    plan.name,
                    driver="bridge",
                    internal=True,
                    check_duplicate=True,
                    labels={LABEL + "host": self._host_id, LABEL + "slot": str(plan.slot)},
                    options={"com.docker.network.bridge.name": plan.interface},
                    ipam=docker.types.IPAMConfig(pool_configs=[pool]),
                )
            except docker.errors.APIError as error:
                # 409: the name; 403: the addresses, or the interface.
                if error.status_code in {403, 409}:
                    raise BridgeTaken(str(error.explanation)) from error
                raise

    def remove_bridge(self, name: str) -> None:
        with self._translated(), suppress(docker.errors.NotFound):
            self._client().remove_network(name)

    def list_bridges(self) -> dict[int, str]:
        """The networks of this host's runners: slot → name."""
        with self._translated():
            return {int(network["Labels"][LABEL + "slot"]): network["Name"] for network in self._networks()}

    def _networks(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._client().networks(filters={"label": f"{LABEL}host={self._host_id}"})
        return found

    def start(self, spec: ContainerSpec, secret: SecretStr) -> ContainerState:
        """Creates and starts a runner's container, and writes the secret to its standard input.

        Raises:
            CannotStart: the image is missing, or the engine refuses.
            EngineUnavailable: it does not answer.
        """
        with self._translated():
            try:
                container_id = self._create(spec)
            except docker.errors.ImageNotFound as error:
                raise CannotStart(f"image {spec.image} is not on this host: pull or build it there") from error
            except docker.errors.APIError as error:
                raise CannotStart(f"the engine does not create the container: {error.explanation}") from error
            try:
                with self._attached_input(container_id) as send:
                    self._client().start(container_id)
                    send(secret.get_secret_value().encode() + b"\n")
            except docker.errors.APIError as error:
                self.remove(container_id)
                raise CannotStart(f"the engine does not start the container: {error.explanation}") from error
            except OSError as error:
                self.remove(container_id)
                raise CannotStart(f"the container did not take its JIT config: {error}") from error
        return self.inspect(container_id)

    def _create(self, spec: ContainerSpec) -> str:
        api = self._client()
        security = ["no-new-privileges"] if spec.has_no_new_privileges else []
        host_config = api.create_host_config(
            network_mode=spec.bridge.name,
            cpu_period=CPU_PERIOD_US,
            cpu_quota=_quota(spec.size),
            mem_limit=spec.size.memory_bytes,
            memswap_limit=spec.size.memory_bytes,
            pids_limit=spec.pids,
            cap_drop=["ALL"],
            cap_add=list(spec.capabilities),
            security_opt=security,
            # Names are the proxy's business. One try of a second, at an address where nobody answers.
            dns=[spec.bridge.gateway],
            dns_opt=["timeout:1", "attempts:1"],
            init=True,
            log_config=docker.types.LogConfig(type="json-file", config=_LOG_LIMITS),
            binds={source: {"bind": target, "mode": "ro"} for source, target in spec.binds.items()},
        )
        endpoint = api.create_endpoint_config(ipv4_address=spec.bridge.address)
        created = api.create_container(
            spec.image,
            list(spec.command[1:]),
            entrypoint=[spec.command[0]],
            name=spec.name,
            hostname=spec.name,
            environment=dict(spec.environment),
            labels=dict(spec.labels),
            stdin_open=True,
            host_config=host_config,
            networking_config=api.create_networking_config({spec.bridge.name: endpoint}),  # type: ignore[arg-type]
        )
        return str(created["Id"])

    @contextmanager
    def _attached_input(self, container_id: str) -> Iterator[Any]:
        """Standard input only: an output stream that nobody reads would stop the job."""
        attached = self._client().attach_socket(container_id, params={"stdin": 1, "stream": 1})
        try:
            yield attached._sock.sendall  # noqa: SLF001 - the SDK hands out a read-only wrapper
        finally:
            # The response owns the socket, and the wrapper another reference to it.
            attached._response.close()  # noqa: SLF001
            attached.close()

    def inspect(self, container_id: str) -> ContainerState:
        """A container by id or name.

        Raises:
            ContainerGone: there is none.
        """
        with self._translated():
            try:
                details = self._client().inspect_container(container_id)
            except docker.errors.NotFound as error:
                raise ContainerGone(container_id) from error
        state = details["State"]
        return ContainerState(
            container_id=details["Id"],
            name=details["Name"].lstrip("/"),
            labels=details["Config"]["Labels"] or {},
            status=state["Status"],
            pid=state["Pid"],
            exit_code=None if state["Running"] else state["ExitCode"],
            was_oom_killed=state["OOMKilled"],
            error=state["Error"],
            started_at=_parse_time(state["StartedAt"]),
        )

    def list_runners(self) -> list[ContainerState]:
        """Every runner's container on this host, whatever its status."""
        with self._translated():
            found = self._client().containers(all=True, filters={"label": [f"{LABEL}host={self._host_id}"]})
        return [
            ContainerState(c["Id"], c["Names"][0].lstrip("/"), c["Labels"], c["State"])
            for c in found
            if LABEL + "runner" in c["Labels"]
        ]

    def resize(self, container_id: str, size: Size, pids: int) -> None:
        """Changes the limits of a running container.

        Raises:
            CannotResize: the engine or the kernel refuses; nothing has changed then.
            ContainerGone: there is no such container.
        """
        limits = {
            "CpuPeriod": CPU_PERIOD_US,
            "CpuQuota": _quota(size),
            # Always both and equal: memory alone is refused when it grows past the old swap limit.
            "Memory": size.memory_bytes,
            "MemorySwap": size.memory_bytes,
            "PidsLimit": pids,
        }
        with self._translated():
            try:
                self._client().update_limits(container_id, limits)
            except docker.errors.NotFound as error:
                raise ContainerGone(container_id) from error
            except docker.errors.APIError as error:
                raise CannotResize(str(error.explanation)) from error

    def read_log(self, container_id: str, lines: int) -> str:
        """The last lines of a container's output, each with the engine's time before it; empty when it is gone."""
        with self._translated(), suppress(docker.errors.NotFound):
            output: bytes = self._client().logs(container_id, stdout=True, stderr=True, timestamps=True, tail=lines)
            return output.decode(errors="replace")
        return ""

    def stop(self, container_id: str, wait_s: int) -> None:
        with self._translated(), suppress(docker.errors.NotFound):
            self._client().stop(container_id, timeout=wait_s)

    def remove(self, container_id: str) -> None:
        """Removes a container and its anonymous volumes, running or not."""
        with self._translated():
            try:
                self._client().remove_container(container_id, v=True, force=True)
            except docker.errors.NotFound:
                return
            except docker.errors.APIError as error:
                # Somebody else is removing it at this moment.
                if error.status_code != 409:
                    raise

    def watch_deaths(self) -> Iterator[str]:
        """The names of runners whose containers end, as it happens; ends when the engine goes away.

        Raises:
            EngineUnavailable: the engine does not answer.
        """
        filters = {"type": "container", "event": ["die"], "label": [f"{LABEL}host={self._host_id}"]}
        with self._translated():
            # A stream of its own: events may be hours apart.
            client = docker.APIClient(base_url=self._base_url, version="auto", timeout=None)  # type: ignore[arg-type]
            self._events = client.events(filters=filters, decode=True)
            try:
                for event in self._events:
                    yield str(event["Actor"]["Attributes"]["name"])
            finally:
                client.close()

    def _client(self) -> _Client:
        """Connects on first use, so that a controller can be started before its engine."""
        if self._api is None:
            self._api = _Client(base_url=self._base_url, version="auto", timeout=_CALL_TIMEOUT_S, num_pools=32)
        return self._api

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (requests.exceptions.RequestException, docker.errors.DockerException) as error:
            if isinstance(error, docker.errors.APIError) and error.status_code is not None:
                raise EngineUnavailable(
                    f"the Docker engine answered {error.status_code}: {error.explanation}"
                ) from error
            raise EngineUnavailable(f"no Docker engine answers at {self._base_url}: {error}") from error


def _quota(size: Size) -> int:
    """Microseconds of CPU in each period; the engine takes no less than 1000."""
    return max(1000, size.cpu_millis * CPU_PERIOD_US // 1000)


def _parse_time(text: str) -> datetime | None:
    """The engine gives nanoseconds, and the year 1 for never."""
    if text.startswith("0001-"):
        return None
    return datetime.fromisoformat(text)
