"""The controller: everything that goes on at the same time on one Docker host, put together here and nowhere else."""

import asyncio
import logging
import math
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import uvicorn

from functions.documents.errors import StoreRefused, StoreUnavailable
from functions.documents.host import LEASE, Host
from functions.documents.sealing import new_host_key, public_key_of
from functions.routing.capacity import NOTHING, Size

from .background import Background
from .bridges import Bridges
from .cgroup import read_limits
from .container_spec import HostFacts, from_labels
from .containers import DockerEngine
from .egress_watch import EgressWatch
from .ending import Endings
from .errors import EngineUnavailable
from .firestore import ControllerStore
from .firewall import Firewall, FirewallError
from .fitting import Fitting
from .gate import HalfOpenProtocol, make_gate
from .idle import IdleRunners
from .job_finder import JobFinder
from .job_start import JobStart
from .launch import Launcher
from .pending import PendingRunners
from .proxy_client import ProxyClient
from .runner_log import read_progress
from .runners import LocalRunner, Runners, RunningJob
from .settings import Settings, capacity_of
from .sizing import Verdict

_log = logging.getLogger("runyard.controller")
_HEARTBEAT_S = LEASE.total_seconds() / 3
_LEAVE_WITHIN_S = 60.0
_LOOK_AT_RULES_EVERY_S = 10.0
_THREADS = 32
_LOG_LINES = 200
_MOST_AT_THE_GATE = 1000
_SCRIPTS = Path(__file__).parent / "inside"


