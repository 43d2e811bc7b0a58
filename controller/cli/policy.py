"""`runyard policy …`"""

import getpass
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from functions.admission.books import Books
from functions.admission.terms import limits_of, scale_set_key
from functions.documents.errors import Moved, StoreRefused, StoreUnavailable
from functions.documents.host import Host
from functions.routing.advice import advise
from functions.routing.capacity import Size, find_shortage
from functions.routing.classify import CompiledPolicy, Match
from functions.routing.evaluate import decide_without_room
from functions.routing.job import JobFacts, Trust
from functions.routing.policy import Policy, PolicyError, Problem, parse_policy
from functions.routing.prices import AS_OF
from functions.routing.schema import policy_schema

from ..policy_store import PolicyStore
from .draft import RecordedJob, UnreadableFile, compare, explain, read_document, read_payloads, replay, to_yaml

app = typer.Typer(help="Check, publish and understand routing policies.", no_args_is_help=True)
_out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)

_File = Annotated[Path, typer.Argument(help="the policy, YAML")]
_Org = Annotated[str, typer.Option("--org", help="GitHub login of the organization or user")]
_Project = Annotated[str, typer.Option("--project", envvar="GOOGLE_CLOUD_PROJECT", help="Google Cloud project")]
_Database = Annotated[str, typer.Option("--database", envvar="FIRESTORE_DATABASE", help="Firestore database")]
_Json = Annotated[bool, typer.Option("--json", help="print JSON")]


@app.command()
def validate(
    file: _File,
    strict: Annotated[bool, typer.Option("--strict", help="warnings count as errors")] = False,
    as_json: _Json = False,
) -> None:
    """Check a policy: exit code 1 when it has errors."""
    problems, warnings = _check(file)
    if as_json:
        _print_json({"errors": _as_maps(problems), "warnings": _as_maps(warnings)})
    else:
        _show(file, problems, "red", "error")
        _show(file, warnings, "yellow", "warning")
        if not problems:
            _out.print(f"{file}: valid" + (f", {len(warnings)} warnings" if warnings else ""))
    if problems or (strict and warnings):
        raise typer.Exit(1)


@app.command()
def push(
    file: _File,
    org: _Org,
    project: _Project,
    database: _Database = "(default)",
    message: Annotated[str, typer.Option("--message", "-m", help="why, for the history")] = "",
) -> None:
    """Check a policy and make it the newest one."""
    document = _read(file)
    with _store(project, database) as store:
        _, warnings = _advise(file, document, [host.size for host in _alive(store.list_hosts())])
        _show(file, warnings, "yellow", "warning")
        number = store.push(org, document, getpass.getuser(), message)
    _out.print(f"{org}: revision {number} is in force from the next webhook on")


@app.command()
def pull(org: _Org, project: _Project, database: _Database = "(default)") -> None:
    """Print the policy that is in Firestore, as YAML."""
    with _store(project, database) as store:
        _out.print(to_yaml(_current(store, org)), markup=False, end="")


@app.command()
def diff(file: _File, org: _Org, project: _Project, database: _Database = "(default)") -> None:
    """Show what a push would change: exit code 1 when it would."""
    document = _read(file)
    with _store(project, database) as store:
        installation = store.read(org)
    current = installation.policy if installation is not None and isinstance(installation.policy, Mapping) else {}
    difference = compare(
        current, document, f"{org} (revision {installation.revision if installation else 0})", str(file)
    )
    if difference:
        _out.print(difference, markup=False, end="")
        raise typer.Exit(1)
    _out.print(f"{org} has this policy already")


@app.command()
def history(org: _Org, project: _Project, database: _Database = "(default)", as_json: _Json = False) -> None:
    """List the accepted revisions, newest first."""
    with _store(project, database) as store:
        revisions = store.list_revisions(org)
    if not revisions:
        _fail(f"{org} has no revisions: runyard policy push FILE --org {org}")
    if as_json:
        rows = [{"revision": r.number, "at": r.at.isoformat(), "who": r.who, "message": r.message} for r in revisions]
        _print_json(rows)
        return
    table = Table("revision", "at", "who", "why")
    for revision in revisions:
        at = revision.at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
        table.add_row(str(revision.number), at, escape(revision.who), escape(revision.message))
    _out.print(table)


@app.command()
def rollback(
    revision: Annotated[int, typer.Argument(help="number of the revision to go back to")],
    org: _Org,
    project: _Project,
    database: _Database = "(default)",
) -> None:
    """Make an earlier revision the newest one."""
    with _store(project, database) as store:
        found = store.read_revision(org, revision)
        if found is None:
            _fail(f"{org} has no revision {revision}: see runyard policy history --org {org}")
        try:
            parse_policy(found.policy)
        except PolicyError as error:
            _fail(f"revision {revision} is not valid for this version of Runyard: {error}")
        number = store.push(org, found.policy, getpass.getuser(), f"rollback to revision {revision}")
    _out.print(f"{org}: revision {revision} is in force again, as revision {number}, from the next webhook on")


