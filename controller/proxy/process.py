"""The proxy's process: what it is told, what it opens, and how it ends."""

import signal
import sys
from collections.abc import Callable

from functions.log import configure_logging

from ..settings import Proxy, Settings
from .connection import ProxyConfig
from .control import ControlSocket
from .journal import Journal
from .log_file import LogFile
from .server import ProxyServer


class CannotServe(Exception):
    """The proxy cannot start; the message says why, and what to do."""


def serve(settings: Settings) -> None:
    """Runs the proxy until SIGTERM or SIGINT.

    Raises:
        CannotServe: its port or one of its files cannot be had.
    """
    configure_logging()
    try:
        server = ProxyServer(make_config(settings), open_log(settings.proxy), Journal(settings.run_dir / "usage.jsonl"))
        control = ControlSocket(server, settings.control_socket, settings.run_dir / "attribution.json")
    except OSError as error:
        where = f" {error.filename}" if error.filename else f" port {settings.proxy.port}"
        raise CannotServe(f"the proxy cannot use{where}: {error.strerror}") from error
    control.load_table()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    server.run()


def make_config(settings: Settings) -> ProxyConfig:
    """What the server is told."""
    proxy = settings.proxy
    return ProxyConfig(
        host_id=settings.host_id,
        port=proxy.port,
        hosts=proxy.hosts,
        private_targets=frozenset(proxy.private_targets),
        github_hosts_file=proxy.github_hosts_file,
        head_timeout_s=proxy.head_timeout_s,
        connect_timeout_s=proxy.connect_timeout_s,
        idle_timeout_s=proxy.idle_timeout_s,
        log_format=proxy.log_format,
        most_connections=proxy.most_connections,
        most_for_a_runner=proxy.most_for_a_runner,
    )


def open_log(proxy: Proxy) -> Callable[[str], None]:
    """What writes lines, to a file or to standard output."""
    if proxy.log_file is not None:
        return LogFile(proxy.log_file, proxy.log_max_size, proxy.log_keep_files, proxy.log_keep_days).write

    def write(lines: str) -> None:
        sys.stdout.write(lines)
        sys.stdout.flush()

    return write
