"""`runyard policy`: in files alone, and with Firestore."""

import json
import shutil
import time
from collections import UserDict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.cloud import firestore
from typer.testing import CliRunner, Result

from controller.__main__ import app
from controller.policy_store import PolicyStore
from functions.admission.group import Admission
from functions.documents.errors import Moved
from functions.documents.firestore import FirestoreStore
from functions.documents.workflow_job import Phases
from tests.fakes import examples

ROOT = Path(__file__).parent.parent.parent
PAYLOADS = ROOT / "tests" / "payloads"


def runyard(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["policy", *map(str, arguments)], env={"COLUMNS": "200", "TERM": "dumb"})


def write(path: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump(examples.policy_document(**changes), sort_keys=False))
    return path


@pytest.fixture
def draft(tmp_path: Path) -> Path:
    return write(tmp_path / "policy.yaml")


# Files


def test_a_valid_policy_is_valid(draft: Path) -> None:
    result = runyard("validate", draft)
    assert (result.exit_code, result.stdout) == (0, f"{draft}: valid\n")


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "policies" / "broken").glob("*.yaml")), ids=lambda p: p.name)
def test_every_broken_policy_is_refused_with_a_place(path: Path) -> None:
    result = runyard("validate", path)
    assert result.exit_code == 1
    assert f"{path}: error" in result.stderr


def test_warnings_fail_only_when_told_to(tmp_path: Path) -> None:
    path = write(tmp_path / "p.yaml", routes=[{"label_match": "*"}])
    assert runyard("validate", path).exit_code == 0
    result = runyard("validate", path, "--strict")
    assert result.exit_code == 1
    assert "warning routes[0].label_match" in result.stderr


def test_problems_can_be_had_as_json(tmp_path: Path) -> None:
    path = write(tmp_path / "p.yaml", default_profile="smal")
    answer = json.loads(runyard("validate", path, "--json").stdout)
    assert answer["errors"] == [{"where": "default_profile", "message": "there is no 'smal': did you mean small?"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("a: [", "is not YAML"),
        (b"\xff\xfe\xff", "is not YAML"),
    ],
    ids=["missing", "no YAML", "no text"],
)
def test_a_file_that_is_no_policy_is_told(tmp_path: Path, content: str | bytes | None, message: str) -> None:
    path = tmp_path / "p.yaml"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    result = runyard("validate", path)
    assert result.exit_code == 2
    assert message in result.stderr


def test_explain_shows_each_rule_and_why(tmp_path: Path) -> None:
    routes = [
        {"label_match": "gpu"},
        {"label_match": "ci", "repository": "acme/other"},
        {"label_match": "ci", "trust": "fork"},
        {"label_match": "ci"},
        {"label_match": "never-tried"},
    ]
    path = write(tmp_path / "p.yaml", routes=routes)
    result = runyard("explain", path, "--labels", "ci,x64", "--name", "large (1)", "--repository", "acme/app")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1:] == [
        "✘ routes[0]: label_match gpu fits none of the labels ci, x64",
        "✘ routes[1]: repository acme/other does not fit acme/app",
        "✘ routes[2]: trust fork is not known to be it",
        "✔ routes[3]: matches",
        "→ profile large (4 CPUs and 8g), by profiles.large.match_patterns",
        "→ scale set ci, strategy self_hosted_first",
    ]


def test_explain_takes_a_recorded_webhook(draft: Path) -> None:
    result = runyard("explain", draft, "--payload", PAYLOADS / "workflow_job.queued.real-attempt10.grafana.json")
    assert "→ ignored: no route matches" in result.stdout
    assert "ubuntu-latest" in result.stdout


def test_replay_shows_what_would_change_and_what_it_costs(tmp_path: Path) -> None:
    before = write(tmp_path / "before.yaml", routes=[{"label_match": "ubuntu-latest"}])
    after = write(tmp_path / "after.yaml", routes=[{"label_match": "ubuntu-latest", "strategy": "github_hosted"}])
    result = runyard("replay", after, "--against", before, "--payloads", PAYLOADS)
    assert result.exit_code == 1
    assert "ci with small by routes[0]" in result.stdout
    assert "github_hosted by routes[0]" in result.stdout
    assert "GitHub's bill +" in result.stdout
    answer = json.loads(runyard("replay", after, "--against", before, "--payloads", PAYLOADS, "--json").stdout)
    # 15 minutes and 2 seconds of the recorded job, rounded up to whole minutes at 0.002 USD for one CPU.
    recorded = next(c for c in answer if c["source"] == "workflow_job.queued.real-attempt10.grafana.json")
    assert recorded["hostedUsd"] > 0