@app.command(name="explain")
def explain_command(
    file: Annotated[Path | None, typer.Argument(help="the policy; the one in Firestore when absent")] = None,
    payload: Annotated[Path | None, typer.Option(help="a recorded webhook")] = None,
    labels: Annotated[str, typer.Option(help="the job's labels, comma-separated")] = "",
    name: Annotated[str, typer.Option(help="the job's display name")] = "build",
    repository: Annotated[str, typer.Option(help="owner/name")] = "owner/name",
    workflow: Annotated[str, typer.Option(help="the workflow's name")] = "",
    branch: Annotated[str, typer.Option()] = "",
    event: Annotated[str | None, typer.Option(help="what started the run, such as push")] = None,
    trust: Annotated[Trust | None, typer.Option()] = None,
    org: Annotated[str | None, typer.Option(help="GitHub login; with it, capacity is looked up")] = None,
    project: Annotated[str | None, typer.Option(envvar="GOOGLE_CLOUD_PROJECT")] = None,
    database: _Database = "(default)",
) -> None:
    """Show each route and why it does or does not match a job, the profile, and the capacity."""
    job = _job_of(payload) if payload else JobFacts(repository, name, _words(labels), workflow, branch, event, trust)
    if file is not None:
        policy = _compiled(file, _read(file))
    elif org and project:
        with _store(project, database) as store:
            policy = _compiled(Path(org), _current(store, org))
    else:
        _fail("give a policy file, or --org and --project")
    tried, match = explain(policy, job)
    _out.print(f"job [bold]{escape(job.name)}[/bold] of {job.repository}, labels {escape(', '.join(job.labels))}")
    for route in tried:
        sign = "[green]✔[/green]" if route.why_not is None else "[red]✘[/red]"
        _out.print(f"{sign} {route.rule}: {escape(route.why_not or 'matches')}")
    if match is None:
        _out.print("→ ignored: no route matches")
        return
    size = Size(match.profile.cpu_millis, match.profile.memory_bytes)
    _out.print(f"→ profile [bold]{match.profile_name}[/bold] ({size}), by {match.profile_rule}")
    _out.print(f"→ scale set {match.scale_set_name}, strategy {match.route.strategy}")
    if org and project:
        with _store(project, database) as store:
            _explain_capacity(store, org, policy.policy, match, job)


def _explain_capacity(store: PolicyStore, org: str, policy: Policy, match: Match, job: JobFacts) -> None:
    pool, key = match.scale_set.pool, scale_set_key(org, match.scale_set_name)
    ledger = store.read_ledger(pool)
    hosts = {host.host_id: host.size for host in _alive(store.list_hosts()) if host.pool == pool}
    books = Books(ledger, hosts)
    capacity = books.capacity(key, job.repository)
    _out.print(
        f"→ pool {pool}: {len(hosts)} hosts alive, {capacity.free} free; {capacity.places_taken} of "
        f"{match.scale_set.max_runners} places taken, {capacity.held} jobs waiting"
    )
    shortage = books.find_pause(key, datetime.now(UTC)) if key in ledger.limits else None
    if shortage is None:
        size = Size(match.profile.cpu_millis, match.profile.memory_bytes)
        shortage = find_shortage(size, match.scale_set_name, limits_of(match.scale_set), capacity)
    if shortage is None:
        _out.print("→ [green]self_hosted[/green]: there is room")
        return
    decision = decide_without_room(match, shortage, capacity.held, can_overflow=policy.overflow is not None)
    _out.print(f"→ [yellow]{decision.outcome}[/yellow]: {decision.reason} ({decision.rule})")


@app.command(name="replay")
def replay_command(
    file: _File,
    payloads: Annotated[Path | None, typer.Option(help="folder of recorded webhooks")] = None,
    against: Annotated[Path | None, typer.Option(help="the policy to compare with; Firestore's when absent")] = None,
    last: Annotated[int, typer.Option(help="jobs to take from Firestore instead of recorded webhooks")] = 500,
    org: Annotated[str | None, typer.Option(help="GitHub login")] = None,
    project: Annotated[str | None, typer.Option(envvar="GOOGLE_CLOUD_PROJECT")] = None,
    database: _Database = "(default)",
    minutes: Annotated[float, typer.Option(help="assumed for jobs of which the duration is not known")] = 5,
    as_json: _Json = False,
) -> None:
    """Run recorded jobs against a draft, and show which decisions would change: exit code 1 when any does."""
    after = _compiled(file, _read(file))
    jobs: list[RecordedJob] = []
    if payloads is not None:
        jobs = _payloads(sorted(payloads.glob("*.json")))
    if against is not None:
        before = _compiled(against, _read(against))
    if payloads is None or against is None:
        if not org or not project:
            _fail("give --payloads and --against, or --org and --project")
        with _store(project, database) as store:
            if against is None:
                before = _compiled(Path(org), _current(store, org))
            if payloads is None:
                jobs = [_recorded(job) for job in store.list_recent_jobs(org, last)]
    if not jobs:
        _fail(f"there are no queued jobs in {payloads}" if payloads is not None else f"{org} has had no jobs yet")
    changes = replay(before, after, jobs, minutes * 60)
    if as_json:
        _print_json(
            [
                {"job": c.job.facts.name, "source": c.job.source, "before": str(c.before), "after": str(c.after)}
                | {"hostedUsd": round(c.hosted_usd, 4)}
                for c in changes
            ]
        )
    else:
        _show_changes(jobs, changes)
    if changes:
        raise typer.Exit(1)


