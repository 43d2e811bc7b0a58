"""Policies in formats that other systems use, as the standard one. Pure.

Both load as they are and mean what they meant:

- routes only: `routes: [{label_match, strategy, overflow, max_queue_depth}]`, without profiles and scale sets;
- one scale set: `github`, `runner`, `profiles`, `default_profile`, `proxy`, without routes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

DEFAULT_IMAGE = "ghcr.io/actions/actions-runner:latest"
DEFAULT_PROFILE = {"cpus": "2", "memory": "8g"}
"""the size of GitHub's own standard Linux runner for private repositories"""
DEFAULT_MAX_RUNNERS = 10
_ONE_SCALE_SET = {"github", "runner"}


@dataclass(frozen=True)
class Standard:
    """A policy in the standard format, and what was filled in or left out on the way (place → words)."""

    document: Mapping[str, Any]
    notes: tuple[tuple[str, str], ...] = ()


def to_standard_format(document: Mapping[str, Any]) -> Standard:
    """Recognizes the format by its keys; what is not recognized is passed on as it is."""
    if _ONE_SCALE_SET & set(document) and "scale_sets" not in document and "routes" not in document:
        return _from_one_scale_set(document)
    if "routes" in document and not {"profiles", "scale_sets"} & set(document):
        return _from_routes_only(document)
    return Standard(document)


def _from_routes_only(document: Mapping[str, Any]) -> Standard:
    defaults = {
        "profiles": {"default": dict(DEFAULT_PROFILE)},
        "default_profile": "default",
        "scale_sets": {"default": {"max_runners": DEFAULT_MAX_RUNNERS, "image": DEFAULT_IMAGE}},
    }
    size = f"{DEFAULT_PROFILE['cpus']} CPUs and {DEFAULT_PROFILE['memory']}"
    notes = (
        ("profiles", f"none is given: all jobs get {size}"),
        ("scale_sets", f"none is given: up to {DEFAULT_MAX_RUNNERS} runners of {DEFAULT_IMAGE}"),
    )
    return Standard(defaults | dict(document), notes)


def _from_one_scale_set(document: Mapping[str, Any]) -> Standard:
    """`github` says where and with which label, `runner` how many and which image."""
    github, runner = document.get("github"), document.get("runner")
    if not isinstance(github, Mapping) or not isinstance(runner, Mapping):
        # Not filled in halfway: the standard format's check tells what is wrong.
        return Standard(document)
    name = str(github.get("scale_set_name") or "default")
    label = str(github.get("runner_label") or name)
    path = [part for part in urlsplit(str(github.get("repository_url", ""))).path.split("/") if part]
    scale_set: dict[str, Any] = {
        "max_runners": runner.get("max_runners", DEFAULT_MAX_RUNNERS),
        "image": runner.get("image", DEFAULT_IMAGE),
        "labels": [label],
        # Two parts name a repository, one an organization.
        "level": "repository" if len(path) == 2 else "organization",
        "runner_group": github.get("runner_group") or "default",
    }
    if "work_folder" in runner:
        scale_set["work_folder"] = runner["work_folder"]
    route: dict[str, Any] = {"label_match": label, "strategy": "self_hosted_only", "overflow": "hold"}
    if len(path) == 2:
        route["repository"] = "/".join(path).removesuffix(".git")
    profiles = document.get("profiles")
    standard: dict[str, Any] = {
        "profiles": profiles,
        "scale_sets": {name: scale_set},
        "routes": [route],
        **{key: document[key] for key in ("version", "default_profile", "profile_order") if key in document},
    }
    if isinstance(profiles, Mapping) and "profile_order" not in standard:
        # Matched in the order written, which a YAML file has.
        standard["profile_order"] = list(profiles)
    known = {"version", "github", "runner", "profiles", "default_profile", "profile_order", "proxy"}
    # Unknown keys go on to be refused; those of the sections, too, under the names that they were given.
    standard |= {key: value for key, value in document.items() if key not in known}
    standard |= _unknown_keys("github", github, {"repository_url", "scale_set_name", "runner_label", "runner_group"})
    standard |= _unknown_keys("runner", runner, {"image", "max_runners", "work_folder"})
    notes: tuple[tuple[str, str], ...] = ()
    if "proxy" in document:
        notes = (("proxy", "belongs to the controller's configuration: proxy.port; it is not read here"),)
    return Standard(standard, notes)


def _unknown_keys(section: str, given: Mapping[str, Any], known: set[str]) -> dict[str, Any]:
    return {f"{section}.{key}": value for key, value in given.items() if key not in known}
