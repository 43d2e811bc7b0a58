"""GitHub's REST API, as far as Runyard uses it."""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import jwt
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from .deliveries import Delivery
from .github import GitHub
from .payloads import (
    delivery_json,
    encode_jit_config,
    group_json,
    installation_token_json,
    job_json,
    jobs_json,
    meta_json,
    repository_json,
    run_json,
    runner_json,
    runs_json,
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
                    self._route("GET", f"{scope}/hooks/1/deliveries", self.list_deliveries),
                    self._route("GET", f"{scope}/hooks/1/deliveries/{{id:int}}", self.get_delivery),
                    self._route("POST", f"{scope}/hooks/1/deliveries/{{id:int}}/attempts", self.redeliver),
                )
            ),
            self._route("GET", "/app/hook/deliveries", self.list_deliveries, for_app=True),
            self._route("GET", "/app/hook/deliveries/{id:int}", self.get_delivery, for_app=True),
            self._route("POST", "/app/hook/deliveries/{id:int}/attempts", self.redeliver, for_app=True),
            self._route("GET", "/users/{owner}/installation", self.get_installation, for_app=True),
            self._route("GET", f"{org}/repos", self.list_org_repos),
            self._route("GET", "/user/repos", self.list_own_repos),
            self._route("GET", "/installation/repositories", self.list_installation_repositories),
            self._route("GET", f"{repo}/actions/runs", self.list_runs),
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
            Route("/.well-known/openid-configuration", self.get_issuer, methods=["GET"]),
            Route("/meta", self.get_meta, methods=["GET"]),
            Route("/.well-known/jwks", self.get_signing_keys, methods=["GET"]),
            Route("/_oidc/token/{run_id:int}", self.get_oidc_token, methods=["GET"]),
        ]

    def _route(self, method: str, path: str, endpoint: Endpoint, *, for_app: bool = False) -> Route:
        operation = endpoint.__name__.replace("_", "-")

        async def guarded(request: Request) -> Response:
            self._github.requests.append((method, request.url.path))
            limit = self._github.rate_limit
            limit.begin()
            try:
                self._authenticate(request, for_app=for_app)
                if limit.remaining == 0:
                    raise ApiError(403, "API rate limit exceeded for installation ID 1.")
                response = _unless_unchanged(request, await self._with_faults(operation, endpoint, request))
            except ApiError as error:
                response = error_response(error)
            # GitHub's documentation, "Best practices": a 304 does not count.
            limit.used += response.status_code != 304 and limit.remaining > 0
            for name, value in limit.headers().items():
                # A fault may say something else.
                response.headers.setdefault(name, value)
            return response

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

    async def get_meta(self, _: Request) -> Response:
        return JSONResponse(meta_json())

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
        shown, links = _page(request, runners)
        body = {"total_count": len(runners), "runners": [runner_json(runner) for runner in shown]}
        return JSONResponse(body, headers=links)

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
        shown, links = _page(request, jobs)
        return JSONResponse(jobs_json(shown) | {"total_count": len(jobs)}, headers=links)

    async def list_runs(self, request: Request) -> Response:
        repository = f"{request.path_params['owner']}/{request.path_params['repo']}"
        runs = self._github.world.active_runs(repository, request.query_params["status"])
        shown, links = _page(request, runs)
        body = runs_json(shown, self._github.world) | {"total_count": len(runs)}
        return JSONResponse(body, headers=links)

    async def list_org_repos(self, request: Request) -> Response:
        if request.path_params["owner"] in self._github.world.users:
            raise ApiError(404, "Not Found")
        prefix = f"{request.path_params['owner']}/"
        found = [name for name in self._github.world.repositories() if name.startswith(prefix)]
        return self._repositories(request, found)

    async def list_own_repos(self, request: Request) -> Response:
        """The token belongs to all users at once."""
        users = self._github.world.users
        found = [name for name in self._github.world.repositories() if name.partition("/")[0] in users]
        return self._repositories(request, found)

    async def list_installation_repositories(self, request: Request) -> Response:
        found = self._github.world.repositories()
        shown, links = _page(request, found)
        body = {"total_count": len(found), "repositories": [self._repository(name) for name in shown]}
        return JSONResponse(body, headers=links)

    def _repositories(self, request: Request, names: Sequence[str]) -> Response:
        shown, links = _page(request, names)
        return JSONResponse([self._repository(name) for name in shown], headers=links)

    def _repository(self, full_name: str) -> dict[str, Any]:
        return repository_json(full_name, full_name.partition("/")[0] in self._github.world.users)

    async def list_deliveries(self, request: Request) -> Response:
        """Newest first; a cursor instead of page numbers."""
        below = int(request.query_params.get("cursor", "v1_0").removeprefix("v1_"))
        found = [d for d in self._deliveries(request) if not below or d.id < below]
        found.sort(key=lambda delivery: -delivery.id)
        size = int(request.query_params.get("per_page", 30))
        shown = found[:size]
        links = _link(request, cursor=f"v1_{shown[-1].id}") if len(found) > size else {}
        installation_id = self._github.app.installation_id if self._github.app else None
        return JSONResponse([delivery_json(delivery, installation_id) for delivery in shown], headers=links)

    async def get_delivery(self, request: Request) -> Response:
        return JSONResponse(delivery_json(self._delivery(request), None))

    async def redeliver(self, request: Request) -> Response:
        self._github.deliveries.redeliver(self._delivery(request).id)
        return JSONResponse({}, 202)

    def _delivery(self, request: Request) -> Delivery:
        delivery = self._github.deliveries.find(request.path_params["id"])
        if delivery not in self._deliveries(request):
            raise ApiError(404, "Not Found")
        return delivery

    def _deliveries(self, request: Request) -> list[Delivery]:
        """Those of the webhook that is asked about."""
        done = self._github.deliveries.done
        if "owner" not in request.path_params:
            return list(done)
        owner, repo = request.path_params["owner"], request.path_params.get("repo")
        prefix = f"{owner}/" if repo is None else f"{owner}/{repo}/"
        return [delivery for delivery in done if f"{delivery.event.repository}/".startswith(prefix)]

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

    async def get_issuer(self, request: Request) -> Response:
        return JSONResponse(self._github.oidc.description())

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


PageT = TypeVar("PageT")


def _page(request: Request, items: Sequence[PageT]) -> tuple[Sequence[PageT], dict[str, str]]:
    """The page that is asked for, and the header that tells of the next."""
    number, size = int(request.query_params.get("page", 1)), int(request.query_params.get("per_page", 30))
    shown = items[(number - 1) * size : number * size]
    return shown, _link(request, page=number + 1) if len(items) > number * size else {}


def _link(request: Request, **query: object) -> dict[str, str]:
    """As GitHub writes it, with another path than the one that was asked: nobody may rely on it."""
    following = request.url.replace(path="/organizations/1/elsewhere").include_query_params(**query)
    return {"Link": f'<{following}>; rel="next", <{request.url}>; rel="first"'}


def _unless_unchanged(request: Request, response: Response) -> Response:
    """304 when the caller has the answer already."""
    if request.method != "GET" or response.status_code != 200:
        return response
    etag = f'W/"{hashlib.sha256(bytes(response.body)).hexdigest()}"'
    if request.headers.get("If-None-Match") == etag:
        return Response(status_code=304, headers={"ETag": etag})
    response.headers["ETag"] = etag
    return response


async def _json_object(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body())
    except ValueError:
        raise ApiError(400, "Problems parsing JSON") from None
    if not isinstance(body, dict):
        raise ApiError(400, "Body should be a JSON object")
    return body
