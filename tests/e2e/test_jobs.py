"""Jobs from dispatch to the end, with every part real but GitHub."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from functions.documents.lifecycle import JobState, RunnerState
from tests.e2e.conftest import Yard

ROOT = Path(__file__).parent.parent.parent
LIMITS = """
if [ -f /sys/fs/cgroup/cpu.max ]; then cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/memory.max
else cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/memory/memory.limit_in_bytes; fi
"""
HIGH, LOW = r"40000\D.*268435456", r"10000\D.*67108864"


def test_a_job_runs_in_a_container_of_its_profiles_size_and_leaves_nothing(yard: Yard) -> None:
    yard.dispatch("high-cpu", script=LIMITS)
    yard.wait_for_ends(["high-cpu"])
    github, job = yard.github_jobs()["high-cpu"], yard.jobs()["high-cpu"]
    assert github["conclusion"] == job.conclusion == "success"
    assert re.search(HIGH, github["log"], re.DOTALL)
    assert job.state is JobState.COMPLETED
    assert job.sizing is not None
    assert job.sizing.verdict == "fits"
    assert "runner output" in job.sizing.known_by
    assert (job.sizing.read_cpu_millis, job.sizing.read_memory_bytes) == (400, 256 << 20)
    yard.wait("the runner's document goes", lambda: not yard.runners())
    assert yard.stack.github_state()["runners"] == []


def test_every_phase_of_a_job_is_written_down(yard: Yard) -> None:
    yard.dispatch("build")
    yard.wait_for_ends(["build"])
    yard.wait("the last writes", lambda: yard.jobs()["build"].egress is not None)
    phases = yard.jobs()["build"].phases
    times = [
        phases.received_at,
        phases.reserved_at,
        phases.provisioned_at,
        phases.claimed_at,
        phases.launched_at,
        phases.registered_at,
    ]
    known = [time for time in times if time is not None]
    assert len(known) == len(times)
    assert known == sorted(known)
    assert phases.completed_at is not None


def test_a_job_that_fails_is_recorded_as_failed_and_cleaned_up(yard: Yard) -> None:
    yard.dispatch("build", script="exit 7")
    yard.wait_for_ends(["build"])
    assert yard.jobs()["build"].conclusion == "failure"


def test_every_connection_is_one_line_that_names_runner_and_job(yard: Yard) -> None:
    yard.dispatch('quoted "name" größer')
    yard.wait_for_ends(['quoted "name" größer'])
    job = yard.jobs()['quoted "name" größer']
    assert job.runner is not None
    lines = yard.stack.proxy_log.read_text().splitlines()
    assert lines
    who = re.escape(f'runner_name={job.runner.name} profile=low-cpu job_name="quoted \\"name\\" größer"')
    where = r"target=github\.simulated\.test:\d+ source_ip=10\.215\.\d+\.2"
    for line in lines:
        assert re.search(f"CONNECT tunnel {who} {where} job_id={job.key} ", line), line
    yard.wait("the summary", lambda: yard.jobs()['quoted "name" größer'].egress)
    egress = yard.jobs()['quoted "name" größer'].egress
    assert egress is not None
    assert (egress.connections, egress.refused) == (len(lines), 0)
    assert egress.bytes_down > 0


def test_a_swapped_job_is_resized_before_its_first_step(make_yard: Callable[..., Yard]) -> None:
    """The runners of both sizes wait before either job may be handed out: GitHub's choice decides, as seeded."""
    yard = make_yard()
    yard.start()
    yard.publish()
    for attempt in range(6):
        names = [f"high-cpu-{attempt}", f"low-{attempt}"]
        yard.dispatch(*names, script=LIMITS + "sleep 1")
        yard.wait_for_ends(names)
        logs = [yard.github_jobs()[name]["log"] for name in names]
        assert re.search(HIGH, logs[0], re.DOTALL), logs
        assert re.search(LOW, logs[1], re.DOTALL), logs
        swapped = [sizing.verdict for name in names if (sizing := yard.jobs()[name].sizing) is not None]
        if swapped == ["resized", "resized"]:
            return
    pytest.fail("no swap in six rounds: the simulated GitHub hands out in order, not at random")


def test_repository_level_runners_of_a_users_repository(make_yard: Callable[..., Yard]) -> None:
    yard = make_yard(users="acme", webhook_content_type="form")
    yard.start()
    yard.publish()
    yard.dispatch("build")
    yard.wait_for_ends(["build"])
    plan = yard.jobs()["build"].plan
    assert plan is not None
    assert plan.scope == "/repos/acme/app"


