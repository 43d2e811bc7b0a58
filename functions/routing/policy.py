"""The routing policy: what a platform engineer writes in YAML or edits in the Firestore console.

`parse_policy` checks a whole policy and reports everything that is wrong with it at once; `advice.py` says what is
probably not meant. Where a policy is kept, and who may change it, is not known here.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from .formats import to_standard_format
from .job import Trust
from .units import format_memory, parse_cpus, parse_duration, parse_memory


class Strategy(StrEnum):
    """Where a route sends its jobs."""

    SELF_HOSTED_FIRST = "self_hosted_first"
    SELF_HOSTED_ONLY = "self_hosted_only"
    GITHUB_HOSTED = "github_hosted"


class Overflow(StrEnum):
    """What becomes of a job for which a self-hosted route has no room, and no place in its queue."""

    GITHUB_HOSTED = "github_hosted"
    HOLD = "hold"
    REJECT = "reject"


class Mechanism(StrEnum):
    """How a job gets to GitHub's runners: GitHub itself never moves a queued job there."""

    RUNNER_GROUP = "runner_group"
    """the scale set's runner group also holds hosted larger runners, and GitHub picks one of either kind"""
    PREFLIGHT = "preflight"
    """workflows ask the `route` function which labels to use, before the job exists"""
    VARIABLE = "variable"
    """workflows use a variable for `runs-on`, which is switched when places run short"""


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


class EgressMode(StrEnum):
    """What the proxy does with connections that a profile's rules refuse."""

    AUDIT = "audit"
    """records them"""
    ENFORCE = "enforce"
    """refuses them"""
    LEARN = "learn"
    """as audit; the job's document lists all targets, for `runyard egress learn`"""


class SizingMode(StrEnum):
    """What the gate does when a job's runner was made with another size."""

    ENFORCE = "enforce"
    """resizes the container before the job's first step"""
    OBSERVE = "observe"
    """changes nothing, and writes down what the job needed and what it got"""


class NoRoom(StrEnum):
    """What becomes of a job whose container has to grow on a host that is full."""

    WAIT = "wait"
    """it waits at the gate for `wait`, then it fails"""
    OVERSUBSCRIBE = "oversubscribe"
    """it gets its size all the same; the host gives away more than it has until other jobs end"""
    FAIL = "fail"
    """it fails at once"""


class OnError(StrEnum):
    """What becomes of a job that cannot be sized: it is not known, the engine refuses, the gate does not answer."""

    CLOSED = "closed"
    """it fails before its first step"""
    OPEN = "open"
    """it runs on the size that its runner has, and its document says so"""


