"""Hosts that are drained, and hosts on which nothing starts."""

import os
import subprocess
import sys

from tests.e2e.conftest import Yard


def runyard(yard: Yard, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"GOOGLE_CLOUD_PROJECT": yard.stack.options.project}
    command = [sys.executable, "-m", "controller", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)


def test_a_drained_host_takes_nothing_new_until_it_is_resumed(yard: Yard) -> None:
    host_id = yard.stack.options.host_id
    yard.dispatch("before", script="sleep 12")
    yard.wait("it runs", lambda: yard.github_jobs()["before"]["status"] == "in_progress")
    assert runyard(yard, "drain", host_id).returncode == 0
    yard.wait("the host heeds it", lambda: "draining" in runyard(yard, "hosts").stdout, 20)
    yard.wait("the host says so", lambda: "runyard resume" in runyard(yard, "hosts").stdout, 25)
    yard.dispatch("during")
    yard.wait("it is decided about", lambda: "during" in yard.jobs())
    yard.wait_for_jobs(["before"])
    assert yard.jobs()["before"].conclusion == "success"
    assert yard.github_jobs()["during"]["status"] == "queued"
    decision = yard.jobs()["during"].decision
    assert decision is not None
    assert "no host of its pool is alive" in decision.reason
    assert runyard(yard, "resume", host_id).returncode == 0
    yard.wait("it takes runners again", lambda: "runyard resume" not in runyard(yard, "hosts").stdout, 25)
    yard.dispatch("after")
    yard.wait_for_jobs(["after", "during"])


def test_a_host_that_there_is_not_cannot_be_drained(yard: Yard) -> None:
    ended = runyard(yard, "drain", "no-such-host")
    assert ended.returncode == 1
    assert f"known are {yard.stack.options.host_id}" in ended.stderr


def test_a_host_on_which_nothing_starts_says_so_and_does_not_claim_everything(yard: Yard) -> None:
    yard.publish(image="no-such-image:1")
    yard.dispatch(*(f"job-{number}" for number in range(6)))
    yard.wait("the host says so", lambda: "starts failed one after the other" in runyard(yard, "hosts").stdout, 30)
    assert "image no-such-image:1 is not on this host" in runyard(yard, "hosts", "--json").stdout
