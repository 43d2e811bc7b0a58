"""How a test or the demo steers the simulated GitHub. Served on a port of its own, on loopback."""

import asyncio
import time
from typing import Any

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .deliveries import Mishap, MishapOrder
from .github import Fault, GitHub, RateLimit
from .payloads import delivery_json, job_json, ping_webhook, runner_json
from .world import HandOut, Job, JobSpec


class _Order(BaseModel):
    model_config = ConfigDict(extra="forbid")


class JobOrder(_Order):
    """One job of a workflow run: what is run is a shell script."""

    name: str
    labels: list[str]
    script: str = "true"
    size: str = ""
    """for `wrong`: jobs with another one count as another size"""


class DispatchOrder(_Order):
    """A workflow run to start."""

    repository: str
    workflow: str = "ci"
    branch: str = "main"
    event: str = "push"
    head_repository: str = ""
    run_id: int | None = None
    """further jobs of this run"""
    jobs: list[JobOrder]


class FaultOrder(_Order):
    """A fault to cause; fields as in `Fault`."""

    operation: str
    times: int = 1
    status: int | None = None
    headers: dict[str, str] = {}
    body: str = '{"message": "simulated fault"}'
    delay_s: float = 0
    loses_answer: bool = False


class MishapOrderBody(_Order):
    """Webhooks that go astray; fields as in `MishapOrder`."""

    mishap: Mishap
    action: str | None = None
    times: int = 1


class RateLimitOrder(_Order):
    """How many calls are left, and for how long."""

    limit: int
    used: int
    reset_in_s: float


class Control:
    """Dispatch, cancel, faults, and a view of everything."""

    def __init__(self, github: GitHub):
        self._github = github

    def routes(self) -> list[Route]:
        return [
            Route("/dispatch", self.dispatch, methods=["POST"]),
            Route("/cancel/{id:int}", self.cancel, methods=["POST"]),
            Route("/steal/{id:int}", self.steal, methods=["POST"]),
            Route("/ping", self.ping, methods=["POST"]),
            Route("/faults", self.add_fault, methods=["POST"]),
            Route("/faults", self.clear_faults, methods=["DELETE"]),
            Route("/set-up", self.undo_set_up, methods=["DELETE"]),
            Route("/mishaps", self.add_mishap, methods=["POST"]),
            Route("/rate-limit", self.set_rate_limit, methods=["POST"]),
            Route("/drop/{name}", self.drop_runner, methods=["POST"]),
            Route("/hand-out/{mode}", self.set_hand_out, methods=["POST"]),
            Route("/oidc-token", self.sign_token, methods=["POST"]),
            Route("/oidc-rotate", self.rotate_keys, methods=["POST"]),
            Route("/state", self.state, methods=["GET"]),
            Route("/settle", self.settle, methods=["POST"]),
        ]

    async def dispatch(self, request: Request) -> Response:
        order = DispatchOrder.model_validate_json(await request.body())
        specs = [JobSpec(job.name, tuple(job.labels), job.script, job.size) for job in order.jobs]
        jobs = self._github.world.dispatch(
            order.repository,
            order.workflow,
            order.branch,
            specs,
            event=order.event,
            head_repository=order.head_repository,
            run_id=order.run_id,
        )
        self._github.announce("queued", jobs)
        await self._github.hand_out_jobs()
        return JSONResponse([job_json(job) for job in jobs], 201)

    async def cancel(self, request: Request) -> Response:
        job = self._github.world.cancel(request.path_params["id"])
        if job is not None:
            self._github.announce("completed", [job])
        return JSONResponse({"cancelled": job is not None})

    async def steal(self, request: Request) -> Response:
        """Somebody else's runner takes a job, and is done with it after `seconds`."""
        job = self._github.world.steal(request.path_params["id"], "somebody-elses-1")
        self._github.announce("in_progress", [job])
        asyncio.get_running_loop().call_later(float(request.query_params.get("seconds", "1")), self._end_stolen, job)
        return Response(status_code=204)

    def _end_stolen(self, job: Job) -> None:
        self._github.world.end_stolen(job)
        self._github.announce("completed", [job])

    async def ping(self, request: Request) -> Response:
        payload = ping_webhook("acme/app", 1, self._github.world)
        self._github.deliveries.send("ping", payload)
        return Response(status_code=202)

    async def add_fault(self, request: Request) -> Response:
        order = FaultOrder.model_validate_json(await request.body())
        self._github.faults.append(Fault(**order.model_dump()))
        return Response(status_code=201)

    async def clear_faults(self, request: Request) -> Response:
        self._github.faults.clear()
        self._github.deliveries.orders.clear()
        self._github.rate_limit = RateLimit()
        return Response(status_code=204)

    async def add_mishap(self, request: Request) -> Response:
        order = MishapOrderBody.model_validate_json(await request.body())
        self._github.deliveries.orders.append(MishapOrder(**order.model_dump()))
        return Response(status_code=201)

    async def set_rate_limit(self, request: Request) -> Response:
        order = RateLimitOrder.model_validate_json(await request.body())
        self._github.rate_limit = RateLimit(order.limit, order.used, time.time() + order.reset_in_s)
        return Response(status_code=201)

    async def drop_runner(self, request: Request) -> Response:
        self._github.world.drop_runner(request.path_params["name"])
        return Response(status_code=204)

    async def undo_set_up(self, request: Request) -> Response:
        """No webhook and no App any more."""
        self._github.deliveries.configure("", "", "json")
        self._github.app = None
        return Response(status_code=204)

    async def set_hand_out(self, request: Request) -> Response:
        self._github.world.hand_out = HandOut(request.path_params["mode"])
        return Response(status_code=204)

    async def sign_token(self, request: Request) -> Response:
        return JSONResponse({"token": self._github.oidc.sign(**(await request.json()))})

    async def rotate_keys(self, request: Request) -> Response:
        self._github.oidc.rotate()
        return Response(status_code=204)

    async def settle(self, request: Request) -> Response:
        await self._github.deliveries.settle()
        return Response(status_code=204)

    async def state(self, request: Request) -> Response:
        world = self._github.world
        body: dict[str, Any] = {
            "runners": [runner_json(runner) | {"scope": runner.scope} for runner in world.runners.values()],
            "runners_seen": world.runners_seen,
            "jobs": [job_json(job) | {"log": job.log} for job in world.jobs.values()],
            "deliveries": [
                delivery_json(delivery, None) | {"job_id": delivery.event.job_id, "answer": delivery.answer}
                for delivery in self._github.deliveries.done
            ],
            "rate_limit_used": self._github.rate_limit.used,
            "requests": self._github.requests,
            "variables": self._github.variables,
        }
        return JSONResponse(body)
