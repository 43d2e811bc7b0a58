"""How long a routing decision takes, and how that grows with the policy: `python -m benchmarks.routing`.

Ours beside the plain way, which tries one rule after the other. Rules are of the kinds that policies are made of: each
with a label of its own, each with a glob, one label for all and a repository for each; and the hardest, globs that
begin and end with a wildcard.
"""

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from functions.routing.classify import CompiledPolicy, why_not
from functions.routing.globs import matches
from functions.routing.job import JobFacts
from functions.routing.policy import Policy, parse_policy

from .report import Target, finish, median, say

SIZES = (10, 100, 1_000, 10_000)
MOST_PROFILES = 1_000
_DECISIONS = 300
_PLAIN_BUDGET_S = 0.2
"""for the plain way, which takes long where there are many rules"""


@dataclass(frozen=True)
class Kind:
    """One way to write many rules."""

    name: str
    make: Callable[[int], dict[str, Any]]
    """a policy with so many rules"""
    job: Callable[[int], JobFacts]
    """a job that the rule of this number is for"""


def _policy(routes: Sequence[dict[str, Any]], profiles: dict[str, Any] | None = None) -> dict[str, Any]:
    sizes = {"cpus": 1, "memory": "2g"}
    return {
        "profiles": {name: sizes | patterns for name, patterns in (profiles or {}).items()} | {"default": sizes},
        "default_profile": "default",
        "scale_sets": {"ci": {"max_runners": 10, "image": "runner:1"}},
        "routes": [{"strategy": "self_hosted_only"} | route for route in routes],
    }


def _job(number: int, **facts: Any) -> JobFacts:
    fields = {"repository": "acme/app", "name": f"build ({number})", "labels": ("self-hosted", "ci"), "branch": "main"}
    return JobFacts(**(fields | facts))


KINDS = (
    Kind(
        "routes with a label each",
        lambda count: _policy([{"label_match": f"ci-{number}"} for number in range(count)]),
        lambda number: _job(number, labels=(f"ci-{number}",)),
    ),
    Kind(
        "routes with a glob each",
        lambda count: _policy([{"label_match": f"team{number}-*"} for number in range(count)]),
        lambda number: _job(number, labels=(f"team{number}-x64",)),
    ),
    Kind(
        "routes with a repository each",
        lambda count: _policy([{"label_match": "ci", "repository": f"acme/app-{number}"} for number in range(count)]),
        lambda number: _job(number, repository=f"acme/app-{number}"),
    ),
    Kind(
        "routes with *text* each",
        lambda count: _policy([{"label_match": f"*team{number}x*"} for number in range(count)]),
        lambda number: _job(number, labels=(f"a-team{number}x-b",)),
    ),
    Kind(
        "profiles with a glob each",
        lambda count: _policy(
            [{"label_match": "ci"}],
            {f"p{number}": {"match_patterns": [f"build {number} *"]} for number in range(count)},
        ),
        lambda number: _job(number, name=f"build {number} (x64)"),
    ),
    Kind(
        "profiles with *text* each",
        lambda count: _policy(
            [{"label_match": "ci"}], {f"p{number}": {"match_patterns": [f"*job{number}x*"]} for number in range(count)}
        ),
        lambda number: _job(number, name=f"a job{number}x b"),
    ),
)


def plainly(policy: Policy, order: Sequence[str], job: JobFacts) -> tuple[int, str] | None:
    """The route and the profile, by trying one rule after the other."""
    route = next((n for n in range(len(policy.routes)) if why_not(policy, n, job) is None), None)
    if route is None:
        return None
    fitting = (name for name in order if any(matches(glob, job.name) for glob in policy.profiles[name].match_patterns))
    return route, next(fitting, policy.default_profile)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and reports; the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.routing", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args(arguments).rounds
    rows: list[dict[str, Any]] = []
    targets: list[Target] = []
    for kind in KINDS:
        say(kind.name)
        is_of_profiles = kind.name.startswith("profiles")
        measured = [
            _measure(kind, size, rounds) for size in SIZES if size <= (MOST_PROFILES if is_of_profiles else size)
        ]
        rows += measured
        largest = measured[-1]
        targets.append(Target(f"{largest['rules']:,} {kind.name}: ms a decision", largest["ours, µs"] / 1000, 1.0))
        growth = largest["ours, µs"] / measured[0]["ours, µs"]
        targets.append(Target(f"{kind.name}: growth from {SIZES[0]} to {largest['rules']:,} rules", growth, 5.0))
    return finish("A routing decision", rows, targets)


def _measure(kind: Kind, size: int, rounds: int) -> dict[str, Any]:
    started = time.perf_counter()
    policy = parse_policy(kind.make(size))
    compiled = CompiledPolicy(policy)
    compile_ms = (time.perf_counter() - started) * 1000
    rng = random.Random(1)  # noqa: S311 - repeatable on purpose
    jobs = [kind.job(rng.randrange(size)) for _ in range(_DECISIONS)]
    order = policy.profiles_in_order()
    _check_that_both_agree(compiled, policy, order, jobs[:5])
    ours, plain = [], []
    for _ in range(rounds):
        ours.append(_seconds_of(compiled.classify, jobs, float("inf")))
        plain.append(_seconds_of(lambda job: plainly(policy, order, job), jobs, _PLAIN_BUDGET_S))
    return {
        "kind": kind.name,
        "rules": size,
        "ours, µs": median(ours) * 1e6,
        "one after the other, µs": median(plain) * 1e6,
        "times as fast": median(plain) / median(ours),
        "compiled once, ms": compile_ms,
    }


def _check_that_both_agree(
    compiled: CompiledPolicy, policy: Policy, order: Sequence[str], jobs: Sequence[JobFacts]
) -> None:
    for job in jobs:
        match = compiled.classify(job)
        found = None if match is None else (policy.routes.index(match.route), match.profile_name)
        if found != plainly(policy, order, job):
            raise AssertionError(f"{job}: {found} is not what trying one after the other gives")


def _seconds_of(decide: Callable[[JobFacts], object], jobs: Sequence[JobFacts], budget_s: float) -> float:
    """CPU seconds of one decision: what else goes on on the machine does not count."""
    done = 0
    started = time.process_time()
    for job in _until(jobs, started + budget_s):
        decide(job)
        done += 1
    return (time.process_time() - started) / done


def _until(jobs: Sequence[JobFacts], deadline: float) -> Iterator[JobFacts]:
    """At least one job, and no more than the time is for."""
    for number, job in enumerate(jobs):
        if number and time.process_time() > deadline:
            return
        yield job


if __name__ == "__main__":
    sys.exit(main())
