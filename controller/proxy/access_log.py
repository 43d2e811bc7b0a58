"""One canonical line for each connection that a runner makes."""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from ..attribution import Attribution

_PLAIN = re.compile(r"[\w.:/@,+%()*\[\]~-]+", re.ASCII)


@dataclass(frozen=True)
class Access:
    """What is known of a connection when it ends."""

    kind: str
    """`CONNECT` or `HTTP`"""
    decision: str
    """`tunnel`, `refused` or `failed`"""
    reason: str
    who: Attribution | None
    host_id: str
    target: str
    source_ip: str
    bytes_up: int
    bytes_down: int
    duration_ms: int


def format_access(access: Access, at: float) -> str:
    """The line, in logfmt; `at` is Unix time in seconds."""
    who = access.who
    fields: list[tuple[str, object]] = [
        ("runner_name", who.runner_name if who else ""),
        ("profile", who.profile if who else ""),
        ("job_name", who.job_name if who else ""),
        ("job_id", who.job_key if who else ""),
        ("has_job", "yes" if who and who.has_job else "no"),
        ("target", access.target),
        ("source_ip", access.source_ip),
        ("host", access.host_id),
        ("decision", access.decision),
        ("reason", access.reason),
        ("bytes_up", access.bytes_up),
        ("bytes_down", access.bytes_down),
        ("duration_ms", access.duration_ms),
    ]
    time = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return f"{time} {access.kind} {access.decision} " + " ".join(f"{key}={_quote(str(value))}" for key, value in fields)


def _quote(value: str) -> str:
    """Job names are anybody's text: whatever could end the line or the value, or steer a terminal, is escaped."""
    if _PLAIN.fullmatch(value):
        return value
    return json.dumps(value, ensure_ascii=not value.isprintable())
