"""Policies of other systems load as they are and mean what they meant."""

from typing import Any

import pytest

from functions.routing.advice import advise
from functions.routing.classify import CompiledPolicy, Match
from functions.routing.formats import to_standard_format
from functions.routing.job import JobFacts
from functions.routing.policy import Overflow, PolicyError, RunnerLevel, Strategy, parse_policy

GIB = 1 << 30
ROUTES_ONLY: dict[str, Any] = {
    "routes": [
        {
            "label_match": "ci-standard-runc-x64",
            "strategy": "self_hosted_first",
            "overflow": "github_hosted",
            "max_queue_depth": 20,
        },
        {"label_match": "agents-high-runc-x64", "strategy": "self_hosted_only", "overflow": "reject"},
    ]
}
ONE_SCALE_SET: dict[str, Any] = {
    "github": {
        "repository_url": "https://github.com/acme/widgets",
        "scale_set_name": "widgets",
        "runner_label": "widget-runner",
        "runner_group": "builders",
    },
    "runner": {"image": "runner:1", "max_runners": 7, "work_folder": "/home/runner/work"},
    "profiles": {
        "high-cpu": {"cpus": "4", "memory": "8g", "match_patterns": ["high-*"]},
        "all": {"cpus": "1", "memory": "2g", "match_patterns": ["*"]},
        "never": {"cpus": "2", "memory": "2g", "match_patterns": ["high-cpu"]},
    },
    "default_profile": "all",
    "proxy": {"listen_addr": "0.0.0.0:3128"},
}


def match(document: dict[str, Any], label: str, name: str = "build", repository: str = "acme/widgets") -> Match | None:
    return CompiledPolicy(parse_policy(document)).classify(JobFacts(repository, name, (label,)))


def test_routes_alone_keep_label_strategy_overflow_and_queue() -> None:
    first = match(ROUTES_ONLY, "ci-standard-runc-x64")
    second = match(ROUTES_ONLY, "agents-high-runc-x64")
    assert first is not None
    assert (first.route.strategy, first.route.overflow) == (Strategy.SELF_HOSTED_FIRST, Overflow.GITHUB_HOSTED)
    assert first.route.queue_depth == 20
    assert second is not None
    assert (second.route.strategy, second.route.overflow) == (Strategy.SELF_HOSTED_ONLY, Overflow.REJECT)
    assert second.route.queue_depth == 0
    assert match(ROUTES_ONLY, "ubuntu-latest") is None


def test_what_routes_alone_leave_open_is_filled_in_and_told() -> None:
    policy, warnings = advise(ROUTES_ONLY)
    assert policy.scale_sets["default"].max_runners == 10
    assert {warning.where for warning in warnings} >= {"profiles", "scale_sets"}


def test_one_scale_set_keeps_label_group_image_places_and_work_folder() -> None:
    found = match(ONE_SCALE_SET, "widget-runner")
    assert found is not None
    scale_set = found.scale_set
    assert found.scale_set_name == "widgets"
    assert (scale_set.max_runners, scale_set.image, scale_set.runner_group) == (7, "runner:1", "builders")
    assert (scale_set.labels, scale_set.work_folder) == (("widget-runner",), "/home/runner/work")
    assert match(ONE_SCALE_SET, "widgets") is None


@pytest.mark.parametrize(
    ("url", "level", "other_repository_matches"),
    [
        ("https://github.com/acme/widgets", RunnerLevel.REPOSITORY, False),
        ("https://github.com/acme/widgets.git", RunnerLevel.REPOSITORY, False),
        ("https://ghes.example.com/acme/widgets/", RunnerLevel.REPOSITORY, False),
        ("https://github.com/acme", RunnerLevel.ORGANIZATION, True),
    ],
)
def test_the_url_says_repository_or_organization(url: str, level: RunnerLevel, other_repository_matches: bool) -> None:
    document = ONE_SCALE_SET | {"github": ONE_SCALE_SET["github"] | {"repository_url": url}}
    found = match(document, "widget-runner")
    assert found is not None
    assert found.scale_set.level is level
    assert (match(document, "widget-runner", repository="acme/other") is not None) is other_repository_matches


@pytest.mark.parametrize(
    ("name", "profile", "cpu_millis"), [("high-cpu", "high-cpu", 4000), ("low", "all", 1000), ("other", "all", 1000)]
)
def test_profiles_are_matched_in_the_order_written_and_the_first_glob_wins(
    name: str, profile: str, cpu_millis: int
) -> None:
    found = match(ONE_SCALE_SET, "widget-runner", name)
    assert found is not None
    assert (found.profile_name, found.profile.cpu_millis) == (profile, cpu_millis)


def test_the_scale_sets_name_is_its_label_when_none_is_given() -> None:
    github = {key: value for key, value in ONE_SCALE_SET["github"].items() if key != "runner_label"}
    assert match(ONE_SCALE_SET | {"github": github}, "widgets") is not None


def test_the_proxys_address_is_not_ours_and_that_is_told() -> None:
    assert ("proxy", "belongs to the controller's configuration: proxy.port; it is not read here") in [
        (warning.where, warning.message) for warning in advise(ONE_SCALE_SET)[1]
    ]


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"github": "acme"}, "github"),
        ({"github": ONE_SCALE_SET["github"] | {"runner_labels": "x"}}, "github.runner_labels"),
        ({"runner": {"image": "i", "maximum": 3}}, "runner.maximum"),
        ({"colour": "blue"}, "colour"),
        ({"runner": {"image": "i", "max_runners": "many"}}, "scale_sets.widgets.max_runners"),
        ({"profiles": {"a": {"cpus": "x", "memory": "1g"}}, "default_profile": "a"}, "profiles.a.cpus"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_in_another_format_is_told_with_its_place(change: dict[str, Any], place: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_policy(ONE_SCALE_SET | change)
    assert place in {problem.where for problem in caught.value.problems}


def test_the_standard_format_is_left_alone() -> None:
    document = {"profiles": {}, "scale_sets": {}, "routes": [], "github": "a mistake"}
    assert to_standard_format(document).document is document
