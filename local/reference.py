"""What the documentation takes from the code: state diagrams, the policy's reference, its JSON Schema.

`python -m local.reference` writes them; a test keeps them in step.
"""

import itertools
import json
import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from functions.documents.lifecycle import RANK_OF_EVENT, RUNNER_TRANSITIONS, JobState, RunnerState
from functions.routing.policy import Egress, EgressRule, OverflowSettings, Policy, Profile, Route, ScaleSet, Sizing
from functions.routing.schema import GLOBS, WRITTEN_AS, policy_schema

ROOT = Path(__file__).parent.parent
_SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("The policy", Policy),
    ("profiles.NAME", Profile),
    ("profiles.NAME.egress", Egress),
    ("profiles.NAME.egress.rules[]", EgressRule),
    ("scale_sets.NAME", ScaleSet),
    ("scale_sets.NAME.sizing", Sizing),
    ("routes[]", Route),
    ("overflow", OverflowSettings),
)


def runner_diagram() -> str:
    """The life of a `pendingRunners` document, as Mermaid."""
    lines = [f"    [*] --> {RunnerState.PENDING}"]
    lines += [
        f"    {before} --> {after}: {event.replace('_', ' ')}" for (before, event), after in RUNNER_TRANSITIONS.items()
    ]
    lines += [f"    {RunnerState.SCHEDULED} --> [*]: its container has ended after a job"]
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


def policy_reference() -> str:
    """Every key of the policy, as Markdown tables."""
    parts = []
    for title, model in _SECTIONS:
        rows = "\n".join(_rows(model))
        parts.append(
            f"### {title}\n\n{model.__doc__}\n\n| key | value | default | meaning |\n|---|---|---|---|\n{rows}\n"
        )
    return "\n".join(parts)


def _rows(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        key = field.alias or name
        yield f"| `{key}` | {_kind(key, field)} | {_default(field)} | {field.description} |"


def _kind(key: str, field: FieldInfo) -> str:
    if key in WRITTEN_AS:
        return WRITTEN_AS[key]
    kinds = get_args(field.annotation) if isinstance(field.annotation, UnionType) else (field.annotation,)
    (kind,) = [kind for kind in kinds if kind is not NoneType]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(f"`{member.value}`" for member in kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "map"
    if get_origin(kind) is dict:
        return "map"
    if get_origin(kind) is tuple:
        return "list, or one" if key in GLOBS else "list"
    simple: dict[Any, str] = {str: "text", int: "whole number", float: "number", bool: "`true` or `false`"}
    return simple[kind]


def _default(field: FieldInfo) -> str:
    value = field.default
    if field.is_required():
        return "required"
    if value is None or value == () or isinstance(value, dict | BaseModel):
        return ""
    if isinstance(value, Enum):
        return f"`{value.value}`"
    return f"`{json.dumps(value)}`" if not isinstance(value, str) else f"`{value}`"


def replace_block(text: str, name: str, content: str) -> str:
    """A text with what stands between `<!-- name -->` and `<!-- /name -->` replaced."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    return pattern.sub(lambda _: f"{begin}{content}{end}", text)


def documents() -> dict[Path, str]:
    """Every file that takes something from the code, as it should be."""
    readme, policies = ROOT / "README.md", ROOT / "policies" / "README.md"
    text = replace_block(readme.read_text(), "job diagram", f"```mermaid\n{job_diagram()}\n```\n")
    text = replace_block(text, "runner diagram", f"```mermaid\n{runner_diagram()}\n```\n")
    text = replace_block(text, "demo policy", f"```yaml\n{(ROOT / 'policies' / 'demo.yaml').read_text()}```\n")
    return {
        readme: text,
        policies: replace_block(policies.read_text(), "reference", f"\n{policy_reference()}\n"),
        ROOT / "policies" / "schema.json": policy_schema(),
    }


if __name__ == "__main__":
    for path, content in documents().items():
        path.write_text(content)
        print(f"{path.relative_to(ROOT)}: written")
