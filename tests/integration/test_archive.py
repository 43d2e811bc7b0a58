"""The archive is all that is deployed: it stands on its own, and starts as fast as it can."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from local.archive import BUILD_ENVIRONMENT, build_archive, build_as_google_does, make_environment, targets
from local.processes import Process, accepts_connections, free_port
from local.stack import Stack, StackOptions
from tests.integration.conftest import Org, WebhookClient

ROOT = Path(__file__).parent.parent.parent
FUNCTIONS = ROOT / "functions"
PAYLOAD = ROOT / "tests" / "payloads" / "workflow_job.queued.real-attempt10.grafana.json"
DEPLOYED_TOP_LEVEL = {"functions", "controller", "simulator", "local", "policies", "tests"}
OURS = "built"
"""the folder that stands for the cloud's: not called `functions`"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_archive(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def main(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_as_google_does(archive, tmp_path_factory.mktemp("image") / OURS)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment with the archive's requirements and nothing else."""
    return make_environment(tmp_path_factory.mktemp("environment") / "venv")


@pytest.fixture(scope="module")
def github(emulator_host: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The simulated GitHub and Firestore; the function comes from the archive."""
    folder = tmp_path_factory.mktemp("stack")
    stack = Stack(StackOptions(folder, f"test-{uuid.uuid4().hex[:12]}", emulator_host, ""))
    process = stack.start_github()
    yield stack
    process.stop()


def start(target: str, port: int, stack: Stack, main: Path, programs: Path) -> Process:
    environment = stack.function_environment(target, port, main) | {"PYTHONPATH": "", "PYTHONSAFEPATH": "1"}
    process = Process(
        target, [str(programs / "functions-framework")], main.parent.parent / f"{target}.log", environment
    )
    process.wait_until(lambda: accepts_connections(port), 30)
    return process


def test_the_archive_serves_a_signed_webhook_with_its_own_requirements_alone(
    github: Stack, main: Path, programs: Path
) -> None:
    process = start("github_webhook", github.function_port, github, main, programs)
    client = WebhookClient(github)
    try:
        org = Org(client, json.loads(PAYLOAD.read_text()))
        org.add_host()
        org.publish()
        assert org.queue(1)["outcome"] == "self_hosted"
        assert client.runner(client.job(org.key(1)).reservation.runner_name).sealed_config is not None  # type: ignore[union-attr]
        assert client.post(b"{}", {}).status_code == 401
    finally:
        client.close()
        process.stop()


def test_the_metrics_of_the_cloud_count_fields_that_the_function_writes(
    github: Stack, main: Path, programs: Path
) -> None:
    """terraform/monitoring.tf names fields of the log's lines, and nothing else would notice a new name."""
    process = start("github_webhook", github.function_port, github, main, programs)
    client = WebhookClient(github)
    try:
        org = Org(client, json.loads(PAYLOAD.read_text()))
        org.add_host()
        org.publish()
        org.queue(1)
        org.publish({"version": "broken"})
        assert org.queue(2)["warnings"]
    finally:
        client.close()
        process.stop()
    lines = [json.loads(line) for line in process.log_file.read_text().splitlines() if line.startswith("{")]
    written = {field for line in lines if line["message"] == "webhook" for field in line}
    filters = (ROOT / "terraform" / "monitoring.tf").read_text()
    assert set(re.findall(r"jsonPayload\.(\w+)", filters)) <= written


@pytest.mark.parametrize("target", targets("http"))
def test_each_function_of_the_archive_starts_and_says_what_it_takes(
    target: str, github: Stack, main: Path, programs: Path
) -> None:
    port = free_port()
    process = start(target, port, github, main, programs)
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        assert httpx.post(f"http://127.0.0.1:{port}/", content=b"{}").status_code == 401
    finally:
        process.stop()


@pytest.mark.parametrize("target", targets("cloud_event"))
def test_each_function_of_the_archive_that_events_start_takes_one(
    target: str, github: Stack, main: Path, programs: Path
) -> None:
    """As Firestore's triggers send it: the body is protobuf, and what it is about stands in the headers."""
    port = free_port()
    process = start(target, port, github, main, programs)
    headers = {
        "ce-id": "1",
        "ce-specversion": "1.0",
        "ce-type": "google.cloud.firestore.document.v1.created",
        "ce-source": "//firestore.googleapis.com/projects/none/databases/(default)",
        "ce-subject": f"documents/{target}/nobody-has-asked-for-this",
        "content-type": "application/protobuf",
    }
    try:
        answer = httpx.post(f"http://127.0.0.1:{port}/", content=b"\n\x85\x01\n\xff\xfe", headers=headers, timeout=30)
        assert answer.status_code == 200, process.tail()
    finally:
        process.stop()


def test_there_are_functions_to_be_deployed() -> None:
    assert {"github_webhook", "route"} <= set(targets("http"))
    assert "commands" in targets("cloud_event")


# The file


def test_the_archive_holds_the_functions_sources_and_their_requirements(archive: Path) -> None:
    names = zipfile.ZipFile(archive).namelist()
    assert {"main.py", "requirements.txt", "webhook/handle.py"} <= set(names)
    assert {Path(name).suffix for name in names} == {".py", ".txt"}
    tracked = subprocess.run(["git", "ls-files"], cwd=FUNCTIONS, capture_output=True, text=True, check=True).stdout
    assert set(names) == set(tracked.split())


