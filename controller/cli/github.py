"""`runyard github …`"""

import os
import secrets
import webbrowser
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import SecretStr
from rich.console import Console
from rich.markup import escape

from functions.github.auth import AppCredentials
from functions.github.errors import Refused
from functions.github.protocol import DEFAULT_API_URL, Scope

from ..github_setup import manifest
from ..github_setup.callback import Callback, TookTooLong
from ..github_setup.rights import Right, rights
from ..github_setup.steps import (
    CannotCreate,
    Finding,
    GitHub,
    NewApp,
    Unreachable,
    Webhook,
    create_app,
    set_up_app,
    set_up_with_token,
    wait_for_installation,
)

app = typer.Typer(help="Set up GitHub: an App or a webhook, and the rights they need.", no_args_is_help=True)
_out = Console(highlight=False, soft_wrap=True)

_Org = Annotated[str | None, typer.Option("--org", help="organization that runners are registered at")]
_Repo = Annotated[str | None, typer.Option("--repo", help="owner/name, when they are registered at a repository")]
_Url = Annotated[str, typer.Option("--webhook-url", help="address of the webhook function")]
_ApiUrl = Annotated[str, typer.Option("--api-url", envvar="GITHUB_API_URL", help="of a GitHub Enterprise Server")]
_WebUrl = Annotated[str, typer.Option("--web-url", help="GitHub's address in a browser")]
_Cancels = Annotated[bool, typer.Option("--cancels", help="the policy uses cancel: true")]
_Switches = Annotated[bool, typer.Option("--switches", help="the policy uses mechanism: variable")]


@app.callback()
def _group() -> None:
    """Several commands, also while there are few."""


@app.command()
def setup(
    webhook_url: _Url,
    org: _Org = None,
    repo: _Repo = None,
    secret_file: Annotated[
        Path | None, typer.Option(help="the webhook's secret; GITHUB_WEBHOOK_SECRET when absent")
    ] = None,
    app_key_file: Annotated[
        Path | None, typer.Option(help="the App's private key; GITHUB_APP_PRIVATE_KEY when absent")
    ] = None,
    cancels: _Cancels = False,
    switches: _Switches = False,
    api_url: _ApiUrl = DEFAULT_API_URL,
) -> None:
    """Check rights, put the webhook right and ping it: exit code 1 when something has to be mended.

    Signs in with GITHUB_TOKEN, or as the App of GITHUB_APP_ID. Changes nothing but the webhook, and may be run again.
    """
    from ..github_setup.client import Client  # noqa: PLC0415 - only these two commands need an HTTP client

    scope = _scope(org, repo)
    webhook = Webhook(webhook_url, SecretStr(_secret("GITHUB_WEBHOOK_SECRET", secret_file, "the webhook's secret")))
    needed = rights(at_organization=scope.is_organization, cancels=cancels, switches=switches)
    app_id = os.environ.get("GITHUB_APP_ID", "").strip()
    try:
        with Client(api_url) as github:
            if app_id:
                key = _secret("GITHUB_APP_PRIVATE_KEY", app_key_file, "the App's private key")
                credentials = AppCredentials(app_id, SecretStr(key.replace("\\n", "\n")))
                findings = set_up_app(github, credentials, scope, webhook, needed, datetime.now(UTC))
            else:
                token = SecretStr(_secret("GITHUB_TOKEN", None, "a token, or GITHUB_APP_ID"))
                findings = set_up_with_token(github, token, scope, webhook, needed)
            _report(findings)
    except (Unreachable, Refused) as error:
        _fail(str(error))


