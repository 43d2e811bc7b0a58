"""The operator's door to GitHub, and to the webhook function for a first ping."""

import json
from typing import Self

import httpx
from pydantic import SecretStr

from functions.github.protocol import API_VERSION, Answer, Request
from functions.webhook.signature import HEADER, sign

from .steps import Unreachable

_TIMEOUT_S = 20.0


class Client:
    """Calls GitHub with one credential after the other."""

    def __init__(self, api_url: str):
        self._api_url = api_url.rstrip("/")
        self._http = httpx.Client(timeout=_TIMEOUT_S, follow_redirects=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def call(self, request: Request, token: SecretStr | None) -> Answer:
        """One call.

        Raises:
            Unreachable: there was no answer.
        """
        headers = {
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": API_VERSION,
            "User-Agent": "runyard",
        }
        if token is not None:
            headers["Authorization"] = f"Bearer {token.get_secret_value()}"
        url = self._api_url + request.path
        try:
            response = self._http.request(
                request.method, url, json=request.body, params=request.query or None, headers=headers
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unreachable(f"{self._api_url} does not answer: {error}") from error
        return _answer(response)

    def ping(self, webhook_url: str, secret: SecretStr) -> Answer:
        """A ping as GitHub sends it, from here.

        Raises:
            Unreachable: there was no answer.
        """
        body = json.dumps({"zen": "Runyard asks itself.", "hook_id": 0}).encode()
        headers = {"Content-Type": "application/json", "X-GitHub-Event": "ping", HEADER: sign(body, secret)}
        try:
            return _answer(self._http.post(webhook_url, content=body, headers=headers))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unreachable(f"{webhook_url} does not answer: {error}") from error


def _answer(response: httpx.Response) -> Answer:
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Answer(response.status_code, headers, response.content)
