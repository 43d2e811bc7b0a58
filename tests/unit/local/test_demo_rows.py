"""What the demo's table shows, and its verdict, which must be able to fail."""

import dataclasses
from datetime import timedelta
from typing import Any

import pytest

from controller.attribution import Attribution
from controller.proxy.access_log import Event, Logfmt, format_time
from functions.documents.workflow_job import (
    DecisionRecord,
    Phases,
    RunnerRef,
    SizingReceipt,
    WorkflowJob,
)
from functions.routing.policy import parse_policy
from local.demo.rows import (
    Check,
    Leftovers,
    Line,
    Row,
    as_jobs,
    count_connections,
    judge,
    judge_observed,
    judge_swaps,
    make_row,
    read_lines,
    to_markdown,
)
from tests.fakes.examples import NOW, job

MIB = 1 << 20
POLICY = parse_policy(
    {
        "profiles": {
            "large": {"cpus": 0.4, "memory": "256m", "match_patterns": ["large*"]},
            "small": {"cpus": 0.1, "memory": "64m"},
        },
        "default_profile": "small",
        "scale_sets": {"demo": {"max_runners": 10, "image": "runner:1"}},
        "routes": [{"label_match": "demo"}],
    }
)
LIMITS = "limits quota_us=10000 period_us=100000 memory_bytes=67108864"
NOTHING_LEFT = Leftovers(containers=0, networks=0, github_runners=0, places=0)
ROWS = [
    Row("small-1", "small", "self_hosted", "ry-1", "large", "completed", "success", 100, 64 * MIB, 2),
    Row("large", "large", "self_hosted", "ry-2", "", "completed", "success", 400, 256 * MIB, 1),
]
LINES = [Line("ry-1", "acme_1_1", "tunnel"), Line("ry-1", "acme_1_1", "tunnel"), Line("ry-2", "acme_1_2", "tunnel")]
SUCCEEDED, SIZED, ATTRIBUTED, CLEAN = range(4)


def broken(**fields: Any) -> list[Row]:
    """The rows with something wrong in the first one."""
    return [dataclasses.replace(ROWS[0], **fields), *ROWS[1:]]


def test_the_verdict_holds_when_everything_is_as_promised() -> None:
    assert [check.holds for check in judge(ROWS, LINES, POLICY, NOTHING_LEFT)] == [True] * 4


@pytest.mark.parametrize(
    ("rows", "lines", "leftovers", "failing"),
    [
        pytest.param(broken(conclusion="failure"), LINES, NOTHING_LEFT, SUCCEEDED, id="a job failed"),
        pytest.param(broken(conclusion="cancelled"), LINES, NOTHING_LEFT, SUCCEEDED, id="a job was cancelled"),
        pytest.param(broken(conclusion="", state="queued"), LINES, NOTHING_LEFT, SUCCEEDED, id="a job still waits"),
        pytest.param(broken(cpu_millis=400), LINES, NOTHING_LEFT, SIZED, id="a job saw another profile's CPU"),
        pytest.param(broken(memory_bytes=256 * MIB), LINES, NOTHING_LEFT, SIZED, id="or its memory"),
        pytest.param(broken(cpu_millis=None), LINES, NOTHING_LEFT, SIZED, id="a job saw no limit"),
        pytest.param(broken(profile=""), LINES, NOTHING_LEFT, SIZED, id="a job has no profile"),
        pytest.param(broken(profile="gone"), LINES, NOTHING_LEFT, SIZED, id="a profile that the policy lacks"),
        pytest.param(broken(connections=0), LINES, NOTHING_LEFT, ATTRIBUTED, id="a job without a connection"),
        pytest.param(
            ROWS, [*LINES, Line("", "acme_1_1", "tunnel")], NOTHING_LEFT, ATTRIBUTED, id="a line without a runner"
        ),
        pytest.param(ROWS, [*LINES, Line("ry-1", "", "tunnel")], NOTHING_LEFT, ATTRIBUTED, id="a line without a job"),
        pytest.param(
            ROWS, [*LINES, Line("ry-1", "acme_1_1", "refused")], NOTHING_LEFT, ATTRIBUTED, id="a refused connection"
        ),
        pytest.param(
            ROWS, [*LINES, Line("ry-1", "acme_1_1", "failed")], NOTHING_LEFT, ATTRIBUTED, id="a failed connection"
        ),
        pytest.param(ROWS, LINES, Leftovers(1, 0, 0, 0), CLEAN, id="a container is left"),
        pytest.param(ROWS, LINES, Leftovers(0, 1, 0, 0), CLEAN, id="a network is left"),
        pytest.param(ROWS, LINES, Leftovers(0, 0, 1, 0), CLEAN, id="a runner is left at GitHub"),
        pytest.param(ROWS, LINES, Leftovers(0, 0, 0, 1), CLEAN, id="a place is left in the ledger"),
    ],
)
def test_one_thing_that_is_wrong_breaks_exactly_the_check_it_concerns(
    rows: list[Row], lines: list[Line], leftovers: Leftovers, failing: int
) -> None:
    checks = judge(rows, lines, POLICY, leftovers)
    assert [index for index, check in enumerate(checks) if not check.holds] == [failing]