@pytest.mark.parametrize(
    "surroundings",
    [{"TZ": "Pacific/Kiritimati"}, {"PYTHONHASHSEED": "7"}, {"SOURCE_DATE_EPOCH": "1700000000"}],
    ids=lambda change: next(iter(change)),
)
def test_the_same_functions_make_the_same_archive_everywhere(
    archive: Path, surroundings: dict[str, str], tmp_path: Path
) -> None:
    made = subprocess.run(
        ["sh", "-c", f"umask 077 && exec {sys.executable} -m local.archive {tmp_path}"],
        cwd=ROOT,
        env={**os.environ, **surroundings},
        capture_output=True,
        text=True,
        check=True,
    )
    again = Path(made.stdout.strip())
    assert again.name == archive.name
    assert again.read_bytes() == archive.read_bytes()


def test_a_changed_function_has_another_name_and_the_earlier_archive_is_gone(tmp_path: Path) -> None:
    source = tmp_path / "functions"
    source.mkdir()
    (source / "requirements.txt").touch()
    (source / "main.py").write_text("a = 1\n")
    first = build_archive(tmp_path / "dist", source)
    (source / "main.py").write_text("a = 2\n")
    second = build_archive(tmp_path / "dist", source)
    assert re.fullmatch(r"functions-[0-9a-f]{16}\.zip", second.name)
    assert first.name != second.name
    assert [path.name for path in (tmp_path / "dist").iterdir()] == [second.name]


# The start


def imported(programs: Path, folder: Path, modules: str, *options: str) -> tuple[set[str], str]:
    """All modules after an import, and what was written to standard error."""
    code = f"import {modules}, sys; print(*sys.modules)"
    environment = {
        "PYTHONPATH": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "GITHUB_WEBHOOK_SECRET": "secret",
        "GITHUB_TOKEN": "token",
        "GOOGLE_CLOUD_PROJECT": "none",
    }
    command = [str(programs / "python"), *options, "-c", code]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return set(ran.stdout.split()), ran.stderr


def test_the_start_imports_only_what_a_webhook_needs(main: Path, programs: Path) -> None:
    """Each import is paid for by whoever waits for a cold instance."""
    folder = main.parent.parent
    loaded, _ = imported(programs, folder, f"{OURS}.main")
    parts = ("settings", "log", "timing", "webhook.handle", "webhook.event", "webhook.provision", "webhook.signature")
    doors = ("admission.group", "documents.firestore", "github.client")
    needed, _ = imported(programs, folder, ", ".join(f"{OURS}.{part}" for part in (*parts, *doors)))
    ours = {module for module in loaded if module.partition(".")[0] == OURS}
    assert ours - needed == {f"{OURS}.main"}

    libraries, _ = imported(programs, folder, "google.cloud.firestore, httpx, pydantic, functions_framework.aio")
    packages = {module.partition(".")[0] for module in loaded - libraries} - sys.stdlib_module_names
    # Pydantic loads most of itself, annotated_types among it, when the first model is defined.
    packages -= {"pydantic", "annotated_types"}
    assert {package for package in packages if not package.startswith("_")} == {OURS, "nacl"}


def test_garbage_is_collected_again_once_everything_is_imported(main: Path, programs: Path) -> None:
    _, said = imported(programs, main.parent.parent, f"{OURS}.main, gc; assert gc.isenabled(); import sys")
    assert said == ""


@pytest.mark.parametrize(
    ("environment", "is_used"),
    [(BUILD_ENVIRONMENT, True), ({}, False)],
    ids=["as Terraform tells Google to build", "as Google builds by itself"],
)
def test_the_compiled_files_count_although_an_image_forgets_the_times_of_its_files(
    archive: Path, programs: Path, tmp_path: Path, environment: dict[str, str], *, is_used: bool
) -> None:
    build_as_google_does(archive, tmp_path / OURS, environment)
    loaded, trace = imported(programs, tmp_path, f"{OURS}.main", "-v")
    ours = {module for module in loaded if module.partition(".")[0] == OURS}
    compiled = set(re.findall(rf"^import '({OURS}\b[^']*)'", trace, re.MULTILINE))
    assert compiled == ours
    stale = set(re.findall(rf"bytecode is stale for '({OURS}\b[^']*)'", trace))
    assert stale == (set() if is_used else ours)


# The source


def test_inside_the_functions_all_imports_of_our_own_are_relative() -> None:
    """In the cloud no package called functions exists: the folder is the root."""
    for path in FUNCTIONS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            assert not {name.partition(".")[0] for name in names} & DEPLOYED_TOP_LEVEL, path


def pins(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", path.read_text(), re.MULTILINE))


def test_the_requirements_are_those_of_pyproject_pinned_with_hashes() -> None:
    """scripts/compile-requirements makes them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    files = {
        FUNCTIONS / "requirements.txt": project["optional-dependencies"]["functions"],
        ROOT / "requirements" / "controller.txt": project["dependencies"],
        ROOT / "requirements" / "dev.txt": sum(project["optional-dependencies"].values(), project["dependencies"]),
    }
    everything = pins(ROOT / "requirements" / "dev.txt")
    for path, wanted in files.items():
        pinned = pins(path)
        names = {re.split(r"[\[<>=~! ]", requirement)[0].lower() for requirement in wanted}
        assert names <= set(pinned), path
        assert path.read_text().count("--hash=sha256:") > len(pinned)
        assert {name: everything[name] for name in pinned} == pinned, "what is tested is what is deployed"


def test_requirements_files_hold_pins_and_hashes_alone() -> None:
    """No option that would name where packages come from: that is each machine's own affair."""
    for path in (FUNCTIONS / "requirements.txt", *(ROOT / "requirements").glob("*.txt")):
        lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
        assert {option for line in lines for option in re.findall(r"(?:^|\s)(-[\w-]*)", line)} == {"--hash"}, path
        assert "://" not in "".join(lines), path
