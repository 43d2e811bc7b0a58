"""A function that answers, and needs nothing for it."""

import functions_framework.aio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response


@functions_framework.aio.http
async def github_webhook(request: Request) -> Response:
    """Answers."""
    await request.body()
    return JSONResponse({"outcome": "self_hosted"})
