"""What in a valid policy is probably not meant."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from functions.routing.advice import advise
from functions.routing.capacity import Size
from functions.routing.policy import parse_policy
from tests.fakes.examples import GIB, policy_document

POLICIES = Path(__file__).parent.parent.parent.parent / "policies"
SMALL = {"cpus": 1, "memory": "2g"}


def warnings(hosts: tuple[Size, ...] = (), **changes: Any) -> dict[str, str]:
    """Warnings by place."""
    document = policy_document(profile_order=["large", "small"])
    return {problem.where: problem.message for problem in advise(document | changes, hosts)[1]}


def test_a_plain_policy_has_no_warnings() -> None:
    assert warnings() == {}


def routes(*given: dict[str, Any]) -> dict[str, Any]:
    return {"routes": [{"overflow": "hold"} | route for route in given]}


@pytest.mark.parametrize(
    ("changes", "place", "correction"),
    [
        (routes({"label_match": "*"}), "routes[0].label_match", "write the labels that are yours"),
        (
            {"profiles": {"small": SMALL | {"match_patterns": "*"}}, "profile_order": []},
            "profiles.small.match_patterns",
            "write default_profile: small",
        ),
        (routes({"label_match": "ci"}, {"label_match": "CI"}), "routes[1]", "routes[0] matches all of its jobs"),
        (routes({"label_match": "c*"}, {"label_match": "ci-*"}), "routes[1]", "routes[0] matches all"),
        (
            routes(
                {"label_match": "ci", "repository": "acme/*"},
                {"label_match": "ci", "repository": ["acme/a", "acme/b"]},
            ),
            "routes[1]",
            "put the narrower one first",
        ),
        (
            routes({"label_match": "ci"}, {"label_match": ["ci", "gpu"], "trust": "fork", "event": "push"}),
            "routes[1]",
            "routes[0] matches all",
        ),
        (
            {"profiles": {"small": SMALL, "spare": SMALL}, "profile_order": ["small", "spare"]},
            "profiles.spare",
            "give it match_patterns",
        ),
        (
            {
                "profiles": {
                    "a": SMALL | {"match_patterns": "build*"},
                    "b": SMALL | {"match_patterns": ["build-x", "build-y*"]},
                    "small": SMALL,
                },
                "profile_order": ["a", "b"],
            },
            "profiles.b.match_patterns",
            "profiles before it match all",
        ),
        (
            {"profiles": {"b": SMALL | {"match_patterns": "x*"}, "small": SMALL | {"match_patterns": "xy"}}}
            | {"profile_order": []},
            "profile_order",
            "b and small can both match a job",
        ),
        (routes({"label_match": "ci", "overflow": "github_hosted"}), "routes[0].overflow", "overflow.mechanism"),
        ({"overflow": {"mechanism": "preflight"}}, "overflow", "write overflow: github_hosted in a route"),
        (
            routes({"label_match": "ci", "overflow": "github_hosted"}) | {"overflow": {"mechanism": "runner_group"}},
            "scale_sets.ci.runner_group",
            "name the group that holds both kinds",
        ),
        (
            {"profiles": {"small": SMALL | {"egress": {"mode": "enforce"}}}, "profile_order": []},
            "profiles.small.egress.allow",
            "its jobs reach GitHub and nobody else",
        ),
        (
            {"profiles": {"small": SMALL | {"egress": {"mode": "enforce", "allow": ["*:443"]}}}, "profile_order": []},
            "profiles.small.egress.allow",
            "write mode: audit",
        ),
        (
            {"profiles": {"small": SMALL | {"egress": {"rules": [{"deny": "evil.example"}]}}}, "profile_order": []},
            "profiles.small.egress.rules",
            "write mode: enforce to refuse",
        ),
        (
            {
                "profiles": {
                    "small": SMALL
                    | {
                        "egress": {
                            "mode": "enforce",
                            "rules": [{"allow": ["*.example.com", "b:1"]}, {"deny": ["raw.example.com:443", "b:1"]}],
                        }
                    }
                },
                "profile_order": [],
            },
            "profiles.small.egress.rules[1]",
            "is never reached",
        ),
        (
            {
                "profiles": {"small": SMALL, "root": SMALL | {"privileges": "sudo", "match_patterns": "r*"}},
                "profile_order": ["root"],
            },
            "routes[0]",
            "give them labels of their own",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_probably_not_meant_is_told_with_place_and_correction(
    changes: dict[str, Any], place: str, correction: str
) -> None:
    found = warnings(**changes)
    assert correction in found.get(place, ""), found


@pytest.mark.parametrize(
    "given",
    [
        [{"label_match": "ci", "repository": "acme/a"}, {"label_match": "ci"}],
        [{"label_match": "ci", "trust": "fork"}, {"label_match": "ci"}],
        [{"label_match": ["ci", "gpu"]}, {"label_match": "ci"}],
        [{"label_match": "ci-*"}, {"label_match": "ci"}],
        [{"label_match": "*-ci"}, {"label_match": "a-*"}],
        [{"label_match": "ci", "branch": "main"}, {"label_match": "ci", "branch": ["main", "dev"]}],
    ],
    ids=str,
)
def test_a_route_that_can_be_reached_is_not_warned_of(given: list[dict[str, Any]]) -> None:
    assert "routes[1]" not in warnings(**routes(*given))


def test_profiles_that_no_host_can_hold_are_told_where_the_hosts_are_known() -> None:
    found = warnings((Size(2000, 32 * GIB), Size(1000, 4 * GIB)))
    assert found == {"profiles.large": "no host can hold 4 CPUs and 8g: the largest has 2 CPUs and 32g"}
    assert warnings((Size(4000, 8 * GIB),)) == {}


@pytest.mark.parametrize("path", sorted(POLICIES.glob("*.yaml")), ids=lambda path: path.name)
def test_the_examples_are_valid(path: Path) -> None:
    document = yaml.safe_load(path.read_text())
    if isinstance(document.get("profiles"), dict):
        document.setdefault("profile_order", list(document["profiles"]))
    found = advise(document)[1]
    # The two formats of other systems say less than we want to know.
    assert not found or path.name in {"routes-only.yaml", "one-scale-set.yaml"}, [str(problem) for problem in found]
    parse_policy(document)
