"""What a policy may say, and what is told about one that cannot be used."""

import copy
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.routing.policy import (
    Overflow,
    Policy,
    PolicyError,
    Privileges,
    Problem,
    RunnerLevel,
    Strategy,
    parse_policy,
)
from tests.fakes.examples import GIB, policy, policy_document

TESTS = Path(__file__).parents[2]
BROKEN = TESTS / "policies" / "broken"
PUBLISHED = sorted((TESTS.parent / "policies").glob("*.yaml"))

# file, place, and what the message must offer; a file's problems stand in the order in which they are told
BROKEN_POLICIES = [
    ("all-names-dangle", "default_profile", "did you mean small?"),
    ("all-names-dangle", "routes[0].scale_set", "known are ci"),
    ("all-names-dangle", "routes[1].profile", "known are small"),
    ("cpus-as-a-word", "profiles.small.cpus", "write a number of CPUs, such as 2 or 0.5"),
    ("cpus-beyond-every-machine", "profiles.small.cpus", "more than any machine has"),
    ("cpus-beyond-every-number", "profiles.small.cpus", "write a number of CPUs"),
    ("cpus-finer-than-a-thousandth", "profiles.small.cpus", "at most three decimal places"),
    ("cpus-missing", "profiles.small.cpus", "is missing"),
    ("cpus-superscript", "profiles.small.cpus", "write a number of CPUs"),
    ("cpus-zero", "profiles.small.cpus", "must be more than 0"),
    ("default-profile-missing", "default_profile", "is missing"),
    ("default-profile-misspelt", "default_profile", "there is no 'smal': did you mean small?"),
    ("default-profile-unknown", "default_profile", "known are large, small"),
    ("egress-bandwidth-as-a-word", "profiles.small.egress.bandwidth", "write bytes a second, such as 20m"),
    ("egress-bandwidth-without-a-unit", "profiles.small.egress.bandwidth", "at least 64k"),
    ("egress-connections-zero", "profiles.small.egress.connections", "greater than or equal to 1"),
    ("egress-mode-block", "profiles.small.egress.mode", "write 'audit', 'enforce' or 'learn'"),
    ("egress-port-beyond-65535", "profiles.small.egress.allow[0]", "write a host or host:port"),
    ("egress-rule-allows-and-denies", "profiles.small.egress.rules[0]", "either allow or deny"),
    ("egress-rule-lists-nothing", "profiles.small.egress.rules[0]", "either allow or deny"),
    ("egress-rule-name-with-a-space", "profiles.small.egress.rules[0].name", "match pattern"),
    ("egress-target-is-a-url", "profiles.small.egress.rules[0].deny[0]", "write a host or host:port"),
    ("empty", "", "a map with profiles, scale_sets and routes, not nothing"),
    ("env-as-a-list", "profiles.small.env", "write a map"),
    ("env-with-a-number", "profiles.small.env.PORT", "a valid string, not 8080"),
    ("everything-wrong-at-once", "profiles.small.memory", "write 2g"),
    ("everything-wrong-at-once", "scale_sets.ci.max_runners", "greater than or equal to 1, not 0"),
    ("everything-wrong-at-once", "routes[0].overflow", "write 'github_hosted', 'hold' or 'reject'"),
    ("everything-wrong-at-once", "routes[1].label_match", "is missing"),
    ("everything-wrong-at-once", "routes[1].lable_match", "did you mean label_match?"),
    ("idle-timeout-too-short", "scale_sets.ci.idle_timeout", "greater than or equal to 5, not 1"),
    ("image-empty", "scale_sets.ci.image", "at least 1 character"),
    ("image-missing", "scale_sets.ci.image", "is missing"),
    ("key-of-the-documents-in-profile", "profiles.small.cpu_millis", "known here are cpus, memory, pids"),
    ("label-match-empty", "routes[2].label_match", "must not be empty"),
    ("label-match-missing", "routes[2].label_match", "is missing"),
    ("labels-as-text", "scale_sets.ci.labels", "is 'linux': write a list"),
    ("level-org", "scale_sets.ci.level", "write 'organization' or 'repository'"),
    ("match-patterns-with-a-number", "profiles.small.match_patterns[1]", "a valid string, not 5"),
    ("max-queue-depth-negative", "routes[2].max_queue_depth", "greater than or equal to 0, not -1"),
    ("max-runners-as-a-word", "scale_sets.ci.max_runners", "a valid integer"),
    ("max-runners-zero", "scale_sets.ci.max_runners", "greater than or equal to 1, not 0"),
    ("memory-2-gib", "profiles.small.memory", "write 2g"),
    ("memory-2gb", "profiles.small.memory", "memory '2gb': write 2g"),
    ("memory-as-a-word", "profiles.small.memory", "write a size such as 512m or 8g"),
    ("memory-beyond-every-machine", "profiles.small.memory", "more than any machine has"),
    ("memory-zero", "profiles.small.memory", "must be more than 0"),
    ("min-runners-beyond-max", "scale_sets.ci.min_runners", "must not be more than max_runners (10)"),
    ("min-runners-for-one-repository", "scale_sets.ci.min_runners", "write level: organization"),
    ("min-runners-without-labels", "scale_sets.ci.labels", "need labels of their own: name them"),
    ("overflow-as-a-list", "routes[2].overflow", "is a list: write 'github_hosted', 'hold' or 'reject'"),
    ("overflow-to-github-of-self-hosted-only", "routes[2].overflow", "write hold or reject"),
    ("overflow-wait", "routes[2].overflow", "is 'wait': write 'github_hosted', 'hold' or 'reject'"),
    ("pids-too-few", "profiles.small.pids", "greater than or equal to 16, not 4"),
    ("policy-is-a-list", "", "a map with profiles, scale_sets and routes, not a list"),
    ("pool-with-a-capital", "scale_sets.ci.pool", "should match pattern '^[a-z0-9]"),
    ("privileges-root", "profiles.small.privileges", "is 'root': write 'none' or 'sudo'"),
    ("profile-as-text", "profiles.small", "is 'cpus 1': write a map"),
    ("profiles-as-a-list", "profiles", "is a list: write a map"),
    ("profiles-empty", "profiles", "must not be empty"),
    ("route-as-text", "routes[2]", "is 'ci': write a map"),
    ("route-names-missing-profile", "routes[1].profile", "there is no 'lagre': did you mean large?"),
    ("route-names-missing-scale-set", "routes[2].scale_set", "there is no 'cii': did you mean ci?"),
    ("route-names-no-scale-set-of-two", "routes[1].scale_set", "name one of ci, gpu"),
    ("routes-as-a-map", "routes", "is a map: write a list"),
    ("routes-empty", "routes", "must not be empty"),
    ("scale-down-threshold-below-min", "scale_sets.ci.scale_down_threshold", "must not be less than min_runners (2)"),
    ("scale-sets-missing", "scale_sets", "is missing"),
    ("scale-up-threshold-beyond-min", "scale_sets.ci.scale_up_threshold", "must not be more than min_runners (2)"),
    ("sizing-no-room-misspelt", "scale_sets.ci.sizing.no_room", "is 'queue': write 'wait', 'oversubscribe' or 'fail'"),
    ("sizing-unknown-key", "scale_sets.ci.sizing.on_eror", "did you mean on_error?"),
    ("sizing-waits-for-a-day", "scale_sets.ci.sizing.wait", "less than or equal to 21600"),
    ("strategy-self-hosted", "routes[0].strategy", "write 'self_hosted_first', 'self_hosted_only' or 'github_hosted'"),
    ("the-only-route-is-faulty", "routes[0].overflow", "is 'wait': write"),
    ("unknown-key", "owner", "known here are version, profiles,"),
    ("unknown-key-in-egress-rule", "profiles.small.egress.rules[0].block", "known here are name, allow, deny"),
    ("unknown-key-in-profile", "profiles.small.match_pattern", "did you mean match_patterns?"),
    ("unknown-key-in-route", "routes[2].overflows", "did you mean overflow?"),
    ("unknown-key-in-scale-set", "scale_sets.ci.max_runner", "did you mean max_runners?"),
    ("version-2", "version", "less than or equal to 1, not 2"),
    ("warm-profile-unknown", "scale_sets.ci.warm_profile", "did you mean small?"),
]


