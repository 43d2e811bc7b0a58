"""One canonical line for each connection that a runner makes: the same fields in one order, logfmt or JSON. Pure."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

from ..attribution import Attribution
from .rules import Ruling

_PLAIN = re.compile(r"[\w.:/@,+%()*\[\]~-]+", re.ASCII)
_NOTHING = '""'


class Subject(NamedTuple):
    """Who connected, as the lines of one runner have it in common: there are thousands of lines a second."""

    names: str
    address: str


class Event(NamedTuple):
    """What is known of a connection when it ends."""

    time: str
    """from `format_time`"""
    kind: str
    """`CONNECT` or `HTTP`"""
    decision: str
    """`tunnel`, `refused` or `failed`"""
    who: Subject
    target: str
    """`host:port` as the client asked for it, which the parser has found to be plain; empty when it named none"""
    reason: str
    """for a refusal, or for an end before its time"""
    ruling: Ruling | None
    """what the profile's rules say of the target, whether they are enforced or not"""
    server_name: str
    """that a TLS client has asked for: its own text"""
    bytes_up: int
    """payload towards the target"""
    bytes_down: int
    """payload towards the runner"""
    duration_ms: int
    """from the request to the end"""


class LogFormat(Protocol):
    """A way to write lines."""

    def describe(self, who: Attribution | None, source_ip: str) -> Subject:
        """The fields that say who connected; None: nobody that is known."""

    def line(self, event: Event) -> str:
        """The line of one connection, without its end."""


class Logfmt:
    """`TIME KIND DECISION key=value …`"""

    def __init__(self, host_id: str):
        self._host_id = host_id

    def describe(self, who: Attribution | None, source_ip: str) -> Subject:
        return Subject(*(_in_logfmt(fields) for fields in _fields_of(who, source_ip, self._host_id)))

    def line(self, event: Event) -> str:
        time, kind, decision, who, target, reason, ruling, sni, bytes_up, bytes_down, duration_ms = event
        reason = quote(reason) if reason else _NOTHING
        rule, policy = (ruling.rule, ruling.policy) if ruling is not None else (_NOTHING, _NOTHING)
        return (
            f"{time} {kind} {decision} {who.names} target={target or _NOTHING} {who.address} decision={decision} "
            f"reason={reason} rule={rule} policy={policy} sni={quote(sni) if sni else _NOTHING} "
            f"bytes_up={bytes_up} bytes_down={bytes_down} duration_ms={duration_ms}"
        )


class JsonLines:
    """One JSON object a line."""

    def __init__(self, host_id: str):
        self._host_id = host_id

    def describe(self, who: Attribution | None, source_ip: str) -> Subject:
        return Subject(*(json.dumps(fields)[1:-1] for fields in _fields_of(who, source_ip, self._host_id)))

    def line(self, event: Event) -> str:
        time, kind, decision, who, target, reason, ruling, sni, bytes_up, bytes_down, duration_ms = event
        rule, policy = (ruling.rule, ruling.policy) if ruling is not None else ("", "")
        return (
            f'{{"time": "{time}", "kind": "{kind}", {who.names}, "target": {json.dumps(target)}, {who.address}, '
            f'"decision": "{decision}", "reason": {json.dumps(reason)}, "rule": "{rule}", "policy": "{policy}", '
            f'"sni": {json.dumps(sni)}, "bytes_up": {bytes_up}, "bytes_down": {bytes_down}, '
            f'"duration_ms": {duration_ms}}}'
        )


FORMATS: Mapping[str, type[Logfmt] | type[JsonLines]] = {"logfmt": Logfmt, "json": JsonLines}


def _fields_of(who: Attribution | None, source_ip: str, host_id: str) -> tuple[dict[str, str], dict[str, str]]:
    """Those before the target and those behind it."""
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
    return names, address


def _in_logfmt(fields: Mapping[str, str]) -> str:
    return " ".join(f"{key}={quote(value)}" for key, value in fields.items())


def format_time(at: float) -> str:
    """Unix time in seconds, to the microsecond."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def quote(value: str) -> str:
    """Job names are anybody's text: whatever could end the line or the value, or steer a terminal, is escaped."""
    if _PLAIN.fullmatch(value):
        return value
    return json.dumps(value, ensure_ascii=not value.isprintable())
