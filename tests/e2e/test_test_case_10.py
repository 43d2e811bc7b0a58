"""The ten jobs of .github/workflows/test-case-10.yaml, in the stand-in runner, with the workflow's own scripts."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.conftest import REPOSITORY, Yard

ROOT = Path(__file__).parent.parent.parent
SCRIPTS = ROOT / ".github" / "test-case-10"
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "test-case-10.yaml").read_text())
MATRIX = WORKFLOW["jobs"]["limits"]["strategy"]["matrix"]["include"]
SIZES = {"high-cpu": {"CPUS": "0.4", "MEMORY": "256m"}, "low-cpu": {"CPUS": "0.1", "MEMORY": "64m"}}


def step(job: dict[str, Any], **changes: str) -> str:
    """The step as the workflow writes it, and after it what the artifact would hold."""
    environment = {"NUMBER": str(job["number"]), "JOB": job["name"], "PROFILE": job["profile"], "RECEIPT": "r.json"}
    variables = environment | SIZES[job["profile"]] | changes
    exports = "\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items())
    return f"{exports}\n{(SCRIPTS / 'check-limits.sh').read_text()}"


def receipt_in(log: str) -> dict[str, Any]:
    [line] = [line for line in log.splitlines() if line.startswith('{"number"')]
    receipt: dict[str, Any] = json.loads(line)
    return receipt


def test_ten_jobs_with_one_label_have_the_limits_of_their_profiles(yard: Yard, tmp_path: Path) -> None:
    jobs = [{"name": job["name"], "labels": ["ci"], "script": step(job)} for job in MATRIX]
    yard.stack.dispatch(REPOSITORY, jobs, "test-case-10")
    names = [job["name"] for job in MATRIX]
    yard.wait_for_ends(names, 90)
    ended = yard.github_jobs()
    assert {ended[name]["conclusion"] for name in names} == {"success"}, {n: ended[n]["log"] for n in names}
    artifacts = tmp_path / "artifacts"
    artifacts.mkdir()
    for name in names:
        (artifacts / f"{name}.json").write_text(json.dumps(receipt_in(ended[name]["log"])))
    summary = subprocess.run(
        [sys.executable, str(SCRIPTS / "summarize.py"), str(artifacts)],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert summary.returncode == 0, summary.stdout
    assert "✔ 10 of 10 jobs" in summary.stdout


def test_a_job_that_expects_another_size_fails(yard: Yard) -> None:
    """Otherwise nothing would follow from ten jobs that succeed."""
    [large] = [job for job in MATRIX if job["profile"] == "high-cpu"]
    yard.stack.dispatch(REPOSITORY, [{"name": "high-cpu", "labels": ["ci"], "script": step(large, CPUS="0.5")}])
    yard.wait_for_ends(["high-cpu"])
    assert yard.github_jobs()["high-cpu"]["conclusion"] == "failure"
    assert receipt_in(yard.github_jobs()["high-cpu"]["log"])["cpu_millis"] == 400
