"""The lives of a job and of a runner, as tables. Pure.

A job's state is a rank that events only ever raise, so that events may arrive in any order and any number of times.
A runner's document is moved by one owner at a time, each move guarded by the document's last update: there a missing
entry in the table is an error.
"""

from enum import IntEnum, StrEnum


class JobState(IntEnum):
    """How far a job has come. The gaps leave room for states to come."""

    QUEUED = 10
    """known; also waiting for room, or not ours"""
    RESERVED = 20
    """has a place in the ledger; from here to its first step, the document of the runner made for it tells more"""
    REGISTERED = 50
    """a runner has it, and its container has its size"""
    IN_PROGRESS = 60
    """a runner, perhaps another one, runs it"""
    COMPLETED = 70


class JobEvent(StrEnum):
    """What can happen to a job."""

    QUEUE = "queue"
    RESERVE = "reserve"
    REGISTER = "register"
    START = "start"
    COMPLETE = "complete"


RANK_OF_EVENT: dict[JobEvent, JobState] = {
    JobEvent.QUEUE: JobState.QUEUED,
    JobEvent.RESERVE: JobState.RESERVED,
    JobEvent.REGISTER: JobState.REGISTERED,
    JobEvent.START: JobState.IN_PROGRESS,
    JobEvent.COMPLETE: JobState.COMPLETED,
}


def raise_state(state: JobState, event: JobEvent) -> JobState:
    """The state after an event: the higher of the two ranks."""
    return max(state, RANK_OF_EVENT[event])


class RunnerState(StrEnum):
    """The status of a `pendingRunners` document."""

    PENDING = "pending"
    """waits for a host"""
    SCHEDULING = "scheduling"
    """a host has claimed it and starts its container"""
    SCHEDULED = "scheduled"
    """its container runs; when that has ended by itself, the document is deleted"""
    FAILED = "failed"
    """it could not be started, or died before it took a job"""
    CANCELLED = "cancelled"
    """not wanted any more, before a host claimed it or when it had waited for long"""


LIVE = frozenset({RunnerState.PENDING, RunnerState.SCHEDULING, RunnerState.SCHEDULED})
OVER = frozenset({RunnerState.FAILED, RunnerState.CANCELLED})
"""it has come to nothing"""


class RunnerEvent(StrEnum):
    """What can happen to a runner."""

    CLAIM = "claim"
    HAND_BACK = "hand_back"
    START = "start"
    FAIL = "fail"
    CANCEL = "cancel"


RUNNER_TRANSITIONS: dict[tuple[RunnerState, RunnerEvent], RunnerState] = {
    (RunnerState.PENDING, RunnerEvent.CLAIM): RunnerState.SCHEDULING,
    (RunnerState.PENDING, RunnerEvent.CANCEL): RunnerState.CANCELLED,
    (RunnerState.SCHEDULING, RunnerEvent.HAND_BACK): RunnerState.PENDING,
    (RunnerState.SCHEDULING, RunnerEvent.START): RunnerState.SCHEDULED,
    (RunnerState.SCHEDULING, RunnerEvent.FAIL): RunnerState.FAILED,
    (RunnerState.SCHEDULED, RunnerEvent.FAIL): RunnerState.FAILED,
    (RunnerState.SCHEDULED, RunnerEvent.CANCEL): RunnerState.CANCELLED,
}


class IllegalTransition(Exception):
    """An event that a runner's state does not allow."""

    def __init__(self, state: RunnerState, event: RunnerEvent):
        super().__init__(f"a runner that is {state} cannot {event.replace('_', ' ')}")
        self.state = state
        self.event = event


def move_runner(state: RunnerState, event: RunnerEvent) -> RunnerState:
    """The state after an event.

    Raises:
        IllegalTransition: the table has no such entry.
    """
    try:
        return RUNNER_TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransition(state, event) from None
