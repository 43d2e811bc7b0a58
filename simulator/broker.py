"""The side of the simulated GitHub that the stand-in runner talks to. Its protocol is our own: see the README."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import timedelta

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .github import GitHub
from .rest import error_response
from .world import ApiError, Runner

POLL_S = 50.0
"""how long a runner's poll is kept open, as at GitHub"""
LOST_AFTER = timedelta(seconds=60)
"""a runner that says nothing for so long has vanished, and its job has failed"""
_LOOK_FOR_LOST_EVERY_S = 1.0


class Broker:
    """Sessions, long polls, logs and results."""

    def __init__(self, github: GitHub, lost_after: timedelta = LOST_AFTER):
        self._github = github
        self._lost_after = lost_after

    def routes(self) -> list[Route]:
        return [
            self._route("POST", "/_standin/sessions", self.open_session),
            self._route("DELETE", "/_standin/session", self.close_session),
            self._route("GET", "/_standin/message", self.get_message),
            self._route("POST", "/_standin/renew", self.renew),
            self._route("POST", "/_standin/log", self.append_log),
            self._route("POST", "/_standin/complete", self.complete),
        ]

    def _route(self, method: str, path: str, endpoint: Callable[[Request], Awaitable[Response]]) -> Route:
        async def guarded(request: Request) -> Response:
            try:
                return await endpoint(request)
            except ApiError as error:
                return error_response(error)

        return Route(path, guarded, methods=[method])

    def _runner(self, request: Request) -> Runner:
        runner = self._github.world.runner_of_session(request.headers.get("X-Session", ""))
        runner.heard_at = self._github.world.now()
        return runner

    async def open_session(self, request: Request) -> Response:
        body = await request.json()
        runner = self._github.world.open_session(int(body["agentId"]), str(body["secret"]))
        runner.heard_at = self._github.world.now()
        return JSONResponse({"session": runner.session})

    async def close_session(self, request: Request) -> Response:
        self._github.world.close_session(request.headers.get("X-Session", ""))
        return Response(status_code=204)

    async def get_message(self, request: Request) -> Response:
        """The runner's job, or 202 when there was none for a while."""
        runner = self._runner(request)
        runner.is_listening = True
        try:
            await self._github.hand_out_jobs()
            await self._wait_for_job(request, runner)
        finally:
            runner.is_listening = False
        job = runner.job
        if job is None:
            return Response(status_code=202)
        self._github.announce("in_progress", [job])
        return JSONResponse(
            {
                "jobId": job.id,
                "runId": job.run_id,
                "runAttempt": job.run_attempt,
                "repository": job.repository,
                "workflow": job.workflow,
                "branch": job.branch,
                "sha": job.head_sha,
                "name": job.name,
                "script": job.script,
            }
        )

    async def _wait_for_job(self, request: Request, runner: Runner) -> None:
        gone = asyncio.create_task(_disconnected(request))
        try:
            async with asyncio.timeout(POLL_S), self._github.changed:
                while runner.job is None and not gone.done():
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._github.changed.wait(), 0.5)
        except TimeoutError:
            pass
        finally:
            gone.cancel()

    async def renew(self, request: Request) -> Response:
        self._runner(request)
        return Response(status_code=204)

    async def append_log(self, request: Request) -> Response:
        runner = self._runner(request)
        if runner.job is not None:
            runner.job.log += (await request.body()).decode(errors="replace")
        return Response(status_code=204)

    async def complete(self, request: Request) -> Response:
        runner = self._runner(request)
        conclusion = str((await request.json())["conclusion"])
        self._github.announce("completed", [self._github.world.finish(runner, conclusion)])
        return Response(status_code=204)

    async def watch_for_lost_runners(self) -> None:
        """Fails the jobs of runners that have gone silent, for ever."""
        while True:
            await asyncio.sleep(_LOOK_FOR_LOST_EVERY_S)
            # Some ways to hand out wait for a while before they give up.
            await self._github.hand_out_jobs()
            limit = self._github.world.now() - self._lost_after
            for runner in list(self._github.world.runners.values()):
                if runner.session is None or runner.is_listening or runner.heard_at is None or runner.heard_at > limit:
                    continue
                if (job := self._github.world.lose(runner)) is not None:
                    self._github.announce("completed", [job])


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
