"""Which route and which profile a job gets."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.routing.classify import CompiledPolicy, Match, why_not
from functions.routing.job import JobFacts, Trust
from functions.routing.policy import parse_policy
from tests.fakes.examples import policy_document

SCALE_SET = {"max_runners": 10, "image": "runner:1"}


def facts(labels: tuple[str, ...] = ("ci",), **changes: Any) -> JobFacts:
    fields: dict[str, Any] = {"repository": "acme/app", "name": "build", "workflow": "Tests", "branch": "main"}
    return JobFacts(labels=labels, **(fields | changes))


def match(job: JobFacts, **changes: Any) -> Match:
    found = CompiledPolicy(parse_policy(policy_document(**changes))).classify(job)
    assert found is not None
    return found


def route_takes(route: dict[str, Any], job: JobFacts, labels: tuple[str, ...] = ()) -> bool:
    document = policy_document(routes=[route], scale_sets={"ci": SCALE_SET | {"labels": labels}})
    return CompiledPolicy(parse_policy(document)).classify(job) is not None


@pytest.mark.parametrize(
    ("label_match", "labels", "is_taken"),
    [
        pytest.param("ci", ("ci",), True, id="the label itself"),
        pytest.param("ci", ("linux", "ci"), True, id="one of several labels"),
        pytest.param("ci", ("CI",), True, id="upper and lower case are alike"),
        pytest.param("GPU-*", ("gpu-a100",), True, id="in the glob too"),
        pytest.param("größe-*", ("GRÖSSE-XL",), True, id="beyond ASCII as well"),
        pytest.param("ci", ("ci-large",), False, id="a glob is for the whole label"),
        pytest.param("ci", ("my-ci",), False, id="from its beginning"),
        pytest.param("c?", ("ci",), True, id="a question mark is one character"),
        pytest.param("c?", ("c",), False, id="exactly one"),
        pytest.param("[cd]i", ("di",), True, id="a set of characters"),
        pytest.param("ci.*", ("cixx",), False, id="a glob is no regular expression"),
        pytest.param(["linux", "x64"], ("x64", "linux", "ci"), True, id="every glob has a label, in any order"),
        pytest.param(["linux", "arm64"], ("linux",), False, id="one glob without a label"),
        pytest.param(["l*", "*x"], ("linux",), True, id="one label for two globs"),
        pytest.param("*", (), False, id="no labels at all"),
    ],
)
def test_each_glob_of_label_match_must_match_a_label(
    label_match: str | list[str], labels: tuple[str, ...], is_taken: bool
) -> None:
    assert route_takes({"label_match": label_match}, facts(labels)) is is_taken


@pytest.mark.parametrize(
    ("condition", "is_taken"),
    [
        ({"repository": "acme/app"}, True),
        ({"repository": "ACME/*"}, True),
        ({"repository": "app"}, False),
        ({"repository": ["other/*", "acme/*"]}, True),
        ({"workflow": "test*"}, True),
        ({"workflow": "Release"}, False),
        ({"branch": "main"}, True),
        ({"branch": ["release/*", "hotfix"]}, False),
        ({"repository": "acme/*", "workflow": "Tests", "branch": "main"}, True),
        ({"repository": "acme/*", "workflow": "Tests", "branch": "dev"}, False),
    ],
    ids=str,
)
def test_a_route_wants_all_its_conditions_and_of_each_one_glob(condition: dict[str, Any], is_taken: bool) -> None:
    assert route_takes({"label_match": "ci"} | condition, facts()) is is_taken


def test_a_condition_on_the_branch_is_not_met_by_a_job_without_one() -> None:
    assert not route_takes({"label_match": "ci", "branch": "main"}, facts(branch=""))


@pytest.mark.parametrize(
    ("offered", "wanted", "is_taken"),
    [
        pytest.param(("self-hosted", "ci"), ("ci",), True, id="a runner may have more labels"),
        pytest.param(("Self-Hosted", "CI"), ("self-hosted", "ci"), True, id="upper and lower case are alike"),
        pytest.param(("ci",), ("ci", "gpu"), False, id="a label that no runner of the set has"),
        pytest.param((), ("ci", "gpu"), True, id="a set without labels takes each job's own"),
    ],
)
def test_a_scale_set_with_labels_takes_only_jobs_that_ask_for_no_other(
    offered: tuple[str, ...], wanted: tuple[str, ...], is_taken: bool
) -> None:
    assert route_takes({"label_match": "ci"}, facts(wanted), offered) is is_taken


def test_the_first_route_that_matches_decides() -> None:
    routes = [{"label_match": "gpu"}, {"label_match": "ci", "profile": "large"}, {"label_match": "*"}]
    found = match(facts(), routes=routes)
    assert (found.rule, found.route.profile) == ("routes[1]", "large")


def test_no_route_is_no_match() -> None:
    assert CompiledPolicy(parse_policy(policy_document())).classify(facts(("gpu",))) is None


def test_a_match_names_the_scale_set_of_its_route() -> None:
    two = {"ci": SCALE_SET, "gpu": SCALE_SET | {"max_runners": 2}}
    found = match(facts(), scale_sets=two, routes=[{"label_match": "ci", "scale_set": "gpu"}])
    assert (found.scale_set_name, found.scale_set.max_runners) == ("gpu", 2)


@pytest.mark.parametrize(
    ("job_name", "route_profile", "profile", "rule"),
    [
        ("large-1", "small", "large", "profiles.large.match_patterns"),
        ("LARGE", None, "large", "profiles.large.match_patterns"),
        ("build", "large", "large", "routes[0].profile"),
        ("build", None, "small", "default_profile"),
    ],
    ids=["a profile's patterns come first", "whatever their case", "then the route's profile", "then the default"],
)
def test_the_profile_is_found_by_name_then_route_then_default(
    job_name: str, route_profile: str | None, profile: str, rule: str
) -> None:
    found = match(facts(name=job_name), routes=[{"label_match": "ci", "profile": route_profile}])
    assert (found.profile_name, found.profile_rule) == (profile, rule)
    assert found.profile.cpu_millis == {"large": 4000, "small": 1000}[profile]


@pytest.mark.parametrize(
    "name", ["test (ubuntu-24.04, 3.12)", "test (größe ✓)", "Caller / test (1)", "test\n(1)"], ids=ascii
)
def test_patterns_reach_into_matrix_values_and_reusable_workflows(name: str) -> None:
    profiles = policy_document()["profiles"] | {"matrix": {"cpus": 2, "memory": "1g", "match_patterns": ["*test*(*"]}}
    assert match(facts(name=name), profiles=profiles).profile_name == "matrix"


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")], ids=str)
def test_of_two_profiles_that_match_the_first_by_name_is_taken_whatever_their_order(order: tuple[str, str]) -> None:
    """A map has no order in Firestore."""
    profiles = {name: {"cpus": 1, "memory": "1g", "match_patterns": ["build"]} for name in order}
    assert match(facts(), profiles=profiles, default_profile="b").profile_name == "a"


@pytest.mark.parametrize(("of_profile", "image"), [("runner:2", "runner:2"), (None, "runner:1")])
def test_a_profiles_image_comes_before_the_scale_sets(of_profile: str | None, image: str) -> None:
    profiles = {"small": {"cpus": 1, "memory": "1g", "image": of_profile}}
    assert match(facts(), profiles=profiles).image == image


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("ab[]!*?-^\\&|~#ßİ\n") | st.characters(), min_size=1, max_size=12), st.text(max_size=12))
def test_no_glob_is_too_odd_to_be_tried_on_a_job(glob: str, text: str) -> None:
    route = {"label_match": "x" + glob.encode(errors="replace").decode()}
    assert route_takes(route, facts((text,))) in {True, False}


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters="*?[")).filter(str.strip), st.text(max_size=12))
def test_a_glob_without_wildcards_matches_only_itself(label: str, other: str) -> None:
    assert route_takes({"label_match": label}, facts((label,)))
    assert route_takes({"label_match": label}, facts((other,))) is (label.casefold() == other.casefold())


def test_a_hostile_glob_is_tried_in_reasonable_time() -> None:
    """It would take longer than the universe is old if it were tried by backtracking."""
    assert not route_takes({"label_match": "*a" * 40 + "b"}, facts(("a" * 5000,)))


@pytest.mark.parametrize(
    ("condition", "job", "is_taken"),
    [
        ({"event": "push"}, {"event": "push"}, True),
        ({"event": ["pull_*"]}, {"event": "pull_request"}, True),
        ({"event": "push"}, {"event": "schedule"}, False),
        ({"event": "push"}, {}, False),
        ({"trust": "fork"}, {"trust": Trust.FORK}, True),
        ({"trust": "trusted"}, {"trust": Trust.FORK}, False),
        ({"trust": "trusted"}, {}, False),
    ],
    ids=str,
)
def test_what_is_not_known_of_a_run_meets_no_condition(
    condition: dict[str, Any], job: dict[str, Any], is_taken: bool
) -> None:
    assert route_takes({"label_match": "ci"} | condition, facts(**job)) is is_taken


@pytest.mark.parametrize(("condition", "needs"), [({"event": "push"}, True), ({"trust": "fork"}, True), ({}, False)])
def test_the_run_is_asked_for_only_where_a_route_depends_on_it(condition: dict[str, Any], needs: bool) -> None:
    routes = [{"label_match": "ci"} | condition]
    assert CompiledPolicy(parse_policy(policy_document(routes=routes))).needs_run is needs


def test_profile_order_says_which_profile_is_tried_first() -> None:
    profiles = {name: {"cpus": 1, "memory": "1g", "match_patterns": ["build"]} for name in "abc"}
    assert match(facts(), profiles=profiles, default_profile="a", profile_order=["c", "a"]).profile_name == "c"


GLOB = st.sampled_from(["ci", "c*", "*i", "*", "acme/*", "acme/app", "*app", "[a-c]*", "main", "ma?n", "x"])
ROUTES = st.lists(
    st.fixed_dictionaries(
        {"label_match": st.lists(GLOB, min_size=1, max_size=2)},
        optional={"repository": st.lists(GLOB, max_size=2), "branch": GLOB, "workflow": GLOB},
    ),
    min_size=1,
    max_size=8,
)
TEXT = st.sampled_from(["ci", "acme/app", "main", "x", "", "cx"])


@settings(max_examples=300, deadline=None)
@given(ROUTES, st.lists(TEXT.filter(bool), max_size=3), TEXT, TEXT)
def test_the_filed_routes_give_the_same_answer_as_trying_one_after_the_other(
    routes: list[dict[str, Any]], labels: list[str], repository: str, branch: str
) -> None:
    policy = parse_policy(policy_document(routes=routes))
    job = JobFacts(repository, "build", tuple(labels), "x", branch)
    first = next((number for number in range(len(routes)) if why_not(policy, number, job) is None), None)
    found = CompiledPolicy(policy).classify(job)
    assert (found.rule if found else None) == (None if first is None else f"routes[{first}]")
