"""What somebody who sets up Runyard needs of GitHub: a webhook, or an App from a manifest.

There is one webhook, that of the whole simulated GitHub, and at most one App.
"""

import json
import secrets
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlencode

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from .github import App, GitHub
from .payloads import API, ping_webhook
from .world import ApiError

HOOK_ID = 1
_APP_ID = 424242
_SLUG = "runyard-simulated"
MakeRoute = Callable[..., Route]


class SettingUp:
    """The endpoints; each is named as GitHub's documentation names the operation."""

    def __init__(self, github: GitHub):
        self._github = github
        self._manifests: dict[str, dict[str, Any]] = {}
        """by the code that stands for one"""

    def routes(self, route: MakeRoute) -> list[Route]:
        org, repo = "/orgs/{owner}", "/repos/{owner}/{repo}"
        return [
            *(
                made
                for scope in (org, repo)
                for made in (
                    route("POST", f"{scope}/actions/runners/registration-token", self.create_registration_token),
                    route("GET", f"{scope}/hooks", self.list_webhooks),
                    route("POST", f"{scope}/hooks", self.create_webhook),
                    route("PATCH", f"{scope}/hooks/{{id:int}}", self.update_webhook),
                    route("POST", f"{scope}/hooks/{{id:int}}/pings", self.ping_webhook),
                )
            ),
            route("GET", "/app", self.get_app, for_app=True),
            route("PATCH", "/app/hook/config", self.update_app_hook, for_app=True),
            Route("/app-manifests/{code}/conversions", self.convert_manifest, methods=["POST"]),
            # What a browser sees.
            Route("/organizations/{owner}/settings/apps/new", self.confirm_app, methods=["POST"]),
            Route("/settings/apps/new", self.confirm_app, methods=["POST"]),
            Route(f"/apps/{_SLUG}/installations/new", self.install_app, methods=["GET"]),
        ]

    async def create_registration_token(self, request: Request) -> Response:
        return JSONResponse({"token": secrets.token_hex(15), "expires_at": "2030-01-01T00:00:00.000-08:00"}, 201)

    async def list_webhooks(self, request: Request) -> Response:
        return JSONResponse([self._hook(request)] if self._github.deliveries.url else [])

    async def create_webhook(self, request: Request) -> Response:
        body = await request.json()
        if self._github.deliveries.url == body["config"]["url"]:
            raise ApiError(422, "Validation Failed: Hook already exists on this organization")
        self._configure(body["config"])
        return JSONResponse(self._hook(request), 201)

    async def update_webhook(self, request: Request) -> Response:
        self._find(request)
        self._configure((await request.json())["config"])
        return JSONResponse(self._hook(request))

    async def ping_webhook(self, request: Request) -> Response:
        self._find(request)
        owner, repo = request.path_params["owner"], request.path_params.get("repo", "app")
        self._github.deliveries.send("ping", ping_webhook(f"{owner}/{repo}", HOOK_ID, self._github.world))
        return Response(status_code=204)

    async def get_app(self, request: Request) -> Response:
        app = self._app()
        return JSONResponse(
            {"id": int(app.app_id), "slug": _SLUG, "permissions": app.permissions, "events": list(app.events)}
        )

    async def update_app_hook(self, request: Request) -> Response:
        body = await request.json()
        self._configure(body)
        return JSONResponse(body | {"secret": "********"})

    async def confirm_app(self, request: Request) -> Response:
        """GitHub shows a page here on which a person confirms; the person says yes."""
        form = parse_qs((await request.body()).decode())
        manifest = json.loads(form["manifest"][0])
        code = secrets.token_hex(20)
        self._manifests[code] = manifest
        answer = urlencode({"code": code, "state": request.query_params["state"]})
        return RedirectResponse(f"{manifest['redirect_url']}?{answer}", 302)

    async def convert_manifest(self, request: Request) -> Response:
        manifest = self._manifests.pop(request.path_params["code"], None)
        if manifest is None:
            return JSONResponse({"message": "Not Found"}, 404)
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem, public = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        self._github.app = App(
            str(_APP_ID),
            key.public_key().public_bytes(pem, public),
            installation_id=1,
            permissions=manifest["default_permissions"],
            events=tuple(manifest["default_events"]),
            is_installed=False,
        )
        secret = secrets.token_hex(20)
        # As GitHub does: a form, until somebody says otherwise.
        self._github.deliveries.configure(manifest["hook_attributes"]["url"], secret, "form")
        private = key.private_bytes(
            pem, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        ).decode()
        names = {"id": _APP_ID, "slug": _SLUG, "name": manifest["name"], "client_id": "Iv23simulated"}
        return JSONResponse(names | {"pem": private, "webhook_secret": secret}, 201)

    async def install_app(self, request: Request) -> Response:
        """GitHub asks here which repositories the App may see; the person says all."""
        self._app().is_installed = True
        return HTMLResponse("<p>installed</p>")

    def _app(self) -> App:
        if self._github.app is None:
            raise ApiError(404, "Not Found")
        return self._github.app

    def _find(self, request: Request) -> None:
        if request.path_params["id"] != HOOK_ID or not self._github.deliveries.url:
            raise ApiError(404, "Not Found")

    def _configure(self, config: dict[str, str]) -> None:
        self._github.deliveries.configure(config["url"], config["secret"], config.get("content_type", "form"))

    def _hook(self, request: Request) -> dict[str, Any]:
        scope = str(request.url.path).partition("/hooks")[0]
        return hook_json(scope, self._github.deliveries.url, self._github.deliveries.content_type)


def hook_json(scope: str, url: str, content_type: str) -> dict[str, Any]:
    """The webhook as GitHub shows it: without its secret."""
    own = f"{API}{scope}/hooks/{HOOK_ID}"
    is_organization = scope.startswith("/orgs/")
    fields = {
        "type": "Organization" if is_organization else "Repository",
        "id": HOOK_ID,
        "name": "web",
        "active": True,
        "events": ["workflow_job"],
        "config": {"url": url, "content_type": content_type, "insecure_ssl": "0", "secret": "********"},
        "url": own,
        "ping_url": f"{own}/pings",
        "deliveries_url": f"{own}/deliveries",
        "created_at": "2026-11-24T10:00:00Z",
        "updated_at": "2026-11-24T10:00:00Z",
    }
    last = {"code": None, "status": "unused", "message": None}
    return fields if is_organization else fields | {"test_url": f"{own}/test", "last_response": last}
