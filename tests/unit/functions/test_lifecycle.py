"""The lives of a job and of a runner."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.documents.lifecycle import (
    RANK_OF_EVENT,
    IllegalTransition,
    JobEvent,
    JobState,
    RunnerEvent,
    RunnerState,
    move_runner,
    raise_state,
)

JOB_LIFE = [
    (JobEvent.QUEUE, JobState.QUEUED),
    (JobEvent.RESERVE, JobState.RESERVED),
    (JobEvent.REGISTER, JobState.REGISTERED),
    (JobEvent.START, JobState.IN_PROGRESS),
    (JobEvent.COMPLETE, JobState.COMPLETED),
]
"""in the order in which a job lives it"""

# What becomes of a runner; a dot is refused.
RUNNER_LIFE = """
             claim       hand_back  start      fail    cancel
pending      scheduling  .          .          .       cancelled
scheduling   .           pending    scheduled  failed  .
scheduled    .           .          .          failed  cancelled
failed       .           .          .          .       .
cancelled    .           .          .          .       .
"""


def runner_life() -> dict[tuple[RunnerState, RunnerEvent], RunnerState | None]:
    """The table above: every state and event, and None for what is refused."""
    head, *rows = RUNNER_LIFE.strip().splitlines()
    events = [RunnerEvent(name) for name in head.split()]
    return {
        (RunnerState(row.split()[0]), event): None if after == "." else RunnerState(after)
        for row in rows
        for event, after in zip(events, row.split()[1:], strict=True)
    }


def state_after(events: list[JobEvent], state: JobState = JobState.QUEUED) -> JobState:
    for event in events:
        state = raise_state(state, event)
    return state


def test_the_life_of_a_job_names_every_event_and_every_state_once() -> None:
    assert [event for event, _ in JOB_LIFE] == list(JobEvent)
    assert [state for _, state in JOB_LIFE] == list(JobState)
    assert dict(JOB_LIFE) == RANK_OF_EVENT


def test_the_ranks_of_a_job_are_those_in_its_documents() -> None:
    assert list(JobState) == [10, 20, 50, 60, 70]


@pytest.mark.parametrize(("before", "after"), list(product(range(len(JOB_LIFE)), repeat=2)))
def test_an_event_raises_a_job_to_its_state_and_never_lowers_it(before: int, after: int) -> None:
    state, (event, _) = JOB_LIFE[before][1], JOB_LIFE[after]
    assert raise_state(state, event) is JOB_LIFE[max(before, after)][1]


@settings(max_examples=100, deadline=None)
@given(st.data(), st.lists(st.sampled_from(JobEvent), min_size=1, max_size=10))
def test_job_events_in_any_order_and_any_number_lead_to_the_same_state(
    data: st.DataObject, events: list[JobEvent]
) -> None:
    repeated = events + data.draw(st.lists(st.sampled_from(events)))
    assert state_after(data.draw(st.permutations(repeated))) is state_after(events)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(JobEvent)))
def test_a_completed_job_stays_completed(events: list[JobEvent]) -> None:
    assert state_after(events, JobState.COMPLETED) is JobState.COMPLETED


def test_the_life_of_a_runner_states_every_state_and_event() -> None:
    assert runner_life().keys() == set(product(RunnerState, RunnerEvent))


@pytest.mark.parametrize(("state", "event"), list(product(RunnerState, RunnerEvent)))
def test_a_runner_moves_as_its_life_says_or_refuses(state: RunnerState, event: RunnerEvent) -> None:
    after = runner_life()[state, event]
    if after is None:
        with pytest.raises(IllegalTransition) as refused:
            move_runner(state, event)
        assert (refused.value.state, refused.value.event) == (state, event)
    else:
        assert move_runner(state, event) is after


@pytest.mark.parametrize("state", [RunnerState.FAILED, RunnerState.CANCELLED])
def test_nothing_happens_to_a_runner_that_has_ended(state: RunnerState) -> None:
    assert {after for (before, _), after in runner_life().items() if before is state} == {None}


def test_every_state_of_a_runner_can_be_reached() -> None:
    reached = {after for after in runner_life().values() if after is not None}
    assert reached == set(RunnerState)


def test_a_refused_move_is_told_in_words() -> None:
    with pytest.raises(IllegalTransition, match="a runner that is failed cannot hand back"):
        move_runner(RunnerState.FAILED, RunnerEvent.HAND_BACK)
