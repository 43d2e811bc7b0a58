"""Every resource, argument and block that the configuration names is in the Google provider's schema.

tests/terraform has Terraform itself check more than this; here it is checked where there is no Terraform.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import hcl2
import pytest

ROOT = Path(__file__).parent.parent.parent.parent
FILES = sorted((ROOT / "terraform").rglob("*.tf"))
SCHEMA = json.loads((ROOT / "tests" / "terraform" / "google-provider.json").read_text())
RESOURCES = SCHEMA["provider_schemas"]["registry.terraform.io/hashicorp/google"]["resource_schemas"]
OF_TERRAFORM = {"count", "for_each", "depends_on", "lifecycle", "provider", "provisioner", "connection"}


def resources(text: str) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Type, name and body of each resource of a file."""
    for resource in hcl2.loads(text).get("resource", []):
        for kind, named in resource.items():
            for name, body in named.items():
                yield kind.strip('"'), name.strip('"'), body


def find_faults(kind: str, body: Mapping[str, Any]) -> Iterator[str]:
    if kind not in RESOURCES:
        yield f"there is no resource {kind}"
        return
    yield from _compare(RESOURCES[kind]["block"], body, kind)


def _compare(block: Mapping[str, Any], body: Mapping[str, Any], where: str) -> Iterator[str]:
    attributes, nested = block["attributes"], block.get("block_types", {})
    given, inner = _split(body)
    for name in given:
        settable = attributes.get(name, {})
        if not settable.get("optional") and not settable.get("required"):
            yield f"{where} takes no argument {name}"
    for name, bodies in inner.items():
        if name not in nested:
            yield f"{where} takes no block {name}"
            continue
        if len(bodies) > nested[name].get("max_items", len(bodies)):
            yield f"{where} takes one block {name}"
        for one in bodies:
            yield from _compare(nested[name]["block"], one, f"{where}.{name}")
    required = {name for name, attribute in attributes.items() if attribute.get("required")}
    required |= {name for name, one in nested.items() if one.get("min_items")}
    for name in sorted(required - given - inner.keys()):
        yield f"{where} misses {name}"


def _split(body: Mapping[str, Any]) -> tuple[set[str], dict[str, list[Mapping[str, Any]]]]:
    """Names of arguments; blocks by name, dynamic ones among them."""
    arguments: set[str] = set()
    blocks: dict[str, list[Mapping[str, Any]]] = {}
    for name, value in body.items():
        if name.startswith("__") or name in OF_TERRAFORM:
            continue
        if name == "dynamic":
            for dynamic in value:
                for label, inner in dynamic.items():
                    if not label.startswith("__"):
                        blocks.setdefault(label.strip('"'), []).extend(inner["content"])
        elif isinstance(value, list) and value and all(isinstance(v, dict) and v.get("__is_block__") for v in value):
            blocks.setdefault(name, []).extend(value)
        else:
            arguments.add(name)
    return arguments, blocks


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT / "terraform")))
def test_the_configuration_names_only_what_the_provider_knows(file: Path) -> None:
    faults = [
        f"{kind}.{name}: {fault}"
        for kind, name, body in resources(file.read_text())
        for fault in find_faults(kind, body)
    ]
    assert faults == []


def test_there_is_something_to_compare() -> None:
    found = [kind for file in FILES for kind, _, _ in resources(file.read_text())]
    assert len(found) > 40
    assert set(found) == set(RESOURCES), "make the extract again: scripts/extract-provider-schema"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('resource "google_bucket" "b" {}', "there is no resource google_bucket"),
        ('resource "google_compute_network" "n" {\n name = "n"\n size = 1\n}', "takes no argument size"),
        ('resource "google_compute_network" "n" {\n name = "n"\n self_link = ""\n}', "takes no argument self_link"),
        ('resource "google_compute_network" "n" {}', "google_compute_network misses name"),
        ('resource "google_compute_network" "n" {\n name = "n"\n peering {\n }\n}', "takes no block peering"),
        ('resource "google_firebaserules_ruleset" "r" {\n source {\n }\n}', "ruleset.source misses files"),
        (
            'resource "google_firestore_field" "f" {\n collection = "c"\n field = "f"\n'
            " ttl_config {\n }\n ttl_config {\n }\n}",
            "takes one block ttl_config",
        ),
        (
            'resource "google_firestore_field" "f" {\n collection = "c"\n field = "f"\n index_config {\n'
            ' dynamic "indexes" {\n for_each = []\n content {\n direction = "up"\n }\n }\n }\n}',
            "google_firestore_field.index_config.indexes takes no argument direction",
        ),
    ],
    ids=["resource", "argument", "computed", "missing", "block", "missing inside", "twice", "dynamic"],
)
def test_a_mistake_is_found(text: str, fault: str) -> None:
    [(kind, _, body)] = resources(text)
    assert any(fault in found for found in find_faults(kind, body)), list(find_faults(kind, body))