@app.command(name="create-app")
def create_app_command(
    webhook_url: _Url,
    org: _Org = None,
    repo: _Repo = None,
    name: Annotated[str, typer.Option(help="the App's name, unique at GitHub")] = "",
    is_user: Annotated[bool, typer.Option("--user", help="the owner is a user, not an organization")] = False,
    folder: Annotated[Path, typer.Option(help="where its key and webhook secret are written")] = Path(),
    within_s: Annotated[float, typer.Option("--within", help="seconds to wait for the browser")] = 600,
    cancels: _Cancels = False,
    switches: _Switches = False,
    api_url: _ApiUrl = DEFAULT_API_URL,
    web_url: _WebUrl = "https://github.com",
) -> None:
    """Have GitHub make an App: a browser asks you, and the App's secrets are written into files."""
    from ..github_setup.client import Client  # noqa: PLC0415

    scope = _scope(org, repo)
    needed = rights(at_organization=scope.is_organization, cancels=cancels, switches=switches)
    key_file, secret_file = folder / "github-app-key.pem", folder / "webhook-secret"
    for file in (key_file, secret_file):
        if file.exists():
            _fail(f"{file} is there already: move it away, or give another --folder")
    title = name or f"Runyard {manifest.owner_of(scope)}"
    try:
        with Client(api_url) as github:
            made = _make(github, scope, title, webhook_url, web_url, needed, within_s, is_user=is_user)
            _write_secret(key_file, made.private_key)
            _write_secret(secret_file, made.webhook_secret)
            _out.print(f"[green]✔[/green] App {made.app_id} ({escape(made.slug)}) is made")
            _out.print(f"  its private key is in {key_file}, the webhook's secret in {secret_file}")
            install = manifest.installation_url(web_url, made.slug)
            _out.print(f"  install it and choose its repositories: {install}")
            _open(install)
            credentials = AppCredentials(made.app_id, made.private_key)
            if not wait_for_installation(github, credentials, scope, lambda: datetime.now(UTC), within_s):
                _fail(
                    f"nobody installed the App within {within_s:g} s: do it at {install}, then run runyard github setup"
                )
    except (TookTooLong, CannotCreate, Unreachable) as error:
        _fail(str(error))
    _out.print(f"[green]✔[/green] it is installed at {scope.path[1:]}")
    _out.print("  put both files into Secret Manager, deploy, delete them here, and check everything with:")
    _out.print(f"  GITHUB_APP_ID={made.app_id} runyard github setup --{'org' if org else 'repo'} {org or repo} …")


def _make(
    github: GitHub,
    scope: Scope,
    name: str,
    webhook_url: str,
    web_url: str,
    needed: tuple[Right, ...],
    within_s: float,
    *,
    is_user: bool,
) -> NewApp:
    def page(callback: Callback) -> str:
        wanted = manifest.build_manifest(name, webhook_url, callback.redirect_url, needed)
        action = manifest.new_app_url(web_url, manifest.owner_of(scope), callback.state, is_user=is_user)
        return manifest.form_page(action, wanted)

    with Callback(page).serving() as callback:
        _out.print(f"Open this page in a browser on this machine: {callback.url}")
        _open(callback.url)
        return create_app(github, callback.wait_for_code(within_s))


def _open(url: str) -> None:
    # Where there is none, the address that was printed does as well.
    if os.environ.get("BROWSER") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(url)


def _write_secret(path: Path, secret: SecretStr) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # The mode is set as the file is made: at no moment may others read it.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(secret.get_secret_value())


def _report(findings: Iterable[Finding]) -> None:
    to_mend = 0
    for finding in findings:
        sign = "[green]✔[/green]" if finding.is_good else "[red]✘[/red]"
        _out.print(f"{sign} {escape(finding.text)}")
        if not finding.is_good:
            to_mend += 1
            _out.print(f"  → {escape(finding.mend)}")
    if to_mend:
        raise typer.Exit(1)


def _scope(org: str | None, repo: str | None) -> Scope:
    if org is not None and repo is None:
        return Scope.organization(org)
    if repo is None or org is not None:
        _fail("give --org (runners for all its repositories) or --repo owner/name (for this one)")
    if repo.count("/") != 1 or not all(repo.split("/")):
        _fail(f"--repo '{repo}': write owner/name")
    return Scope.repository(repo)


def _secret(variable: str, file: Path | None, what: str) -> str:
    """A secret from a file or the environment: never from the command line, which others can see."""
    if file is not None:
        try:
            text = file.read_text().strip()
        except OSError as error:
            _fail(f"{file}: {error.strerror}")
        if not text:
            _fail(f"{file} is empty: it should hold {what}")
        return text
    text = os.environ.get(variable, "").strip()
    if not text:
        hint = f" such as {secrets.token_hex(32)}" if variable == "GITHUB_WEBHOOK_SECRET" else ""
        _fail(f"{variable} is not set: give {what}{hint}")
    return text


def _fail(message: str) -> NoReturn:
    _out.print(f"runyard: {escape(message)}", style="red")
    raise typer.Exit(1)
