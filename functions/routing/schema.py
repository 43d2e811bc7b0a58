"""The policy's JSON Schema, for editors. Sizes and durations are what people write, not what they are read as."""

import json
from typing import Any

from .policy import Policy

GLOBS = {"label_match", "repository", "workflow", "branch", "event", "match_patterns", "allow", "deny"}
"""keys that take one glob or a list"""
WRITTEN_AS = {
    "cpus": "CPUs",
    "memory": "size",
    "bandwidth": "size",
    "timeout": "duration",
    "grace": "duration",
    "wait": "duration",
    "idle_timeout": "duration",
}
"""keys that take a number or a text with a unit"""


def policy_schema() -> str:
    """The schema as JSON text."""
    schema = Policy.model_json_schema()
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema | {"title": "Runyard routing policy"}
    _as_written(schema)
    return json.dumps(schema, indent=2) + "\n"


def _as_written(node: Any) -> None:
    if isinstance(node, list):
        for item in node:
            _as_written(item)
    elif isinstance(node, dict):
        for key, field in node.get("properties", {}).items():
            if key in WRITTEN_AS:
                field["type"] = ["string", "number"]
                field.pop("minimum", None)
            elif key in GLOBS:
                one = field.pop("items", {})
                del field["type"]
                field["anyOf"] = [{"type": "array", "items": one}, one]
        for value in node.values():
            _as_written(value)
