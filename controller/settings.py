"""The controller's configuration: a YAML file, with a few settings that the environment may override."""

import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from functions.routing.capacity import Size
from functions.routing.units import parse_cpus, parse_memory

_ENVIRONMENT = {"GOOGLE_CLOUD_PROJECT": "project", "FIRESTORE_DATABASE": "database", "RUNYARD_HOST_ID": "host_id"}


class SettingsError(Exception):
    """The configuration is not usable; everything that is wrong is told together."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Capacity(_Section):
    """What this host gives to runners."""

    cpus: Annotated[int, BeforeValidator(parse_cpus)]
    """millicpus"""
    memory: Annotated[int, BeforeValidator(parse_memory)]
    """bytes"""


def _lower(text: str) -> str:
    """Names are compared as requests give them: in lower case."""
    return text.lower()


def _address(text: str) -> str:
    return str(ipaddress.ip_address(text))


def _host_and_port(text: str) -> str:
    if re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s\[\]:/@]+):[0-9]{1,5}", text) is None:
        raise ValueError(f"'{text}': write host:port, such as github.example.com:443")
    return text.lower()


class Network(_Section):
    """Where the runners' bridges come from."""

    range: ipaddress.IPv4Network = ipaddress.IPv4Network("10.213.0.0/16")
    """each runner gets a /29 of it"""
    bridge_prefix: str = Field("runyard", pattern=r"^[a-z]{2,10}$")
    """of the bridges' interface names; the firewall's rules go by it"""
    spare: int = Field(2, ge=0)
    """bridges kept ready for the next runners"""

    @field_validator("range")
    @classmethod
    def _is_large_enough(cls, value: ipaddress.IPv4Network) -> ipaddress.IPv4Network:
        if value.prefixlen > 26:
            raise ValueError(f"{value} holds only {value.num_addresses // 8} runners: give a /26 or larger")
        return value


class Proxy(_Section):
    """The proxy through which all traffic of the runners goes."""

    port: int = Field(3128, ge=1, le=65535)
    github_hosts_file: Path | None = None
    """GitHub's own hosts, as `runyard egress hosts --refresh --output FILE` writes them; a built-in list when absent"""
    log_file: Path | None = None
    """the canonical lines; standard output when absent"""
    log_format: Literal["logfmt", "json"] = "logfmt"
    log_max_size: Annotated[int, BeforeValidator(parse_memory), Field(ge=1 << 20)] = 100 << 20
    """bytes; a file that has grown so large, or is of an earlier day, is set aside"""
    log_keep_files: int = Field(100, ge=0)
    """that were set aside"""
    log_keep_days: int = Field(30, ge=0)
    head_timeout_s: float = Field(10, gt=0)
    """for a request's head to come in"""
    connect_timeout_s: float = Field(10, gt=0)
    """for a target to answer"""
    idle_timeout_s: float = Field(900, gt=0)
    """after which a connection in which nothing moves is ended"""
    most_connections: int = Field(8000, ge=1)
    """of all runners at a time"""
    most_for_a_runner: int = Field(1000, ge=1)
    """unless its profile says otherwise"""
    hosts: dict[Annotated[str, AfterValidator(_lower)], Annotated[str, AfterValidator(_address)]] = {}
    """names with fixed addresses, as in /etc/hosts"""
    private_targets: tuple[Annotated[str, AfterValidator(_host_and_port)], ...] = ()
    """`host:port` that may have private addresses, such as a GitHub Enterprise Server"""


class Gate(_Section):
    """Where a job waits until its container has its size."""

    port: int = Field(3129, ge=1, le=65535)
    known_within_s: float = Field(30, gt=0)
    """seconds until a job that cannot be told from others is given up"""


class Settings(_Section):
    """Everything that the controller and the proxy are told."""

    host_id: str = Field(default_factory=socket.gethostname, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    project: str = Field(min_length=1)
    database: str = "(default)"
    pool: str = Field("default", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    capacity: Capacity | None = None
    """all of the machine when absent, less an eighth of its memory"""
    docker_host: str = Field(default_factory=lambda: os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"))
    state_dir: Path = Path("/var/lib/runyard")
    """the host's private key, and what containers mount"""
    run_dir: Path = Path("/run/runyard")
    """sockets and what may be lost at a reboot"""
    runner_command: tuple[str, ...] = ("/home/runner/run.sh",)
    ca_file: Path | None = None
    """further certificate authorities for the runners, PEM"""
    starts_at_once: int = Field(default_factory=lambda: 3 * (os.cpu_count() or 1), ge=1)
    """containers that start at the same time; more would only delay each other"""
    network: Network = Network()
    proxy: Proxy = Proxy()
    gate: Gate = Gate()

    @property
    def control_socket(self) -> Path:
        return self.run_dir / "proxy.sock"


def read_settings(path: Path, environment: Mapping[str, str]) -> Settings:
    """The settings in a file; the environment wins over it.

    Raises:
        SettingsError: the file cannot be read, or something in it is wrong.
    """
    try:
        document = yaml.safe_load(path.read_text()) or {}
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"{path} is not YAML: {error}") from None
    if not isinstance(document, dict):
        raise SettingsError(f"{path} must hold settings such as project and pool")
    fields: dict[str, Any] = document | {
        key: environment[name] for name, key in _ENVIRONMENT.items() if name in environment
    }
    try:
        return Settings.model_validate(fields)
    except ValidationError as error:
        problems = (
            f"  {'.'.join(map(str, item['loc']))}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors()
        )
        raise SettingsError("\n".join([f"{path} is not usable:", *problems])) from None


def capacity_of(settings: Settings) -> Size:
    """What this host gives to runners: as configured, else as measured, less an eighth of the memory for itself."""
    if settings.capacity is not None:
        return Size(settings.capacity.cpus, settings.capacity.memory)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Size((os.cpu_count() or 1) * 1000, memory * 7 // 8)
