"""Calls a function when a document is created, as Google Cloud's Firestore triggers do; the emulator has none.

`python -m local.triggers COLLECTION URL PORT` watches a collection of `GOOGLE_CLOUD_PROJECT` and listens on a port of
loopback, so that whoever has started it sees when it is ready.
"""

import contextlib
import functools
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from google.api_core.bidi import ResumableBidiRpc
from google.cloud import firestore
from google.cloud.firestore_v1 import watch

_TYPE = "google.cloud.firestore.document.v1.created"
_TIMEOUT_S = 35.0
_TRIES = 5
_AT_ONCE = 8

# As in the controller: an outage of the emulator must not cost a whole CPU in reconnects.
watch.ResumableBidiRpc = functools.partial(ResumableBidiRpc, throttle_reopen=True)  # type: ignore[attr-defined,assignment]


class Trigger:
    """Delivers each new document once, and again for a while when the function fails."""

    def __init__(self, project: str, collection: str, url: str):
        self._project = project
        self._collection = collection
        self._url = url
        self._pool = ThreadPoolExecutor(_AT_ONCE)
        self._client = firestore.Client(project=project)
        self._watch: Any = None

    def start(self) -> None:
        self._watch = self._client.collection(self._collection).on_snapshot(self._on_snapshot)

    def stop(self) -> None:
        self._watch.unsubscribe()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _on_snapshot(self, snapshots: object, changes: Sequence[Any], read_time: object) -> None:
        for change in changes:
            if change.type.name == "ADDED":
                with contextlib.suppress(RuntimeError):
                    self._pool.submit(self._deliver, change.document.id)

    def _deliver(self, document_id: str) -> None:
        for attempt in range(_TRIES):
            try:
                with urllib.request.urlopen(self._event(document_id), timeout=_TIMEOUT_S):  # noqa: S310 - our function
                    return
            except (OSError, urllib.error.HTTPError) as error:
                print(f"{self._collection}/{document_id}: {error}", flush=True)
                time.sleep(2**attempt)

    def _event(self, document_id: str) -> urllib.request.Request:
        """A CloudEvent in HTTP's binary mode. Its body would hold the document; our function reads that anyway."""
        database = f"projects/{self._project}/databases/(default)"
        headers = {
            "ce-id": str(uuid.uuid4()),
            "ce-specversion": "1.0",
            "ce-type": _TYPE,
            "ce-source": f"//firestore.googleapis.com/{database}",
            "ce-subject": f"documents/{self._collection}/{document_id}",
            "ce-time": datetime.now(UTC).isoformat(),
            "content-type": "application/json",
        }
        return urllib.request.Request(self._url, b"{}", headers)  # noqa: S310 - our function


def main() -> None:
    """Watches until SIGTERM."""
    collection, url, port = sys.argv[1:]
    trigger = Trigger(firestore.Client().project, collection, url)
    trigger.start()
    is_stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: is_stopping.set())
    with socket.create_server(("127.0.0.1", int(port))):
        is_stopping.wait()
    trigger.stop()


if __name__ == "__main__":
    main()