def test_replay_of_the_same_policy_changes_nothing(draft: Path, tmp_path: Path) -> None:
    same = tmp_path / "same.yaml"
    shutil.copy(draft, same)
    result = runyard("replay", draft, "--against", same, "--payloads", PAYLOADS)
    assert result.exit_code == 0
    assert "0 of" in result.stdout


def test_the_schema_is_the_file_in_policies() -> None:
    assert runyard("schema").stdout == (ROOT / "policies" / "schema.json").read_text()


# Firestore


@pytest.fixture
def place(project: str) -> tuple[str, ...]:
    return "--org", "Acme", "--project", project


def test_a_pushed_policy_can_be_pulled_and_has_no_difference(draft: Path, place: tuple[str, ...]) -> None:
    assert runyard("diff", draft, *place).exit_code == 1
    result = runyard("push", draft, *place, "-m", "the first")
    assert "Acme: revision 1 is in force from the next webhook on" in result.stdout
    pulled = yaml.safe_load(runyard("pull", *place).stdout)
    assert pulled["profiles"] == examples.policy_document()["profiles"]
    assert pulled["profile_order"] == ["large", "small"], "Firestore's maps keep no order"
    assert runyard("diff", draft, *place).exit_code == 0


def test_a_push_replaces_the_policy_whole(draft: Path, tmp_path: Path, place: tuple[str, ...]) -> None:
    runyard("push", draft, *place)
    profiles = {"small": examples.policy_document()["profiles"]["small"]}
    runyard("push", write(tmp_path / "other.yaml", profiles=profiles), *place)
    assert set(yaml.safe_load(runyard("pull", *place).stdout)["profiles"]) == {"small"}


def test_a_broken_policy_is_not_pushed(tmp_path: Path, place: tuple[str, ...]) -> None:
    result = runyard("push", write(tmp_path / "p.yaml", default_profile="smal"), *place)
    assert result.exit_code == 1
    assert "did you mean small?" in result.stderr
    assert runyard("pull", *place).exit_code == 2


def test_history_tells_who_when_and_why_and_rollback_goes_back(
    draft: Path, tmp_path: Path, place: tuple[str, ...]
) -> None:
    runyard("push", draft, *place, "-m", "first")
    runyard("push", write(tmp_path / "p.yaml", default_profile="large"), *place, "-m", "larger")
    result = runyard("rollback", 1, *place)
    assert "revision 1 is in force again, as revision 3" in result.stdout
    assert yaml.safe_load(runyard("pull", *place).stdout)["default_profile"] == "small"
    revisions = json.loads(runyard("history", *place, "--json").stdout)
    assert [r["revision"] for r in revisions] == [3, 2, 1]
    assert [r["message"] for r in revisions] == ["rollback to revision 1", "larger", "first"]
    assert all(r["who"] for r in revisions)
    assert runyard("rollback", 9, *place).exit_code == 2


def test_of_two_who_push_at_once_one_is_told(project: str) -> None:
    store = PolicyStore(project)
    store.push("acme", examples.policy_document(), "me", "")
    document = firestore.Client(project=project).document("installations/acme")

    class Interfering(UserDict[str, Any]):
        """Another push happens while this one is under way."""

        def __iter__(self) -> Iterator[str]:
            document.update({"revision": 7})
            return super().__iter__()

    with pytest.raises(Moved):
        store.push("acme", Interfering(examples.policy_document()), "you", "")
    store.close()


def test_explain_looks_up_what_is_free(draft: Path, place: tuple[str, ...], project: str) -> None:
    runyard("push", draft, *place)
    result = runyard("explain", *place, "--labels", "ci")
    assert "→ pool default: 0 hosts alive" in result.stdout
    assert "→ held: no host of its pool is alive" in result.stdout


async def test_explain_sees_the_places_that_are_taken_and_the_jobs_that_wait(
    draft: Path, place: tuple[str, ...], project: str, tmp_path: Path
) -> None:
    """What it counts is what the function has written, for this organization and no other in the same pool."""
    runyard("push", draft, *place)
    store = FirestoreStore(project)
    document = examples.host(cpus=4, gib=32, lease_until=datetime.now(UTC) + timedelta(minutes=1))
    firestore.Client(project=project).document("hosts/host-1").set(document.to_firestore())
    admission = Admission("default", store, lambda: datetime.now(UTC))
    await admission.submit(examples.admit(1, org="Acme", repository="Acme/app"))
    await admission.submit(examples.admit(2, org="Other", repository="Other/app"))
    await admission.submit(examples.admit(3, "large", org="Acme", repository="Acme/app"))
    result = runyard("explain", *place, "--labels", "ci", "--name", "large")
    assert "→ pool default: 1 hosts alive, 2 CPUs and 28g free; 1 of 10 places taken, 1 jobs waiting" in result.stdout
    assert "→ held: it needs 4 CPUs and 8g, and its pool has 2 CPUs and 28g left" in result.stdout
    assert "→ self_hosted: there is room" in runyard("explain", *place, "--labels", "ci").stdout