def test_the_verdict_names_what_is_wrong() -> None:
    rows = [*broken(conclusion="failure", cpu_millis=1, connections=0), dataclasses.replace(ROWS[1], name="large-2")]
    details = [check.detail for check in judge(rows, [Line("", "", "tunnel")], POLICY, Leftovers(1, 0, 2, 0))]
    assert details == [
        "small-1: failure",
        "small-1",
        "0 of 1; none from small-1",
        "1 containers, 0 networks, 2 github runners, 0 places",
    ]


def test_the_verdict_counts_the_jobs_that_ran_on_a_runner_made_for_another_profile() -> None:
    details = [check.detail for check in judge(ROWS, LINES, POLICY, NOTHING_LEFT)]
    assert details[SIZED] == "2 of 2; 1 ran on a runner made for another profile"


def ran_job(made_for: str = "small") -> WorkflowJob:
    return job(
        1,
        "small-1",
        rank=70,
        conclusion="success",
        duration_seconds=2.5,
        decision=DecisionRecord(outcome="self_hosted", reason="", profile="small"),
        runner=RunnerRef(name="ry-1", id=1),
        sizing=SizingReceipt(
            verdict="resized",
            profile="small",
            made_for_profile=made_for,
            asked_cpu_millis=100,
            asked_memory_bytes=64 * MIB,
            took_ms=40,
        ),
        phases=Phases(
            received_at=NOW,
            reserved_at=NOW + timedelta(seconds=1),
            provisioned_at=NOW + timedelta(seconds=3),
            claimed_at=NOW + timedelta(seconds=2),
        ),
    )


def test_a_row_shows_what_the_document_and_the_jobs_own_log_say() -> None:
    row = make_row("small-1", ran_job(), f"hello\n{LIMITS}\nbye\n", 3)
    assert (row.profile, row.decision, row.runner, row.made_for) == ("small", "self_hosted", "ry-1", "")
    assert (row.state, row.conclusion, row.connections) == ("completed", "success", 3)
    assert (row.cpus, row.memory) == ("0.1", "64m")


def test_a_row_tells_that_the_runner_was_made_for_another_profile() -> None:
    assert make_row("small-1", ran_job("large"), "", 0).runner_in_words == "ry-1 (made for large)"
    assert make_row("small-1", ran_job("small"), "", 0).runner_in_words == "ry-1"


def test_a_job_without_a_document_is_queued() -> None:
    assert make_row("small-1", None, LIMITS, 3) == Row("small-1", state="queued")


