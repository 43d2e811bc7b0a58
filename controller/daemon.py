"""The controller: everything that goes on at the same time on one Docker host, put together here and nowhere else."""

import asyncio
import logging
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import uvicorn
from pydantic import SecretStr

from functions.documents.errors import Moved, StoreRefused, StoreUnavailable
from functions.documents.host import LEASE, Host
from functions.documents.lifecycle import JobState, RunnerEvent, RunnerState, move_runner
from functions.documents.pending_runner import KEPT_FOR, PendingRunner
from functions.documents.sealing import CannotOpen, SealedConfig, new_host_key, public_key_of, unseal
from functions.log import canonical
from functions.routing.capacity import Size

from .bridges import Bridges
from .cgroup import read_limits
from .claim import Claimed, claim_runners
from .container_spec import HostFacts, from_labels, specify
from .containers import ContainerState, DockerEngine, EngineFacts
from .errors import CannotStart, ContainerGone, EngineUnavailable
from .firestore import ControllerStore, PendingWatch, Seen
from .firewall import Firewall
from .gate import HalfOpenProtocol, make_gate
from .job_start import JobStart
from .networks import NoBridgeLeft
from .placement import GRACE, choose
from .proxy_client import ProxyClient, ProxyUnavailable
from .runner_log import read_progress, tail_in_words
from .runners import LocalRunner, Runners
from .settings import Settings, capacity_of

_log = logging.getLogger("runyard.controller")
_HEARTBEAT_S = LEASE.total_seconds() / 3
_SWEEP_EVERY_S = 5.0
_POLL_EVERY_S = 20.0
_TRY_AGAIN_S = 2.0
_LOG_LINES = 200
_STOP_WAIT_S = 10
_THREADS = 32
_SCRIPTS = Path(__file__).parent / "inside"


def _now() -> datetime:
    return datetime.now(UTC)


