"""`runyard hosts`, `runyard drain` and `runyard resume`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from functions.documents.errors import StoreRefused, StoreUnavailable
from functions.documents.host import Host
from functions.routing.units import format_cpus, format_memory

from ..host_store import HostStore

_out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)

_Project = Annotated[str, typer.Option("--project", envvar="GOOGLE_CLOUD_PROJECT", help="Google Cloud project")]
_Database = Annotated[str, typer.Option("--database", envvar="FIRESTORE_DATABASE", help="Firestore database")]
_HostId = Annotated[str, typer.Argument(help="as `runyard hosts` calls it", metavar="HOST")]


def hosts(
    project: _Project,
    database: _Database = "(default)",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """List the Docker hosts, their room and what keeps them from taking runners."""
    with _store(project, database) as store:
        found = store.list_hosts()
    now = datetime.now(UTC)
    if as_json:
        typer.echo(json.dumps([_as_map(one, now) for one in found], indent=2))
        return
    if not _out.is_terminal:
        # Whoever reads it from a pipe wants a line for each host.
        _out.width = 400
    table = Table(box=None, pad_edge=False)
    for heading in ("host", "pool", "state", "runners", "free CPUs", "free memory", "note"):
        table.add_column(heading, justify="right" if heading.startswith(("free", "runners")) else "left")
    for one in found:
        state = _state(one, now)
        table.add_row(
            one.host_id,
            one.pool,
            state,
            str(one.runners),
            f"{format_cpus(one.free_cpu_millis)} of {format_cpus(one.cpu_millis)}",
            f"{_gib(one.free_memory_bytes)} of {_gib(one.memory_bytes)}",
            one.trouble,
            style={"alive": "", "draining": "yellow"}.get(state, "red"),
        )
    _out.print(table)


def drain(host_id: _HostId, project: _Project, database: _Database = "(default)") -> None:
    """Let a host take no new runners; what runs there runs on."""
    _set_draining(host_id, project, database, is_draining=True)
    typer.echo(f"{host_id} takes no new runners within 10 s; `runyard resume {host_id}` takes that back")


def resume(host_id: _HostId, project: _Project, database: _Database = "(default)") -> None:
    """Let a host that was drained take runners again."""
    _set_draining(host_id, project, database, is_draining=False)
    typer.echo(f"{host_id} takes runners again within 10 s")


def _set_draining(host_id: str, project: str, database: str, *, is_draining: bool) -> None:
    with _store(project, database) as store:
        if not store.set_draining(host_id, is_draining=is_draining):
            known = ", ".join(one.host_id for one in store.list_hosts()) or "none"
            _err.print(f"runyard: there is no host '{host_id}': known are {known}", markup=False)
            raise typer.Exit(1)


def _state(one: Host, now: datetime) -> str:
    if one.lease_until <= now:
        return f"gone since {one.heartbeat_at:%Y-%m-%d %H:%M}"
    return "draining" if one.is_draining else "alive"


def _gib(memory_bytes: int) -> str:
    return format_memory(memory_bytes >> 20 << 20)


def _as_map(one: Host, now: datetime) -> dict[str, object]:
    return one.model_dump(mode="json", by_alias=True, exclude={"public_key"}) | {"state": _state(one, now)}


@contextmanager
def _store(project: str, database: str) -> Iterator[HostStore]:
    store = HostStore(project, database)
    try:
        yield store
    except (StoreUnavailable, StoreRefused) as error:
        _err.print(f"runyard: {error}", markup=False)
        raise typer.Exit(1) from None
    finally:
        store.close()
