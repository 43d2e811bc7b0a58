"""The routing policy: what a platform engineer writes in YAML or edits in the Firestore console.

`parse_policy` checks a whole policy and reports everything that is wrong with it at once. Where it is kept, and who may
change it, is not known here.
"""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from .units import parse_cpus, parse_memory


class Strategy(StrEnum):
    """Where a route sends its jobs."""

    SELF_HOSTED_FIRST = "self_hosted_first"
    SELF_HOSTED_ONLY = "self_hosted_only"
    GITHUB_HOSTED = "github_hosted"


class Overflow(StrEnum):
    """What becomes of a job for which a self-hosted route has no room."""

    GITHUB_HOSTED = "github_hosted"
    HOLD = "hold"
    REJECT = "reject"


class Privileges(StrEnum):
    """What root means inside a runner's container."""

    NONE = "none"
    """No capabilities and no way to gain any: sudo does not work."""
    SUDO = "sudo"
    """sudo and package installation work; raw sockets and devices do not."""


class RunnerLevel(StrEnum):
    """Where GitHub registers the runners of a scale set."""

    ORGANIZATION = "organization"
    REPOSITORY = "repository"


def _as_patterns(value: object) -> object:
    return [value] if isinstance(value, str) else value


CpuMillis = Annotated[int, BeforeValidator(parse_cpus)]
MemoryBytes = Annotated[int, BeforeValidator(parse_memory)]
Globs = Annotated[tuple[str, ...], BeforeValidator(_as_patterns)]
"""One glob or a list of globs; `*`, `?` and `[…]`, upper and lower case alike."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Profile(_Section):
    """The size and the rights of a runner's container."""

    cpu_millis: CpuMillis = Field(alias="cpus", description="CPUs, such as 4 or 0.5")
    memory_bytes: MemoryBytes = Field(alias="memory", description="memory without swap, such as 512m or 8g")
    pids: int = Field(4096, ge=16, description="most processes and threads at a time")
    image: str | None = Field(None, description="runner image; the scale set's when absent")
    env: dict[str, str] = Field({}, description="environment of the runner, not for secrets")
    privileges: Privileges = Field(Privileges.NONE, description="none or sudo")
    match_patterns: Globs = Field((), description="display names of the jobs that get this profile")


class ScaleSet(_Section):
    """A set of runners that share labels, image and limits."""

    max_runners: int = Field(ge=1, description="most runners at a time, exact")
    image: str = Field(min_length=1, description="container image of the runner")
    runner_group: str = Field("default", description="GitHub runner group")
    level: RunnerLevel = Field(RunnerLevel.ORGANIZATION, description="where runners are registered")
    labels: tuple[str, ...] = Field((), description="labels of the runners; each job's own when absent")
    pool: str = Field("default", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="the Docker hosts that run this set")


class Route(_Section):
    """Which jobs go where. The first route that matches a job decides."""

    label_match: Globs = Field(min_length=1, description="each of these globs must match one of the job's labels")
    repository: Globs = Field((), description="globs for owner/name; any when absent")
    workflow: Globs = Field((), description="globs for the workflow's name; any when absent")
    branch: Globs = Field((), description="globs for the branch; any when absent")
    scale_set: str | None = Field(None, description="the scale set; may be left out when there is just one")
    profile: str | None = Field(None, description="profile of jobs that no profile's match_patterns name")
    strategy: Strategy = Field(Strategy.SELF_HOSTED_FIRST)
    overflow: Overflow = Field(Overflow.HOLD)
    max_queue_depth: int = Field(100, ge=0, description="most held jobs of this route's scale set")


class Policy(_Section):
    """A whole routing policy, checked."""

    version: int = Field(1, ge=1, le=1)
    profiles: dict[str, Profile] = Field(min_length=1)
    default_profile: str
    scale_sets: dict[str, ScaleSet] = Field(min_length=1)
    routes: tuple[Route, ...] = Field(min_length=1)

    def scale_set_of(self, route: Route) -> str:
        """The name of the scale set that serves a route of this policy."""
        return route.scale_set or next(iter(self.scale_sets))


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a policy: where (`routes[2].overflow`), and what to write instead."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class PolicyError(Exception):
    """A policy that cannot be used, with every problem found in it."""

    def __init__(self, problems: tuple[Problem, ...]):
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems


