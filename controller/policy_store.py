"""The operator's door to Firestore: policies with their history, and the jobs that were decided by them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from google.api_core.retry import Retry
from google.cloud import firestore

from functions.documents import host, installation, ledger, workflow_job
from functions.documents.firestore import TRANSIENT, translated_errors
from functions.documents.host import Host
from functions.documents.installation import Installation, installation_id
from functions.documents.ledger import Ledger
from functions.documents.workflow_job import WorkflowJob

REVISIONS = "policyRevisions"
_TIMEOUT_S = 10.0
"""for one call with its retries: somebody sits before it. The library's own patience is five minutes."""
_PATIENCE: Any = {
    "retry": Retry(predicate=lambda error: isinstance(error, TRANSIENT), initial=0.2, maximum=2, timeout=_TIMEOUT_S),
    "timeout": _TIMEOUT_S,
}


@dataclass(frozen=True)
class Revision:
    """One accepted policy."""

    number: int
    policy: Mapping[str, Any]
    who: str
    at: datetime
    message: str


class PolicyStore:
    """Reads and writes of `runyard policy`. Calls block."""

    def __init__(self, project: str, database: str = "(default)"):
        self._client = firestore.Client(project=project, database=database)

    def read(self, org: str) -> Installation | None:
        with translated_errors():
            snapshot = self._installation(org).get(**_PATIENCE)
        return Installation.from_firestore(snapshot.to_dict() or {}) if snapshot.exists else None

    def push(self, org: str, policy: Mapping[str, Any], who: str, message: str) -> int:
        """Makes a checked policy the newest one; its revision.

        Policy and revision are written together, guarded by what was there: of two who push at once one is told.

        Raises:
            Moved: somebody else has changed the document in between.
        """
        reference = self._installation(org)
        with translated_errors():
            snapshot = reference.get(**_PATIENCE)
            found = Installation.from_firestore(snapshot.to_dict() or {}) if snapshot.exists else Installation()
            number = found.revision + 1
            batch = self._client.batch()
            fields = {"policy": dict(policy), "revision": number}
            if snapshot.exists:
                guard = self._client.write_option(last_update_time=snapshot.update_time)
                batch.update(reference, {**fields, "lastError": firestore.DELETE_FIELD}, option=guard)
            else:
                batch.create(reference, fields)
            entry = {"policy": dict(policy), "who": who, "at": datetime.now(UTC), "message": message}
            batch.set(reference.collection(REVISIONS).document(str(number)), entry)
            batch.commit(**_PATIENCE)
        return number

    def list_revisions(self, org: str) -> list[Revision]:
        """Newest first."""
        with translated_errors():
            snapshots = list(self._installation(org).collection(REVISIONS).stream(**_PATIENCE))
        return sorted((_revision(snapshot) for snapshot in snapshots), key=lambda revision: -revision.number)

    def read_revision(self, org: str, number: int) -> Revision | None:
        with translated_errors():
            snapshot = self._installation(org).collection(REVISIONS).document(str(number)).get(**_PATIENCE)
        return _revision(snapshot) if snapshot.exists else None

    def list_hosts(self) -> list[Host]:
        """All hosts, dead ones too."""
        with translated_errors():
            return [
                Host.from_firestore(s.to_dict() or {})
                for s in self._client.collection(host.COLLECTION).stream(**_PATIENCE)
            ]

    def read_ledger(self, pool: str) -> Ledger:
        with translated_errors():
            snapshot = self._client.collection(ledger.COLLECTION).document(pool).get(**_PATIENCE)
        return Ledger.from_firestore(snapshot.to_dict() or {})

    def list_recent_jobs(self, org: str, most: int) -> list[WorkflowJob]:
        """The newest jobs of an organization, however its login is spelt."""
        jobs = self._client.collection(workflow_job.COLLECTION)
        begin = jobs.document(f"{installation_id(org)}_")
        with translated_errors():
            any_job = jobs.where(filter=firestore.FieldFilter("__name__", ">=", begin)).limit(1).get(**_PATIENCE)
        spelt = [snapshot.get("org") for snapshot in any_job if snapshot.id.startswith(begin.id)]
        query = (
            jobs.where(filter=firestore.FieldFilter("org", "==", spelt[0] if spelt else org))
            .order_by("phases.queuedAt", direction=firestore.Query.DESCENDING)
            .limit(most)
        )
        with translated_errors():
            return [WorkflowJob.from_firestore(snapshot.to_dict() or {}) for snapshot in query.stream(**_PATIENCE)]

    def read_jobs(self, key: str) -> list[WorkflowJob]:
        """The job with a document id; none when there is no such job."""
        with translated_errors():
            snapshot = self._client.collection(workflow_job.COLLECTION).document(key).get()
        return [WorkflowJob.from_firestore(snapshot.to_dict() or {})] if snapshot.exists else []

    def list_jobs_of_run(self, org: str, run_id: int) -> list[WorkflowJob]:
        """All jobs of a workflow run, in the order in which GitHub made them."""
        query = (
            self._client.collection(workflow_job.COLLECTION)
            .where(filter=firestore.FieldFilter("org", "==", org))
            .where(filter=firestore.FieldFilter("runId", "==", run_id))
        )
        with translated_errors():
            jobs = [WorkflowJob.from_firestore(snapshot.to_dict() or {}) for snapshot in query.stream()]
        return sorted(jobs, key=lambda job: job.job_id)

    def close(self) -> None:
        self._client.close()  # type: ignore[no-untyped-call]

    def _installation(self, org: str) -> Any:
        return self._client.collection(installation.COLLECTION).document(installation_id(org))


def _revision(snapshot: Any) -> Revision:
    fields = snapshot.to_dict() or {}
    return Revision(
        int(snapshot.id), fields.get("policy", {}), str(fields.get("who", "")), fields["at"], fields.get("message", "")
    )