def test_an_image_that_is_missing_fails_the_runner_in_words_and_frees_the_place(yard: Yard) -> None:
    yard.publish(image="no-such-image:1")
    yard.dispatch("build")
    yard.wait("a failed runner", lambda: [r for r in yard.runners().values() if r.status is RunnerState.FAILED])
    (runner, *_) = [r for r in yard.runners().values() if r.status is RunnerState.FAILED]
    assert "image no-such-image:1 is not on this host" in runner.reason
    yard.wait("the place is free", lambda: not yard.leases())
    yard.wait("the job says why", lambda: yard.jobs()["build"].provisioning)
    provisioning = yard.jobs()["build"].provisioning
    assert provisioning is not None
    assert "image no-such-image:1 is not on this host" in provisioning.failure
    assert yard.containers() == []
    yard.wait("nothing at GitHub", lambda: not yard.stack.github_state()["runners"])


def test_a_container_that_dies_at_once_fails_the_runner_with_its_last_words(yard: Yard) -> None:
    yard.publish(low_cpu={"env": {"STANDIN_FAULT": "die"}})
    yard.dispatch("build")
    yard.wait("a failed runner", lambda: [r for r in yard.runners().values() if r.status is RunnerState.FAILED])
    (runner, *_) = [r for r in yard.runners().values() if r.status is RunnerState.FAILED]
    assert runner.reason == "the runner ended with exit code 3 before it took a job: An error occurred: told to die"
    yard.wait("nothing left", lambda: not yard.leases() and not yard.containers())


def test_without_an_engine_the_controller_says_so_and_ends(make_yard: Callable[..., Yard], tmp_path: Path) -> None:
    yard = make_yard(docker_host=f"unix://{tmp_path}/nobody.sock")
    config = yard.stack.write_controller_config()
    environment = os.environ | {"GOOGLE_CLOUD_PROJECT": yard.stack.options.project}
    command = [sys.executable, "-m", "controller", "run", "--config", str(config)]
    (yard.stack.options.folder / "authority.pem").write_text("")
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert ended.returncode == 1
    assert "runyard: no Docker engine answers at" in ended.stderr


def test_a_controller_killed_in_the_middle_loses_nothing(make_yard: Callable[..., Yard]) -> None:
    yard = make_yard()
    processes = yard.start()
    yard.publish()
    yard.dispatch("build", script="sleep 6")
    yard.wait("the job runs", lambda: yard.github_jobs()["build"]["status"] == "in_progress")
    os.kill(processes["controller"].pid, signal.SIGKILL)
    time.sleep(1)
    yard.start("controller")
    yard.wait_for_ends(["build"])
    assert yard.jobs()["build"].conclusion == "success"
    yard.wait("the runner's document goes", lambda: not yard.runners())


def test_sigterm_ends_cleanly_and_leaves_the_running_job_alone(make_yard: Callable[..., Yard]) -> None:
    yard = make_yard()
    processes = yard.start()
    yard.publish()
    yard.dispatch("build", script="sleep 6")
    yard.wait("the job runs", lambda: yard.github_jobs()["build"]["status"] == "in_progress")
    assert processes["controller"].stop() == 0
    assert len(yard.containers()) == 1
    yard.start("controller")
    yard.wait_for_ends(["build"])
    assert yard.jobs()["build"].conclusion == "success"


def test_a_controller_that_stops_with_nothing_running_takes_everything_along(make_yard: Callable[..., Yard]) -> None:
    yard = make_yard()
    processes = yard.start()
    yard.publish()
    yard.dispatch("build")
    yard.wait_for_ends(["build"])
    assert processes["controller"].stop() == 0
    assert yard.networks() == []
    prefix = yard.stack.options.bridge_prefix
    rules = subprocess.run(["iptables", "-S"], capture_output=True, text=True, check=True).stdout
    assert prefix not in rules.lower()
    proxies = subprocess.run(
        ["pgrep", "-f", str(yard.stack.options.folder)], capture_output=True, text=True, check=False
    )
    alive = [Path(f"/proc/{pid}/cmdline").read_text().split("\0") for pid in proxies.stdout.split()]
    assert not [command for command in alive if "proxy" in command]
