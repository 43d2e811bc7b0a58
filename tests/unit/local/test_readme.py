"""What the README shows is what is true."""

import json
import re
from pathlib import Path

import pytest
import yaml

from functions.documents.in_force import Standing
from functions.routing.classify import CompiledPolicy
from functions.routing.job import JobFacts
from functions.routing.policy import (
    Egress,
    EgressRule,
    OverflowSettings,
    Policy,
    Profile,
    Route,
    ScaleSet,
    parse_policy,
)
from local.reference import documents

ROOT = Path(__file__).parent.parent.parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_what_is_taken_from_the_code_is_in_step_with_it(path: Path) -> None:
    """`python -m local.reference` writes it."""
    assert path.read_text() == documents()[path]


def test_every_key_of_the_policy_is_explained() -> None:
    for model in (Policy, Profile, Egress, EgressRule, ScaleSet, Route, OverflowSettings):
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"


def test_the_preflight_workflow_asks_as_the_action_wants_and_gets_what_the_policy_gives() -> None:
    workflow = yaml.safe_load(re.search(r"<!-- preflight workflow -->\n```yaml\n(.*?)```", README, re.DOTALL)[1])  # type: ignore[index]
    action = yaml.safe_load((ROOT / ".github" / "actions" / "route" / "action.yml").read_text())
    (step,) = workflow["jobs"]["route"]["steps"]
    required = {name for name, given in action["inputs"].items() if given.get("required")}
    assert required <= step["with"].keys() <= action["inputs"].keys()
    assert workflow["jobs"]["route"]["outputs"].keys() <= action["outputs"].keys()
    assert workflow["jobs"]["route"]["permissions"] == {"id-token": "write"}
    policy = CompiledPolicy(parse_policy(yaml.safe_load((ROOT / "policies" / "standard.yaml").read_text())))
    labels, names = (json.loads(step["with"][key]) for key in ("labels", "jobs"))
    matches = [policy.classify(JobFacts("acme/app", name, tuple(labels))) for name in names]
    assert [match and match.profile_name for match in matches] == ["standard", "standard", "high-cpu"]
    for job in ("test", "compile"):
        assert workflow["jobs"][job]["runs-on"] == "${{ fromJSON(needs.route.outputs.runs-on) }}"


def test_the_words_that_metrics_count_are_told() -> None:
    for standing in Standing:
        assert f"`{standing}`" in README


def test_every_file_and_target_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile, target
    for path in re.findall(
        r"`((?:functions|controller|policies|simulator|local|benchmarks|terraform|docs|tests)/[\w/.]*)`", README
    ):
        assert (ROOT / path).exists(), path


def test_the_examples_of_answers_are_json() -> None:
    examples = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
    assert examples
    for example in examples:
        json.loads(example)
