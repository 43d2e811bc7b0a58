"""A job starts on a runner: known by what the runner prints or by the webhook, fitted, let go, written down."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from google.cloud import firestore

from controller import job_start
from controller.background import Background
from controller.cgroup import read_limits
from controller.firestore import ControllerStore
from controller.fitting import Fitting
from controller.gate import Answer, Question
from controller.job_finder import JobFinder
from controller.job_start import JobStart
from controller.networks import BridgePlan
from controller.proxy_client import ProxyUnavailable
from controller.runners import LocalRunner, Runners
from functions.documents import workflow_job
from functions.documents.workflow_job import RunnerProfile, RunnerRef, SizingReceipt, SizingRules, WorkflowJob
from functions.routing.capacity import Size
from functions.routing.policy import OnError
from tests.fakes.examples import NOW, job, runner_plan
from tests.integration.container_tools import MIB, SMALL, Host

LARGE = Size(400, 128 * MIB)


class Site:
    """A runner that has printed a job's name, and the documents that there are."""

    def __init__(self, host: Host, bridge: BridgePlan, project: str, printed: str, **rules: Any):
        self.engine = host.engine
        self._documents = firestore.Client(project=project).collection(workflow_job.COLLECTION)
        self.project = project
        claimed = host.runner(sizing=SizingRules(**rules))
        script = f"echo '2026-11-23 12:00:00Z: Listening for Jobs'; echo '2026-11-23 12:00:01Z: Running job: {printed}'"
        self.state = host.start(f"{script}; sleep 60", bridge, claimed)
        self.bridge = bridge
        self.runners = Runners(Size(2000, 1024 * MIB))
        runner = LocalRunner.of_claim(claimed)
        self.name = runner.name
        self.runners.put(replace(runner, container_id=self.state.container_id, pid=self.state.pid, bridge=bridge))
        self.published = 0
        self.proxy_is_away = 0
        """so many more times"""

    def put(self, *jobs: WorkflowJob) -> None:
        for one in jobs:
            self._documents.document(one.key).set(one.to_firestore())

    def receipt(self, number: int) -> SizingReceipt | None:
        fields = self._documents.document(job(number).key).get().to_dict() or {}
        return SizingReceipt.from_firestore(fields["sizing"]) if "sizing" in fields else None

    @property
    def runner(self) -> LocalRunner:
        runner = self.runners.get(self.name)
        assert runner is not None
        return runner

    @property
    def cpu_millis(self) -> int | None:
        limits = read_limits(self.state.pid)
        return limits.cpu_millis if limits else None

    def run(
        self, check: "Callable[[Site], Awaitable[None]]", known_within_s: float = 10, run_id: int | None = 1
    ) -> Answer:
        """Asks the gate as the hook does, then lets `check` look on while the job runs."""

        async def ask() -> Answer:
            store, background = ControllerStore(self.project, "(default)"), Background()
            gate = JobStart(
                self.runners,
                JobFinder(self.engine, store),
                Fitting(self.runners, self.engine),
                store,
                background,
                self._publish,
                known_within_s,
                lambda: NOW,
            )
            question = Question(self.bridge.gateway, self.bridge.address, run_id, 1)
            answers = await asyncio.gather(gate.decide(question), gate.decide(question))
            assert answers[0] is not None
            assert answers[0] == answers[1]
            await check(self)
            assert await background.finish(10) == 0
            store.close()
            return answers[0]

        return asyncio.run(ask())

    async def _publish(self) -> None:
        if self.proxy_is_away:
            self.proxy_is_away -= 1
            raise ProxyUnavailable("it is being restarted")
        self.published += 1


def a_job(number: int, name: str = "build", size: Size = LARGE, **changes: Any) -> WorkflowJob:
    profile = RunnerProfile(name="large", cpu_millis=size.cpu_millis, memory_bytes=size.memory_bytes, pids=32)
    return job(number, name, plan=runner_plan(profile=profile, image=IMAGE), **changes)


