"""What the README shows is what is true."""

import json
import re
from pathlib import Path

import pytest

from functions.routing.policy import Egress, OverflowSettings, Policy, Profile, Route, ScaleSet
from local.reference import documents

ROOT = Path(__file__).parent.parent.parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_what_is_taken_from_the_code_is_in_step_with_it(path: Path) -> None:
    """`python -m local.reference` writes it."""
    assert path.read_text() == documents()[path]


def test_every_key_of_the_policy_is_explained() -> None:
    for model in (Policy, Profile, Egress, ScaleSet, Route, OverflowSettings):
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"


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
