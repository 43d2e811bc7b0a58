"""The workflow with which users try Runyard on GitHub itself: its scripts, and that it fits its policy.

tests/e2e runs the same scripts as jobs.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from functions.routing.classify import CompiledPolicy
from functions.routing.job import JobFacts
from functions.routing.policy import parse_policy

ROOT = Path(__file__).parent.parent.parent
SCRIPTS = ROOT / ".github" / "test-case-10"
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "test-case-10.yaml").read_text())
MATRIX = WORKFLOW["jobs"]["limits"]["strategy"]["matrix"]["include"]
INPUTS = WORKFLOW[True]["workflow_dispatch"]["inputs"]  # YAML 1.1 reads `on` as true
POLICY = parse_policy(yaml.safe_load((ROOT / "policies" / "test-case-10.yaml").read_text()))
GIB = 1 << 30
NO_LIMIT = "9223372036854771712"
"""of memory, as version 1 of control groups shows it"""


def groups(tmp_path: Path, version: int, quota: str, memory: str) -> Path:
    """A folder as the kernel shows control groups."""
    files = {
        1: {"cpu/cpu.cfs_quota_us": quota, "cpu/cpu.cfs_period_us": "100000", "memory/memory.limit_in_bytes": memory},
        2: {"cpu.max": f"{quota} 100000", "memory.max": memory},
    }
    for name, content in files[version].items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    return tmp_path / "cgroup"


def check(tmp_path: Path, cgroup: Path, cpus: str = "4", memory: str = "8g") -> tuple[int, dict[str, Any], str]:
    receipt = tmp_path / "receipt.json"
    wanted = {"NUMBER": "4", "JOB": "high-cpu", "PROFILE": "high-cpu", "CPUS": cpus, "MEMORY": memory}
    environment = {**wanted, "PATH": os.environ["PATH"], "RECEIPT": str(receipt), "CGROUP": str(cgroup)}
    command = ["sh", str(SCRIPTS / "check-limits.sh")]
    ran = subprocess.run(
        command, env=environment | {"RUNNER_NAME": "ry-1"}, capture_output=True, text=True, check=False
    )
    return ran.returncode, json.loads(receipt.read_text()) if receipt.exists() else {}, ran.stdout


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("quota", "limit", "cpus", "memory"),
    [
        ("400000", 8 * GIB, "4", "8g"),
        ("40000", GIB // 4, "0.4", "256m"),
        ("33300", GIB // 2, "0.333", "512M"),
        ("9600000", 128 * GIB, "96", "128G"),
    ],
)
def test_a_job_with_the_limits_of_its_profile_passes(
    tmp_path: Path, version: int, quota: str, limit: int, cpus: str, memory: str
) -> None:
    code, receipt, _ = check(tmp_path, groups(tmp_path, version, quota, str(limit)), cpus, memory)
    assert code == 0
    assert (receipt["cgroup"], receipt["runner"], receipt["number"]) == (version, "ry-1", 4)
    assert receipt["cpu_millis"] == receipt["wanted_cpu_millis"] == float(cpus) * 1000
    assert receipt["memory_bytes"] == receipt["wanted_memory_bytes"] == limit


@pytest.mark.parametrize(
    ("version", "quota", "memory"),
    [
        (2, "100000", str(8 * GIB)),
        (2, "400000", str(2 * GIB)),
        (2, "400000", str(8 * GIB + 4096)),
        (2, "max", str(8 * GIB)),
        (2, "400000", "max"),
        (1, "-1", str(8 * GIB)),
        (1, "400000", NO_LIMIT),
    ],
    ids=["CPUs", "memory", "a page", "no CPU limit", "no memory limit", "no CPU limit, v1", "no memory limit, v1"],
)
def test_a_job_with_other_limits_fails_and_still_leaves_its_receipt(
    tmp_path: Path, version: int, quota: str, memory: str
) -> None:
    code, receipt, said = check(tmp_path, groups(tmp_path, version, quota, memory))
    assert code == 1
    assert "::error::high-cpu does not have the limits of profile high-cpu, 4 CPUs and 8g" in said
    assert receipt["wanted_cpu_millis"] == 4000


def test_without_any_control_group_it_says_so(tmp_path: Path) -> None:
    code, receipt, said = check(tmp_path, tmp_path)
    assert (code, receipt) == (1, {})
    assert "::error::no control group" in said


# The summary


def receipt_of(job: dict[str, Any], **changes: Any) -> dict[str, Any]:
    size = 4 if job["profile"] == "high-cpu" else 1
    limits = {"cpu_millis": size * 1000, "memory_bytes": 2 * size * GIB}
    wanted = {f"wanted_{name}": value for name, value in limits.items()}
    names = {"number": job["number"], "job": job["name"], "profile": job["profile"], "runner": f"ry-{job['number']}"}
    return names | limits | wanted | changes


def summarize(tmp_path: Path, receipts: list[dict[str, Any]]) -> tuple[int, str]:
    folder = tmp_path / "receipts"
    folder.mkdir(exist_ok=True)
    for index, receipt in enumerate(receipts):
        (folder / f"{index}.json").write_text(json.dumps(receipt))
    summary = tmp_path / "summary.md"
    command = [sys.executable, str(SCRIPTS / "summarize.py"), str(folder)]
    environment = {**os.environ, "GITHUB_STEP_SUMMARY": str(summary)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.stdout[ran.stdout.index("| #") :].strip() in summary.read_text()
    return ran.returncode, ran.stdout


def test_ten_right_jobs_are_one_table_and_pass(tmp_path: Path) -> None:
    code, report = summarize(tmp_path, [receipt_of(job) for job in reversed(MATRIX)])
    assert code == 0
    rows = [line for line in report.splitlines() if line.startswith("| ") and "✔" in line]
    assert len(rows) == 10
    assert rows[3] == "| 4 | high-cpu | high-cpu | 4 | 8192 MiB | ry-4 | ✔ |"
    assert "✔ 10 of 10 jobs had the limits of their profile" in report


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"cpu_millis": 1000}, "job 4 (high-cpu) had other limits than its profile high-cpu"),
        ({"memory_bytes": 0}, "job 4 (high-cpu) had other limits"),
        ({"number": 5}, "job 4 left no receipt"),
        ({"number": 5}, "job 5 left several receipts"),
        ({"profile": "low-cpu"}, "high-cpu should be job 4 alone, and is none"),
        ({"runner": "ry-1"}, "runner ry-1 ran more than one job"),
    ],
    ids=str,
)
def test_anything_that_is_not_right_fails_in_words(tmp_path: Path, change: dict[str, Any], fault: str) -> None:
    receipts = [receipt_of(job, **(change if job["number"] == 4 else {})) for job in MATRIX]
    code, report = summarize(tmp_path, receipts)
    assert code == 1
    assert f"✘ {fault}" in report
    assert "✔ 10 of 10" not in report


@pytest.mark.parametrize("other", ["", "{", "[]", "{}"])
def test_without_receipts_it_fails_whatever_else_was_left(tmp_path: Path, other: str) -> None:
    (tmp_path / "receipts").mkdir()
    (tmp_path / "receipts" / "other.json").write_text(other)
    code, report = summarize(tmp_path, [])
    assert code == 1
    assert "other.json is no receipt" in report
    assert "job 10 left no receipt" in report


# The workflow


def test_ten_jobs_have_one_label_and_the_fourth_is_the_large_one() -> None:
    assert [job["number"] for job in MATRIX] == list(range(1, 11))
    assert [job["number"] for job in MATRIX if job["profile"] == "high-cpu"] == [4]
    assert WORKFLOW["jobs"]["limits"]["runs-on"] == "${{ inputs.label }}"


def test_the_policy_gives_each_job_the_profile_that_the_workflow_expects() -> None:
    compiled = CompiledPolicy(POLICY)
    for job in MATRIX:
        match = compiled.classify(JobFacts("acme/app", job["name"], (INPUTS["label"]["default"],)))
        assert match is not None
        assert match.profile_name == job["profile"]


def test_the_workflow_expects_the_sizes_of_the_policy() -> None:
    document = yaml.safe_load((ROOT / "policies" / "test-case-10.yaml").read_text())["profiles"]
    for size in ("high", "low"):
        assert float(INPUTS[f"{size}-cpus"]["default"]) == document[f"{size}-cpu"]["cpus"]
        assert INPUTS[f"{size}-memory"]["default"] == document[f"{size}-cpu"]["memory"]


def test_actions_are_pinned_to_a_commit() -> None:
    steps = [step for job in WORKFLOW["jobs"].values() for step in job["steps"] if "uses" in step]
    assert steps
    for step in steps:
        assert len(step["uses"].partition("@")[2]) == 40
