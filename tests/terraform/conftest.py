"""Terraform, with a provider that only pretends."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from local.archive import build_archive
from tests.terraform.provider import read_schemas, running_provider

ROOT = Path(__file__).parent.parent.parent
_BACKEND = 'terraform {\n  backend "local" {}\n}\n'


class Configuration:
    """A copy of terraform/ of which one folder is applied."""

    def __init__(self, copy: Path, folder: str, environment: dict[str, str]):
        self.folder = copy / "terraform" / folder
        self._environment = environment
        # Whatever an example says of where its state is: here it is beside it.
        (self.folder / "backend_override.tf").write_text(_BACKEND)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        program = shutil.which("terraform") or shutil.which("tofu") or "terraform"
        return subprocess.run(
            [program, *words], cwd=self.folder, env=self._environment, capture_output=True, text=True, check=False
        )

    def validate(self) -> str:
        """What is wrong; nothing when it is valid."""
        started = self.run("init", "-no-color")
        if started.returncode:
            return started.stderr
        checked = self.run("validate", "-no-color")
        return checked.stderr if checked.returncode else ""

    def plan(self, **variables: Any) -> str:
        """What is wrong with these variables, as one line; nothing when they can be planned."""
        (self.folder / "test.auto.tfvars.json").write_text(json.dumps(variables))
        assert self.run("init", "-no-color").returncode == 0
        planned = self.run("plan", "-no-color", "-input=false", "-refresh=false")
        return " ".join(re.sub(r"[│╷╵]", " ", planned.stderr).split()) if planned.returncode else ""

    def apply(self, **variables: Any) -> "Applied":
        (self.folder / "test.auto.tfvars.json").write_text(json.dumps(variables))
        for words in (("init",), ("apply", "-auto-approve", "-input=false", "-refresh=false")):
            ran = self.run(*words, "-no-color")
            assert ran.returncode == 0, ran.stderr
        shown = self.run("show", "-json")
        return Applied(json.loads(shown.stdout)["values"])


class Applied:
    """What there would be at Google."""

    def __init__(self, values: dict[str, Any]):
        self.outputs = {name: output["value"] for name, output in values.get("outputs", {}).items()}
        self.resources = {resource["address"]: resource for resource in _resources(values["root_module"])}

    def of_type(self, kind: str) -> dict[str, dict[str, Any]]:
        """All resources of a type, by their address without the type."""
        return {
            address.removeprefix("module.runyard.").replace(f"{kind}.", ""): resource["values"]
            for address, resource in self.resources.items()
            if resource["type"] == kind
        }

    def only(self, kind: str) -> dict[str, Any]:
        """The one resource of a type."""
        [values] = self.of_type(kind).values()
        return values


def _resources(module: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from module.get("resources", [])
    for child in module.get("child_modules", []):
        yield from _resources(child)


@pytest.fixture(scope="session")
def reattach(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_provider(read_schemas(), tmp_path_factory.mktemp("provider") / "socket") as address:
        yield address


@pytest.fixture(scope="session")
def configure(reattach: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Configuration]:
    """A fresh copy of the configuration, by the folder of terraform/ that is to be applied."""

    def copy(folder: str) -> Configuration:
        place = tmp_path_factory.mktemp("configuration")
        ignored = shutil.ignore_patterns(".terraform*", "*.tfstate*", "*.tfvars*")
        shutil.copytree(ROOT / "terraform", place / "terraform", ignore=ignored)
        (place / "requirements").mkdir()
        shutil.copy(ROOT / "requirements" / "controller.txt", place / "requirements")
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("TF_", "GOOGLE_", "CLOUDSDK_"))
        }
        quiet = {"TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1", "TF_CLI_CONFIG_FILE": os.devnull}
        return Configuration(place, folder, environment | quiet | {"TF_REATTACH_PROVIDERS": reattach})

    return copy


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the operator has built."""
    folder = tmp_path_factory.mktemp("dist")
    wheel = folder / "runyard-0.1.0-py3-none-any.whl"
    wheel.touch()
    return {"archive": str(build_archive(folder)), "controller_wheel": str(wheel)}
