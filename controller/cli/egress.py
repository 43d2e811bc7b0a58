"""`runyard egress …`"""

import datetime
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from functions.documents.errors import StoreRefused, StoreUnavailable
from functions.documents.workflow_job import WorkflowJob
from functions.routing.units import format_memory

from ..policy_store import PolicyStore
from ..proxy.github_hosts import BUILT_IN, GithubHosts, NotMeta, hosts_of_meta
from .learning import RunOfJobs, learn, parse_job, to_policy

_TIMEOUT_S = 20
_out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)

_Jobs = Annotated[list[str], typer.Argument(help="ORG_RUN_JOB, or the address of a job or of a run at GitHub")]
_Project = Annotated[str, typer.Option("--project", envvar="GOOGLE_CLOUD_PROJECT", help="Google Cloud project")]
_Database = Annotated[str, typer.Option("--database", envvar="FIRESTORE_DATABASE", help="Firestore database")]


class _JobOrCommand(TyperGroup):
    """`runyard egress JOB` is `runyard egress show JOB`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            args = ["show", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    help="See and learn what jobs connect to: `runyard egress JOB`.", no_args_is_help=True, cls=_JobOrCommand
)


@app.command()
def show(
    jobs: _Jobs,
    project: _Project,
    database: _Database = "(default)",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Show what jobs connected to: hosts, bytes, refusals."""
    found = _read_jobs(jobs, project, database)
    if as_json:
        summaries = {job.key: job.egress.to_firestore() if job.egress is not None else None for job in found}
        _out.print(json.dumps(summaries, indent=2, ensure_ascii=False), markup=False)
        return
    for job in found:
        _out.print(f"[bold]{escape(job.name)}[/bold] ({job.key})")
        if job.egress is None:
            _out.print("nothing is known yet: the summary is written when the job's container has ended")
            continue
        table = Table("target", "connections", "refused", "not in the rules", "up", "down")
        for one in job.egress.targets:
            sums = (one.connections, one.refused, one.unlisted)
            table.add_row(one.target, *map(str, sums), format_memory(one.bytes_up), format_memory(one.bytes_down))
        _out.print(table)
        total = job.egress
        _out.print(
            f"{total.connections} connections, {total.refused} refused, {total.unlisted} not in the rules; "
            f"{format_memory(total.bytes_up)} up, {format_memory(total.bytes_down)} down"
        )
        if total.connections_to_others:
            _out.print(f"{total.connections_to_others} of them to further targets, which are not listed")


@app.command(name="learn")
def learn_command(jobs: _Jobs, project: _Project, database: _Database = "(default)") -> None:
    """Print the rules that allow what these jobs used, ready to paste into a profile."""
    learned = learn(_read_jobs(jobs, project, database), BUILT_IN.hosts)
    for key in learned.without_summary:
        _err.print(f"runyard: {escape(key)} has no summary yet, and is left out", style="yellow")
    if not learned.jobs:
        _fail("none of these jobs has a summary: it is written when the job's container has ended")
    if learned.left_out:
        _err.print(
            f"runyard: {learned.left_out} connections went to targets that are not listed: run with mode: learn, "
            "which lists more",
            style="yellow",
        )
    _out.print(to_policy(learned), markup=False, end="")


@app.command()
def hosts(
    refresh: Annotated[bool, typer.Option("--refresh", help="ask GitHub (GET /meta) instead")] = False,
    api_url: Annotated[str, typer.Option(help="GitHub's API", envvar="GITHUB_API_URL")] = "https://api.github.com",
    output: Annotated[Path | None, typer.Option(help="write them here, for proxy.github_hosts_file")] = None,
) -> None:
    """Print the hosts of GitHub's that every job may reach, with the list's date."""
    found = _ask_github(api_url) if refresh else BUILT_IN
    text = found.model_dump_json(indent=2) + "\n"
    if output is None:
        _out.print(text, markup=False, end="")
        return
    new = output.with_name(f"{output.name}.new")
    try:
        new.write_text(text)
        os.replace(new, output)  # noqa: PTH105 - as atomic as it says
    except OSError as error:
        _fail(f"{output}: {error.strerror}")
    _out.print(f"{output}: {len(found.hosts)} hosts as of {found.as_of}")


def _ask_github(api_url: str) -> GithubHosts:
    if not api_url.startswith(("https://", "http://")):
        _fail(f"'{api_url}' is no address of an API: write https://api.github.com")
    request = urllib.request.Request(  # noqa: S310 - checked above
        f"{api_url.rstrip('/')}/meta", headers={"Accept": "application/vnd.github+json", "User-Agent": "runyard"}
    )
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - as above
            return hosts_of_meta(json.load(answer), datetime.datetime.now(datetime.UTC).date())
    except (OSError, ValueError, NotMeta) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        _fail(f"{api_url}/meta: {reason}")


def _read_jobs(texts: Sequence[str], project: str, database: str) -> list[WorkflowJob]:
    try:
        wanted = [parse_job(text) for text in texts]
    except ValueError as error:
        _fail(str(error))
    found: dict[str, WorkflowJob] = {}
    with _store(project, database) as store:
        for text, one in zip(texts, wanted, strict=True):
            jobs = store.list_jobs_of_run(one.org, one.run_id) if isinstance(one, RunOfJobs) else store.read_jobs(one)
            if not jobs:
                _fail(f"{text}: no such job is known here")
            found |= {job.key: job for job in jobs}
    return list(found.values())


@contextmanager
def _store(project: str, database: str) -> Iterator[PolicyStore]:
    store = PolicyStore(project, database)
    try:
        yield store
    except (StoreUnavailable, StoreRefused) as error:
        _fail(str(error))
    finally:
        store.close()


def _fail(message: str) -> NoReturn:
    _err.print(f"runyard: {message}", markup=False, style="red")
    raise typer.Exit(2)
