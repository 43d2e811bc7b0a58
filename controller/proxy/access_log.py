"""One canonical line for each connection that a runner makes."""

import json
import re
from datetime import UTC, datetime
from typing import NamedTuple

from ..attribution import Attribution
from .rules import Ruling

_PLAIN = re.compile(r"[\w.:/@,+%()*\[\]~-]+", re.ASCII)
_NOTHING = '""'
_POLICY = 'rule="" policy=""'
"""of a connection that named no target"""


class Subject(NamedTuple):
    """What all lines of one runner have in common, quoted once: there are thousands of lines a second."""

    names: str
    address: str


def describe(who: Attribution | None, source_ip: str, host_id: str) -> Subject:
    """The fields that say who connected.

    Args:
        who: the runner; None: nobody that is known.
        source_ip: its address.
        host_id: this host.
    """
    names = {
        "runner_name": who.runner_name if who else "",
        "profile": who.profile if who else "",
        "job_name": who.job_name if who else "",
    }
    address = {
        "source_ip": source_ip,
        "job_id": who.job_key if who else "",
        "has_job": "yes" if who and who.has_job else "no",
        "host": host_id,
    }
    return Subject(*(" ".join(f"{key}={quote(value)}" for key, value in fields.items()) for fields in (names, address)))


def format_line(
    time: str,
    kind: str,
    decision: str,
    who: Subject,
    target: str,
    ruling: Ruling | None,
    reason: str,
    bytes_up: int,
    bytes_down: int,
    duration_ms: int,
) -> str:
    """The line of one connection, in logfmt.

    Args:
        time: its end, from `format_time`.
        kind: `CONNECT` or `HTTP`.
        decision: `tunnel`, `refused` or `failed`.
        who: who connected.
        target: `host:port` as the client asked for it, which the parser has found to be plain; empty when it did not
            get that far.
        ruling: what the profile's rules say of the target, whether they are enforced or not.
        reason: for a refusal, or for an end before its time.
        bytes_up: payload towards the target.
        bytes_down: payload towards the runner.
        duration_ms: from accept to the end.
    """
    target = target or _NOTHING
    reason = quote(reason) if reason else _NOTHING
    policy = _POLICY if ruling is None else ruling.in_log
    return (
        f"{time} {kind} {decision} {who.names} target={target} {who.address} decision={decision} reason={reason} "
        f"{policy} bytes_up={bytes_up} bytes_down={bytes_down} duration_ms={duration_ms}"
    )


def format_time(at: float) -> str:
    """Unix time in seconds, to the microsecond."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def quote(value: str) -> str:
    """Job names are anybody's text: whatever could end the line or the value, or steer a terminal, is escaped."""
    if _PLAIN.fullmatch(value):
        return value
    return json.dumps(value, ensure_ascii=not value.isprintable())