def parse_policy(document: object) -> Policy:
    """A checked policy.

    Args:
        document: what YAML or Firestore gave: maps, lists, strings, numbers.

    Raises:
        PolicyError: with all problems.
    """
    if not isinstance(document, Mapping):
        raise PolicyError(
            (Problem("", f"a policy is a map with profiles, scale_sets and routes, not {_kind(document)}"),)
        )
    try:
        policy = Policy.model_validate(dict(document))
    except ValidationError as error:
        raise PolicyError(tuple(_problem(detail) for detail in error.errors() if not _is_echo(detail))) from None
    if problems := tuple(_dangling_names(policy)):
        raise PolicyError(problems)
    return policy


def _dangling_names(policy: Policy) -> Iterator[Problem]:
    if policy.default_profile not in policy.profiles:
        yield _unknown("default_profile", policy.default_profile, policy.profiles)
    for index, route in enumerate(policy.routes):
        if route.scale_set is not None and route.scale_set not in policy.scale_sets:
            yield _unknown(f"routes[{index}].scale_set", route.scale_set, policy.scale_sets)
        if route.scale_set is None and len(policy.scale_sets) > 1:
            yield Problem(f"routes[{index}].scale_set", f"name one of {', '.join(policy.scale_sets)}")
        if route.profile is not None and route.profile not in policy.profiles:
            yield _unknown(f"routes[{index}].profile", route.profile, policy.profiles)
        if route.strategy is Strategy.SELF_HOSTED_ONLY and route.overflow is Overflow.GITHUB_HOSTED:
            yield Problem(
                f"routes[{index}].overflow",
                "self_hosted_only never goes to GitHub's runners: write hold or reject, or strategy: self_hosted_first",
            )


def _unknown(where: str, name: str, known: Mapping[str, object]) -> Problem:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
    return Problem(where, f"there is no '{name}': {hint}")


_SECTIONS: Mapping[str, type[BaseModel]] = {"profiles": Profile, "scale_sets": ScaleSet, "routes": Route}


def _is_echo(detail: Any) -> bool:
    """Pydantic drops a list's faulty items before it counts the rest: then "too short" only repeats their faults."""
    return detail["type"] == "too_short" and bool(detail["input"])


def _problem(detail: Any) -> Problem:
    """One of pydantic's error details, in our words."""
    location: tuple[int | str, ...] = detail["loc"]
    given = _kind(detail["input"])
    match detail["type"]:
        case "extra_forbidden":
            message = f"unknown key{_suggestion(location)}"
        case "missing":
            message = "is missing"
        case "value_error":
            message = str(detail["ctx"]["error"])
        case "enum":
            message = f"is {given}: write {detail['ctx']['expected']}"
        case "tuple_type":
            message = f"is {given}: write a list"
        case "dict_type" | "model_type":
            message = f"is {given}: write a map"
        case "too_short":
            message = "must not be empty"
        case _:
            message = f"{detail['msg'][0].lower()}{detail['msg'][1:]}, not {given}"
    return Problem(_path(location), message)


def _suggestion(location: tuple[int | str, ...]) -> str:
    section = _SECTIONS.get(str(location[0]), Policy) if len(location) > 2 else Policy
    known = [field.alias or name for name, field in section.model_fields.items()]
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f": did you mean {close[0]}?" if close else f": known here are {', '.join(known)}"


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f"{'.' if path else ''}{part}"
    return path


def _kind(value: object) -> str:
    match value:
        case None:
            return "nothing"
        case str():
            return f"'{value[:60]}'"
        case Mapping():
            return "a map"
        case list() | tuple():
            return "a list"
        case _:
            return str(value)[:60]
