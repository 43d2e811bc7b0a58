"""A burst of queued jobs over HTTP: who is admitted, how long that takes, what it costs. Used by `admission.py`."""

import json
import random
import sys
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from google.cloud import firestore
from pydantic import SecretStr

from functions.documents import host, installation, ledger, workflow_job
from functions.documents.host import Host
from functions.documents.sealing import new_host_key, public_key_of
from functions.webhook.signature import sign
from local.processes import Process, accepts_connections, free_port
from local.stack import ROOT, Stack, StackOptions
from simulator.payloads import workflow_job_webhook
from simulator.world import JobSpec, World

from .load import Answered, Post, post_all
from .report import percentile

WEBHOOKS = 500
PLACES = 200
_START_WITHIN_S = 30.0


@dataclass(frozen=True)
class Burst:
    """How one burst went."""

    admitted: int
    """as the documents say"""
    waiting: int
    """held, or sent to GitHub's runners"""
    failed: int
    """answered with anything but 200, or not given a runner"""
    lost: int
    """without a document"""
    seconds: float
    p50_s: float
    """for a decision: GitHub's part taken out"""
    p99_s: float

    @property
    def per_second(self) -> float:
        return WEBHOOKS / self.seconds


class Arena:
    """A simulated GitHub and functions on one emulator. Each burst has an organization and a pool of its own."""

    def __init__(self, folder: Path, emulator_host: str, cleanup: ExitStack):
        self._folder = folder
        self._cleanup = cleanup
        self._world = World(now=lambda: datetime.now(UTC), rng=random.Random(1))  # noqa: S311 - repeatable on purpose
        self.stack = Stack(StackOptions(folder, f"bench-{uuid.uuid4().hex[:8]}", emulator_host, docker_host=""))
        self.client = firestore.Client(project=self.stack.options.project)
        cleanup.callback(self.client.close)

    def start_github(self) -> None:
        self._cleanup.callback(self.stack.start_github().stop)

    def start_ours(self, count: int) -> list[str]:
        """So many processes of the webhook function; their addresses."""
        ports = [free_port() for _ in range(count)]
        for port in ports:
            self._cleanup.callback(self.stack.start_function(port=port).stop)
        return [f"http://127.0.0.1:{port}/" for port in ports]

    def start_peer(self, target: str) -> str:
        port = free_port()
        environment = {
            "FUNCTION_TARGET": target,
            "FUNCTION_SOURCE": str(ROOT / "benchmarks" / "peers.py"),
            "FUNCTION_USE_ASGI": "true",
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "PYTHONPATH": str(ROOT),
            "GITHUB_WEBHOOK_SECRET": self.stack.webhook_secret,
            "GOOGLE_CLOUD_PROJECT": self.stack.options.project,
            "FIRESTORE_EMULATOR_HOST": self.stack.options.emulator_host,
            "PLACES": str(PLACES),
        }
        command = [str(Path(sys.executable).parent / "functions-framework")]
        process = Process(target, command, self._folder / f"{target}.log", environment)
        self._cleanup.callback(process.stop)
        process.wait_until(lambda: accepts_connections(port), _START_WITHIN_S)
        return f"http://127.0.0.1:{port}/"

    def new_org(self, places: int = PLACES) -> str:
        """An organization with a policy, and a pool of its own with a host that is large enough."""
        org = f"org-{uuid.uuid4().hex[:8]}"
        policy = {
            "version": 1,
            "profiles": {"small": {"cpus": 1, "memory": "2g"}},
            "default_profile": "small",
            "scale_sets": {"ci": {"max_runners": places, "image": "runner:1", "pool": org}},
            "routes": [{"label_match": "ci", "strategy": "self_hosted_only", "overflow": "hold"}],
        }
        self.client.collection(installation.COLLECTION).document(org).set({"policy": policy, "revision": 1})
        now = datetime.now(UTC)
        large = Host(
            host_id=f"host-{org}",
            pool=org,
            cpu_millis=10_000_000,
            memory_bytes=1 << 50,
            free_cpu_millis=10_000_000,
            free_memory_bytes=1 << 50,
            public_key=public_key_of(new_host_key()),
            heartbeat_at=now,
            lease_until=now + timedelta(hours=1),
        )
        self.client.collection(host.COLLECTION).document(large.host_id).set(large.to_firestore())
        return org

    def webhooks(self, org: str, count: int, urls: Sequence[str], label: str = "ci") -> list[Post]:
        """Signed `queued` events of a matrix, spread over the functions."""
        specs = [JobSpec(f"build ({number})", (label,)) for number in range(count)]
        jobs = self._world.dispatch(f"{org}/app", "ci", "main", specs)
        posts = []
        for number, job in enumerate(jobs):
            body = json.dumps(workflow_job_webhook("queued", job, self._world, None)).encode()
            headers = {
                "Content-Type": "application/json",
                "X-GitHub-Event": "workflow_job",
                "X-GitHub-Delivery": str(uuid.uuid4()),
                "X-Hub-Signature-256": sign(body, SecretStr(self.stack.webhook_secret)),
            }
            posts.append(Post(urls[number % len(urls)], body, headers))
        return posts

    def burst(self, urls: Sequence[str], places: int = PLACES) -> Burst:
        """All webhooks of a matrix at once against our functions."""
        org = self.new_org(places)
        # The policy is known: a burst is not the first that a function sees of an organization.
        post_all(self.webhooks(org, len(urls), urls, "nobody's"), len(urls))
        answers, seconds = post_all(self.webhooks(org, WEBHOOKS, urls), WEBHOOKS)
        outcomes = Counter(fields["decision"]["outcome"] for fields in self._jobs(org))
        leases = (self.client.collection(ledger.COLLECTION).document(org).get().to_dict() or {})["leases"]
        if len(leases) != outcomes["self_hosted"]:
            raise AssertionError(f"{org}: {len(leases)} places are taken by {outcomes['self_hosted']} jobs")
        del outcomes["ignored"]
        return _summarize(answers, seconds, outcomes)

    def burst_at_empty(self, url: str) -> Burst:
        """The same against a function that does nothing."""
        answers, seconds = post_all(self.webhooks("nobody", WEBHOOKS, [url]), WEBHOOKS)
        return _summarize(answers, seconds, Counter({"": WEBHOOKS}))

    def burst_at_peer(self, url: str) -> Burst:
        """The same against another way of admission."""
        org = f"org-{uuid.uuid4().hex[:8]}"
        answers, seconds = post_all(self.webhooks(org, WEBHOOKS, [url]), WEBHOOKS)
        written = Counter(
            "self_hosted" if (snapshot.to_dict() or {})["isAdmitted"] else "held"
            for snapshot in self.client.collection(f"jobs-of-{org}").stream()
        )
        return _summarize(answers, seconds, written)

    def _jobs(self, org: str) -> list[dict[str, Any]]:
        query = self.client.collection(workflow_job.COLLECTION).where(filter=firestore.FieldFilter("org", "==", org))
        return [snapshot.to_dict() or {} for snapshot in query.stream()]


def _summarize(answers: Sequence[Answered], seconds: float, outcomes: Mapping[str, int]) -> Burst:
    decisions = [answer.seconds - _github_s(answer) for answer in answers]
    return Burst(
        admitted=outcomes.get("self_hosted", 0),
        waiting=outcomes.get("held", 0) + outcomes.get("overflow", 0),
        failed=sum(answer.status != 200 or b'"failed"' in answer.body for answer in answers),
        lost=len(answers) - sum(outcomes.values()),
        seconds=seconds,
        p50_s=percentile(decisions, 0.5),
        p99_s=percentile(decisions, 0.99),
    )


def _github_s(answer: Answered) -> float:
    """How long the function has waited for GitHub, as its `Server-Timing` header says."""
    parts = dict(part.strip().split(";dur=") for part in answer.headers.get("server-timing", "").split(",") if part)
    return float(parts.get("github", 0)) / 1000
