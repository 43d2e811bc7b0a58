"""The Firestore emulator: the one that is there, an installed gcloud jar, or firebase-tools, in this order."""

import json
import os
import shutil
import socket
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .processes import Process, free_port

_JAR = Path("platform/cloud-firestore-emulator/cloud-firestore-emulator.jar")
_START_WITHIN_S = 90.0


class NoEmulator(Exception):
    """There is no way to start one; the message says what to install."""


@contextmanager
def running_emulator(say: Callable[[str], None]) -> Iterator[str]:
    """The `host:port` of an emulator, stopped at the end if it was started here.

    Raises:
        NoEmulator: none runs and none can be started.
    """
    if existing := os.environ.get("FIRESTORE_EMULATOR_HOST"):
        _check_answers(existing)
        say(f"Firestore emulator: using the one at {existing} (FIRESTORE_EMULATOR_HOST)")
        yield existing
        return
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="runyard-emulator-") as folder:
        command, what = _command(port, Path(folder))
        say(f"Firestore emulator: starting {what}")
        process = Process("the Firestore emulator", command, Path(folder) / "emulator.log")
        try:
            process.wait_until(lambda: _answers(port), _START_WITHIN_S)
            yield f"127.0.0.1:{port}"
        finally:
            process.stop()


def _command(port: int, folder: Path) -> tuple[list[str], str]:
    java = shutil.which("java")
    jar = find_jar()
    if jar is not None and java is not None:
        main = "com.google.cloud.datastore.emulator.firestore.CloudFirestore"
        return [java, "-Xmx1g", "-cp", str(jar), main, "--host=127.0.0.1", f"--port={port}"], f"gcloud's, {jar}"
    for launcher in (["firebase"], ["npx", "--yes", "firebase-tools"]):
        if shutil.which(launcher[0]) and java is not None:
            config = folder / "firebase.json"
            config.write_text(json.dumps({"emulators": {"firestore": {"host": "127.0.0.1", "port": port}}}))
            arguments = ["emulators:start", "--only", "firestore", "--project", "demo-runyard", "--config", str(config)]
            return [*launcher, *arguments], "firebase-tools"
    raise NoEmulator(
        "no Firestore emulator: install Java and gcloud's emulator (gcloud components install "
        "cloud-firestore-emulator), or Java and npm for firebase-tools, or set FIRESTORE_EMULATOR_HOST"
    )


def find_jar() -> Path | None:
    """The emulator that came with an installed gcloud."""
    return next((root / _JAR for root in _sdk_roots() if (root / _JAR).exists()), None)


def _sdk_roots() -> Iterator[Path]:
    gcloud = shutil.which("gcloud")
    if gcloud:
        yield Path(gcloud).resolve().parent.parent
    yield Path("/usr/lib/google-cloud-sdk")
    yield Path.home() / "google-cloud-sdk"


def _answers(port: int) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1) as response:
        return bool(response.status == 200)
    return False


def _check_answers(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 2).close()
    except (OSError, ValueError) as error:
        raise NoEmulator(f"FIRESTORE_EMULATOR_HOST is {address}, but nobody answers there: {error}") from None
