"""`runyard egress`: what jobs connected to, from Firestore, and GitHub's own hosts."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.cloud import firestore
from typer.testing import CliRunner, Result

from controller.__main__ import app
from controller.proxy.github_hosts import BUILT_IN, GithubHosts
from functions.documents.workflow_job import EgressSummary, TargetSummary
from tests.fakes.examples import job
from tests.integration.conftest import WebhookClient


def runyard(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["egress", *map(str, arguments)], env={"COLUMNS": "200", "TERM": "dumb"})


@pytest.fixture
def jobs(project: str) -> str:
    """Three jobs of a run: two that have ended, and one that has not."""
    client = firestore.Client(project=project)
    packages = TargetSummary(target="packages.example.com:443", connections=2, bytes_up=100, bytes_down=3 << 20)
    refused = TargetSummary(target="10.0.0.1:80", connections=1, refused=1, unlisted=1)
    github = TargetSummary(target="github.com:443", connections=1)
    summaries: dict[int, EgressSummary | None] = {
        1: EgressSummary(
            connections=3, refused=1, unlisted=1, bytes_up=100, bytes_down=3 << 20, targets=(packages, refused)
        ),
        2: EgressSummary(connections=4, targets=(github, packages), connections_to_others=2),
        3: None,
    }
    for number, summary in summaries.items():
        one = job(number, f"build ({number})", egress=summary)
        client.collection("workflowJobs").document(one.key).set(one.to_firestore())
    client.close()  # type: ignore[no-untyped-call]
    return project


def test_a_jobs_connections_are_shown_with_their_sums(jobs: str) -> None:
    result = runyard("acme_1_1", "--project", jobs)
    assert result.exit_code == 0, result.output
    assert "build (1) (acme_1_1)" in result.stdout
    row = next(line for line in result.stdout.splitlines() if "packages.example.com:443" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "packages.example.com:443",
        "2",
        "0",
        "0",
        "100",
        "3m",
    ]
    assert "3 connections, 1 refused, 1 not in the rules; 100 up, 3m down" in result.stdout


def test_a_whole_run_is_shown_by_its_address_also_as_json(jobs: str) -> None:
    result = runyard("https://github.com/Acme/app/actions/runs/1", "--project", jobs, "--json")
    answer: dict[str, Any] = json.loads(result.stdout)
    assert list(answer) == ["acme_1_1", "acme_1_2", "acme_1_3"]
    assert answer["acme_1_1"]["targets"][0]["target"] == "packages.example.com:443"
    assert answer["acme_1_3"] is None


def test_learn_prints_yaml_and_says_aside_what_it_cannot_know(jobs: str) -> None:
    result = runyard("learn", "acme_1_1", "acme_1_2", "acme_1_3", "--project", jobs)
    assert result.exit_code == 0
    assert yaml.safe_load(result.stdout) == {"egress": {"mode": "enforce", "allow": ["packages.example.com:443"]}}
    assert "acme_1_3 has no summary yet" in result.stderr
    assert "2 connections went to targets that are not listed: run with mode: learn" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["build"], "'build' is no job: write ORG_RUN_JOB"),
        (["acme_9_9"], "acme_9_9: no such job is known here"),
        (["learn", "https://github.com/acme/app/actions/runs/9"], "no such job is known here"),
        (["learn", "acme_1_3"], "none of these jobs has a summary"),
    ],
)
def test_what_cannot_be_found_is_told_in_words(jobs: str, arguments: list[str], reason: str) -> None:
    result = runyard(*arguments, "--project", jobs)
    assert result.exit_code == 2
    assert reason in result.stderr


# GitHub's own hosts


def test_the_list_is_printed_with_its_date() -> None:
    assert GithubHosts.model_validate_json(runyard("hosts").stdout) == BUILT_IN


def test_a_newer_list_comes_from_github_without_credentials_and_is_what_the_proxy_reads(
    client: WebhookClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(client.stack.authority))
    path = tmp_path / "hosts.json"
    result = runyard("hosts", "--refresh", "--api-url", client.stack.github_url, "--output", path)
    assert result.exit_code == 0, result.output
    found = GithubHosts.model_validate_json(path.read_bytes())
    assert found.as_of > BUILT_IN.as_of
    assert "codeload.github.com" in found.hosts
    assert f"{path}: {len(found.hosts)} hosts as of {found.as_of}" in result.stdout


def test_a_server_that_is_not_githubs_changes_nothing(client: WebhookClient, tmp_path: Path) -> None:
    path = tmp_path / "hosts.json"
    path.write_text("before")
    for url in (f"{client.stack.github_url}/nothing/here", "http://127.0.0.1:1", "github.com", "file:///etc"):
        result = runyard("hosts", "--refresh", "--api-url", url, "--output", path)
        assert result.exit_code == 2
        assert "runyard: " in result.stderr
    assert path.read_text() == "before"
