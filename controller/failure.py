"""A runner that ended without a job: what its document says, and what is asked of the functions. Pure."""

from datetime import datetime
from typing import Any

from functions.documents import command, pending_runner
from functions.documents.command import Command, CommandKind
from functions.documents.lifecycle import RunnerEvent, RunnerState, move_runner


def note_failure(
    state: RunnerState, runner_name: str, pool: str, host_id: str, reason: str, now: datetime
) -> tuple[dict[str, Any], Command]:
    """The fields of the runner's document, and the command: its place is free, and its job needs another runner."""
    fields = {
        "status": move_runner(state, RunnerEvent.FAIL),
        "reason": reason,
        "endedAt": now,
        "expireAt": now + pending_runner.KEPT_FOR,
    }
    return fields, make_command(CommandKind.RUNNER_GONE, runner_name, pool, host_id, now, reason)


def make_command(
    kind: CommandKind, runner_name: str, pool: str, host_id: str, now: datetime, reason: str = ""
) -> Command:
    """What this host asks for."""
    return Command(
        kind=kind,
        runner_name=runner_name,
        pool=pool,
        host_id=host_id,
        reason=reason,
        created_at=now,
        expire_at=now + command.KEPT_FOR,
    )
