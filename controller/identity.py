"""Which job has a runner got? Pure: from what the runner printed, and from what GitHub's webhook says.

The runner prints the job's display name before it runs the job-started hook, and the hook knows run id and attempt.
The webhook names the runner, but may come later than the job's first step, or not at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from functions.documents.lifecycle import JobState
from functions.documents.workflow_job import RunnerProfile, WorkflowJob

BY_OUTPUT = "runner output"
BY_WEBHOOK = "webhook"
BY_BOTH = "runner output and webhook"

_CUT = "..."
_LONGEST_SEGMENT = 100
"""characters; GitHub cuts each part of a display name, and ends it with three dots"""


@dataclass(frozen=True)
class Identity:
    """What is known of a runner's job so far."""

    job: WorkflowJob | None = None
    known_by: str = ""
    disagreement: str = ""
    """what the runner's output said instead, where the webhook has overruled it"""
    profile: RunnerProfile | None = None
    """of a job that is one of several which all have this profile: enough to size the container"""


NOT_KNOWN = Identity()


def identify(
    named: Sequence[WorkflowJob], of_runner: Sequence[WorkflowJob], runner_name: str, run_attempt: int | None
) -> Identity:
    """The job of a runner.

    Args:
        named: the run's jobs that have the name which the runner printed.
        of_runner: the jobs of which the webhook says that this runner has them.
        runner_name: the runner.
        run_attempt: as the hook has it; None when it does not say.
    """
    candidates = [job for job in named if _may_be(job, runner_name, run_attempt)]
    if len(of_runner) == 1:
        (job,) = of_runner
        if not named or any(one.key == job.key for one in named):
            return Identity(job, BY_BOTH if named else BY_WEBHOOK)
        names = ", ".join(one.key for one in named)
        return Identity(job, BY_WEBHOOK, f"the runner's output names {names}, the webhook {job.key}")
    if of_runner:
        return NOT_KNOWN
    if len(candidates) == 1:
        (job,) = candidates
        return Identity(job, BY_BOTH if job.runner is not None else BY_OUTPUT)
    return Identity(profile=_common_profile(candidates))


def _may_be(job: WorkflowJob, runner_name: str, run_attempt: int | None) -> bool:
    is_elsewhere = job.runner is not None and job.runner.name != runner_name
    return run_attempt in {None, job.run_attempt} and not is_elsewhere and job.state is not JobState.COMPLETED


def _common_profile(jobs: Sequence[WorkflowJob]) -> RunnerProfile | None:
    """The profile that all of them have; None when they differ or when there are none."""
    profiles = [job.plan.profile if job.plan is not None else None for job in jobs]
    return profiles[0] if profiles and all(profile == profiles[0] for profile in profiles) else None


def is_name_of(printed: str, display_name: str) -> bool:
    """Whether a printed line names this job: names hold line breaks, and GitHub cuts long ones in one place or another.

    The cuts were seen in public issues: OP5dev/TF-via-PR #482, kata-containers #11176.
    """
    name = "".join(display_name.splitlines()[:1]).rstrip()
    printed = printed.rstrip()
    return printed == name or _is_cut_of(printed, name) or _is_cut_of(name, printed)


def _is_cut_of(short: str, long: str) -> bool:
    """Part by part, as in `Caller (matrix) / Inner`; each may be cut."""
    short_parts, long_parts = short.split(" / "), long.split(" / ")
    if len(short_parts) != len(long_parts):
        # A cut has taken a slash along.
        short_parts, long_parts = [short], [long]
    return all(_is_part(one, other) for one, other in zip(short_parts, long_parts, strict=True))


def _is_part(short: str, long: str) -> bool:
    if short == long:
        return True
    is_cut = short.endswith(_CUT) and len(short) >= _LONGEST_SEGMENT
    return is_cut and long.startswith(short.removesuffix(_CUT))
