"""The command line: `runyard`, or `python -m controller`."""

import asyncio
import os
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from functions.log import configure_logging

from .cli import egress, github, hosts, policy
from .settings import Settings, SettingsError, read_settings

app = typer.Typer(
    help="Runs GitHub Actions jobs in containers of the right size.", no_args_is_help=True, add_completion=False
)
app.add_typer(policy.app, name="policy")
app.add_typer(github.app, name="github")
app.add_typer(egress.app, name="egress")
app.command()(hosts.hosts)
app.command()(hosts.drain)
app.command()(hosts.resume)
_Config = Annotated[Path, typer.Option("--config", help="the controller's YAML file", envvar="RUNYARD_CONFIG")]


@app.command()
def run(config: _Config = Path("/etc/runyard/config.yaml")) -> None:
    """Run the controller of this Docker host until SIGTERM."""
    # The proxy and `version` need neither Docker nor Firestore.
    from functions.documents.errors import StoreRefused, StoreUnavailable  # noqa: PLC0415

    from .daemon import Daemon  # noqa: PLC0415
    from .errors import EngineUnavailable  # noqa: PLC0415
    from .firewall import FirewallError  # noqa: PLC0415

    settings = _read_settings(config)
    configure_logging()

    async def serve() -> None:
        await Daemon(settings, config).run()

    try:
        asyncio.run(serve())
    except (EngineUnavailable, FirewallError, StoreUnavailable, StoreRefused) as error:
        _give_up(str(error))


@app.command()
def proxy(config: _Config = Path("/etc/runyard/config.yaml")) -> None:
    """Run the attributing proxy; `run` starts it by itself."""
    from .proxy.process import CannotServe, serve  # noqa: PLC0415

    try:
        serve(_read_settings(config))
    except CannotServe as error:
        _give_up(str(error))


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(f"runyard {installed_version('runyard')}")


def _read_settings(path: Path) -> Settings:
    try:
        return read_settings(path, os.environ)
    except SettingsError as error:
        _give_up(str(error))


def _give_up(message: str) -> NoReturn:
    typer.echo(f"runyard: {message}", err=True)
    raise typer.Exit(1)


def main() -> None:
    """The console command."""
    app()


if __name__ == "__main__":
    main()
