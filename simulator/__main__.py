"""Starts the simulated GitHub: `python -m simulator --help`."""

import argparse
import asyncio
import contextlib
import random
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette

from .broker import Broker
from .control import Control
from .deliveries import Deliveries
from .github import App, GitHub
from .oidc import OidcIssuer
from .rest import RestApi
from .tls import make_tls_files
from .world import HandOut, World


def main() -> None:
    """Parses the command line and serves until SIGTERM."""
    parser = argparse.ArgumentParser(prog="simulator", description="A simulated GitHub on loopback")
    parser.add_argument("--folder", type=Path, required=True, help="where certificates are written")
    parser.add_argument("--host-name", default="github.simulated.test", help="the name that runners know it by")
    parser.add_argument("--port", type=int, required=True, help="HTTPS: REST API and runners")
    parser.add_argument("--control-port", type=int, required=True, help="HTTP on loopback: dispatch, faults, state")
    parser.add_argument("--webhook-url", required=True)
    parser.add_argument("--webhook-secret-file", type=Path, required=True)
    parser.add_argument("--webhook-content-type", choices=["json", "form"], default="json")
    parser.add_argument("--token-file", type=Path, required=True, help="the personal access token to accept")
    parser.add_argument("--app-id", help="accept a GitHub App of this id")
    parser.add_argument("--app-public-key", type=Path, help="PEM file of the App")
    parser.add_argument("--app-installation-id", type=int, default=1)
    parser.add_argument("--hand-out", choices=list(HandOut), default=HandOut.RANDOM)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lost-after", type=float, default=60, help="seconds of silence until a runner counts as lost")
    parser.add_argument("--users", default="", help="owners that are users, not organizations; comma-separated")
    asyncio.run(_serve(parser.parse_args()))


async def _serve(arguments: argparse.Namespace) -> None:
    tls = make_tls_files(arguments.folder, (arguments.host_name,))
    app = None
    if arguments.app_id:
        app = App(arguments.app_id, arguments.app_public_key.read_bytes(), arguments.app_installation_id)
    github = GitHub(
        world=World(
            now=lambda: datetime.now(UTC),
            rng=random.Random(arguments.seed),  # noqa: S311 - repeatable on purpose
            hand_out=HandOut(arguments.hand_out),
            users=frozenset(filter(None, arguments.users.split(","))),
        ),
        deliveries=Deliveries(
            arguments.webhook_url,
            arguments.webhook_secret_file.read_text().strip(),
            lambda: datetime.now(UTC),
            arguments.webhook_content_type,
        ),
        token=arguments.token_file.read_text().strip(),
        broker_url=f"https://{arguments.host_name}:{arguments.port}",
        oidc=OidcIssuer(f"https://127.0.0.1:{arguments.port}"),
        app=app,
    )
    broker = Broker(github, timedelta(seconds=arguments.lost_after))
    public = Starlette(routes=[*RestApi(github).routes(), *broker.routes()])
    control = Starlette(routes=Control(github).routes())
    servers = [
        _Server(_config(public, arguments.port, ssl_certfile=tls.certificate, ssl_keyfile=tls.key)),
        _Server(_config(control, arguments.control_port)),
    ]

    def stop() -> None:
        for server in servers:
            server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    watch = asyncio.create_task(broker.watch_for_lost_runners())
    await asyncio.gather(*(server.serve() for server in servers))
    watch.cancel()


def _config(app: Starlette, port: int, **tls: Any) -> uvicorn.Config:
    options: dict[str, Any] = {"log_level": "warning", "access_log": False, "timeout_graceful_shutdown": 1}
    return uvicorn.Config(app, host="127.0.0.1", port=port, **options, **tls)


class _Server(uvicorn.Server):
    """One of two servers in one process: signals are handled once, for both."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


if __name__ == "__main__":
    main()
