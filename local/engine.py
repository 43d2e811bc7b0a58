"""A Docker engine: the one that answers, or one of our own that is stopped again at the end."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import docker.errors
import requests.exceptions

from .processes import Process

_START_WITHIN_S = 60.0


class NoEngine(Exception):
    """There is no engine and none can be started; the message says what to do."""


@contextmanager
def running_engine(say: Callable[[str], None]) -> Iterator[str]:
    """The address of an engine, as `DOCKER_HOST` has it.

    Raises:
        NoEngine: none answers and none can be started.
    """
    existing = default_address()
    if answers(existing):
        say(f"Docker engine: using the one at {existing}")
        yield existing
        return
    if shutil.which("dockerd") is None:
        raise NoEngine(
            f"no Docker engine answers at {existing}, and dockerd is not installed: apt-get install docker.io"
        )
    if os.geteuid() != 0:
        raise NoEngine(f"no Docker engine answers at {existing}: start one, or run this as root and one is started")
    with tempfile.TemporaryDirectory(prefix="runyard-docker-") as name:
        folder = Path(name)
        say("Docker engine: none answers, starting one that is stopped again at the end")
        yield from _own_engine(folder)


def _own_engine(folder: Path) -> Iterator[str]:
    address = f"unix://{folder}/docker.sock"
    command = ["dockerd", "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "--host", address]
    process = Process("the Docker engine", [*command, "--pidfile", f"{folder}/pid"], folder / "dockerd.log")
    try:
        process.wait_until(lambda: answers(address), _START_WITHIN_S)
        yield address
    finally:
        process.stop(30)
        # The engine mounts its data folder onto itself and leaves that behind.
        subprocess.run(["umount", "--lazy", folder / "data"], capture_output=True, check=False)
        shutil.rmtree(folder / "data", ignore_errors=True)


def _accepts(path: str) -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(path)
        return True
    return False


def default_address() -> str:
    """Where Docker's own tools would look."""
    return os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")


def answers(address: str) -> bool:
    """Whether an engine is there."""
    # The SDK leaves a socket that could not connect to the garbage collector, so it is only asked where somebody is.
    if address.startswith("unix://") and not _accepts(address.removeprefix("unix://")):
        return False
    try:
        client = docker.APIClient(base_url=address, version="auto", timeout=5)
    except (docker.errors.DockerException, requests.exceptions.RequestException):
        return False
    client.close()
    return True
