"""The functions' environment, read once at start."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import SecretStr

from .github.auth import AppCredentials
from .github.protocol import DEFAULT_API_URL

_VISIBLE_ASCII = re.compile(r"[!-~]+")


class SettingsError(Exception):
    """The environment is incomplete or contradicts itself; all problems are told together."""

    def __init__(self, problems: list[str]):
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class ReconcileSettings:
    """What the `reconcile` function needs to know besides."""

    caller: str
    """address of the service account that may call it"""
    audience: str
    """that the scheduler asks its tokens for"""
    issuer: str
    """of those tokens"""
    webhook_url: str | None
    """address of our organization and repository webhooks; None when only a GitHub App delivers to us"""
    grace_s: float
    """how long anything may be on its way before it counts as lost"""
    requests: int
    """to GitHub in one run, besides those that change something or that cost nothing because nothing has changed"""


@dataclass(frozen=True)
class Settings:
    """What the functions need to know of where they run."""

    webhook_secrets: tuple[SecretStr, ...]
    """any of them may have signed: put the new one beside the old one to rotate; only `github_webhook` needs any"""
    github_api_url: str
    github_credentials: SecretStr | AppCredentials
    project: str
    database: str
    oidc_issuer: str
    """of the tokens that the `route` function accepts"""
    oidc_audience: str
    """that workflows ask their tokens for"""
    reconcile: ReconcileSettings


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Settings from environment variables.

    Raises:
        SettingsError: with everything that is wrong.
    """
    problems: list[str] = []
    secrets = _read_secrets(environment, "GITHUB_WEBHOOK_SECRET") + _read_secrets(
        environment, "GITHUB_WEBHOOK_SECRET_PREVIOUS"
    )
    if not secrets and environment.get("FUNCTION_TARGET", "github_webhook") == "github_webhook":
        problems.append("GITHUB_WEBHOOK_SECRET is missing: give the webhook's secret, or several with commas")
    api_url = environment.get("GITHUB_API_URL") or DEFAULT_API_URL
    if not api_url.startswith(("https://", "http://")):
        problems.append(f"GITHUB_API_URL '{api_url}': write https://…")
    project = environment.get("GOOGLE_CLOUD_PROJECT", "")
    if not project:
        problems.append("GOOGLE_CLOUD_PROJECT is missing: name the project that Firestore is in")
    credentials = _read_credentials(environment, problems)
    reconcile = _read_reconcile(environment, problems)
    if problems or credentials is None:
        raise SettingsError(problems)
    return Settings(
        webhook_secrets=secrets,
        github_api_url=api_url,
        github_credentials=credentials,
        project=project,
        database=environment.get("FIRESTORE_DATABASE") or "(default)",
        oidc_issuer=environment.get("GITHUB_OIDC_ISSUER") or "https://token.actions.githubusercontent.com",
        oidc_audience=environment.get("RUNYARD_AUDIENCE") or "runyard",
        reconcile=reconcile,
    )


def _read_reconcile(environment: Mapping[str, str], problems: list[str]) -> ReconcileSettings:
    caller, audience = (
        environment.get("RECONCILE_CALLER", "").strip(),
        environment.get("RECONCILE_AUDIENCE", "").strip(),
    )
    if environment.get("FUNCTION_TARGET") == "reconcile":
        if not caller:
            problems.append("RECONCILE_CALLER is missing: give the address of the scheduler's service account")
        if not audience:
            problems.append("RECONCILE_AUDIENCE is missing: give the audience that the scheduler asks its token for")
    webhook_url = environment.get("GITHUB_WEBHOOK_URL") or None
    if webhook_url is not None and not webhook_url.startswith(("https://", "http://")):
        problems.append(f"GITHUB_WEBHOOK_URL '{webhook_url}': write https://…, as the webhook's settings show it")
    return ReconcileSettings(
        caller=caller,
        audience=audience,
        issuer=environment.get("RECONCILE_ISSUER") or "https://accounts.google.com",
        webhook_url=webhook_url,
        grace_s=_read_number(environment, "RECONCILE_GRACE_S", 60, problems),
        requests=int(_read_number(environment, "RECONCILE_REQUESTS", 40, problems)),
    )


def _read_number(environment: Mapping[str, str], name: str, default: float, problems: list[str]) -> float:
    written = environment.get(name, "").strip()
    try:
        number = float(written) if written else default
    except ValueError:
        number = 0
    if not 1 <= number <= 86_400:
        problems.append(f"{name} '{written}': write a number from 1 to 86400, or leave it out for {default:g}")
        return default
    return number


def _read_secrets(environment: Mapping[str, str], name: str) -> tuple[SecretStr, ...]:
    return tuple(SecretStr(secret.strip()) for secret in environment.get(name, "").split(",") if secret.strip())


def _read_credentials(environment: Mapping[str, str], problems: list[str]) -> SecretStr | AppCredentials | None:
    token = environment.get("GITHUB_TOKEN", "").strip()
    app_id = environment.get("GITHUB_APP_ID", "").strip()
    private_key = environment.get("GITHUB_APP_PRIVATE_KEY", "")
    if token and app_id:
        problems.append("GITHUB_TOKEN and GITHUB_APP_ID are both set: remove one")
    elif token and not _VISIBLE_ASCII.fullmatch(token):
        # An HTTP client that is given a header with a line break in it tells the whole header in its error.
        problems.append("GITHUB_TOKEN has a space, a line break or a non-ASCII character in it: give the token alone")
    elif token:
        return SecretStr(token)
    elif app_id and private_key.strip():
        # Some consoles keep a key's line breaks as backslash and n.
        return AppCredentials(app_id, SecretStr(private_key.replace("\\n", "\n")))
    elif app_id:
        problems.append("GITHUB_APP_PRIVATE_KEY is missing beside GITHUB_APP_ID: give the App's key in PEM")
    else:
        problems.append("no GitHub credentials: set GITHUB_APP_ID and GITHUB_APP_PRIVATE_KEY, or GITHUB_TOKEN")
    return None
