"""What GitHub's word on a job adds to what we know. Pure."""

from datetime import datetime, timedelta

from ..documents.lifecycle import JobState
from ..documents.runner_name import read_runner_name
from ..documents.workflow_job import WorkflowJob
from ..webhook.event import Action, JobEvent

_STATES = {
    Action.QUEUED: JobState.QUEUED,
    Action.IN_PROGRESS: JobState.IN_PROGRESS,
    Action.COMPLETED: JobState.COMPLETED,
}


def is_news(event: JobEvent, known: WorkflowJob | None, now: datetime, grace: timedelta) -> bool:
    """Whether the webhook that should have told us this has been lost.

    Args:
        event: what GitHub says now.
        known: our document.
        now: the time.
        grace: how long the webhook may be on its way.
    """
    if _since(event) + grace > now:
        return False
    if known is not None:
        return _STATES[event.action] > known.state
    # Of a job that we never heard of, the place that it waits for matters, or our runner that it has.
    return event.action is Action.QUEUED or (
        event.action is Action.IN_PROGRESS and read_runner_name(event.runner_name or "") is not None
    )


def _since(event: JobEvent) -> datetime:
    match event.action:
        case Action.QUEUED:
            return event.created_at
        case Action.IN_PROGRESS:
            return event.started_at or event.created_at
        case Action.COMPLETED:
            return event.completed_at or event.created_at
