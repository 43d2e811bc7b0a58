"""What setting up asks for, in the words of each kind of credentials."""

import json
import re
from html import unescape
from pathlib import Path

import pytest

from controller.github_setup.manifest import build_manifest, form_page, installation_url, new_app_url, owner_of
from controller.github_setup.rights import (
    CANCEL,
    HOOKS,
    JOBS,
    REGISTER,
    VARIABLES,
    Right,
    app_permissions,
    missing_of_app,
    missing_of_classic,
    rights,
)
from functions.github.protocol import Scope

ORGANIZATION, REPOSITORY = rights(at_organization=True), rights(at_organization=False)
DOCUMENT = (Path(__file__).parent.parent.parent.parent / "docs" / "github.md").read_text()


def test_an_app_asks_for_what_it_needs_and_no_more() -> None:
    assert app_permissions(ORGANIZATION) == {
        "metadata": "read",
        "actions": "read",
        "organization_self_hosted_runners": "write",
    }
    assert app_permissions(REPOSITORY) == {"metadata": "read", "actions": "read", "administration": "write"}
    everything = app_permissions(rights(at_organization=True, cancels=True, switches=True))
    assert (everything["actions"], everything["organization_actions_variables"]) == ("write", "write")


@pytest.mark.parametrize(
    ("granted", "missing"),
    [
        ({"actions": "read", "organization_self_hosted_runners": "write"}, []),
        ({"actions": "write", "organization_self_hosted_runners": "admin"}, []),
        ({"actions": "read", "organization_self_hosted_runners": "read"}, [REGISTER[True]]),
        ({"organization_self_hosted_runners": "write"}, [JOBS]),
        ({}, [REGISTER[True], JOBS]),
    ],
    ids=["exactly", "more", "only read", "no actions", "nothing"],
)
def test_what_an_app_lacks_is_found(granted: dict[str, str], missing: list[object]) -> None:
    assert [right for right, _, _ in missing_of_app(ORGANIZATION, granted)] == missing


@pytest.mark.parametrize(
    ("scopes", "missing"),
    [
        ("repo, admin:org, admin:org_hook", []),
        ("repo,admin:org,admin:org_hook,workflow", []),
        ("admin:org", [HOOKS[True], JOBS]),
        ("", [REGISTER[True], HOOKS[True], JOBS]),
    ],
)
def test_what_a_classic_token_lacks_is_found(scopes: str, missing: list[object]) -> None:
    assert missing_of_classic(ORGANIZATION, scopes) == missing


def test_the_manifest_is_an_app_of_one_owner_with_one_event() -> None:
    made = build_manifest("Runyard acme", "https://hook", "http://127.0.0.1:1/callback", ORGANIZATION)
    assert made["public"] is False
    assert made["default_events"] == ["workflow_job"]
    assert made["hook_attributes"] == {"url": "https://hook", "active": True}


def test_the_page_carries_the_manifest_whatever_is_in_it() -> None:
    made = build_manifest('"><script>alert(1)</script>', "https://hook", "http://127.0.0.1:1/callback", ORGANIZATION)
    page = form_page("https://github.com/x?state=a&b", made)
    assert "<script>alert" not in page
    value = re.search(r'name="manifest" value="([^"]*)"', page)
    assert value is not None
    assert json.loads(unescape(value[1])) == made


def test_githubs_pages_are_those_of_the_owner() -> None:
    web = "https://github.com"
    assert new_app_url(web, "acme", "s/1", is_user=False) == f"{web}/organizations/acme/settings/apps/new?state=s%2F1"
    assert new_app_url(web, "me", "s", is_user=True) == f"{web}/settings/apps/new?state=s"
    assert installation_url(web, "runyard-acme") == f"{web}/apps/runyard-acme/installations/new"
    assert owner_of(Scope.organization("acme")) == owner_of(Scope.repository("acme/app")) == "acme"


@pytest.mark.parametrize("right", [*REGISTER.values(), *HOOKS.values(), JOBS, CANCEL, VARIABLES], ids=lambda r: r.what)
def test_the_manual_names_every_right_in_every_kind_of_words(right: Right) -> None:
    row = next(line for line in DOCUMENT.splitlines() if right.what in line and right.fine_grained in line)
    assert f"`{right.classic}`" in row
    if right.app is not None:
        assert f"`{right.app[0]}: {right.app[1]}`" in row