@pytest.mark.parametrize(
    "log",
    [
        pytest.param("", id="nothing"),
        pytest.param("limits quota_us=-1 period_us=100000 memory_bytes=67108864", id="no limit, version 1"),
        pytest.param("limits quota_us=max period_us=100000 memory_bytes=max", id="no limit, version 2"),
        pytest.param(f"echo {LIMITS}", id="the words of another line"),
    ],
)
def test_limits_that_the_job_did_not_see_are_not_shown(log: str) -> None:
    row = make_row("small-1", ran_job(), log, 0)
    assert (row.cpu_millis, row.memory_bytes) == (None, None)


def test_phases_are_in_seconds_and_unknown_where_another_runner_took_the_job() -> None:
    assert dict(make_row("small-1", ran_job(), "", 0).phases) == {
        "decide": 1.0,
        "token": 2.0,
        "claim": None,  # claimed before this job's own runner was there
        "start": None,
        "listen": None,
        "size": 0.04,
        "run": 2.5,
    }


WHO = Attribution(
    gateway="10.213.0.1",
    address="10.213.0.2",
    runner_name="ry-1",
    profile="small",
    job_name='small-1" job_id="acme_9_9" decision=refused\nrunner_name=ry-9',
    job_key="acme_1_1",
)


def line_of(who: Attribution | None, decision: str, reason: str) -> str:
    form = Logfmt("host-1")
    subject = form.describe(who, "10.213.0.2")
    event = Event(format_time(0), "CONNECT", decision, subject, "github.test:443", reason, None, "", 1, 2, 3)
    return form.line(event) + "\n"


def test_the_proxys_own_lines_are_read_whatever_the_job_is_called() -> None:
    text = line_of(WHO, "tunnel", "") + line_of(None, "refused", "10.0.0.9 is not a runner")
    assert read_lines(text) == [Line("ry-1", "acme_1_1", "tunnel"), Line("", "", "refused")]


def test_connections_are_counted_for_each_job() -> None:
    assert count_connections(LINES) == {"acme_1_1": 2, "acme_1_2": 1}


def test_jobs_are_found_by_name() -> None:
    documents = {f"acme_1_{number}": job(number, f"job-{number}").to_firestore() for number in (1, 2)}
    assert {name: found.key for name, found in as_jobs(documents).items()} == {"job-1": "acme_1_1", "job-2": "acme_1_2"}


def test_the_report_has_a_cell_for_every_column_though_a_job_has_no_document_yet() -> None:
    rows = [make_row("small-2", None, "", 0), make_row("small-1", ran_job(), LIMITS, 3)]
    checks = [Check("every job succeeded", False, "small-2: queued"), Check("nothing is left over", True, "")]
    lines = to_markdown("Ten jobs", rows, checks, 12.34).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert {line.count("|") for line in table} == {16}
    assert table[2] == "| small-2 |  |  |  | queued |  |  | 0 | - | - | - | - | - | - | - |"
    assert table[3].startswith("| small-1 | small | self_hosted | ry-1 | success | 0.1 | 64m | 3 | 1.00 | 2.00 | - |")
    assert "- ✘ every job succeeded: small-2: queued" in lines
    assert "- ✔ nothing is left over: " in lines
    assert lines[-1] == "From dispatch to the last container's end: 12.3 s"


def test_with_sizing_turned_off_the_verdict_is_that_every_job_ran_on_the_wrong_size() -> None:
    wrong = [dataclasses.replace(row, cpu_millis=1) for row in ROWS]
    assert [check.holds for check in judge_observed(wrong, POLICY)] == [True, True]
    assert [check.holds for check in judge_observed(ROWS, POLICY)] == [True, False]
    assert not judge_observed([dataclasses.replace(row, state="queued") for row in wrong], POLICY)[0].holds


def test_a_job_on_a_runner_of_its_own_profile_spoils_the_adversarys_work() -> None:
    assert judge_swaps([dataclasses.replace(row, made_for="another") for row in ROWS]).holds
    assert not judge_swaps(ROWS).holds