class Daemon:
    """One host's controller. To be made inside the running loop."""

    def __init__(self, settings: Settings, config_file: Path):
        self._settings = settings
        private_key = prepare_folders(settings)
        self._public_key = public_key_of(private_key)
        self._store = ControllerStore(settings.project, settings.database)
        self._engine = DockerEngine(settings.docker_host, settings.host_id)
        self._engine_version = ""
        network = settings.network
        self._firewall = Firewall(network.bridge_prefix, (settings.proxy.port, settings.gate.port))
        self._bridges = Bridges(self._engine, self._firewall, network.range, network.bridge_prefix, network.spare)
        self._proxy = ProxyClient(settings.control_socket, config_file)
        self._runners = Runners(capacity_of(settings))
        self._background = Background()
        self._launcher = Launcher(
            self._store,
            self._engine,
            self._bridges,
            self._runners,
            self._background,
            host_facts(settings),
            private_key,
            self._publish,
            settings.starts_at_once,
            _now,
        )
        self._pending = PendingRunners(
            self._store,
            self._runners,
            settings.host_id,
            settings.pool,
            _now,
            self._launcher.begin,
            lambda: self._launcher.health.most_claims(_now()),
        )
        finder = JobFinder(self._engine, self._store)
        self._endings = Endings(
            self._store,
            self._engine,
            self._proxy,
            self._runners,
            self._background,
            self._launcher.forget,
            finder,
            settings.host_id,
            _now,
        )
        self._launcher.on_launched = self._endings.launched
        self._egress = EgressWatch(self._store, self._runners, self._publish, _now)
        self._idle = IdleRunners(self._store, self._engine, self._runners, self._background, settings.host_id, _now)
        self._job_start = JobStart(
            self._runners,
            finder,
            Fitting(self._runners, self._engine),
            self._store,
            self._background,
            self._publish,
            settings.gate.known_within_s,
            _now,
        )

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT.

        Raises:
            EngineUnavailable, FirewallError, StoreUnavailable, StoreRefused: at the start, when nothing can work.
        """
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(_THREADS))
        is_stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, is_stopping.set)
        self._engine_version = (await asyncio.to_thread(self._engine.describe)).version
        await asyncio.to_thread(self._firewall.ensure)
        proxy = asyncio.create_task(self._proxy.keep_running())
        gate = _make_gate(self._job_start, self._settings.gate.port)
        try:
            await self._proxy.wait_until_alive()
            await self._adopt()
            gate_task = asyncio.create_task(gate.serve())
            self._endings.watch_events()
            loops = [
                self._beat(),
                self._pending.watch(),
                self._pending.claim(),
                self._endings.sweep(),
                self._idle.watch(),
                self._egress.watch(),
                self._guard(),
            ]
            tasks = [asyncio.create_task(work) for work in loops]
            _log.info("host %s serves pool %s", self._settings.host_id, self._settings.pool)
            await _until_stopped_or_broken(is_stopping, [proxy, gate_task, *tasks])
            for task in tasks:
                task.cancel()
            await self._leave(proxy)
            # Last of all: a job that waits at the gate goes on.
            gate.should_exit = True
            await gate_task
            await self._background.finish(_LEAVE_WITHIN_S)
        finally:
            proxy.cancel()
            self._store.close()

    async def _adopt(self) -> None:
        """Takes up what a controller before this one has left: containers, their bridges, their room."""
        used: set[int] = set()
        for container in await asyncio.to_thread(self._engine.list_runners):
            adopted = from_labels(container.labels)
            if adopted is None:
                continue
            used.add(adopted.slot)
            state = await asyncio.to_thread(self._engine.inspect, container.container_id)
            limits = read_limits(state.pid) if state.is_running else None
            size = Size(limits.cpu_millis or 0, limits.memory_bytes or 0) if limits else NOTHING
            bridge = self._bridges.plan(adopted.slot)
            self._runners.put(
                LocalRunner.of_container(adopted, size, bridge, state.container_id, state.pid, state.started_at)
            )
            await self._adopt_job(adopted.runner_name)
            await self._take_up(adopted.runner_name)
        existing = await asyncio.to_thread(self._engine.list_bridges)
        for slot in existing:
            await asyncio.to_thread(self._firewall.switch_off_ipv6, self._bridges.plan(slot).interface)
        self._bridges.adopt(existing, used)
        # Labels and documents have the rules of the day when the job was decided about.
        with suppress(StoreUnavailable, StoreRefused):
            await self._egress.refresh()
        await self._publish()
        for claimed in await self._store.list_own_runners(self._settings.host_id):
            if claimed.runner_name not in self._runners:
                reason = "the controller stopped between claiming and starting it"
                await self._launcher.fail(claimed.runner_name, claimed.pool, reason)
        if len(self._runners):
            _log.info("adopted %d runners", len(self._runners))

    async def _adopt_job(self, runner_name: str) -> None:
        """Which job a runner has passed the gate with, nobody but its document knows any more."""
        for job in await self._store.find_jobs_of_runner(runner_name):
            if job.sizing is None or job.sizing.verdict in {Verdict.REFUSED, Verdict.MISTAKEN}:
                continue
            started_at = job.phases.started_at or _now()
            self._runners.change(runner_name, job=RunningJob(job.key, job.name), job_started_at=started_at)
            if job.plan is not None:
                profile = job.plan.profile
                self._runners.change(
                    runner_name, profile=profile.name, egress=profile.egress, timeout_s=profile.timeout_s
                )

    async def _take_up(self, runner_name: str) -> None:
        """A job that has begun, and whose webhook has not come yet, is learnt of when it comes."""
        runner = self._runners.get(runner_name)
        if runner is None or runner.job is not None:
            return
        log = await asyncio.to_thread(self._engine.read_log, runner.container_id, _LOG_LINES)
        if read_progress(log).job_name is not None:
            self._job_start.take_up(runner_name)

    async def _guard(self) -> None:
        """Others change a machine's rules, too: what they have taken away from ours is put back."""
        while True:
            await asyncio.sleep(_LOOK_AT_RULES_EVERY_S)
            try:
                if gaps := await asyncio.to_thread(self._firewall.find_gaps):
                    _log.error("firewall rules were not in their place: %s", "; ".join(gaps))
                    await asyncio.to_thread(self._firewall.ensure)
            except FirewallError as error:
                _log.error("the firewall cannot be looked at: %s", error)

    async def _beat(self) -> None:
        """The heartbeat, and a look at the other hosts of the pool."""
        while True:
            try:
                await self._store.write_host(self._describe(_now() + LEASE))
                hosts = await self._store.list_hosts(self._settings.pool)
                self._pending.hosts = {host.host_id for host in hosts if host.is_available(_now())}
                self._heed_operator(hosts)
            except (StoreUnavailable, StoreRefused) as error:
                _log.error("no heartbeat: %s", error)
            await asyncio.sleep(_HEARTBEAT_S)

    def _heed_operator(self, hosts: Iterable[Host]) -> None:
        is_draining = any(host.host_id == self._settings.host_id and host.is_draining for host in hosts)
        if is_draining is not self._launcher.health.is_draining:
            _log.warning("host %s %s", self._settings.host_id, "drains" if is_draining else "takes new runners again")
            self._launcher.health = self._launcher.health.with_draining(is_draining=is_draining)

    def _describe(self, lease_until: datetime) -> Host:
        ledger = self._runners.ledger
        return Host(
            host_id=self._settings.host_id,
            pool=self._settings.pool,
            cpu_millis=ledger.capacity.cpu_millis,
            memory_bytes=ledger.capacity.memory_bytes,
            free_cpu_millis=ledger.free.cpu_millis,
            free_memory_bytes=ledger.free.memory_bytes,
            runners=len(self._runners),
            public_key=self._public_key,
            version=version("runyard"),
            docker_version=self._engine_version,
            trouble=self._launcher.health.in_words(),
            heartbeat_at=_now(),
            lease_until=lease_until,
        )

    async def _leave(self, proxy: "asyncio.Task[None]") -> None:
        """Nothing new; what is being started is finished or handed back; what runs runs on."""
        self._launcher.is_stopping = True
        _log.info("stopping: %d runners run on", len(self._runners))
        with suppress(StoreUnavailable, StoreRefused):
            await self._store.write_host(self._describe(_now()))
        if left := await self._background.finish(_LEAVE_WITHIN_S):
            _log.error("%d tasks were not done within %g s", left, _LEAVE_WITHIN_S)
        if len(self._runners):
            return
        # Nobody needs the proxy, the bridges and the rules any more.
        proxy.cancel()
        await self._proxy.stop()
        with suppress(EngineUnavailable):
            await self._bridges.remove_idle()
            await asyncio.to_thread(self._firewall.remove)

    async def _publish(self) -> None:
        """Tells the proxy who is who."""
        await self._proxy.set_table(entry for runner in self._runners if (entry := runner.attribution) is not None)