IMAGE = "runyard-standin-runner"


async def nothing_more(site: Site) -> None:
    """Nothing happens while the job runs."""


@pytest.fixture
def site(host: Host, bridge: BridgePlan, project: str) -> Callable[..., Site]:
    """Makes a site whose runner has printed a name."""
    return lambda printed="build", **rules: Site(host, bridge, project, printed, **rules)


Make = Callable[..., Site]


def eventually(is_true: Callable[[], object]) -> Callable[[Site], Awaitable[None]]:
    async def wait(_: Site) -> None:
        async with asyncio.timeout(20):
            while not is_true():
                await asyncio.sleep(0.1)

    return wait


def test_the_name_that_the_runner_prints_is_enough(site: Make) -> None:
    here = site()
    here.put(a_job(1), a_job(2, "deploy"))
    answer = here.run(nothing_more)
    assert answer == Answer(True, "profile large: 0.4 CPUs and 128m, resized (made for small)")
    assert here.cpu_millis == 400
    note = here.receipt(1)
    assert note is not None
    assert (note.verdict, note.known_by, note.made_for_profile) == ("resized", "runner output", "small")
    assert (note.before_pids, note.asked_pids, note.read_pids) == (64, 32, 32)
    assert here.receipt(2) is None
    attribution = here.runner.attribution
    assert attribution is not None
    assert (attribution.job_key, attribution.profile, attribution.has_job) == ("acme_1_1", "large", True)
    # Twice asked, once decided: the hook of a broken connection asks again.
    assert here.published == 1


@pytest.mark.parametrize("name", ["größer ✓ 構建 🚀", 'quoted "name" $(id) `id`', "build (a / b, {c: [d]}) / Inner"])
def test_names_may_hold_anything(site: Make, name: str) -> None:
    here = site(name)
    here.put(a_job(1, name))
    assert here.run(nothing_more).may_run
    assert here.cpu_millis == 400


@pytest.mark.parametrize(
    ("printed", "name"),
    [("x" * 97 + "...", "x" * 120), ("x" * 120, "x" * 97 + "..."), ("first", "first\nsecond")],
    ids=["cut by the runner", "cut by the webhook", "several lines"],
)
def test_a_name_that_was_cut_is_the_same_name(site: Make, printed: str, name: str) -> None:
    here = site(printed)
    here.put(a_job(1, name), a_job(2, "y" * 120))
    assert here.run(nothing_more).may_run
    assert here.receipt(1) is not None


def test_the_webhook_is_enough_when_the_hook_knows_no_run(site: Make) -> None:
    here = site("something else")
    here.put(a_job(1, runner=RunnerRef(name=here.name, id=5)))
    assert here.run(nothing_more, run_id=None).may_run
    note = here.receipt(1)
    assert note is not None
    assert note.known_by == "webhook"


def test_where_output_and_webhook_disagree_the_webhook_wins(site: Make) -> None:
    here = site("build")
    here.put(a_job(1, size=Size(300, 128 * MIB), runner=RunnerRef(name="ry-other", id=4)))
    here.put(a_job(2, "deploy", runner=RunnerRef(name=here.name, id=5)))
    assert here.run(nothing_more).may_run
    assert here.cpu_millis == 400
    assert here.receipt(1) is None


def test_a_webhook_that_comes_later_and_disagrees_wins_too(site: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_start, "_CONFIRM_AFTER_S", 0.2)
    here = site("build")
    here.put(a_job(1, size=Size(300, 128 * MIB)), a_job(2, "deploy"))

    async def webhook_comes(there: Site) -> None:
        assert there.cpu_millis == 300
        there.put(a_job(2, "deploy", runner=RunnerRef(name=there.name, id=5)))
        await eventually(lambda: there.receipt(2))(there)

    assert here.run(webhook_comes).may_run
    assert here.cpu_millis == 400
    assert here.runner.job is not None
    assert here.runner.job.key == "acme_1_2"
    mistaken, real = here.receipt(1), here.receipt(2)
    assert mistaken is not None
    assert real is not None
    assert (mistaken.verdict, real.verdict) == ("mistaken", "resized")
    assert real.known_by == "webhook, against the output"


