"""Which route and which profile a job gets. Pure: policy and job in, match out."""

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from .job import JobFacts
from .policy import Policy, Profile, Route, ScaleSet


@dataclass(frozen=True)
class Match:
    """The rules that hold for one job."""

    rule: str
    """the place of the route in the policy: `routes[0]`"""
    route: Route
    scale_set_name: str
    scale_set: ScaleSet
    profile_name: str
    profile_rule: str
    """why this profile: `profiles.high-cpu.match_patterns`, `routes[0].profile` or `default_profile`"""
    profile: Profile

    @property
    def image(self) -> str:
        return self.profile.image or self.scale_set.image


def classify(policy: Policy, job: JobFacts) -> Match | None:
    """The first route that matches the job, and the job's profile on it; None when no route matches."""
    for index, route in enumerate(policy.routes):
        scale_set_name = policy.scale_set_of(route)
        scale_set = policy.scale_sets[scale_set_name]
        if _route_matches(route, scale_set, job):
            rule = f"routes[{index}]"
            profile_name, profile_rule = _profile_of(policy, route, rule, job.name)
            return Match(
                rule, route, scale_set_name, scale_set, profile_name, profile_rule, policy.profiles[profile_name]
            )
    return None


def _route_matches(route: Route, scale_set: ScaleSet, job: JobFacts) -> bool:
    return (
        all(any(_glob(pattern, label) for label in job.labels) for pattern in route.label_match)
        and (not scale_set.labels or _has_all(scale_set.labels, job.labels))
        and _any_glob(route.repository, job.repository)
        and _any_glob(route.workflow, job.workflow)
        and _any_glob(route.branch, job.branch)
    )


def _profile_of(policy: Policy, route: Route, rule: str, job_name: str) -> tuple[str, str]:
    # By name: the keys of a map in Firestore come in another order in every process.
    for name, profile in sorted(policy.profiles.items()):
        if any(_glob(pattern, job_name) for pattern in profile.match_patterns):
            return name, f"profiles.{name}.match_patterns"
    if route.profile is not None:
        return route.profile, f"{rule}.profile"
    return policy.default_profile, "default_profile"


def _has_all(offered: Iterable[str], wanted: Iterable[str]) -> bool:
    """GitHub's own rule: a runner needs every label of the job, upper and lower case alike."""
    return {label.casefold() for label in wanted} <= {label.casefold() for label in offered}


def _any_glob(patterns: tuple[str, ...], text: str) -> bool:
    return not patterns or any(_glob(pattern, text) for pattern in patterns)


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(pattern.casefold()))


def _glob(pattern: str, text: str) -> bool:
    return _compiled(pattern).match(text.casefold()) is not None
