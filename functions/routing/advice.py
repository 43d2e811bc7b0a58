"""What in a valid policy is probably not meant: warnings with the place and the correction. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .capacity import Size
from .formats import to_standard_format
from .globs import covers, split_target
from .policy import Egress, EgressMode, Mechanism, Overflow, Policy, Problem, Route, Strategy, parse_policy
from .units import format_cpus, format_memory


def advise(document: Mapping[str, Any], hosts: Sequence[Size] = ()) -> tuple[Policy, tuple[Problem, ...]]:
    """The policy in a document, and the warnings about it.

    Args:
        document: in any of the known formats.
        hosts: the sizes of the hosts that are alive; without any, nothing is said about what they can hold.

    Raises:
        PolicyError: the policy is not valid.
    """
    policy = parse_policy(document)
    notes = (Problem(where, message) for where, message in to_standard_format(document).notes)
    warnings = (
        *notes,
        *_globs_that_match_everything(policy),
        *_unreachable_routes(policy),
        *_profiles_that_nothing_gets(policy),
        *_profiles_without_an_order(document, policy),
        *_profiles_that_no_host_holds(policy, hosts),
        *_overflow_that_cannot_work(policy),
        *_egress_that_lists_nothing(policy),
        *_profiles_that_cannot_swap(policy),
    )
    return policy, warnings


def _globs_that_match_everything(policy: Policy) -> Iterator[Problem]:
    for index, route in enumerate(policy.routes):
        if any(_is_everything(glob) for glob in route.label_match):
            yield Problem(
                f"routes[{index}].label_match",
                "* also matches jobs for GitHub's own runners (ubuntu-latest): write the labels that are yours",
            )
    for name, profile in policy.profiles.items():
        if any(_is_everything(glob) for glob in profile.match_patterns):
            yield Problem(
                f"profiles.{name}.match_patterns",
                f"* matches every job, and no profile after it gets any: write default_profile: {name}",
            )


def _unreachable_routes(policy: Policy) -> Iterator[Problem]:
    for index, route in enumerate(policy.routes):
        for earlier_index, earlier in enumerate(policy.routes[:index]):
            if _takes_all_of(policy, earlier, route):
                yield Problem(
                    f"routes[{index}]",
                    f"is never reached: routes[{earlier_index}] matches all of its jobs; put the narrower one first",
                )
                break


def _takes_all_of(policy: Policy, earlier: Route, later: Route) -> bool:
    """Whether every job that `later` matches is matched by `earlier`."""
    labels = policy.scale_sets[policy.scale_set_of(earlier)].labels
    if labels and labels != policy.scale_sets[policy.scale_set_of(later)].labels:
        return False
    if earlier.trust is not None and earlier.trust is not later.trust:
        return False
    return all(any(covers(glob, other) for other in later.label_match) for glob in earlier.label_match) and all(
        _any_of_covers(getattr(earlier, field), getattr(later, field))
        for field in ("repository", "workflow", "branch", "event")
    )


def _any_of_covers(wider: Sequence[str], narrower: Sequence[str]) -> bool:
    """Of lists of which any glob may fit; an empty list is no condition at all."""
    if not wider:
        return True
    return bool(narrower) and all(any(covers(glob, other) for glob in wider) for other in narrower)


def _profiles_that_nothing_gets(policy: Policy) -> Iterator[Problem]:
    named = {policy.default_profile, *(route.profile for route in policy.routes)}
    named |= {scale_set.warm_profile for scale_set in policy.scale_sets.values()}
    before: list[str] = []
    for name in policy.profiles_in_order():
        globs = policy.profiles[name].match_patterns
        if not globs and name not in named:
            yield Problem(f"profiles.{name}", "no job can get it: give it match_patterns, or name it in a route")
        elif globs and name not in named and all(any(covers(glob, other) for glob in before) for other in globs):
            yield Problem(f"profiles.{name}.match_patterns", "profiles before it match all of these jobs")
        before += globs


def _profiles_without_an_order(document: Mapping[str, Any], policy: Policy) -> Iterator[Problem]:
    """Firestore's maps have no order: where two profiles fit a job, only `profile_order` says which comes first."""
    unordered = [name for name in policy.profiles if name not in policy.profile_order]
    for index, name in enumerate(unordered):
        for other in unordered[index + 1 :]:
            pairs = (
                (a, b) for a in policy.profiles[name].match_patterns for b in policy.profiles[other].match_patterns
            )
            if any(covers(a, b) or covers(b, a) for a, b in pairs):
                yield Problem(
                    "profile_order",
                    f"{name} and {other} can both match a job: name them in the order in which they are to be tried",
                )


