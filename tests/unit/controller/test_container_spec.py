"""From a runner's document to its container."""

import ipaddress
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from controller.container_spec import ContainerSpec, HostFacts, from_labels, specify, to_labels
from controller.networks import plan_bridge
from functions.documents.sealing import new_host_key, public_key_of, seal
from functions.documents.workflow_job import RunnerProfile, SizingRules
from functions.routing.capacity import Size
from functions.routing.policy import OnError, Privileges
from tests.fakes.examples import NOW, pending_runner

BRIDGE = plan_bridge(ipaddress.IPv4Network("10.213.0.0/16"), "runyard", 3)
HOST = HostFacts(
    host_id="host-1",
    proxy_port=3128,
    gate_port=3129,
    gate_known_within_s=30,
    scripts_dir="/var/lib/runyard/inside",
    runner_command=("/home/runner/run.sh",),
)
WITH_CA_FILE = HostFacts("host-1", 3128, 3129, 30, "/var/lib/runyard/inside", ("run.sh",), has_ca_file=True)


def spec_of(host: HostFacts = HOST, **profile: object) -> ContainerSpec:
    fields = {"name": "small", "cpu_millis": 1500, "memory_bytes": 2 << 30, "pids": 100} | profile
    return specify(pending_runner(profile=RunnerProfile.model_validate(fields)), BRIDGE, host)


def test_a_container_gets_the_size_of_its_profile_and_the_name_of_its_runner() -> None:
    spec = spec_of()
    assert (spec.name, spec.image, spec.size, spec.pids) == ("ry-1", "runner:1", Size(1500, 2 << 30), 100)
    assert spec.bridge == BRIDGE


def test_the_runner_is_started_by_the_entry_script_that_the_host_mounts() -> None:
    spec = spec_of()
    assert spec.command == ("/opt/runyard/entry.sh", "/home/runner/run.sh")
    assert dict(spec.binds) == {"/var/lib/runyard/inside": "/opt/runyard"}


@pytest.mark.parametrize("privileges", list(Privileges))
def test_no_runner_may_send_raw_packets_or_administer_the_network(privileges: Privileges) -> None:
    forbidden = {"NET_RAW", "NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE", "SYS_MODULE", "MKNOD", "NET_BIND_SERVICE", "ALL"}
    assert not forbidden & set(spec_of(privileges=privileges).capabilities)


def test_without_privileges_there_are_no_capabilities_and_no_way_to_gain_any() -> None:
    spec = spec_of(privileges=Privileges.NONE)
    assert spec.capabilities == ()
    assert spec.has_no_new_privileges


def test_sudo_works_where_the_profile_allows_it() -> None:
    spec = spec_of(privileges=Privileges.SUDO)
    assert {"SETUID", "SETGID", "AUDIT_WRITE"} <= set(spec.capabilities)
    assert not spec.has_no_new_privileges


def test_a_profile_that_says_nothing_of_privileges_gives_none() -> None:
    assert spec_of() == spec_of(privileges=Privileges.NONE)


def test_the_proxy_and_the_gate_are_found_at_the_bridges_own_gateway() -> None:
    environment = spec_of().environment
    proxies = {environment[name] for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
    assert proxies == {"http://10.213.0.25:3128"}
    assert environment["RUNYARD_GATE"] == "10.213.0.25:3129"
    assert environment["RUNYARD_GATE_TIMEOUT"] == str(30 + 600 + 60)
    assert environment["ACTIONS_RUNNER_HOOK_JOB_STARTED"] == "/opt/runyard/job-started.sh"


def test_the_hook_waits_longer_than_the_gate_may_take_and_knows_what_holds_without_an_answer() -> None:
    rules = SizingRules(wait_s=600, on_error=OnError.OPEN)
    environment = specify(pending_runner(sizing=rules), BRIDGE, HOST).environment
    assert int(environment["RUNYARD_GATE_TIMEOUT"]) > HOST.gate_known_within_s + 600
    assert environment["RUNYARD_GATE_ON_ERROR"] == "open"


def test_a_profile_adds_to_the_environment_but_cannot_lead_around_proxy_and_gate() -> None:
    ours = dict(spec_of().environment)
    env = dict.fromkeys(ours, "elsewhere") | {"TZ": "UTC"}
    assert dict(spec_of(env=env).environment) == ours | {"TZ": "UTC"}


@pytest.mark.parametrize(("host", "is_told"), [(HOST, False), (WITH_CA_FILE, True)])
def test_the_runner_is_told_of_further_authorities_only_where_there_are_any(host: HostFacts, is_told: bool) -> None:
    names = {"SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "RUNNER_UPDATE_CA_CERTS"}
    assert (names <= set(spec_of(host).environment)) is is_told
    assert bool(names & set(spec_of(host).environment)) is is_told


def test_nothing_secret_is_in_a_containers_configuration() -> None:
    sealed = seal(SecretStr("jit-config-in-clear"), {"host-1": public_key_of(new_host_key())})
    text = repr(specify(pending_runner(sealed_config=sealed), BRIDGE, HOST))
    assert "jit-config-in-clear" not in text
    assert repr(sealed.ciphertext) not in text
    assert repr(sealed.keys["host-1"]) not in text


ANY_TEXT = st.text() | st.sampled_from(
    ["a\nb\r\nc", "completed with result: Failed", "\x1b[2J", "🚀 ünï", '"\\=', "\0"]
)


@settings(deadline=None)
@given(name=ANY_TEXT, profile=ANY_TEXT, claimed_at=st.none() | st.datetimes(timezones=st.just(UTC)))
def test_a_controller_finds_again_in_the_labels_what_another_has_written(
    name: str, profile: str, claimed_at: datetime | None
) -> None:
    runner = pending_runner(
        job_name=name,
        profile=RunnerProfile(name=profile, cpu_millis=100, memory_bytes=1 << 20, pids=16),
        claimed_at=claimed_at,
    )
    adopted = from_labels(to_labels(runner, BRIDGE, "host-1"))
    assert adopted is not None
    assert (adopted.runner_name, adopted.org, adopted.pool) == ("ry-1", "acme", "default")
    assert (adopted.job_key, adopted.job_name, adopted.profile) == ("acme_1_1", name, profile)
    assert (adopted.slot, adopted.claimed_at) == (3, claimed_at)


LABELS = to_labels(pending_runner(claimed_at=NOW), BRIDGE, "host-1")


ADDED_LATER = {"runyard.pids", "runyard.sizing", "runyard.idle-timeout"}


def test_a_container_of_an_earlier_version_is_taken_up_as_well() -> None:
    adopted = from_labels({key: value for key, value in LABELS.items() if key not in ADDED_LATER})
    assert adopted is not None
    assert (adopted.pids, adopted.sizing, adopted.idle_timeout_s) == (0, SizingRules(), 300)


@pytest.mark.parametrize("missing", sorted(set(LABELS) - ADDED_LATER - {"runyard.host"}))
def test_a_container_that_lacks_one_of_the_labels_is_no_runner(missing: str) -> None:
    assert from_labels({key: value for key, value in LABELS.items() if key != missing}) is None


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"runyard.slot": "three"}, id="a slot that is no number"),
        pytest.param({"runyard.claimed-at": "yesterday"}, id="a time that is none"),
    ],
)
def test_a_container_with_labels_that_make_no_sense_is_no_runner(wrong: dict[str, str]) -> None:
    assert from_labels(LABELS) is not None
    assert from_labels(LABELS | wrong) is None


def test_every_container_is_labelled_with_its_host() -> None:
    assert spec_of().labels["runyard.host"] == "host-1"
