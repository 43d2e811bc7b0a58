"""What the README shows is what is true."""

import json
import re
from pathlib import Path

from functions.routing.policy import Policy, Profile, Route, ScaleSet
from local.diagrams import job_diagram, runner_diagram

ROOT = Path(__file__).parent.parent.parent.parent
README = (ROOT / "README.md").read_text()


def test_the_diagrams_are_made_from_the_tables_in_the_code() -> None:
    assert f"```mermaid\n{job_diagram()}\n```" in README
    assert f"```mermaid\n{runner_diagram()}\n```" in README


def test_the_policy_shown_is_the_demos() -> None:
    assert f"```yaml\n{(ROOT / 'policies' / 'demo.yaml').read_text()}```" in README


def test_every_key_of_the_policy_is_explained() -> None:
    for section in (Policy, Profile, ScaleSet, Route):
        for name, field in section.model_fields.items():
            key = field.alias or name
            assert f"`{key}" in README or key == "version", f"{section.__name__}.{key}"


def test_every_file_and_target_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile, target
    for path in re.findall(
        r"`((?:functions|controller|policies|simulator|local|terraform|docs|tests)/[\w/.]*)`", README
    ):
        assert (ROOT / path).exists(), path


def test_the_examples_of_answers_are_json() -> None:
    examples = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
    assert examples
    for example in examples:
        json.loads(example)