async def test_replay_finds_an_organizations_jobs_however_its_login_is_spelt(
    draft: Path, place: tuple[str, ...], project: str, tmp_path: Path
) -> None:
    runyard("push", draft, *place)
    store = FirestoreStore(project)
    now = datetime.now(UTC)
    for number in range(3):
        await store.create_job(examples.job(number, org="Acme", phases=Phases(queued_at=now)))
    await store.create_job(examples.job(9, org="Acmeother", phases=Phases(queued_at=now)))
    larger = write(tmp_path / "larger.yaml", default_profile="large")
    for login in ("Acme", "acme"):
        result = runyard("replay", larger, "--org", login, "--project", project)
        assert result.exit_code == 1
        assert "3 of 3 decisions change" in result.stdout


# Exit codes: 0 all is well; 1 it is not (errors, differences); 2 nothing could be found out or done


def test_exit_codes_of_what_needs_only_files(draft: Path, tmp_path: Path) -> None:
    broken, missing = write(tmp_path / "broken.yaml", default_profile="smal"), tmp_path / "missing.yaml"
    empty = tmp_path / "empty"
    empty.mkdir()
    compare = ("--against", draft, "--payloads", PAYLOADS)
    codes = {
        ("validate", draft): 0,
        ("validate", broken): 1,
        ("validate", missing): 2,
        ("explain", draft, "--labels", "ci"): 0,
        ("explain", draft, "--labels", "nobody's"): 0,
        ("explain", broken, "--labels", "ci"): 1,
        ("explain", missing): 2,
        ("explain",): 2,
        ("explain", draft, "--payload", PAYLOADS / "ping.app.octokit.json"): 2,
        ("replay", draft, *compare): 0,
        ("replay", broken, *compare): 1,
        ("replay", missing, *compare): 2,
        ("replay", draft): 2,
        ("replay", draft, "--against", draft, "--payloads", empty): 2,
        ("schema",): 0,
    }
    assert {arguments: runyard(*arguments).exit_code for arguments in codes} == codes


def test_exit_codes_of_what_needs_firestore(draft: Path, tmp_path: Path, place: tuple[str, ...]) -> None:
    broken, other = (
        write(tmp_path / f"{name}.yaml", default_profile=profile) for name, profile in (("b", "smal"), ("o", "large"))
    )
    steps = [
        (("pull", *place), 2),
        (("history", *place), 2),
        (("rollback", 1, *place), 2),
        (("explain", "--labels", "ci", *place), 2),
        (("replay", draft, *place), 2),
        (("diff", draft, *place), 1),
        (("push", broken, *place), 1),
        (("push", tmp_path / "missing.yaml", *place), 2),
        (("push", draft, *place), 0),
        (("pull", *place), 0),
        (("history", *place), 0),
        (("diff", draft, *place), 0),
        (("diff", other, *place), 1),
        (("diff", tmp_path / "missing.yaml", *place), 2),
        (("rollback", 1, *place), 0),
        (("rollback", 99, *place), 2),
        (("explain", "--labels", "ci", *place), 0),
        (("replay", draft, *place), 2),
    ]
    assert [(arguments, runyard(*arguments).exit_code) for arguments, _ in steps] == steps


def test_a_revision_that_this_version_cannot_read_is_not_brought_back(
    draft: Path, place: tuple[str, ...], project: str
) -> None:
    runyard("push", draft, *place)
    revision = firestore.Client(project=project).document("installations/acme/policyRevisions/1")
    revision.update({"policy.version": 99})
    result = runyard("rollback", 1, *place)
    assert result.exit_code == 2
    assert "revision 1 is not valid for this version of Runyard" in result.stderr


def test_when_firestore_is_away_a_command_says_so_before_anybody_gives_up_waiting(
    draft: Path, place: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", "127.0.0.1:9")
    started = time.monotonic()
    result = runyard("push", draft, *place)
    assert result.exit_code == 2
    assert "Firestore does not answer" in result.stderr
    assert time.monotonic() - started < 30


def test_without_a_project_the_way_out_is_told(draft: Path) -> None:
    result = CliRunner().invoke(app, ["policy", "push", str(draft), "--org", "acme"], env={"GOOGLE_CLOUD_PROJECT": ""})
    assert result.exit_code == 2
