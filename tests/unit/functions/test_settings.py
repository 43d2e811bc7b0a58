"""The functions' environment."""

import pytest
from pydantic import SecretStr

from functions.github.auth import AppCredentials
from functions.settings import ReconcileSettings, Settings, SettingsError, read_settings

TOKEN = "ghp_16C7e42F292c6912E7710c838347Ae178B4a"
KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\n"
WITH_TOKEN = {"GITHUB_WEBHOOK_SECRET": "s3cret", "GOOGLE_CLOUD_PROJECT": "acme-ci", "GITHUB_TOKEN": TOKEN}
WITH_APP = WITH_TOKEN | {"GITHUB_TOKEN": "", "GITHUB_APP_ID": "12345", "GITHUB_APP_PRIVATE_KEY": KEY}


def problems_of(environment: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        read_settings(environment)
    assert str(caught.value) == "; ".join(caught.value.problems)
    return caught.value.problems


def test_a_token_and_three_variables_are_enough() -> None:
    assert read_settings(WITH_TOKEN) == Settings(
        webhook_secrets=(SecretStr("s3cret"),),
        github_api_url="https://api.github.com",
        github_credentials=SecretStr(TOKEN),
        project="acme-ci",
        database="(default)",
        oidc_issuer="https://token.actions.githubusercontent.com",
        oidc_audience="runyard",
        reconcile=ReconcileSettings("", "", "https://accounts.google.com", None, 60, 40),
    )


def test_an_app_stands_in_for_a_token() -> None:
    assert read_settings(WITH_APP).github_credentials == AppCredentials("12345", SecretStr(KEY))


def test_a_key_may_have_lost_its_line_breaks_to_a_console() -> None:
    flat = WITH_APP | {"GITHUB_APP_PRIVATE_KEY": KEY.replace("\n", "\\n")}
    assert read_settings(flat).github_credentials == AppCredentials("12345", SecretStr(KEY))


@pytest.mark.parametrize(
    ("written", "secrets"),
    [
        ("one", ["one"]),
        ("new,old", ["new", "old"]),
        (" new , old ,", ["new", "old"]),
        ("one\n", ["one"]),
        ("größe", ["größe"]),
    ],
    ids=repr,
)
def test_several_webhook_secrets_stand_beside_each_other(written: str, secrets: list[str]) -> None:
    settings = read_settings(WITH_TOKEN | {"GITHUB_WEBHOOK_SECRET": written})
    assert [secret.get_secret_value() for secret in settings.webhook_secrets] == secrets


def test_the_secret_that_is_replaced_may_stand_in_a_variable_of_its_own() -> None:
    """Secret Manager gives each version to one variable."""
    settings = read_settings(WITH_TOKEN | {"GITHUB_WEBHOOK_SECRET": "new\n", "GITHUB_WEBHOOK_SECRET_PREVIOUS": "old"})
    assert [secret.get_secret_value() for secret in settings.webhook_secrets] == ["new", "old"]


def test_only_the_webhook_function_needs_the_webhook_secret() -> None:
    without = WITH_TOKEN | {"GITHUB_WEBHOOK_SECRET": ""}
    assert read_settings(without | {"FUNCTION_TARGET": "route"}).webhook_secrets == ()
    [told] = problems_of(without | {"FUNCTION_TARGET": "github_webhook"})
    assert "GITHUB_WEBHOOK_SECRET is missing" in told


@pytest.mark.parametrize(
    ("variable", "field", "value"),
    [
        ("GITHUB_API_URL", "github_api_url", "https://ghe.acme.example/api/v3"),
        ("GITHUB_API_URL", "github_api_url", "http://localhost:8000"),
        ("FIRESTORE_DATABASE", "database", "ci"),
    ],
)
def test_what_has_a_default_can_be_set(variable: str, field: str, value: str) -> None:
    assert getattr(read_settings(WITH_TOKEN | {variable: value}), field) == value


@pytest.mark.parametrize(
    ("variable", "field", "default"),
    [
        ("GITHUB_API_URL", "github_api_url", "https://api.github.com"),
        ("FIRESTORE_DATABASE", "database", "(default)"),
    ],
)
def test_an_empty_variable_counts_as_absent(variable: str, field: str, default: str) -> None:
    assert getattr(read_settings(WITH_TOKEN | {variable: ""}), field) == default


def test_white_space_around_credentials_does_not_matter() -> None:
    assert read_settings(WITH_TOKEN | {"GITHUB_TOKEN": f" {TOKEN}\n"}).github_credentials == SecretStr(TOKEN)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"GITHUB_WEBHOOK_SECRET": ""}, "GITHUB_WEBHOOK_SECRET is missing: give the webhook's secret"),
        ({"GITHUB_WEBHOOK_SECRET": " , "}, "GITHUB_WEBHOOK_SECRET is missing: give the webhook's secret"),
        ({"GOOGLE_CLOUD_PROJECT": ""}, "GOOGLE_CLOUD_PROJECT is missing: name the project"),
        ({"GITHUB_API_URL": "api.github.com"}, "GITHUB_API_URL 'api.github.com': write https://"),
        ({"GITHUB_API_URL": "ftp://api.github.com"}, "write https://"),
        ({"GITHUB_TOKEN": ""}, "no GitHub credentials: set GITHUB_APP_ID and GITHUB_APP_PRIVATE_KEY, or GITHUB_TOKEN"),
        ({"GITHUB_TOKEN": " \n"}, "no GitHub credentials"),
        ({"GITHUB_APP_ID": "1", "GITHUB_APP_PRIVATE_KEY": KEY}, "both set: remove one"),
        ({"GITHUB_TOKEN": "", "GITHUB_APP_ID": "1"}, "GITHUB_APP_PRIVATE_KEY is missing beside GITHUB_APP_ID"),
        ({"GITHUB_TOKEN": "", "GITHUB_APP_PRIVATE_KEY": KEY}, "no GitHub credentials: set GITHUB_APP_ID"),
        ({"GITHUB_TOKEN": f"{TOKEN}\nsecond line"}, "GITHUB_TOKEN has a space, a line break or"),
        ({"GITHUB_TOKEN": f"Bearer {TOKEN}"}, "GITHUB_TOKEN has a space, a line break or"),
        ({"GITHUB_TOKEN": f"“{TOKEN}”"}, "GITHUB_TOKEN has a space, a line break or"),
    ],
    ids=str,
)
def test_a_problem_is_told_with_what_to_do(change: dict[str, str], problem: str) -> None:
    [told] = problems_of(WITH_TOKEN | change)
    assert problem in told


