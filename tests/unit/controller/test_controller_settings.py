"""The controller's configuration."""

import ipaddress
import os
from pathlib import Path

import pytest

from controller.settings import Settings, SettingsError, capacity_of, read_settings
from functions.routing.capacity import Size


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def problems_in(folder: Path, text: str | bytes, environment: dict[str, str] | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        read_settings(written(folder, text), environment or {})
    return str(caught.value)


def test_a_project_is_all_that_must_be_said(tmp_path: Path) -> None:
    settings = read_settings(written(tmp_path, "project: acme-ci"), {})
    assert (settings.project, settings.database, settings.pool) == ("acme-ci", "(default)", "default")
    assert settings.host_id
    assert settings.control_socket == Path("/run/runyard/proxy.sock")


def test_sizes_and_ranges_are_read_as_people_write_them(tmp_path: Path) -> None:
    text = "{project: acme, capacity: {cpus: 3.5, memory: 12g}, network: {range: 10.9.0.0/20}}"
    settings = read_settings(written(tmp_path, text), {})
    assert capacity_of(settings) == Size(3500, 12 << 30)
    assert settings.network.range == ipaddress.IPv4Network("10.9.0.0/20")


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    environment = {
        "GOOGLE_CLOUD_PROJECT": "other",
        "RUNYARD_HOST_ID": "host-9",
        "FIRESTORE_DATABASE": "ci",
        "HOME": "/",
    }
    settings = read_settings(written(tmp_path, "{project: acme, host_id: host-1}"), environment)
    assert (settings.project, settings.host_id, settings.database) == ("other", "host-9", "ci")


def test_the_environment_may_be_all_there_is(tmp_path: Path) -> None:
    assert read_settings(written(tmp_path, ""), {"GOOGLE_CLOUD_PROJECT": "acme"}).project == "acme"


def test_every_problem_is_told_together(tmp_path: Path) -> None:
    text = """
        host_id: "two words"
        pool: Default
        capacity: {cpus: four, memory: 2gb}
        starts_at_once: 0
        network: {range: 10.0.0.0/28, bridge_prefix: R1}
        proxy: {port: 0, hosts: {ghes.example.com: somewhere}, private_targets: [ghes.example.com]}
        gate: {known_within_s: soon}
        idle_timeout: 300
    """
    problems = problems_in(tmp_path, text).splitlines()
    assert problems[0] == f"{tmp_path / 'config.yaml'} is not usable:"
    assert {line.split(":")[0].strip() for line in problems[1:]} == {
        "host_id",
        "project",
        "pool",
        "capacity.cpus",
        "capacity.memory",
        "starts_at_once",
        "network.range",
        "network.bridge_prefix",
        "proxy.port",
        "proxy.hosts.ghes.example.com",
        "proxy.private_targets.0",
        "gate.known_within_s",
        "idle_timeout",
    }


@pytest.mark.parametrize(
    ("text", "correction"),
    [
        pytest.param("capacity: {cpus: 4, memory: 2gb}", "capacity.memory: memory '2gb': write 2g", id="unit"),
        pytest.param("capacity: {cpus: four, memory: 2g}", "write a number of CPUs, such as 2 or 0.5", id="CPUs"),
        pytest.param("capacity: {cpus: 4}", "capacity.memory: Field required", id="half a capacity"),
        pytest.param("network: {range: 10.0.0.0/28}", "holds only 2 runners: give a /26 or larger", id="small range"),
        pytest.param("proxy: {private_targets: [ghes]}", "write host:port, such as github.example.com:443", id="port"),
        pytest.param("proxy: {private_targets: ['https://ghes:443']}", "write host:port", id="a URL for a target"),
        pytest.param("proxy: {hosts: {ghes: ghes.local}}", "'ghes.local' does not appear to be an", id="no address"),
    ],
)
def test_a_message_offers_the_correction(tmp_path: Path, text: str, correction: str) -> None:
    assert correction in problems_in(tmp_path, f"project: acme\n{text}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("project: [", "is not YAML", id="broken YAML"),
        pytest.param(b"project: \xff\xfe", "is not YAML", id="not even text"),
        pytest.param("- project", "must hold settings such as project and pool", id="a list"),
        pytest.param("acme", "must hold settings such as project and pool", id="a word"),
        pytest.param("", "project: Field required", id="nothing"),
        pytest.param("project: ''", "project: String should have at least 1 character", id="an empty project"),
        pytest.param("project: acme\n1: 2", "1: Keys should be strings", id="a number for a key"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_in_words(tmp_path: Path, text: str | bytes, words: str) -> None:
    assert words in problems_in(tmp_path, text)


def test_a_problem_in_the_environment_is_told_with_those_in_the_file(tmp_path: Path) -> None:
    problems = problems_in(tmp_path, "{project: acme, pool: Default}", {"RUNYARD_HOST_ID": "two words"})
    assert "host_id" in problems
    assert "pool" in problems


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.yaml: No such file"):
        read_settings(tmp_path / "absent.yaml", {})


def test_names_are_kept_as_requests_give_them(tmp_path: Path) -> None:
    text = "{project: acme, proxy: {hosts: {GHES.Example.com: 10.1.2.3}, private_targets: ['GHES.Example.com:443']}}"
    proxy = read_settings(written(tmp_path, text), {}).proxy
    assert proxy.hosts == {"ghes.example.com": "10.1.2.3"}
    assert proxy.private_targets == ("ghes.example.com:443",)


@pytest.mark.parametrize("target", ["github.internal:443", "10.1.2.3:8443", "[fd00::7]:443", "my_host:80"])
def test_a_private_target_is_a_name_or_an_address_with_a_port(tmp_path: Path, target: str) -> None:
    text = f"{{project: acme, proxy: {{private_targets: ['{target}']}}}}"
    assert read_settings(written(tmp_path, text), {}).proxy.private_targets == (target,)


def test_a_host_that_is_not_measured_out_keeps_an_eighth_of_its_memory_for_itself() -> None:
    size = capacity_of(Settings(project="acme"))
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert size.cpu_millis == (os.cpu_count() or 1) * 1000
    assert 8 * (whole - size.memory_bytes) in range(whole, whole + 8)
