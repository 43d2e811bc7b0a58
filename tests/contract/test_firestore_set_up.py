"""Rules and indexes: what terraform/ declares is what the programs need, and nobody else gets in."""

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import httpx

from controller.firestore import ControllerStore
from controller.policy_store import PolicyStore
from functions.documents.reconcile_store import ReconcileStore
from tests.fakes.examples import NOW, host, job, pending_runner

TERRAFORM = Path(__file__).parent.parent.parent / "terraform"


def call(url: str, method: str = "GET", body: object = None, token: str | None = None) -> tuple[int, Any]:
    """Status and JSON of an answer."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    response = httpx.request(method, url, json=body, headers=headers, timeout=10)
    return response.status_code, response.json() if response.content else None


def test_clients_are_denied_everything(emulator_host: str, project: str) -> None:
    emulator = f"http://{emulator_host}/emulator/v1/projects/{project}"
    rules = (TERRAFORM / "firestore.rules").read_text()
    body = {"rules": {"files": [{"name": "firestore.rules", "content": rules}]}}
    assert call(f"{emulator}:securityRules", "PUT", body)[0] == 200
    documents = f"http://{emulator_host}/v1/projects/{project}/databases/(default)/documents"
    fields = {"fields": {"x": {"integerValue": "1"}}}
    assert call(f"{documents}/installations/acme", "PATCH", fields, token="owner")[0] == 200
    for token in (None, "eyJhbGciOiJub25lIn0.eyJzdWIiOiJtZSIsInVzZXJfaWQiOiJtZSJ9."):
        assert call(f"{documents}/installations/acme", token=token)[0] == 403
        assert call(f"{documents}/installations/acme", "PATCH", fields, token)[0] == 403
        assert call(f"{documents}/installations/acme", "DELETE", token=token)[0] == 403
        query = {"structuredQuery": {"from": [{"collectionId": "workflowJobs"}]}}
        status, answer = call(f"{documents}:runQuery", "POST", query, token)
        assert status == 403 or answer[0]["error"]["code"] == 403


async def test_every_composite_index_that_a_query_needs_is_declared(emulator_host: str, project: str) -> None:
    """The emulator does not enforce indexes, but it knows which ones were needed."""
    await run_every_query(project)
    parent = f"projects/{project}/databases/(default)"
    status, usage = call(f"http://{emulator_host}/emulator/v1/projects/{project}:indexUsage?database={parent}")
    assert status == 200
    declared = {
        (index["collectionGroup"], tuple((f["fieldPath"], f["order"]) for f in index["fields"]))
        for index in json.loads((TERRAFORM / "firestore.indexes.json").read_text())["indexes"]
    }
    assert composite(usage) == declared, "each index that is needed is declared, and no other"


async def run_every_query(project: str) -> None:
    """All queries of both programs, listener included. A new one belongs here."""
    functions = ReconcileStore(project)
    await functions.list_hosts("default")
    await functions.create_job(job(1))
    await functions.list_owners()
    await functions.list_all_hosts()
    await functions.list_ledgers()
    await functions.list_live_runners()
    await functions.list_left_runners()
    await functions.list_open_jobs()
    await functions.list_open_jobs("acme_1_0")
    await functions.find_jobs_of_runner("ry-1")
    await functions.find_jobs_by_id(1)
    controller = ControllerStore(project, "(default)")
    await controller.write_host(host())
    await controller.list_pending("default")
    await controller.list_own_runners("host-1")
    await controller.list_hosts("default")
    await controller.find_jobs("acme", 1, "build")
    await controller.find_jobs_of_runner("ry-1")
    policies = PolicyStore(project)
    policies.list_hosts()
    policies.list_revisions("acme")
    policies.list_recent_jobs("acme", 10)
    policies.close()
    heard = threading.Event()
    watch = controller.watch_pending("default", lambda _: heard.set())
    assert await asyncio.to_thread(heard.wait, 20)
    watch.close()
    controller.close()


def composite(usage: Any) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    """The indexes of more than one field in the emulator's report."""
    found = set()
    for report in usage.get("reports", []):
        index = report["index"]
        fields = tuple((f["fieldPath"], f["order"]) for f in index["fields"] if f["fieldPath"] != "__name__")
        if len(fields) > 1:
            found.add((index["name"].split("/")[-3], fields))
    return found


def test_what_must_not_be_indexed_is_exempt() -> None:
    """Every key of a lease would otherwise be an index entry, on each commit; and a secret must not be searchable."""
    overrides = json.loads((TERRAFORM / "firestore.indexes.json").read_text())["fieldOverrides"]
    exempt = {(o["collectionGroup"], o["fieldPath"]) for o in overrides if o["indexes"] == []}
    assert {("pools", "leases"), ("pendingRunners", "sealedConfig")} <= exempt
    expiring = {o["collectionGroup"] for o in overrides if o.get("ttl")}
    assert expiring == {"workflowJobs", "pendingRunners", "reconciles"}
    assert "expireAt" in job(1, expire_at=NOW).to_firestore()
    assert "expireAt" in pending_runner(expire_at=NOW).to_firestore()
