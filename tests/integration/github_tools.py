"""A simulated GitHub on its own, and clients of it."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from functions.github.auth import AppCredentials
from functions.github.client import GitHubClient
from local.stack import APP_ID, Stack, StackOptions


def now() -> datetime:
    return datetime.now(UTC)


@contextmanager
def github_alone(folder: Path, **options: Any) -> Iterator[Stack]:
    """A simulated GitHub that delivers to nobody."""
    stack = Stack(StackOptions(folder, "unused", "", "", **options))
    process = stack.start_github()
    yield stack
    process.stop()


def app_of(github: Stack) -> AppCredentials:
    """The App that it knows."""
    return AppCredentials(APP_ID, SecretStr((github.options.folder / "app.key").read_text()))


@asynccontextmanager
async def client_of(
    github: Stack, credentials: SecretStr | AppCredentials, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[GitHubClient]:
    """A client that trusts its certificate; the faults that a test arranged end with it."""
    monkeypatch.setenv("SSL_CERT_FILE", str(github.authority))
    client = GitHubClient(github.github_url, credentials, now)
    yield client
    await client.close()
    github.control("DELETE", "/faults")
