"""The folder functions/ is what is deployed: it stands on its own, whatever the folder around it is called."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import httpx

from local.processes import Process, accepts_connections, free_port

ROOT = Path(__file__).parent.parent.parent
FUNCTIONS = ROOT / "functions"
DEPLOYED_TOP_LEVEL = {"functions", "controller", "simulator", "local", "policies", "tests"}


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


def test_the_archive_boots_elsewhere_and_answers(tmp_path: Path) -> None:
    folder = tmp_path / "some-other-name"
    shutil.copytree(FUNCTIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    port = free_port()
    environment = {
        "FUNCTION_TARGET": "github_webhook",
        "FUNCTION_USE_ASGI": "true",
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "GITHUB_WEBHOOK_SECRET": "secret",
        "GITHUB_TOKEN": "token",
        "GOOGLE_CLOUD_PROJECT": "none",
        # Not even by accident may the checkout be found.
        "PYTHONPATH": "",
        "PYTHONSAFEPATH": "1",
    }
    command = ["sh", "-c", f"cd {folder} && exec {Path(sys.executable).parent}/functions-framework"]
    process = Process("the archive", command, tmp_path / "log", environment)
    try:
        process.wait_until(lambda: accepts_connections(port), 30)
        assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 405
        assert httpx.post(f"http://127.0.0.1:{port}/", content=b"{}").status_code == 401
    finally:
        process.stop()


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


def test_no_requirements_file_names_an_index() -> None:
    found = subprocess.run(
        ["git", "grep", "-nIE", "--", "(--(extra-)?index-url|--find-links)", "requirements", "functions"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout == ""