def problems_of(document: object) -> tuple[Problem, ...]:
    with pytest.raises(PolicyError) as caught:
        parse_policy(document)
    return caught.value.problems


def problems_in(name: str) -> tuple[Problem, ...]:
    return problems_of(yaml.safe_load((BROKEN / f"{name}.yaml").read_text()))


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.name)
def test_the_policies_that_are_shown_to_others_can_be_used(path: Path) -> None:
    parse_policy(yaml.safe_load(path.read_text()))


def test_the_demo_has_a_policy() -> None:
    assert "demo.yaml" in {path.name for path in PUBLISHED}


def test_every_broken_policy_is_named_in_the_table() -> None:
    assert {path.stem for path in BROKEN.iterdir()} == {name for name, _, _ in BROKEN_POLICIES}


@pytest.mark.parametrize("name", dict.fromkeys(name for name, _, _ in BROKEN_POLICIES))
def test_a_broken_policy_is_refused_with_the_places_of_all_its_problems_and_no_other(name: str) -> None:
    assert [problem.where for problem in problems_in(name)] == [
        where for broken, where, _ in BROKEN_POLICIES if broken == name
    ]


@pytest.mark.parametrize(("name", "where", "correction"), BROKEN_POLICIES)
def test_each_problem_of_a_broken_policy_comes_with_a_correction(name: str, where: str, correction: str) -> None:
    assert correction in next(problem.message for problem in problems_in(name) if problem.where == where)