def prepare_folders(settings: Settings) -> bytes:
    """Makes the controller's folders, and returns the host's private key, which is made at the first start."""
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    settings.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    key_file = settings.state_dir / "host.key"
    if not key_file.exists():
        key_file.touch(mode=0o600)
        key_file.write_bytes(new_host_key())
    # Containers mount copies: an upgrade of the package must not change what running jobs use.
    scripts = settings.state_dir / "inside"
    scripts.mkdir(exist_ok=True)
    for script in _SCRIPTS.glob("*.sh"):
        copy = scripts / script.name
        copy.write_bytes(script.read_bytes())
        copy.chmod(0o755)
    if settings.ca_file is not None:
        (scripts / "ca.pem").write_bytes(settings.ca_file.read_bytes())
    return key_file.read_bytes()


def host_facts(settings: Settings) -> HostFacts:
    """What containers are told of this host."""
    gate = settings.gate
    return HostFacts(
        host_id=settings.host_id,
        proxy_port=settings.proxy.port,
        gate_port=gate.port,
        gate_known_within_s=math.ceil(gate.known_within_s),
        scripts_dir=str(settings.state_dir / "inside"),
        runner_command=settings.runner_command,
        has_ca_file=settings.ca_file is not None,
    )


def _make_gate(job_start: JobStart, port: int) -> uvicorn.Server:
    config = uvicorn.Config(
        make_gate(job_start.decide),
        # Every runner's bridge has another gateway address; the firewall lets nobody else in.
        host="0.0.0.0",  # noqa: S104
        port=port,
        http=HalfOpenProtocol,
        log_level="warning",
        access_log=False,
        lifespan="off",
        # A job must not be able to take the controller's descriptors away from its neighbours.
        limit_concurrency=_MOST_AT_THE_GATE,
    )
    server = uvicorn.Server(config)
    # Signals are the daemon's.
    server.capture_signals = _no_signals  # type: ignore[method-assign]
    return server


@contextmanager
def _no_signals() -> Iterator[None]:
    yield


async def _until_stopped_or_broken(is_stopping: asyncio.Event, tasks: list["asyncio.Task[None]"]) -> None:
    """Returns when told to stop; raises what made one of the tasks end, which none of them should."""
    stopped = asyncio.create_task(is_stopping.wait())
    done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in done - {stopped}:
        task.result()
    stopped.cancel()


def _now() -> datetime:
    return datetime.now(UTC)
