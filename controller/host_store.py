"""The operator's door to Firestore: the Docker hosts, and whether they take new runners."""

from collections.abc import Sequence
from typing import Any

from google.api_core.exceptions import NotFound
from google.api_core.retry import Retry
from google.cloud import firestore

from functions.documents import host
from functions.documents.firestore import TRANSIENT, translated_errors
from functions.documents.host import Host

_TIMEOUT_S = 10.0
_PATIENCE: Any = {
    "retry": Retry(predicate=lambda error: isinstance(error, TRANSIENT), initial=0.2, maximum=2, timeout=_TIMEOUT_S),
    "timeout": _TIMEOUT_S,
}


class HostStore:
    """Reads and writes of `runyard hosts`, `drain` and `resume`. Calls block."""

    def __init__(self, project: str, database: str = "(default)"):
        self._client = firestore.Client(project=project, database=database)

    def list_hosts(self) -> Sequence[Host]:
        """All of them, dead ones too, by pool and name."""
        with translated_errors():
            snapshots = self._client.collection(host.COLLECTION).get(**_PATIENCE)
        hosts = (Host.from_firestore(snapshot.to_dict() or {}) for snapshot in snapshots)
        return sorted(hosts, key=lambda found: (found.pool, found.host_id))

    def set_draining(self, host_id: str, *, is_draining: bool) -> bool:
        """Says whether a host takes new runners; False when there is no such host."""
        reference = self._client.collection(host.COLLECTION).document(host_id)
        with translated_errors():
            try:
                reference.update({"isDraining": is_draining}, **_PATIENCE)
            except NotFound:
                return False
        return True

    def close(self) -> None:
        self._client.close()  # type: ignore[no-untyped-call]
