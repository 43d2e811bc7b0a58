"""An edit of the policy in Firestore reaches a runner that is running, through the proxy's control socket."""

import asyncio
import ipaddress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from google.cloud import firestore

from controller.egress_watch import EgressWatch
from controller.firestore import ControllerStore
from controller.networks import plan_bridge
from controller.proxy import rules
from controller.proxy_client import ProxyClient
from controller.runners import LocalRunner, Runners
from functions.documents.errors import StoreUnavailable
from functions.documents.installation import Installation
from functions.routing.capacity import Size
from tests.fakes.examples import pending_runner, policy_document
from tests.integration.proxy_tools import ESTABLISHED, Origin, connect_to, proxy_in_thread, read_head

BRIDGE = replace(
    plan_bridge(ipaddress.IPv4Network("10.213.0.0/16"), "runyard", 0), gateway="127.0.1.1", address="127.0.1.2"
)


def document(egress: Any) -> dict[str, Any]:
    return policy_document(profiles={"small": {"cpus": 1, "memory": "2g", "egress": egress}})


async def test_an_edit_reaches_a_running_runner_and_a_broken_edit_changes_nothing(
    project: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "refuse_address", lambda _: None)
    client = firestore.AsyncClient(project=project)
    installation = client.collection("installations").document("acme")
    store = ControllerStore(project, "(default)")
    runners = Runners(Size(1000, 1 << 30))
    runners.put(replace(LocalRunner.of_claim(pending_runner("ry-1")), bridge=BRIDGE))
    with Origin("127.0.9.1") as origin, proxy_in_thread(tmp_path, hosts={"a.test": origin.address[0]}) as proxy:
        proxy_client = ProxyClient(proxy.control_socket, tmp_path / "unused.yaml")

        async def publish() -> None:
            await proxy_client.set_table(entry for runner in runners if (entry := runner.attribution) is not None)

        watch = EgressWatch(store, runners, publish, lambda: datetime.now(UTC))

        async def status() -> int:
            request = connect_to(f"a.test:{origin.address[1]}")
            return (await asyncio.to_thread(proxy.ask, request)).status

        await publish()
        assert not await watch.refresh(), "there is no policy yet"
        tunnel = proxy.connect()
        tunnel.sendall(connect_to(f"a.test:{origin.address[1]}"))
        assert read_head(tunnel) == ESTABLISHED

        await installation.set({"policy": document({"mode": "enforce"})})
        assert await watch.refresh()
        await publish()
        assert await status() == 403
        with pytest.raises(ConnectionResetError):
            tunnel.recv(1)

        good = {"policy": document({"mode": "enforce"}), "revision": 1}
        await installation.set({"policy": document({"mode": "open"}), "lastGood": good})
        assert not await watch.refresh(), "a broken edit leaves the last good policy in force"
        assert await status() == 403

        await installation.set({"policy": document({"mode": "enforce", "allow": "*.test"})})
        assert await watch.refresh()
        assert not await watch.refresh()
        await publish()
        again = proxy.connect()
        again.sendall(connect_to(f"a.test:{origin.address[1]}"))
        assert read_head(again) == ESTABLISHED
        await proxy_client.close()
    client.close()  # type: ignore[no-untyped-call]
    store.close()


async def test_while_the_policy_cannot_be_read_the_rules_stay(caplog: pytest.LogCaptureFixture) -> None:
    class Away:
        async def read_installation(self, org: str) -> Installation | None:
            raise StoreUnavailable("Firestore is away")

    runners = Runners(Size(1000, 1 << 30))
    runners.put(LocalRunner.of_claim(pending_runner("ry-1")))

    async def publish() -> None:
        raise AssertionError("must not be called")

    with pytest.raises(StoreUnavailable):
        await EgressWatch(Away(), runners, publish, lambda: datetime.now(UTC)).refresh()
