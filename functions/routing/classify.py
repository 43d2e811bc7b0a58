"""Which route and which profile a job gets. Pure: policy and job in, match out.

A policy is compiled once for each revision: every route is filed under the condition of its that fewest others have, so
a decision looks at the few routes that can match at all, not at all of them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .globs import GlobIndex, matches
from .job import JobFacts
from .policy import Policy, Profile, Route, ScaleSet

_FIELDS = ("labels", "repository", "workflow", "branch")


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


class CompiledPolicy:
    """A policy, ready to decide about many jobs."""

    def __init__(self, policy: Policy):
        self.policy = policy
        self.needs_run = any(route.event or route.trust is not None for route in policy.routes)
        """whether a route asks what a webhook does not tell: the run's event, or whether it comes from a fork"""
        filed: dict[str, list[tuple[str, int]]] = {field: [] for field in _FIELDS}
        for number, (field, globs) in enumerate(_filing(policy.routes)):
            filed[field] += [(glob, number) for glob in globs]
        self._routes = {field: GlobIndex(entries) for field, entries in filed.items()}
        self._profile_order = policy.profiles_in_order()
        self._profiles = GlobIndex(
            (glob, number)
            for number, name in enumerate(self._profile_order)
            for glob in policy.profiles[name].match_patterns
        )

    def classify(self, job: JobFacts) -> Match | None:
        """The first route that matches the job, and the job's profile on it; None when no route matches."""
        for number in sorted(set(self._candidates(job))):
            if why_not(self.policy, number, job) is None:
                return self._match(number, job)
        return None

    def _candidates(self, job: JobFacts) -> Iterator[int]:
        for label in job.labels:
            yield from self._routes["labels"].find(label)
        for field in _FIELDS[1:]:
            yield from self._routes[field].find(getattr(job, field))

    def _match(self, number: int, job: JobFacts) -> Match:
        policy, rule = self.policy, f"routes[{number}]"
        route = policy.routes[number]
        scale_set = policy.scale_set_of(route)
        profile, profile_rule = self._profile_of(route, rule, job.name)
        return Match(
            rule, route, scale_set, policy.scale_sets[scale_set], profile, profile_rule, policy.profiles[profile]
        )

    def _profile_of(self, route: Route, rule: str, job_name: str) -> tuple[str, str]:
        first = min(self._profiles.find(job_name), default=None)
        if first is not None:
            return self._profile_order[first], f"profiles.{self._profile_order[first]}.match_patterns"
        if route.profile is not None:
            return route.profile, f"{rule}.profile"
        return self.policy.default_profile, "default_profile"


def _filing(routes: Iterable[Route]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """For each route the field, and the globs of it, under which it is filed: the rarest of its conditions."""
    routes = list(routes)
    counts = Counter((field, glob) for route in routes for field in _FIELDS for glob in _globs_of(route, field))
    for route in routes:
        # All of a route's label globs must fit, so one of them is enough to find it; any of the others' will do.
        options: list[tuple[str, tuple[str, ...]]] = [("labels", (glob,)) for glob in route.label_match]
        options += [(field, globs) for field in _FIELDS[1:] if (globs := _globs_of(route, field))]
        yield min(options, key=lambda option: sum(counts[option[0], glob] for glob in option[1]))


def _globs_of(route: Route, field: str) -> tuple[str, ...]:
    globs: tuple[str, ...] = route.label_match if field == "labels" else getattr(route, field)
    return globs


def why_not(policy: Policy, number: int, job: JobFacts) -> str | None:
    """Why a route does not match a job, in words; None when it does."""
    route = policy.routes[number]
    for glob in route.label_match:
        if not any(matches(glob, label) for label in job.labels):
            return f"label_match {glob} fits none of the labels {', '.join(job.labels) or '(none)'}"
    for field in _FIELDS[1:]:
        globs, value = getattr(route, field), getattr(job, field)
        if globs and not any(matches(glob, value) for glob in globs):
            return f"{field} {', '.join(globs)} does not fit {value or '(none)'}"
    if route.event and not (job.event is not None and any(matches(glob, job.event) for glob in route.event)):
        return f"event {', '.join(route.event)} is not {job.event or 'known to be it'}"
    if route.trust is not None and route.trust is not job.trust:
        return f"trust {route.trust} is not {job.trust or 'known to be it'}"
    return _missing_labels(policy.scale_sets[policy.scale_set_of(route)], job)


def _missing_labels(scale_set: ScaleSet, job: JobFacts) -> str | None:
    """GitHub's own rule: a runner needs every label of the job, upper and lower case alike."""
    if not scale_set.labels:
        return None
    offered = {label.casefold() for label in scale_set.labels}
    missing = [label for label in job.labels if label.casefold() not in offered]
    return f"its scale set's runners lack the labels {', '.join(missing)}" if missing else None
