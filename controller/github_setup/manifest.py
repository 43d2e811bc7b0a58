"""A GitHub App from a manifest: a form that the operator's browser sends to GitHub, which comes back with a code.

Source: GitHub docs, "Registering a GitHub App from a manifest".
"""

import html
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

from functions.github.protocol import Scope

from .rights import EVENT, Right, app_permissions

HOMEPAGE = "https://github.com/features/actions"
"""GitHub demands one; the App has none of its own"""


def build_manifest(name: str, webhook_url: str, redirect_url: str, needed: Sequence[Right]) -> dict[str, Any]:
    """The App as it is to be."""
    return {
        "name": name,
        "url": HOMEPAGE,
        "hook_attributes": {"url": webhook_url, "active": True},
        "redirect_url": redirect_url,
        "public": False,
        "default_events": [EVENT],
        "default_permissions": app_permissions(needed),
    }


def new_app_url(web_url: str, owner: str, state: str, *, is_user: bool) -> str:
    """Where GitHub takes the form."""
    place = "settings/apps/new" if is_user else f"organizations/{quote(owner, safe='')}/settings/apps/new"
    return f"{web_url}/{place}?{urlencode({'state': state})}"


def form_page(action: str, manifest: dict[str, Any]) -> str:
    """A page with one button, which also presses itself."""
    value = html.escape(json.dumps(manifest), quote=True)
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Runyard: new GitHub App</title>
<body style="font: 16px sans-serif; margin: 4em auto; max-width: 40em">
<h1>A GitHub App for Runyard</h1>
<p>GitHub shows what the App may do and asks for its name. Then this window comes back here.</p>
<form method="post" action="{html.escape(action, quote=True)}">
<input type="hidden" name="manifest" value="{value}">
<button>Go to GitHub</button>
</form>
<script>document.forms[0].submit()</script>
</body></html>
"""


def installation_url(web_url: str, slug: str) -> str:
    """Where the App is given repositories."""
    return f"{web_url}/apps/{quote(slug, safe='')}/installations/new"


def owner_of(scope: Scope) -> str:
    """`acme` of `/orgs/acme` and of `/repos/acme/app`."""
    return scope.path.split("/")[2]