class Daemon:
    """One host's controller."""

    def __init__(self, settings: Settings, config_file: Path):
        self._settings = settings
        self._store = ControllerStore(settings.project, settings.database)
        self._engine = DockerEngine(settings.docker_host, settings.host_id)
        self._firewall = Firewall(settings.network.bridge_prefix, (settings.proxy.port, settings.gate.port))
        self._bridges = Bridges(
            self._engine,
            self._firewall,
            settings.network.range,
            settings.network.bridge_prefix,
            settings.network.spare,
        )
        self._proxy = ProxyClient(settings.control_socket, config_file)
        self._runners = Runners(capacity_of(settings))
        self._job_start = JobStart(
            self._runners,
            self._engine,
            self._store,
            self._publish,
            self._record_job,
            settings.gate.known_within_s,
            settings.gate.room_within_s,
        )
        self._private_key = b""
        self._engine_facts = EngineFacts("", has_live_restore=False)
        self._pending: dict[str, Seen] = {}
        self._hosts: set[str] = set()
        self._doorbell = asyncio.Event()
        self._launching: dict[str, asyncio.Task[None]] = {}
        self._ending: set[str] = set()
        self._starts = asyncio.Semaphore(settings.starts_at_once)
        self._background: set[asyncio.Task[Any]] = set()
        self._is_stopping = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT.

        Raises:
            EngineUnavailable, FirewallError, StoreUnavailable, StoreRefused: at the start, when nothing can work.
        """
        self._loop.set_default_executor(ThreadPoolExecutor(_THREADS))
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._is_stopping.set)
        self._prepare_folders()
        self._engine_facts = await asyncio.to_thread(self._engine.describe)
        await asyncio.to_thread(self._firewall.ensure)
        loops = [asyncio.create_task(self._proxy.keep_running())]
        try:
            await self._proxy.wait_until_alive()
            await self._adopt()
            gate = self._make_gate()
            loops += [
                asyncio.create_task(gate.serve()),
                asyncio.create_task(self._beat()),
                asyncio.create_task(self._watch_pending()),
                asyncio.create_task(self._claim()),
                asyncio.create_task(self._sweep()),
            ]
            threading.Thread(target=self._watch_deaths, name="deaths", daemon=True).start()
            _log.info("host %s serves pool %s", self._settings.host_id, self._settings.pool)
            stopping = asyncio.create_task(self._is_stopping.wait())
            done, _ = await asyncio.wait([stopping, *loops], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                task.result()
            # The gate stays until the end: a job that is waiting there goes on.
            for task in (loops[0], *loops[2:]):
                task.cancel()
            await self._leave()
            gate.should_exit = True
            await asyncio.wait([loops[1]], timeout=5)
        finally:
            for task in loops:
                task.cancel()
            self._store.close()

    def _prepare_folders(self) -> None:
        self._settings.state_dir.mkdir(parents=True, exist_ok=True)
        self._settings.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        key_file = self._settings.state_dir / "host.key"
        if not key_file.exists():
            key_file.touch(mode=0o600)
            key_file.write_bytes(new_host_key())
        self._private_key = key_file.read_bytes()
        # Containers mount copies: an upgrade of the package must not change what running jobs use.
        scripts = self._settings.state_dir / "inside"
        scripts.mkdir(exist_ok=True)
        for script in _SCRIPTS.glob("*.sh"):
            copy = scripts / script.name
            copy.write_bytes(script.read_bytes())
            copy.chmod(0o755)
        if self._settings.ca_file is not None:
            (scripts / "ca.pem").write_bytes(self._settings.ca_file.read_bytes())

    def _host_facts(self) -> HostFacts:
        gate = self._settings.gate
        return HostFacts(
            host_id=self._settings.host_id,
            proxy_port=self._settings.proxy.port,
            gate_port=gate.port,
            gate_timeout_s=round(gate.known_within_s + gate.room_within_s + 30),
            scripts_dir=str(self._settings.state_dir / "inside"),
            runner_command=self._settings.runner_command,
            has_ca_file=self._settings.ca_file is not None,
        )

    def _make_gate(self) -> uvicorn.Server:
        # Every runner's bridge has another gateway address; the firewall lets nobody else in.
        host = "0.0.0.0"  # noqa: S104
        config = uvicorn.Config(
            make_gate(self._job_start.decide),
            host=host,
            port=self._settings.gate.port,
            http=HalfOpenProtocol,
            log_level="warning",
            access_log=False,
            lifespan="off",
        )
        server = uvicorn.Server(config)
        # The daemon's own handlers stop it.
        server.capture_signals = _no_signals  # type: ignore[method-assign]
        return server

    # What was there before

    async def _adopt(self) -> None:
        """Takes up what a controller before this one has left: running containers, their bridges, their places."""
        containers = await asyncio.to_thread(self._engine.list_runners)
        slots = await asyncio.to_thread(self._engine.list_bridges)
        used: set[int] = set()
        for container in containers:
            adopted = from_labels(container.labels)
            if adopted is None:
                continue
            used.add(adopted.slot)
            state = await asyncio.to_thread(self._engine.inspect, container.container_id)
            limits = read_limits(state.pid) if state.is_running else None
            size = Size(limits.cpu_millis or 0, limits.memory_bytes or 0) if limits else Size(0, 0)
            runner = LocalRunner.of_container(
                adopted, size, self._bridges.plan(adopted.slot), state.container_id, state.pid, state.started_at
            )
            self._runners.put(runner)
        self._bridges.adopt(slots, used)
        await self._publish()
        for claimed in await self._store.list_own_runners(self._settings.host_id):
            if claimed.runner_name not in self._runners:
                await self._fail(claimed.runner_name, claimed.pool, "the controller stopped before it was started")
        if containers:
            _log.info("adopted %d runners", len(self._runners))

    # Heartbeat

    async def _beat(self) -> None:
        while True:
            try:
                await self._store.write_host(self._describe(_now() + LEASE))
                self._hosts = {
                    host.host_id
                    for host in await self._store.list_hosts(self._settings.pool)
                    if host.is_available(_now())
                }
            except (StoreUnavailable, StoreRefused) as error:
                _log.error("no heartbeat: %s", error)
            await asyncio.sleep(_HEARTBEAT_S)

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
            public_key=public_key_of(self._private_key),
            version=version("runyard"),
            docker_version=self._engine_facts.version,
            heartbeat_at=_now(),
            lease_until=lease_until,
        )

    # Pending runners

    async def _watch_pending(self) -> None:
        """A listener, and a slow poll beside it: a listener can die, or go deaf, without a word."""
        watch: PendingWatch | None = None
        polled_at = self._loop.time()
        try:
            while True:
                if watch is None or not watch.is_active:
                    if watch is not None:
                        _log.warning("the listener on pending runners has died: starting another")
                        watch.close()
                    watch = self._store.watch_pending(self._settings.pool, self._on_pending)
                if self._loop.time() - polled_at > _POLL_EVERY_S:
                    polled_at = self._loop.time()
                    try:
                        self._see(await self._store.list_pending(self._settings.pool))
                    except (StoreUnavailable, StoreRefused) as error:
                        _log.error("cannot look for pending runners: %s", error)
                await asyncio.sleep(1)
        finally:
            if watch is not None:
                watch.close()

    def _on_pending(self, seen: list[Seen]) -> None:
        """Called on the listener's thread."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._see, seen)

    def _see(self, seen: list[Seen]) -> None:
        self._pending = {one.runner.runner_name: one for one in seen}
        self._doorbell.set()

    async def _claim(self) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._doorbell.wait(), GRACE.total_seconds())
            self._doorbell.clear()
            candidates = [one.runner for name, one in self._pending.items() if name not in self._runners]
            chosen = choose(candidates, self._runners.ledger, self._settings.host_id, self._hosts, _now())
            if not chosen:
                continue
            seen = [self._pending[runner.runner_name] for runner in chosen]
            try:
                results = await claim_runners(self._store, seen, self._settings.host_id, _now)
            except (StoreUnavailable, StoreRefused) as error:
                _log.error("cannot claim: %s", error)
                continue
            for result in results:
                if isinstance(result, Claimed):
                    self._begin_launch(result.runner)
            for one in seen:
                self._pending.pop(one.runner.runner_name, None)

    # Launch

    def _begin_launch(self, runner: PendingRunner) -> None:
        self._runners.put(LocalRunner.of_claim(runner))
        task = asyncio.create_task(self._launch(runner))
        self._launching[runner.runner_name] = task
        task.add_done_callback(lambda _: self._launching.pop(runner.runner_name, None))

    async def _launch(self, runner: PendingRunner) -> None:
        name = runner.runner_name
        try:
            async with self._starts:
                if self._is_stopping.is_set():
                    await self._hand_back(runner)
                    return
                state = await self._start_container(runner, self._unseal(runner))
        except (CannotStart, CannotOpen, EngineUnavailable, NoBridgeLeft, ProxyUnavailable) as error:
            canonical(_log, logging.ERROR, "launch", runner_name=name, job=runner.job_key, reason=str(error))
            await self._fail(name, runner.pool, str(error), runner.job_key)
            return
        launched_at = state.started_at or _now()
        self._runners.change(name, container_id=state.container_id, pid=state.pid, launched_at=launched_at)
        canonical(
            _log,
            logging.INFO,
            "launch",
            runner_name=name,
            job=runner.job_key,
            profile=runner.profile.name,
            since_claim_ms=_ms(launched_at - (runner.claimed_at or launched_at)),
        )
        status = move_runner(RunnerState.SCHEDULING, RunnerEvent.START)
        self._persist(lambda: self._store.update_runner(name, {"status": status, "launchedAt": launched_at}))
        phases = {"phases": {"claimedAt": runner.claimed_at, "launchedAt": launched_at}}
        self._record_job(runner.job_key, phases, JobState.LAUNCHED)
        if not state.is_running:
            self._begin_end(name)

    def _unseal(self, runner: PendingRunner) -> SecretStr:
        sealed = runner.sealed_config
        if not isinstance(sealed, SealedConfig):
            raise CannotOpen("the document holds no JIT config")
        return unseal(sealed, self._settings.host_id, self._private_key)

    async def _start_container(self, runner: PendingRunner, secret: SecretStr) -> ContainerState:
        bridge = await self._bridges.acquire()
        self._runners.change(runner.runner_name, bridge=bridge)
        # Attributed before it exists: its first packet has a name.
        await self._publish()
        spec = specify(runner, bridge, self._host_facts())
        return await asyncio.to_thread(self._engine.start, spec, secret)

    async def _hand_back(self, runner: PendingRunner) -> None:
        """Stopping: another host may have what this one has not begun."""
        await self._forget(runner.runner_name)
        fields = {
            "status": move_runner(RunnerState.SCHEDULING, RunnerEvent.HAND_BACK),
            "sealedConfig": runner.sealed_config.to_firestore() if runner.sealed_config else None,
            "claim": None,
        }
        await self._store.update_runner(runner.runner_name, fields)

    async def _fail(self, name: str, pool: str, reason: str, job_key: str | None = None) -> None:
        """A runner that never ran: the document says why, and the place is free again."""
        await self._forget(name)
        now = _now()
        fields = {"status": RunnerState.FAILED, "reason": reason, "endedAt": now, "expireAt": now + KEPT_FOR}
        self._persist(lambda: self._store.end_runner(name, fields, pool))
        if job_key is not None:
            self._record_job(job_key, {"provisioning": {"failure": reason}}, JobState.RESERVED)

    async def _forget(self, name: str) -> None:
        runner = self._runners.get(name)
        await self._runners.remove(name)
        with suppress(ProxyUnavailable):
            await self._publish()
        if runner is not None and runner.bridge is not None:
            try:
                await self._bridges.release(runner.bridge.slot)
            except EngineUnavailable as error:
                _log.warning("bridge %d stays: %s", runner.bridge.slot, error)

    # The end of a runner

    def _watch_deaths(self) -> None:
        """On a thread of its own: the engine tells at once when a container ends."""
        while not self._is_stopping.is_set():
            try:
                for name in self._engine.watch_deaths():
                    self._loop.call_soon_threadsafe(self._begin_end, name)
            except RuntimeError:
                return
            except EngineUnavailable as error:
                _log.error("no events from the engine: %s", error)
            time.sleep(_TRY_AGAIN_S)

    def _begin_end(self, name: str) -> None:
        if name in self._ending or name not in self._runners or name in self._launching:
            return
        self._ending.add(name)
        self._spawn(self._end(name))

    async def _end(self, name: str) -> None:
        """A container has ended: what it did goes to the documents, then it goes."""
        try:
            runner = self._runners.get(name)
            if runner is None:
                return
            try:
                state = await asyncio.to_thread(self._engine.inspect, runner.container_id)
                log = await asyncio.to_thread(self._engine.read_log, runner.container_id, _LOG_LINES)
            except ContainerGone:
                state, log = None, ""
            if state is not None and state.is_running:
                return
            await self._write_end(runner, state, log)
            await asyncio.to_thread(self._engine.remove, runner.container_id)
            await self._forget(name)
        except EngineUnavailable as error:
            _log.warning("runner %s has ended, but cannot be removed now: %s", name, error)
        finally:
            self._ending.discard(name)

    async def _write_end(self, runner: LocalRunner, state: ContainerState | None, log: str) -> None:
        now = _now()
        had_job = runner.job is not None or read_progress(log).job_name is not None
        exit_code = state.exit_code if state is not None else None
        fields: dict[str, Any] = {
            "status": RunnerState.FINISHED if had_job else RunnerState.FAILED,
            "endedAt": now,
            "expireAt": now + KEPT_FOR,
            "exitCode": exit_code,
        }
        if not had_job:
            fields["reason"] = _why_it_ended(state, log)
        canonical(
            _log,
            logging.INFO if had_job else logging.ERROR,
            "ended",
            runner_name=runner.name,
            job=runner.job.key if runner.job else None,
            exit_code=exit_code,
            reason=fields.get("reason"),
        )
        self._persist(lambda: self._store.end_runner(runner.name, fields, runner.pool))
        try:
            egress = await self._proxy.usage_of(runner.name, forget=True)
        except ProxyUnavailable as error:
            _log.warning("no egress summary for %s: %s", runner.name, error)
            return
        job = runner.job or runner.made_for
        if had_job:
            self._record_job(job.key, {"egress": egress.to_firestore()}, JobState.REGISTERED)
        else:
            self._record_job(job.key, {"provisioning": {"failure": fields["reason"]}}, JobState.RESERVED)

    async def _sweep(self) -> None:
        """What the events did not tell: ended containers, and runners that wait for ever for a job."""
        while True:
            await asyncio.sleep(_SWEEP_EVERY_S)
            try:
                containers = await asyncio.to_thread(self._engine.list_runners)
            except EngineUnavailable as error:
                _log.error("cannot look at the containers: %s", error)
                continue
            running = {container.name for container in containers if container.is_running}
            for runner in self._runners:
                if runner.container_id and runner.name not in running:
                    self._begin_end(runner.name)
                elif self._is_idle_too_long(runner):
                    self._spawn(self._stop_idle(runner))

    def _is_idle_too_long(self, runner: LocalRunner) -> bool:
        limit = timedelta(seconds=self._settings.idle_timeout_s)
        return runner.job is None and runner.launched_at is not None and _now() - runner.launched_at > limit

    async def _stop_idle(self, runner: LocalRunner) -> None:
        with suppress(EngineUnavailable):
            log = await asyncio.to_thread(self._engine.read_log, runner.container_id, _LOG_LINES)
            if read_progress(log).job_name is None:
                _log.warning("runner %s got no job for %g s", runner.name, self._settings.idle_timeout_s)
                await asyncio.to_thread(self._engine.stop, runner.container_id, _STOP_WAIT_S)

    # Leaving

    async def _leave(self) -> None:
        """SIGTERM: nothing new, what is being started is finished or handed back, what runs runs on."""
        _log.info("stopping: %d runners run on", len(self._runners))
        with suppress(StoreUnavailable, StoreRefused):
            await self._store.write_host(self._describe(_now()))
        while pending := [*self._launching.values(), *self._background]:
            _, still = await asyncio.wait(pending, timeout=30)
            if still:
                _log.error("%d tasks did not end in time", len(still))
                break
        if len(self._runners) == 0:
            with suppress(EngineUnavailable):
                await self._bridges.remove_idle()
            await self._proxy.stop()
            await asyncio.to_thread(self._firewall.remove)

    # Help for all of them

    async def _publish(self) -> None:
        """Tells the proxy who is who."""
        await self._proxy.set_table(entry for runner in self._runners if (entry := runner.attribution) is not None)

    def _record_job(self, job_key: str, fields: dict[str, Any], rank: int) -> None:
        self._persist(lambda: self._store.merge_job(job_key, fields, rank))

    def _persist(self, write: Callable[[], Awaitable[None]]) -> None:
        """Writes in the background, again and again until it is written: Firestore may be away for a while."""
        self._spawn(self._write_until_done(write))

    async def _write_until_done(self, write: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await write()
                return
            except StoreUnavailable as error:
                _log.error("will be written later: %s", error)
                await asyncio.sleep(_TRY_AGAIN_S)
            except (StoreRefused, Moved) as error:
                _log.error("cannot be written: %s", error)
                return

    def _spawn(self, work: Awaitable[Any]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


@contextmanager
def _no_signals() -> Iterator[None]:
    yield


def _why_it_ended(state: ContainerState | None, log: str) -> str:
    if state is None:
        return "the container was removed by somebody else before it took a job"
    if state.exit_code == 137 and state.was_oom_killed:
        return "the runner was killed for want of memory before it took a job: give its profile more"
    tail = tail_in_words(log)
    return f"the runner ended with exit code {state.exit_code} before it took a job" + (f": {tail}" if tail else "")


def _ms(span: timedelta) -> int:
    return round(span.total_seconds() * 1000)