def _as_patterns(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _no_empty_glob(globs: tuple[str, ...]) -> tuple[str, ...]:
    if any(not glob.strip() for glob in globs):
        raise ValueError("an empty glob matches nothing: write * for anything")
    return globs


def _egress_target(text: str) -> str:
    match = re.fullmatch(r"([^\s:/@\[\]]+|\[[0-9A-Fa-f:.]+\])(:(\*|(?P<port>\d{1,5})))?", text)
    if match is None or (match["port"] is not None and not 0 < int(match["port"]) < 65536):
        raise ValueError(f"'{text}': write a host or host:port, such as *.example.com:443")
    return text.lower()


def _enough_bandwidth(bytes_per_s: int) -> int:
    if bytes_per_s < _LEAST_BANDWIDTH:
        raise ValueError(f"bandwidth {format_memory(bytes_per_s)}: bytes a second, at least 64k, such as 20m")
    return bytes_per_s


def _bandwidth(text: object) -> int:
    try:
        return parse_memory(text)
    except ValueError:
        raise ValueError(f"bandwidth '{text}': write bytes a second, such as 20m or 512k") from None


def _enough_memory(size: int) -> int:
    if size < _LEAST_MEMORY:
        raise ValueError(f"memory {format_memory(size)}: no runner fits into less than 16m; write a unit, such as 8g")
    return size


_LEAST_MEMORY = 16 << 20
_LEAST_BANDWIDTH = 64 << 10
CpuMillis = Annotated[int, BeforeValidator(parse_cpus)]
MemoryBytes = Annotated[int, BeforeValidator(parse_memory), AfterValidator(_enough_memory)]
Seconds = Annotated[int, BeforeValidator(parse_duration)]
Globs = Annotated[tuple[str, ...], BeforeValidator(_as_patterns), AfterValidator(_no_empty_glob)]
"""One glob or a list of globs; `*`, `?` and `[…]`, upper and lower case alike."""
EgressTargets = Annotated[tuple[Annotated[str, AfterValidator(_egress_target)], ...], BeforeValidator(_as_patterns)]
"""One `host` or `host:port`, or a list of them; hosts are globs, `*` is any port."""
BytesPerSecond = Annotated[int, BeforeValidator(_bandwidth), AfterValidator(_enough_bandwidth)]
PoolName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?$")]
"""Part of every runner's name, of which GitHub takes 64 characters."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EgressRule(_Section):
    """One rule: it allows the targets that it lists, or denies them."""

    name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$",
        description="for messages and the log; its place when absent",
    )
    allow: EgressTargets = Field((), description="hosts, with a port or for any: *.example.com:443")
    deny: EgressTargets = Field((), description="the same, to be refused")


class Egress(_Section):
    """Where a profile's jobs may connect to. GitHub's own hosts are always in; the first rule that fits decides."""

    mode: EgressMode = Field(
        EgressMode.AUDIT, description="audit records, enforce refuses what no rule allows, learn lists what jobs use"
    )
    rules: tuple[EgressRule, ...] = Field((), description="the first one that fits a target decides")
    allow: EgressTargets = Field((), description="the same as a last rule that allows these: *.example.com:443")
    bandwidth: BytesPerSecond | None = Field(
        None, description="most bytes a second of each runner, both ways together: 20m"
    )
    connections: int | None = Field(None, ge=1, description="most connections of each runner at a time")


class Profile(_Section):
    """The size and the rights of a runner's container."""

    cpu_millis: CpuMillis = Field(alias="cpus", description="CPUs, such as 4 or 0.5")
    memory_bytes: MemoryBytes = Field(alias="memory", description="memory without swap, such as 512m or 8g")
    pids: int = Field(4096, ge=16, description="most processes and threads at a time")
    image: str | None = Field(None, min_length=1, description="runner image; the scale set's when absent")
    env: dict[str, str] = Field({}, description="environment of the runner, not for secrets")
    privileges: Privileges = Field(Privileges.NONE, description="none or sudo")
    timeout: Seconds = Field(21600, ge=60, description="a job that runs longer is stopped: 6h, 90m, seconds")
    egress: Egress = Field(Egress(), description="where its jobs may connect to")
    match_patterns: Globs = Field((), description="display names of the jobs that get this profile")


class Sizing(_Section):
    """What happens between a job and its first step when GitHub gave it a runner of another size."""

    mode: SizingMode = Field(SizingMode.ENFORCE, description="enforce resizes; observe only writes down what it saw")
    no_room: NoRoom = Field(NoRoom.WAIT, description="when the host is full: wait, oversubscribe or fail")
    wait: Seconds = Field(600, ge=0, le=21600, description="how long a job waits for room; then it fails")
    on_error: OnError = Field(
        OnError.CLOSED, description="a job that cannot be sized fails (closed) or runs on the size there is (open)"
    )


class ScaleSet(_Section):
    """A set of runners that share labels, image and limits."""

    max_runners: int = Field(ge=1, description="most runners at a time, exact")
    per_repository: int | None = Field(None, ge=1, description="most runners at a time for one repository")
    image: str = Field(min_length=1, description="container image of the runner")
    runner_group: str = Field("default", min_length=1, description="GitHub runner group")
    level: RunnerLevel = Field(RunnerLevel.ORGANIZATION, description="where runners are registered")
    labels: tuple[str, ...] = Field((), description="labels of the runners; each job's own when absent")
    pool: PoolName = Field("default", description="the Docker hosts that run this set")
    priority: int = Field(0, ge=-100, le=100, description="held jobs of a higher priority are admitted first")
    work_folder: str = Field("_work", min_length=1, description="work folder, relative to the runner's own")
    sizing: Sizing = Field(Sizing(), description="what happens when a job's runner has another size")
    min_runners: int = Field(0, ge=0, description="idle runners that are kept ready for any job of this set")
    scale_up_threshold: int | None = Field(
        None, ge=1, description="they are made up to min_runners when fewer than this are idle; min_runners when absent"
    )
    scale_down_threshold: int | None = Field(
        None, ge=0, description="idle runners beyond this go after idle_timeout; min_runners when absent"
    )
    idle_timeout: Seconds = Field(300, ge=5, description="how long an idle runner that is not needed stays")
    warm_profile: str | None = Field(
        None, description="size of a runner that is kept ready, until it gets a job; the smallest profile when absent"
    )

    @property
    def refill_below(self) -> int:
        """Runners are made when fewer than this are idle."""
        return self.min_runners if self.scale_up_threshold is None else self.scale_up_threshold

    @property
    def retire_above(self) -> int:
        """Idle runners beyond this number are not needed."""
        return self.min_runners if self.scale_down_threshold is None else self.scale_down_threshold


class Route(_Section):
    """Which jobs go where. The first route that matches a job decides."""

    label_match: Globs = Field(min_length=1, description="each of these globs must match one of the job's labels")
    repository: Globs = Field((), description="globs for owner/name; any when absent")
    workflow: Globs = Field((), description="globs for the workflow's name; any when absent")
    branch: Globs = Field((), description="globs for the branch; any when absent")
    event: Globs = Field((), description="globs for what started the run, such as push; any when absent")
    trust: Trust | None = Field(None, description="trusted or fork; either when absent")
    scale_set: str | None = Field(None, description="the scale set; may be left out when there is just one")
    profile: str | None = Field(None, description="profile of jobs that no profile's match_patterns name")
    strategy: Strategy = Field(Strategy.SELF_HOSTED_FIRST, description="where its jobs go")
    overflow: Overflow = Field(Overflow.HOLD, description="when there is no room and the queue is full")
    max_queue_depth: int | None = Field(
        None, ge=0, le=2000, description="most jobs that wait; 500 with overflow: hold, else 0 when absent"
    )
    cancel: bool = Field(False, description="with overflow: reject, also cancel the workflow run")

    @property
    def queue_depth(self) -> int:
        """Most held jobs of this route's scale set."""
        if self.max_queue_depth is not None:
            return self.max_queue_depth
        return 500 if self.overflow is Overflow.HOLD else 0


class OverflowSettings(_Section):
    """How jobs get to GitHub's own runners when there is no room."""

    mechanism: Mechanism = Field(description="runner_group, preflight or variable")
    hosted_labels: tuple[str, ...] = Field(
        ("ubuntu-latest",), min_length=1, description="labels of GitHub's runners, for preflight and variable"
    )
    variable: str | None = Field(
        None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="organization variable that workflows use for runs-on"
    )
    variable_labels: tuple[str, ...] = Field((), description="its labels while there is room")
    low: float = Field(0.1, ge=0, le=1, description="switched to GitHub's runners when fewer places are free")
    high: float = Field(0.3, ge=0, le=1, description="switched back when more places are free")
    grace: Seconds = Field(600, ge=0, description="an overflowed job that is still queued is held after this time")


class Policy(_Section):
    """A whole routing policy, checked."""

    version: int = Field(1, ge=1, le=1, description="of the policy language")
    profiles: dict[str, Profile] = Field(min_length=1, description="sizes")
    profile_order: tuple[str, ...] = Field((), description="in which profiles are tried; Firestore keeps no order")
    default_profile: str = Field(description="for jobs that no pattern matches and whose route names no profile")
    scale_sets: dict[str, ScaleSet] = Field(min_length=1, description="runners")
    routes: tuple[Route, ...] = Field(min_length=1, description="which jobs go where")
    overflow: OverflowSettings | None = Field(None, description="how jobs get to GitHub's runners")

    def scale_set_of(self, route: Route) -> str:
        """The name of the scale set that serves a route of this policy."""
        return route.scale_set or next(iter(self.scale_sets))

    def warm_profile_of(self, scale_set: ScaleSet) -> str:
        """The name of the profile with which a scale set's idle runners are made: all of its jobs must be able to
        take them over, so image and privileges count before the size.
        """
        if scale_set.warm_profile is not None:
            return scale_set.warm_profile
        default = self.profiles[self.default_profile]

        def rank(name: str) -> tuple[bool, int, int, str]:
            profile = self.profiles[name]
            fits = (profile.image, profile.privileges) == (default.image, default.privileges)
            return not fits, profile.memory_bytes, profile.cpu_millis, name

        return min(self.profiles, key=rank)

    def profiles_in_order(self) -> tuple[str, ...]:
        """In which profiles are tried: as `profile_order` says, then by name. A map in Firestore has no order."""
        named = dict.fromkeys(self.profile_order)
        return (*named, *sorted(name for name in self.profiles if name not in named))


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
        document: what YAML or Firestore gave: maps, lists, strings, numbers; in any of the known formats.

    Raises:
        PolicyError: with all problems.
    """
    if not isinstance(document, Mapping):
        raise PolicyError(
            (Problem("", f"a policy is a map with profiles, scale_sets and routes, not {_kind(document)}"),)
        )
    try:
        policy = Policy.model_validate(dict(to_standard_format(document).document))
    except ValidationError as error:
        raise PolicyError(tuple(_problem(detail) for detail in error.errors() if not _is_echo(detail))) from None
    if problems := (*_dangling_names(policy), *_contradictions(policy)):
        raise PolicyError(problems)
    return policy


def _dangling_names(policy: Policy) -> Iterator[Problem]:
    if policy.default_profile not in policy.profiles:
        yield _unknown("default_profile", policy.default_profile, policy.profiles)
    for index, name in enumerate(policy.profile_order):
        if name not in policy.profiles:
            yield _unknown(f"profile_order[{index}]", name, policy.profiles)
    for name, scale_set in policy.scale_sets.items():
        if scale_set.warm_profile is not None and scale_set.warm_profile not in policy.profiles:
            yield _unknown(f"scale_sets.{name}.warm_profile", scale_set.warm_profile, policy.profiles)
    for index, route in enumerate(policy.routes):
        if route.scale_set is not None and route.scale_set not in policy.scale_sets:
            yield _unknown(f"routes[{index}].scale_set", route.scale_set, policy.scale_sets)
        if route.scale_set is None and len(policy.scale_sets) > 1:
            yield Problem(f"routes[{index}].scale_set", f"name one of {', '.join(policy.scale_sets)}")
        if route.profile is not None and route.profile not in policy.profiles:
            yield _unknown(f"routes[{index}].profile", route.profile, policy.profiles)


def _contradictions(policy: Policy) -> Iterator[Problem]:
    for index, route in enumerate(policy.routes):
        if route.strategy is Strategy.SELF_HOSTED_ONLY and route.overflow is Overflow.GITHUB_HOSTED:
            yield Problem(
                f"routes[{index}].overflow",
                "self_hosted_only never goes to GitHub's runners: write hold or reject, or strategy: self_hosted_first",
            )
        if route.cancel and route.overflow is not Overflow.REJECT:
            yield Problem(f"routes[{index}].cancel", "only rejected jobs are cancelled: write overflow: reject, too")
    yield from _warm_contradictions(policy)
    yield from _egress_contradictions(policy)
    overflow = policy.overflow
    if overflow is not None and overflow.mechanism is Mechanism.VARIABLE:
        if overflow.variable is None:
            yield Problem("overflow.variable", "name the variable that workflows use: runs-on: ${{ vars.NAME }}")
        if not overflow.variable_labels:
            yield Problem("overflow.variable_labels", "name the labels that it holds while there is room")
        if overflow.low >= overflow.high:
            yield Problem("overflow.low", f"must be less than high ({overflow.high:g}), or it would switch to and fro")


def _egress_contradictions(policy: Policy) -> Iterator[Problem]:
    for name, profile in policy.profiles.items():
        for index, rule in enumerate(profile.egress.rules):
            if bool(rule.allow) == bool(rule.deny):
                yield Problem(f"profiles.{name}.egress.rules[{index}]", "write targets under either allow or deny")


def _warm_contradictions(policy: Policy) -> Iterator[Problem]:
    for name, scale_set in policy.scale_sets.items():
        place = f"scale_sets.{name}"
        if scale_set.min_runners > scale_set.max_runners:
            yield Problem(f"{place}.min_runners", f"must not be more than max_runners ({scale_set.max_runners})")
        if scale_set.min_runners and not scale_set.labels:
            yield Problem(f"{place}.labels", "runners that wait for any job need labels of their own: name them")
        if scale_set.min_runners and scale_set.level is RunnerLevel.REPOSITORY:
            yield Problem(
                f"{place}.min_runners", "runners of one repository cannot wait for all: write level: organization"
            )
        if scale_set.refill_below > scale_set.min_runners:
            yield Problem(f"{place}.scale_up_threshold", f"must not be more than min_runners ({scale_set.min_runners})")
        if scale_set.retire_above < scale_set.min_runners:
            yield Problem(
                f"{place}.scale_down_threshold", f"must not be less than min_runners ({scale_set.min_runners})"
            )


def _unknown(where: str, name: str, known: Mapping[str, object]) -> Problem:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
    return Problem(where, f"there is no '{name}': {hint}")


_SECTIONS: Mapping[str, type[BaseModel]] = {
    "profiles": Profile,
    "scale_sets": ScaleSet,
    "routes": Route,
    "overflow": OverflowSettings,
}


_NESTED: Mapping[str, type[BaseModel]] = {"egress": Egress, "sizing": Sizing}


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
    section = _SECTIONS.get(str(location[0]), Policy) if len(location) > 1 else Policy
    nested = [_NESTED[str(part)] for part in location[:-1] if str(part) in _NESTED]
    section = nested[-1] if nested else section
    if section is Egress and "rules" in location:
        section = EgressRule
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