def test_a_problem_is_told_with_its_place_and_in_our_own_words() -> None:
    assert list(map(str, problems_in("memory-2gb"))) == ["profiles.small.memory: memory '2gb': write 2g"]


def test_an_error_tells_all_problems_with_their_places() -> None:
    error = PolicyError((Problem("routes[0].overflow", "is missing"), Problem("", "is no map")))
    assert str(error) == "routes[0].overflow: is missing; is no map"


def test_what_a_policy_leaves_out_has_a_safe_value() -> None:
    parsed = policy(routes=[{"label_match": "ci"}])
    profile, scale_set, route = parsed.profiles["small"], parsed.scale_sets["ci"], parsed.routes[0]
    assert (profile.privileges, profile.pids, profile.env, profile.image) == (Privileges.NONE, 4096, {}, None)
    assert (scale_set.level, scale_set.pool, scale_set.runner_group) == (RunnerLevel.ORGANIZATION, "default", "default")
    assert (route.strategy, route.overflow) == (Strategy.SELF_HOSTED_FIRST, Overflow.HOLD)


def test_sizes_are_read_in_the_units_that_people_write() -> None:
    small = policy(profiles={"small": {"cpus": "500m", "memory": "1.5g"}}).profiles["small"]
    assert (small.cpu_millis, small.memory_bytes) == (500, 3 * GIB // 2)


@pytest.mark.parametrize("field", ["label_match", "repository", "workflow", "branch"])
def test_one_glob_may_stand_without_its_list(field: str) -> None:
    route = policy(routes=[{"label_match": "ci", field: "main*"}]).routes[0]
    assert getattr(route, field) == ("main*",)


def test_a_route_without_a_scale_set_is_served_by_the_only_one() -> None:
    parsed = policy()
    assert parsed.scale_set_of(parsed.routes[0]) == "ci"


def test_a_route_is_served_by_the_scale_set_that_it_names() -> None:
    two = {name: {"max_runners": 1, "image": "runner:1"} for name in ("ci", "gpu")}
    parsed = policy(scale_sets=two, routes=[{"label_match": "gpu", "scale_set": "gpu"}])
    assert parsed.scale_set_of(parsed.routes[0]) == "gpu"


def test_a_long_value_is_cut_in_the_message() -> None:
    [problem] = problems_of(policy_document(routes=[{"label_match": "ci", "overflow": "x" * 10_000}]))
    assert len(problem.message) < 200


FIRESTORE_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.datetimes(timezones=st.just(UTC)),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=10), values, max_size=4),
    max_leaves=12,
)


def places_in(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything inside a document."""
    inner = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in inner:
        yield (*path, key)
        yield from places_in(value, (*path, key))


def with_value(document: Any, path: tuple[Any, ...], value: object) -> Any:
    """A copy of a document with one thing in it replaced."""
    changed = copy.deepcopy(document)
    part = changed
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return changed


WHOLE_DOCUMENT = policy_document(
    profiles={
        "small": {
            "cpus": 1,
            "memory": "2g",
            "pids": 64,
            "image": "runner:2",
            "env": {"CI": "true"},
            "privileges": "sudo",
            "match_patterns": ["a*"],
        }
    },
    scale_sets={
        "ci": {
            "max_runners": 1,
            "image": "runner:1",
            "runner_group": "default",
            "level": "repository",
            "labels": ["ci"],
            "pool": "default",
        }
    },
    routes=[
        {
            "label_match": ["ci"],
            "repository": ["acme/*"],
            "workflow": ["*"],
            "branch": ["main"],
            "scale_set": "ci",
            "profile": "small",
            "strategy": "self_hosted_first",
            "overflow": "reject",
            "max_queue_depth": 5,
        }
    ],
)


def is_refused_in_words(document: object) -> bool:
    try:
        parsed = parse_policy(document)
    except PolicyError as error:
        return bool(error.problems) and all(problem.message for problem in error.problems)
    return isinstance(parsed, Policy)


@settings(max_examples=100, deadline=None)
@given(FIRESTORE_VALUES)
def test_whatever_stands_in_place_of_a_policy_is_refused_in_words(document: object) -> None:
    assert is_refused_in_words(document)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(list(places_in(WHOLE_DOCUMENT))), FIRESTORE_VALUES)
def test_whatever_stands_in_one_place_of_a_policy_it_is_used_or_refused_in_words(
    path: tuple[Any, ...], value: object
) -> None:
    assert is_refused_in_words(with_value(WHOLE_DOCUMENT, path, value))


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from([(), ("profiles", "small"), ("scale_sets", "ci"), ("routes", 0)]),
    st.text(min_size=1, max_size=20).map("x-{}".format),
    FIRESTORE_VALUES,
)
def test_a_key_that_nobody_knows_is_an_error_wherever_it_stands(
    section: tuple[Any, ...], key: str, value: object
) -> None:
    [problem] = problems_of(with_value(WHOLE_DOCUMENT, (*section, key), value))
    assert "unknown key" in problem.message