def test_two_jobs_of_one_name_are_told_apart_by_the_webhook(site: Make) -> None:
    here = site()
    here.put(a_job(1, size=Size(300, 128 * MIB)), a_job(2, runner=RunnerRef(name=here.name, id=5)))
    assert here.run(nothing_more).may_run
    assert here.cpu_millis == 400


def test_two_jobs_of_one_name_and_size_are_sized_without_the_webhook_and_told_apart_when_it_comes(
    site: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_start, "_LEARN_LATE_AFTER_S", (0.2, 0.2, 0.2, 0.2))
    here = site()
    here.put(a_job(1), a_job(2))

    async def webhook_comes(there: Site) -> None:
        assert there.cpu_millis == 400
        assert there.runner.job is None
        there.put(a_job(2, runner=RunnerRef(name=there.name, id=5)))
        await eventually(lambda: there.receipt(2))(there)

    assert here.run(webhook_comes, known_within_s=0.5).may_run
    assert here.runner.job is not None
    assert here.runner.job.key == "acme_1_2"
    assert here.receipt(1) is None


def test_a_job_that_does_not_become_known_fails(site: Make) -> None:
    here = site()
    answer = here.run(nothing_more, known_within_s=0.5)
    assert not answer.may_run
    assert "no job of this runner became known within 0.5 s" in answer.text
    assert here.runner.job is None


def test_or_runs_on_what_there_is_and_is_marked_when_it_becomes_known(
    site: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_start, "_LEARN_LATE_AFTER_S", (0.2, 0.2, 0.2, 0.2))
    here = site(on_error=OnError.OPEN)

    async def webhook_comes(there: Site) -> None:
        there.put(a_job(1, runner=RunnerRef(name=there.name, id=5)))
        await eventually(lambda: there.receipt(1))(there)

    assert here.run(webhook_comes, known_within_s=0.5).may_run
    assert here.cpu_millis == SMALL.cpu_millis
    note = here.receipt(1)
    assert note is not None
    assert note.verdict == "kept"
    assert here.runner.job is not None


def test_a_proxy_that_is_just_being_restarted_fails_no_job(site: Make) -> None:
    here = site()
    here.proxy_is_away = 2
    here.put(a_job(1))
    assert here.run(nothing_more).may_run
    assert here.published == 1
    assert here.receipt(1) is not None


def test_a_job_that_began_under_another_controller_is_learnt_of_when_its_webhook_comes(
    site: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_start, "_LEARN_LATE_AFTER_S", (0.2, 0.2, 0.2, 0.2, 0.2))
    here = site()
    here.put(a_job(1))

    async def take_up() -> None:
        store, background = ControllerStore(here.project, "(default)"), Background()
        finder, fitting = JobFinder(here.engine, store), Fitting(here.runners, here.engine)
        gate = JobStart(here.runners, finder, fitting, store, background, here._publish, 1, lambda: NOW)
        gate.take_up(here.name)
        await asyncio.sleep(0.3)
        here.put(a_job(1, runner=RunnerRef(name=here.name, id=5)))
        await eventually(lambda: here.runner.job)(here)
        await background.finish(5)
        store.close()

    asyncio.run(take_up())
    assert here.runner.job is not None
    assert here.runner.job.key == "acme_1_1"
    assert here.receipt(1) is None, "the controller that let it go has written it"


def test_whoever_is_not_a_runner_gets_no_answer(site: Make) -> None:
    here = site()

    async def ask() -> Answer | None:
        finder: Any = None
        gate = JobStart(here.runners, finder, finder, finder, Background(), here._publish, 1, lambda: NOW)
        return await gate.decide(Question(here.bridge.gateway, "10.1.2.3", 1, 1))

    assert asyncio.run(ask()) is None
