"""GitHub's REST API, as far as Runyard uses it."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import jwt
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from .github import GitHub
from .payloads import (
    encode_jit_config,
    group_json,
    installation_token_json,
    job_json,
    jobs_json,
    run_json,
    runner_json,
)
from .setting_up import SettingUp
from .world import ApiError

Endpoint = Callable[[Request], Awaitable[Response]]
_SILENCE_S = 60.0


def error_response(error: ApiError) -> Response:
    """GitHub's error body."""
    body = {"message": error.message, "documentation_url": "https://docs.github.com/rest", "status": str(error.status)}
    return JSONResponse(body, error.status)


class RestApi:
    """The endpoints; each is named as GitHub's documentation names the operation."""

    def __init__(self, github: GitHub):
        self._github = github

    def routes(self) -> list[Route]:
        org, repo = "/orgs/{owner}", "/repos/{owner}/{repo}"
        return [
            *(
                route
                for scope in (org, repo)
                for route in (
                    self._route("POST", f"{scope}/actions/runners/generate-jitconfig", self.generate_jitconfig),
                    self._route("GET", f"{scope}/actions/runners", self.list_runners),
                    self._route("GET", f"{scope}/actions/runners/{{id:int}}", self.get_runner),
                    self._route("DELETE", f"{scope}/actions/runners/{{id:int}}", self.delete_runner),
                    self._route("GET", f"{scope}/installation", self.get_installation, for_app=True),
                )
            ),
            self._route("GET", f"{org}/actions/runner-groups", self.list_runner_groups),
            self._route("POST", "/app/installations/{id:int}/access_tokens", self.create_token, for_app=True),
            self._route("GET", f"{repo}/actions/jobs/{{id:int}}", self.get_job),
            self._route("GET", f"{repo}/actions/jobs/{{id:int}}/logs", self.get_job_log),
            self._route("GET", f"{repo}/actions/runs/{{id:int}}/jobs", self.list_run_jobs),
            self._route("GET", f"{repo}/actions/runs/{{id:int}}", self.get_run),
            self._route("POST", f"{repo}/actions/runs/{{id:int}}/cancel", self.cancel_run),
            *(
                route
                for scope in (org, repo)
                for route in (
                    self._route("PATCH", f"{scope}/actions/variables/{{name}}", self.update_variable),
                    self._route("POST", f"{scope}/actions/variables", self.create_variable),
                )
            ),
            *SettingUp(self._github).routes(self._route),
            Route("/.well-known/jwks", self.get_signing_keys, methods=["GET"]),
            Route("/_oidc/token/{run_id:int}", self.get_oidc_token, methods=["GET"]),
        ]

    def _route(self, method: str, path: str, endpoint: Endpoint, *, for_app: bool = False) -> Route:
        operation = endpoint.__name__.replace("_", "-")

        async def guarded(request: Request) -> Response:
            self._github.requests.append((method, request.url.path))
            try:
                self._authenticate(request, for_app=for_app)
                return await self._with_faults(operation, endpoint, request)
            except ApiError as error:
                return error_response(error)

        return Route(path, guarded, methods=[method])

    def _authenticate(self, request: Request, *, for_app: bool) -> None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() not in {"bearer", "token"}:
            raise ApiError(401, "Requires authentication")
        if not for_app:
            if not self._github.is_authorized(token):
                raise ApiError(401, "Bad credentials")
            return
        if self._github.app is None:
            raise ApiError(404, "Integration not found")
        try:
            claims = jwt.decode(token, self._github.app.public_key, algorithms=["RS256"])
        except jwt.InvalidTokenError:
            raise ApiError(401, "A JSON web token could not be decoded") from None
        if claims.get("iss") != self._github.app.app_id or claims["exp"] - claims["iat"] > 660:
            raise ApiError(401, "'Issuer' claim or lifetime is wrong")

    async def _with_faults(self, operation: str, endpoint: Endpoint, request: Request) -> Response:
        fault = self._github.take_fault(operation)
        if fault is None:
            return await endpoint(request)
        await asyncio.sleep(fault.delay_s)
        if fault.loses_answer:
            await endpoint(request)
            await asyncio.sleep(_SILENCE_S)
        if fault.status is None:
            return await endpoint(request)
        headers = {"Content-Type": "application/json"} | fault.headers
        return Response(fault.body, fault.status, headers)

    async def generate_jitconfig(self, request: Request) -> Response:
        body = await _json_object(request)
        name, group_id, labels = body.get("name"), body.get("runner_group_id"), body.get("labels")
        if not isinstance(name, str) or not isinstance(group_id, int) or not isinstance(labels, list):
            raise ApiError(422, "Invalid request: name, runner_group_id and labels are required")
        runner = self._github.world.register_runner(_scope(request), name, group_id, [str(label) for label in labels])
        config = encode_jit_config(runner, self._github.broker_url)
        return JSONResponse({"runner": runner_json(runner), "encoded_jit_config": config}, 201)

    async def list_runners(self, request: Request) -> Response:
        runners = self._github.world.list_runners(_scope(request), request.query_params.get("name"))
        return JSONResponse({"total_count": len(runners), "runners": [runner_json(runner) for runner in runners]})

    async def get_runner(self, request: Request) -> Response:
        return JSONResponse(runner_json(self._github.world.find_runner(_scope(request), request.path_params["id"])))

    async def delete_runner(self, request: Request) -> Response:
        self._github.world.delete_runner(_scope(request), request.path_params["id"])
        return Response(status_code=204)

    async def list_runner_groups(self, request: Request) -> Response:
        owner = request.path_params["owner"]
        groups = [group_json(name, number, owner) for name, number in self._github.world.groups.items()]
        return JSONResponse({"total_count": len(groups), "runner_groups": groups})

    async def get_installation(self, request: Request) -> Response:
        app = self._github.app
        if app is None or not app.is_installed:
            raise ApiError(404, "Not Found")
        permissions = {"permissions": app.permissions} if app.permissions else {}
        return JSONResponse({"id": app.installation_id, "app_id": 1, "target_type": "Organization"} | permissions)

    async def create_token(self, request: Request) -> Response:
        if self._github.app is None or request.path_params["id"] != self._github.app.installation_id:
            raise ApiError(404, "Not Found")
        return JSONResponse(installation_token_json(*self._github.new_installation_token()), 201)

    async def get_job(self, request: Request) -> Response:
        return JSONResponse(job_json(self._github.world.find_job(request.path_params["id"])))

    async def get_job_log(self, request: Request) -> Response:
        return PlainTextResponse(self._github.world.find_job(request.path_params["id"]).log)

    async def list_run_jobs(self, request: Request) -> Response:
        jobs = [job for job in self._github.world.jobs.values() if job.run_id == request.path_params["id"]]
        return JSONResponse(jobs_json(jobs))

    async def get_run(self, request: Request) -> Response:
        jobs = self._github.world.jobs_of_run(request.path_params["id"])
        return JSONResponse(run_json(jobs, self._github.world))

    async def cancel_run(self, request: Request) -> Response:
        self._github.announce("completed", self._github.world.cancel_run(request.path_params["id"]))
        return JSONResponse({}, 202)

    async def update_variable(self, request: Request) -> Response:
        variables = self._github.variables.get(_scope(request), {})
        name = request.path_params["name"].upper()
        if name not in variables:
            raise ApiError(404, "Not Found")
        variables[name] = str((await _json_object(request))["value"])
        return Response(status_code=204)

    async def create_variable(self, request: Request) -> Response:
        body = await _json_object(request)
        self._github.variables.setdefault(_scope(request), {})[str(body["name"]).upper()] = str(body["value"])
        return JSONResponse({}, 201)

    async def get_signing_keys(self, request: Request) -> Response:
        return JSONResponse(self._github.oidc.published_keys())

    async def get_oidc_token(self, request: Request) -> Response:
        """What a job with `id-token: write` asks, at ACTIONS_ID_TOKEN_REQUEST_URL."""
        run_id = request.path_params["run_id"]
        try:
            job = self._github.world.jobs_of_run(run_id)[0]
        except ApiError as error:
            return error_response(error)
        audience = request.query_params.get("audience", "")
        return JSONResponse({"value": self._github.oidc.sign(audience, job.repository, run_id)})


def _scope(request: Request) -> str:
    """`/orgs/acme` or `/repos/acme/app`."""
    owner, repo = request.path_params["owner"], request.path_params.get("repo")
    return f"/orgs/{owner}" if repo is None else f"/repos/{owner}/{repo}"


async def _json_object(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body())
    except ValueError:
        raise ApiError(400, "Problems parsing JSON") from None
    if not isinstance(body, dict):
        raise ApiError(400, "Body should be a JSON object")
    return body
