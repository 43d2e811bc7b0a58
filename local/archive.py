"""The archive of the functions: what Terraform uploads, and what Google makes of it.

The same content gives the same bytes and the same name on every machine, so that Terraform deploys when the functions
have changed, and only then. `python -m local.archive FOLDER` writes it and prints its path.
"""

import ast
import hashlib
import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
FUNCTIONS = ROOT / "functions"
BUILD_ENVIRONMENT = {"SOURCE_DATE_EPOCH": "315532801"}
"""set in terraform/function.tf, for the reason that `build_as_google_does` gives"""
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""the earliest time that a zip can hold"""
_IMAGE_TIME_S = 315_532_801
"""1980-01-01 00:00:01 UTC, which the buildpacks' lifecycle gives every file of an image (buildpacks/lifecycle#1358)"""


def targets(kind: str) -> list[str]:
    """The functions of main.py that take requests of a kind, `http` or `cloud_event`."""
    decorator = f"functions_framework.aio.{kind}"
    return [
        node.name
        for node in ast.parse((FUNCTIONS / "main.py").read_text()).body
        if isinstance(node, ast.AsyncFunctionDef) and decorator in map(ast.unparse, node.decorator_list)
    ]


def build_archive(folder: Path, functions: Path = FUNCTIONS) -> Path:
    """Writes `functions-HASH.zip` into a folder, in place of any earlier one; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    unnamed = folder / "functions.zip"
    # Stored, not deflated: compressed bytes differ from one zlib to the next.
    with zipfile.ZipFile(unnamed, "w", zipfile.ZIP_STORED) as archive:
        # No compiled files: they belong to one version of Python, and the build would overwrite them.
        for path in sorted([*functions.rglob("*.py"), functions / "requirements.txt"]):
            entry = zipfile.ZipInfo(path.relative_to(functions).as_posix(), _EPOCH)
            entry.create_system = 3
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, path.read_bytes())
    name = f"functions-{hashlib.sha256(unnamed.read_bytes()).hexdigest()[:16]}.zip"
    for earlier in folder.glob("functions-*.zip"):
        earlier.unlink()
    return unnamed.rename(folder / name)


def build_as_google_does(archive: Path, folder: Path, environment: Mapping[str, str] = BUILD_ENVIRONMENT) -> Path:
    """Unpacks an archive and turns it into what an image of it holds; the path of its main.py.

    Source: GoogleCloudPlatform/buildpacks@21f28de, cmd/python/functions_framework/lib/lib.go, compiles with exactly
    this command, and the lifecycle then resets the time of every file. A compiled file remembers its source's time and
    would be worthless; with SOURCE_DATE_EPOCH set it remembers its source's hash instead (docs of `compileall`).
    """
    with zipfile.ZipFile(archive) as content:
        content.extractall(folder)
    command = [sys.executable, "-m", "compileall", "-f", "-q", "."]
    subprocess.run(command, cwd=folder, env={"PATH": os.environ["PATH"], **environment}, check=True)
    for path in folder.rglob("*"):
        os.utime(path, (_IMAGE_TIME_S, _IMAGE_TIME_S))
    return folder / "main.py"


def make_environment(folder: Path, requirements: Path = FUNCTIONS / "requirements.txt") -> Path:
    """An empty virtual environment with the archive's requirements and nothing else; its folder of programs."""
    venv.create(folder, with_pip=True)
    programs = folder / "bin"
    pip = [str(programs / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--require-hashes", "-r", str(requirements)], check=True, stderr=subprocess.PIPE)
    return programs


if __name__ == "__main__":
    print(build_archive(Path(sys.argv[1])))
