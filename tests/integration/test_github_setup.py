"""`runyard github` as an operator runs it, against the simulated GitHub and a real function."""

import os
import stat
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from controller.github_setup.callback import Callback, TookTooLong
from local.stack import Stack, StackOptions

# What a person does in the browser: presses the button, says yes, and later chooses repositories.
BROWSER = """
import html, re, sys, httpx
with httpx.Client(follow_redirects=True) as browser:
    page = browser.get(sys.argv[1])
    page.raise_for_status()
    if form := re.search(r'action="([^"]*)".*value="([^"]*)"', page.text, re.DOTALL):
        browser.post(html.unescape(form[1]), data={"manifest": html.unescape(form[2])}).raise_for_status()
"""


class Operator:
    """Somebody at a terminal."""

    def __init__(self, stack: Stack, folder: Path):
        self.stack = stack
        self.folder = folder
        (folder / "browser.py").write_text(BROWSER)

    def run(self, *words: str, **environment: str) -> tuple[int, str]:
        """Exit code and what is shown."""
        surroundings = {name: value for name, value in os.environ.items() if not name.startswith("GITHUB_")}
        surroundings |= {
            "SSL_CERT_FILE": str(self.stack.authority),
            "GITHUB_API_URL": self.stack.github_url,
            "BROWSER": f"{sys.executable} {self.folder / 'browser.py'} %s",
        }
        ran = subprocess.run(
            [str(Path(sys.executable).parent / "runyard"), "github", *words],
            env=surroundings | environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return ran.returncode, ran.stdout + ran.stderr

    def setup(self, *words: str, **environment: str) -> tuple[int, str]:
        with_token = {"GITHUB_TOKEN": self.stack.github_token, "GITHUB_WEBHOOK_SECRET": self.stack.webhook_secret}
        where = words or ("--org", "acme")
        return self.run("setup", *where, "--webhook-url", self.stack.function_url, **(with_token | environment))

    def fault(self, operation: str, status: int, **more: Any) -> None:
        self.stack.control("POST", "/faults", {"operation": operation, "status": status} | more)


@pytest.fixture(scope="module")
def running(emulator_host: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    stack = Stack(StackOptions(folder, f"test-{uuid.uuid4().hex[:12]}", emulator_host, "", has_webhook=False))
    github, function = stack.start_github(), stack.start_function()
    yield stack
    function.stop()
    github.stop()


@pytest.fixture
def operator(running: Stack, tmp_path: Path) -> Iterator[Operator]:
    """GitHub without any webhook, and a function that nobody calls yet."""
    yield Operator(running, tmp_path)
    running.control("DELETE", "/set-up")
    running.control("DELETE", "/faults")


@pytest.mark.parametrize("where", [("--org", "acme"), ("--repo", "acme/app")], ids=["organization", "repository"])
def test_a_token_installs_a_webhook_that_works(operator: Operator, where: tuple[str, str]) -> None:
    code, said = operator.setup(*where)
    assert code == 0, said
    assert "✔ the token may register runners" in said
    assert "is installed: event workflow_job, content type json, with the secret" in said
    assert "✔ GitHub's ping was answered" in said
    operator.stack.dispatch("acme/app", [{"name": "build", "labels": ["ci"]}])
    operator.stack.control("POST", "/settle")
    [ping, queued] = operator.stack.github_state()["deliveries"][-2:]
    assert (ping["event"], ping["status_code"]) == ("ping", 200)
    assert (queued["event"], queued["status_code"]) == ("workflow_job", 200)


def test_run_again_it_puts_the_same_webhook_right(operator: Operator) -> None:
    operator.setup()
    code, said = operator.setup(GITHUB_WEBHOOK_SECRET="another-secret")
    assert code == 1
    assert "the webhook 1 is put right" in said
    assert "✘ the webhook function answered 401 to a ping" in said
    assert "→ give the function the same secret: GITHUB_WEBHOOK_SECRET" in said
    code, said = operator.setup()
    assert (code, "✘" in said) == (0, False)


@pytest.mark.parametrize(
    ("operation", "status", "told"),
    [
        ("list-runners", 401, "make a new one: GITHUB_TOKEN is expired"),
        ("create-registration-token", 403, "admin:org (classic token) or organization: Self-hosted runners: write"),
        ("list-webhooks", 404, "admin:org_hook (classic token) or organization: Webhooks: write (fine-grained token)"),
        ("create-webhook", 403, "admin:org_hook (classic token)"),
        ("ping-webhook", 403, "ping the webhook on its page"),
    ],
)
def test_a_right_that_is_missing_is_told_with_what_to_add(
    operator: Operator, operation: str, status: int, told: str
) -> None:
    operator.fault(operation, status)
    code, said = operator.setup()
    assert code == 1
    assert told in said
    assert operator.stack.github_token not in said


def test_a_classic_token_is_told_which_scopes_it_lacks(operator: Operator) -> None:
    empty = '{"total_count": 0, "runners": []}'
    operator.fault("list-runners", 200, headers={"X-OAuth-Scopes": "repo, admin:org"}, body=empty)
    code, said = operator.setup()
    assert code == 1
    assert "✘ the token may not install the webhook" in said
    assert "→ add the scope admin:org_hook to it" in said


def test_a_function_that_is_away_is_found_by_githubs_own_ping(operator: Operator) -> None:
    code, said = operator.run(
        "setup",
        "--org",
        "acme",
        "--webhook-url",
        "http://127.0.0.1:9/",
        GITHUB_TOKEN=operator.stack.github_token,
        GITHUB_WEBHOOK_SECRET="secret",
    )
    assert code == 1
    assert "✘ nobody answered a ping" in said
    assert "GitHub reached nobody there" in said


def test_github_that_is_away_is_told(operator: Operator) -> None:
    code, said = operator.setup(GITHUB_API_URL="http://127.0.0.1:9")
    assert code == 1
    assert "http://127.0.0.1:9 does not answer" in said


@pytest.mark.parametrize(
    ("words", "environment", "told"),
    [
        (("--org", "a", "--repo", "a/b"), {}, "give --org"),
        (("--repo", "app"), {}, "write owner/name"),
        (("--org", "acme"), {"GITHUB_WEBHOOK_SECRET": ""}, "GITHUB_WEBHOOK_SECRET is not set"),
        (("--org", "acme"), {"GITHUB_TOKEN": ""}, "GITHUB_TOKEN is not set: give a token, or GITHUB_APP_ID"),
        (("--org", "acme", "--secret-file", "nowhere"), {}, "nowhere: No such file"),
        (("--org", "acme"), {"GITHUB_APP_ID": "1"}, "GITHUB_APP_PRIVATE_KEY is not set"),
        (("--org", "acme"), {"GITHUB_APP_ID": "1", "GITHUB_APP_PRIVATE_KEY": "no key"}, "is not an RSA private key"),
    ],
    ids=["both", "no owner", "no secret", "no token", "no file", "no key", "broken key"],
)
def test_what_is_given_wrong_is_told(
    operator: Operator, words: tuple[str, ...], environment: dict[str, str], told: str
) -> None:
    code, said = operator.setup(*words, **environment)
    assert code == 1
    assert told in said


# The App


def create_app(operator: Operator, *words: str) -> tuple[int, str]:
    return operator.run(
        "create-app",
        "--org",
        "acme",
        "--webhook-url",
        operator.stack.function_url,
        "--web-url",
        operator.stack.github_url,
        *words,
    )


def test_an_app_is_made_installed_and_then_works(operator: Operator) -> None:
    code, said = create_app(operator, "--within", "30")
    assert code == 0, said
    assert "✔ App 424242 (runyard-simulated) is made" in said
    assert "✔ it is installed at orgs/acme" in said
    key, secret = operator.folder / "github-app-key.pem", operator.folder / "webhook-secret"
    for file in (key, secret):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert file.read_text() not in said

    # The function does not know the App's secret yet.
    as_app = ("--org", "acme", "--app-key-file", str(key), "--secret-file", str(secret))
    code, said = operator.setup(*as_app, GITHUB_APP_ID="424242")
    assert code == 1
    assert [line for line in said.splitlines() if "✘" in line] == ["✘ the webhook function answered 401 to a ping"]
    assert "✔ the App has every permission that is needed" in said
    assert "✔ the App is told of workflow_job" in said
    assert "✔ the App's webhook is put right: address, content type json, with the secret" in said
    assert "✔ the App is installed at orgs/acme, installation 1" in said

    code, said = operator.setup(*as_app[:4], GITHUB_APP_ID="424242")
    assert code == 0, said
    assert "✔ the webhook function answers, and knows the secret" in said


def test_permissions_that_a_policy_needs_besides_are_found_missing(operator: Operator) -> None:
    create_app(operator, "--within", "30")
    key = str(operator.folder / "github-app-key.pem")
    code, said = operator.setup("--org", "acme", "--app-key-file", key, "--switches", GITHUB_APP_ID="424242")
    assert code == 1
    assert "the App may not switch a variable" in said
    assert "an owner has to accept the App's new permissions" in said


def test_an_app_that_nobody_has_installed_is_told(operator: Operator) -> None:
    create_app(operator, "--within", "30")
    operator.fault("get-installation", 404, times=3)
    key = str(operator.folder / "github-app-key.pem")
    code, said = operator.setup("--org", "acme", "--app-key-file", key, GITHUB_APP_ID="424242")
    assert code == 1
    assert "the App is not installed at orgs/acme" in said


def test_no_file_is_written_over(operator: Operator) -> None:
    (operator.folder / "webhook-secret").write_text("mine")
    code, said = create_app(operator)
    assert code == 1
    assert "webhook-secret is there already" in said
    assert (operator.folder / "webhook-secret").read_text() == "mine"


def test_without_a_browser_the_address_is_shown_and_waiting_ends(operator: Operator) -> None:
    code, said = operator.run(
        "create-app",
        "--org",
        "acme",
        "--webhook-url",
        "https://hook",
        "--within",
        "1",
        BROWSER="",
        DISPLAY="",
        WAYLAND_DISPLAY="",
    )
    assert code == 1
    assert "Open this page in a browser on this machine: http://127.0.0.1:" in said
    assert "did not come back from GitHub within 1 s" in said


# The callback


def test_the_callback_takes_only_the_answer_to_its_own_question() -> None:
    with Callback(lambda callback: f"state {callback.state}").serving() as callback:
        assert httpx.get(callback.url).text == f"state {callback.state}"
        assert httpx.get(f"{callback.url}/favicon.ico").status_code == 404
        for wrong in ("code=theirs&state=wrong", "code=theirs", f"state={callback.state}", "", "state=%FF&code=x"):
            assert httpx.get(f"{callback.redirect_url}?{wrong}").status_code == 400
        with pytest.raises(TookTooLong):
            callback.wait_for_code(0.1)
        assert httpx.get(callback.redirect_url, params={"code": "ours", "state": callback.state}).status_code == 200
        assert callback.wait_for_code(1) == "ours"
