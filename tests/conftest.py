"""What tests share: a marker by folder, and real parts that are started once."""

import os
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from local.emulator import running_emulator
from local.engine import running_engine
from local.image import ensure_image
from local.stack import local_environment

TESTS = Path(__file__).parent
PAYLOADS = TESTS / "payloads"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test's folder says what kind it is."""
    for item in items:
        item.add_marker(item.path.relative_to(TESTS).parts[0])


@pytest.fixture(autouse=True)
def no_threads_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """A unit test that leaves a thread running has done I/O, or has a leak."""
    before = set(threading.enumerate())
    yield
    if request.node.get_closest_marker("unit"):
        assert set(threading.enumerate()) <= before


def _say(text: str) -> None:
    print(f"\n• {text}")  # noqa: T201 - shown with -s, and when the set-up fails


@pytest.fixture(scope="session")
def emulator_host() -> Iterator[str]:
    """`host:port` of a Firestore emulator."""
    local_environment()
    with running_emulator(_say) as address:
        os.environ["FIRESTORE_EMULATOR_HOST"] = address
        yield address


@pytest.fixture
def project(emulator_host: str) -> str:
    """A Firestore project that nobody else uses: as good as an emulator of one's own."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def docker_host() -> Iterator[str]:
    """Address of a Docker engine."""
    with running_engine(_say) as address:
        yield address


@pytest.fixture(scope="session")
def docker_api(docker_host: str) -> Iterator[docker.APIClient]:
    client = docker.APIClient(base_url=docker_host, version="auto")
    yield client
    client.close()


@pytest.fixture(scope="session")
def standin_image(docker_api: docker.APIClient) -> str:
    """The stand-in runner's image, built locally."""
    return ensure_image(docker_api)


@pytest.fixture
def payload() -> Callable[[str], Any]:
    """Reads a recorded payload by its file name."""
    import json

    return lambda name: json.loads((PAYLOADS / name).read_text())
