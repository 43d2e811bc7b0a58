"""A function instance reduced to its admission: a process that settles batches of requests for a test."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection

from functions.admission.group import Admission, Settled
from functions.admission.requests import Request
from functions.documents import firestore


@dataclass(frozen=True)
class Batch:
    """Requests that come to one instance at the same time."""

    pool: str
    requests: Sequence[Request]


def serve(project: str, connection: Connection) -> None:
    """Settles batches until there are no more."""
    # A host's death counts at once, not when the list is a few seconds old.
    firestore.HOSTS_KEPT_FOR_S = 0
    asyncio.run(_serve(firestore.FirestoreStore(project), connection))


async def _serve(store: firestore.FirestoreStore, connection: Connection) -> None:
    admissions: dict[str, Admission] = {}
    while True:
        batch: Batch | None = await asyncio.to_thread(connection.recv)
        if batch is None:
            return
        if batch.pool not in admissions:
            admissions[batch.pool] = Admission(batch.pool, store, lambda: datetime.now(UTC), unhurried_s=0.02)
        admission = admissions[batch.pool]
        settled: list[Settled] = await asyncio.gather(*map(admission.submit, batch.requests))
        connection.send(settled)
