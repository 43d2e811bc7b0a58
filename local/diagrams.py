"""The README's state diagrams, made from the tables in the code. A test keeps the README in step.

`python -m local.diagrams` prints them.
"""

import itertools

from functions.documents.lifecycle import RANK_OF_EVENT, RUNNER_TRANSITIONS, JobState, RunnerState


def runner_diagram() -> str:
    """The life of a `pendingRunners` document, as Mermaid."""
    lines = [f"    [*] --> {RunnerState.PENDING}"]
    lines += [
        f"    {before} --> {after}: {event.replace('_', ' ')}" for (before, event), after in RUNNER_TRANSITIONS.items()
    ]
    moving = {before for before, _ in RUNNER_TRANSITIONS}
    lines += [f"    {state} --> [*]" for state in RunnerState if state not in moving]
    return "\n".join(["stateDiagram-v2", *lines])


def job_diagram() -> str:
    """A job's rank, which events only ever raise, as Mermaid."""
    event_of = {state: event for event, state in RANK_OF_EVENT.items()}
    states = list(JobState)
    lines = [f"    [*] --> {states[0].name.lower()}: {event_of[states[0]]}"]
    lines += [
        f"    {before.name.lower()} --> {after.name.lower()}: {event_of[after]}"
        for before, after in itertools.pairwise(states)
    ]
    return "\n".join(["stateDiagram-v2", "    direction LR", *lines, f"    {states[-1].name.lower()} --> [*]"])


if __name__ == "__main__":
    print(job_diagram(), runner_diagram(), sep="\n\n")