def _show_changes(jobs: Sequence[RecordedJob], changes: Sequence[Any]) -> None:
    table = Table("job", "recorded in", "before", "after", "GitHub's bill, USD")
    for change in changes:
        name, source = escape(change.job.facts.name), escape(change.job.source)
        table.add_row(name, source, escape(str(change.before)), escape(str(change.after)), f"{change.hosted_usd:+.3f}")
    if changes:
        _out.print(table)
    total = sum(change.hosted_usd for change in changes)
    unknown = sum(change.job.seconds is None for change in changes)
    _out.print(f"{len(changes)} of {len(jobs)} decisions change; GitHub's bill {total:+.2f} USD (prices of {AS_OF})")
    if unknown:
        _out.print(f"The duration of {unknown} of them is not known and was assumed.")


@app.command()
def schema() -> None:
    """Print the JSON Schema, for editors."""
    _out.print(policy_schema(), markup=False, end="")


def _check(file: Path) -> tuple[Sequence[Problem], Sequence[Problem]]:
    try:
        return (), advise(read_document(file))[1]
    except UnreadableFile as error:
        _fail(str(error))
    except PolicyError as error:
        return error.problems, ()


def _read(file: Path) -> Mapping[str, Any]:
    try:
        return read_document(file)
    except UnreadableFile as error:
        _fail(str(error))
    except PolicyError as error:
        _refuse(file, error)


def _refuse(file: Path, error: PolicyError) -> NoReturn:
    _show(file, error.problems, "red", "error")
    raise typer.Exit(1) from None


def _advise(file: Path, document: Mapping[str, Any], hosts: Sequence[Size]) -> tuple[Policy, Sequence[Problem]]:
    try:
        return advise(document, hosts)
    except PolicyError as error:
        _refuse(file, error)


def _compiled(source: Path, document: Mapping[str, Any]) -> CompiledPolicy:
    return CompiledPolicy(_advise(source, document, ())[0])


def _current(store: PolicyStore, org: str) -> Mapping[str, Any]:
    installation = store.read(org)
    if installation is None or not isinstance(installation.policy, Mapping):
        _fail(f"there is no policy for {org}: runyard policy push FILE --org {org}")
    policy: Mapping[str, Any] = installation.policy
    return policy


def _job_of(payload: Path) -> JobFacts:
    jobs = _payloads([payload])
    if not jobs:
        _fail(f"{payload} is not a queued workflow_job")
    return jobs[0].facts


def _payloads(paths: Sequence[Path]) -> list[RecordedJob]:
    try:
        return read_payloads(paths)
    except UnreadableFile as error:
        _fail(str(error))


def _recorded(job: Any) -> RecordedJob:
    facts = JobFacts(job.repository, job.name, job.labels, job.workflow, job.branch)
    return RecordedJob(job.key, facts, job.duration_seconds)


def _alive(hosts: Sequence[Host]) -> list[Host]:
    return [host for host in hosts if host.is_available(datetime.now(UTC))]


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _as_maps(problems: Sequence[Problem]) -> list[dict[str, str]]:
    return [{"where": problem.where, "message": problem.message} for problem in problems]


def _show(file: Path, problems: Sequence[Problem], style: str, kind: str) -> None:
    for problem in problems:
        _err.print(f"{file}: [{style}]{kind}[/{style}] {escape(str(problem))}")


def _print_json(value: Any) -> None:
    _out.print(json.dumps(value, indent=2, ensure_ascii=False), markup=False)


def _fail(message: str) -> NoReturn:
    _err.print(f"runyard: {message}", markup=False, style="red")
    raise typer.Exit(2)


@contextmanager
def _store(project: str, database: str) -> Iterator[PolicyStore]:
    store = PolicyStore(project, database)
    try:
        yield store
    except Moved:
        _fail("somebody else has changed the policy meanwhile: look at it, then push again")
    except (StoreUnavailable, StoreRefused) as error:
        _fail(str(error))
    finally:
        store.close()
