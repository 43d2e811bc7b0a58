"""A web server on loopback for the minute in which a browser fetches a GitHub App."""

import queue
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

_DONE = "<!doctype html><meta charset='utf-8'><title>Runyard</title><p>The App is made. Go back to the terminal."


class TookTooLong(Exception):
    """The browser has not come back."""


class Callback:
    """Shows the form, and takes the code with which GitHub sends the browser back."""

    def __init__(self, page: Callable[["Callback"], str]):
        self.state = secrets.token_urlsafe(24)
        """goes to GitHub and back: whoever does not know it cannot slip us a code of theirs"""
        self._page = page
        self._codes: queue.Queue[str] = queue.Queue()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def redirect_url(self) -> str:
        return f"{self.url}/callback"

    def wait_for_code(self, within_s: float) -> str:
        """The code.

        Raises:
            TookTooLong: nobody came back.
        """
        try:
            return self._codes.get(timeout=within_s)
        except queue.Empty:
            raise TookTooLong(f"the browser did not come back from GitHub within {within_s:g} s") from None

    @contextmanager
    def serving(self) -> Iterator["Callback"]:
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        callback = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                target = urlsplit(self.path)
                if target.path == "/":
                    self._answer(200, callback._page(callback))
                elif target.path == "/callback":
                    self._take(parse_qs(target.query))
                else:
                    self._answer(404, "There is nothing here.")

            def _take(self, query: dict[str, list[str]]) -> None:
                state, code = query.get("state", [""])[0], query.get("code", [""])[0]
                if not code or not secrets.compare_digest(state.encode(), callback.state.encode()):
                    self._answer(400, "This is not the answer to the question that was asked: start again.")
                    return
                callback._codes.put(code)
                self._answer(200, _DONE)

            def _answer(self, status: int, text: str) -> None:
                body = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """The code is a secret until it is used."""

        return Handler
