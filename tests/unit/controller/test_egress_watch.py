"""Which running runners get other egress rules when the policy changes."""

from typing import Any

import pytest

from controller.egress_watch import find_changes
from controller.runners import LocalRunner
from functions.documents.workflow_job import RunnerEgress, RunnerEgressRule
from functions.routing.policy import EgressMode, Policy
from tests.fakes.examples import pending_runner, policy


def policy_with(egress: dict[str, Any]) -> Policy:
    return policy(profiles={"small": {"cpus": 1, "memory": "2g", "egress": egress}})


RUNNER = LocalRunner.of_claim(pending_runner("ry-1"))
ENFORCED = RunnerEgress(
    mode=EgressMode.ENFORCE,
    rules=(RunnerEgressRule(name="egress.allow", is_allowed=True, targets=("example.com:443",)),),
)
EDITED = policy_with({"mode": "enforce", "allow": ["example.com:443"]})


def test_a_runner_gets_the_rules_that_its_profile_has_now() -> None:
    assert find_changes([RUNNER], {"acme": EDITED}) == {"ry-1": ENFORCED}


@pytest.mark.parametrize(
    "policies",
    [
        pytest.param({}, id="its organization's policy cannot be read"),
        pytest.param({"other": EDITED}, id="another organization's policy"),
        pytest.param(
            {"acme": policy(profiles={"large": {"cpus": 1, "memory": "2g"}}, default_profile="large")}, id="gone"
        ),
        pytest.param({"acme": policy_with({})}, id="nothing has changed"),
    ],
)
def test_a_runner_keeps_its_rules(policies: dict[str, Policy]) -> None:
    assert find_changes([RUNNER], policies) == {}