def _profiles_that_no_host_holds(policy: Policy, hosts: Sequence[Size]) -> Iterator[Problem]:
    if not hosts:
        return
    for name, profile in policy.profiles.items():
        size = Size(profile.cpu_millis, profile.memory_bytes)
        if not any(size.fits_into(host) for host in hosts):
            largest = max(hosts, key=lambda host: (host.cpu_millis, host.memory_bytes))
            yield Problem(
                f"profiles.{name}",
                f"no host can hold {_in_words(size)}: the largest has {_in_words(largest)}",
            )


def _overflow_that_cannot_work(policy: Policy) -> Iterator[Problem]:
    routes = [index for index, route in enumerate(policy.routes) if route.overflow is Overflow.GITHUB_HOSTED]
    if policy.overflow is None:
        for index in routes:
            if policy.routes[index].strategy is not Strategy.GITHUB_HOSTED:
                yield Problem(
                    f"routes[{index}].overflow",
                    "GitHub never moves a queued job to its own runners: name an overflow.mechanism that does "
                    "(runner_group, preflight or variable); until then overflowed jobs are held",
                )
        return
    if not routes:
        yield Problem("overflow", "no route overflows to GitHub's runners: write overflow: github_hosted in a route")
    if policy.overflow.mechanism is Mechanism.RUNNER_GROUP:
        for name in {policy.scale_set_of(policy.routes[index]) for index in routes}:
            if policy.scale_sets[name].runner_group.casefold() == "default":
                yield Problem(
                    f"scale_sets.{name}.runner_group",
                    "the default group holds hosted larger runners only if you have put them there: "
                    "name the group that holds both kinds",
                )


def _egress_that_lists_nothing(policy: Policy) -> Iterator[Problem]:
    for name, profile in policy.profiles.items():
        egress, place = profile.egress, f"profiles.{name}.egress"
        allowed = [target for rule in egress.rules for target in rule.allow] + list(egress.allow)
        if egress.mode is EgressMode.ENFORCE and not allowed:
            yield Problem(f"{place}.allow", "lists nothing: its jobs reach GitHub and nobody else")
        if egress.mode is not EgressMode.ENFORCE and any(rule.deny for rule in egress.rules):
            yield Problem(
                f"{place}.rules", f"deny only records with mode: {egress.mode}: write mode: enforce to refuse"
            )
        if any(_is_everything(target.partition(":")[0]) for target in egress.allow) and not egress.rules:
            yield Problem(f"{place}.allow", "* allows every host: write mode: audit to record only")
        yield from _unreachable_egress_rules(place, egress)


def _unreachable_egress_rules(place: str, egress: Egress) -> Iterator[Problem]:
    before: list[str] = []
    for index, rule in enumerate(egress.rules):
        targets = rule.allow or rule.deny
        if targets and all(any(_covers_target(earlier, target) for earlier in before) for target in targets):
            yield Problem(f"{place}.rules[{index}]", "is never reached: rules before it fit all of its targets")
        before += targets


def _covers_target(wider: str, narrower: str) -> bool:
    """Whether every connection that fits `narrower` also fits `wider`."""
    host, port = split_target(wider)
    other_host, other_port = split_target(narrower)
    return port in {"*", other_port} and covers(host, other_host)


def _profiles_that_cannot_swap(policy: Policy) -> Iterator[Problem]:
    """GitHub hands a job to any runner with its labels; a running container keeps its image and privileges."""
    named = {name for name, profile in policy.profiles.items() if profile.match_patterns}
    for index, route in enumerate(policy.routes):
        scale_set = policy.scale_sets[policy.scale_set_of(route)]
        warm = {policy.warm_profile_of(scale_set)} if scale_set.min_runners else set()
        used = named | warm | {route.profile or policy.default_profile}
        profiles = {name: policy.profiles[name] for name in sorted(used)}
        kinds = {(profile.image or scale_set.image, profile.privileges) for profile in profiles.values()}
        if len(kinds) > 1:
            yield Problem(
                f"routes[{index}]",
                f"its jobs may get the profiles {', '.join(profiles)}, which differ in image or privileges: GitHub may "
                "hand a job to a runner made for another of them, and then it fails; give them labels of their own",
            )


def _is_everything(glob: str) -> bool:
    return set(glob) == {"*"}


def _in_words(size: Size) -> str:
    return f"{format_cpus(size.cpu_millis)} CPUs and {format_memory(size.memory_bytes)}"