SCHEDULER = {"RECONCILE_CALLER": "timer@acme-ci.iam.gserviceaccount.com", "RECONCILE_AUDIENCE": "runyard"}


def test_only_the_reconcile_function_needs_to_know_its_caller() -> None:
    reconcile = WITH_TOKEN | {"FUNCTION_TARGET": "reconcile"}
    assert [problem.partition(" ")[0] for problem in problems_of(reconcile)] == list(SCHEDULER)
    settings = read_settings(reconcile | SCHEDULER).reconcile
    assert (settings.caller, settings.audience) == tuple(SCHEDULER.values())


@pytest.mark.parametrize("written", ["a minute", "0", "-1", "nan", "inf", "86401"])
@pytest.mark.parametrize("name", ["RECONCILE_GRACE_S", "RECONCILE_REQUESTS"])
def test_a_number_that_is_none_is_told(name: str, written: str) -> None:
    assert problems_of(WITH_TOKEN | {name: written}) == [
        f"{name} '{written}': write a number from 1 to 86400, or leave it out for "
        + ("60" if name == "RECONCILE_GRACE_S" else "40")
    ]


def test_the_webhooks_address_is_one() -> None:
    (problem,) = problems_of(WITH_TOKEN | {"GITHUB_WEBHOOK_URL": "runyard.acme.example"})
    assert "GITHUB_WEBHOOK_URL 'runyard.acme.example': write https://" in problem


def test_all_problems_are_told_together() -> None:
    variables = ["GITHUB_WEBHOOK_SECRET", "GITHUB_API_URL", "GOOGLE_CLOUD_PROJECT", "GITHUB_APP_ID"]
    told = problems_of({"GITHUB_API_URL": "x"})
    assert len(told) == len(variables)
    assert all(variable in problem for variable, problem in zip(variables, told, strict=True))


def test_no_secret_is_shown_by_settings() -> None:
    for environment in (WITH_TOKEN, WITH_APP):
        settings = read_settings(environment)
        shown = f"{settings} {settings!r}"
        assert not [secret for secret in ("s3cret", TOKEN, "MIIE") if secret in shown]


def test_no_secret_is_shown_by_a_problem() -> None:
    both = WITH_APP | {"GITHUB_TOKEN": TOKEN, "GOOGLE_CLOUD_PROJECT": ""}
    shown = " ".join(problems_of(both) + problems_of(WITH_TOKEN | {"GITHUB_TOKEN": f"{TOKEN} x"}))
    assert not [secret for secret in ("s3cret", TOKEN, "MIIE") if secret in shown]
