"""From a runner's document to its container: name, limits, rights, addresses. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from functions.documents.pending_runner import PendingRunner
from functions.documents.workflow_job import RunnerEgress, SizingRules
from functions.routing.capacity import Size
from functions.routing.policy import Privileges

from .networks import BridgePlan

INSIDE = "/opt/runyard"
"""where the entry script and the hook are mounted in the container"""
CA_FILE = f"{INSIDE}/ca.pem"
LABEL = "runyard."
CPU_PERIOD_US = 100_000
_GATE_SLACK_S = 60
"""what the gate may need besides knowing the job and waiting for room: an engine that answers slowly"""

# What `sudo` and package installation need and no more; raw sockets are not among them: with them a runner could speak
# to the proxy under another address. Tried out flag by flag: docs/decisions/0003-hardening.md.
_SUDO_CAPABILITIES = (
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SYS_CHROOT",
)


@dataclass(frozen=True)
class ContainerSpec:
    """Everything that the Docker engine is asked for."""

    name: str
    image: str
    command: tuple[str, ...]
    size: Size
    pids: int
    bridge: BridgePlan
    environment: Mapping[str, str]
    labels: Mapping[str, str]
    binds: Mapping[str, str]
    """path on the host → path in the container, all read-only"""
    capabilities: tuple[str, ...]
    has_no_new_privileges: bool


@dataclass(frozen=True)
class HostFacts:
    """What the specification needs to know of this host."""

    host_id: str
    proxy_port: int
    gate_port: int
    gate_known_within_s: int
    scripts_dir: str
    runner_command: tuple[str, ...]
    has_ca_file: bool = False
    """whether the scripts' folder also holds further certificate authorities"""


def specify(runner: PendingRunner, bridge: BridgePlan, host: HostFacts) -> ContainerSpec:
    """The container of a runner on a bridge of this host."""
    profile = runner.profile
    return ContainerSpec(
        name=runner.runner_name,
        image=runner.image,
        command=(f"{INSIDE}/entry.sh", *host.runner_command),
        size=Size(profile.cpu_millis, profile.memory_bytes),
        pids=profile.pids,
        bridge=bridge,
        environment=_environment(runner, bridge, host),
        labels=to_labels(runner, bridge, host.host_id),
        binds={host.scripts_dir: INSIDE},
        capabilities=_SUDO_CAPABILITIES if profile.privileges is Privileges.SUDO else (),
        has_no_new_privileges=profile.privileges is Privileges.NONE,
    )


def _environment(runner: PendingRunner, bridge: BridgePlan, host: HostFacts) -> dict[str, str]:
    proxy = f"http://{bridge.gateway}:{host.proxy_port}"
    environment = dict(runner.profile.env)
    # Programs differ in which spelling they read; GitHub's runner prefers the lower case.
    for name in ("http_proxy", "https_proxy"):
        environment |= {name: proxy, name.upper(): proxy}
    environment |= {"no_proxy": "localhost,127.0.0.1", "NO_PROXY": "localhost,127.0.0.1"}
    environment["ACTIONS_RUNNER_HOOK_JOB_STARTED"] = f"{INSIDE}/job-started.sh"
    environment["RUNYARD_GATE"] = f"{bridge.gateway}:{host.gate_port}"
    # The gate always answers before the hook gives up waiting.
    environment["RUNYARD_GATE_TIMEOUT"] = str(host.gate_known_within_s + runner.sizing.wait_s + _GATE_SLACK_S)
    environment["RUNYARD_GATE_ON_ERROR"] = runner.sizing.on_error
    if host.has_ca_file:
        environment |= {"SSL_CERT_FILE": CA_FILE, "NODE_EXTRA_CA_CERTS": CA_FILE, "RUNNER_UPDATE_CA_CERTS": "1"}
    return environment


def to_labels(runner: PendingRunner, bridge: BridgePlan, host_id: str) -> dict[str, str]:
    """Everything that a controller needs to take the container up again after a restart."""
    values = {
        "host": host_id,
        "runner": runner.runner_name,
        "org": runner.org,
        "pool": runner.pool,
        "job": runner.job_key,
        "job-name": runner.job_name,
        "profile": runner.profile.name,
        "image": runner.image,
        "privileges": runner.profile.privileges,
        "egress": runner.profile.egress.model_dump_json(),
        "pids": str(runner.profile.pids),
        "idle-timeout": str(runner.idle_timeout_s),
        "sizing": runner.sizing.model_dump_json(),
        "slot": str(bridge.slot),
        "provisioned-at": runner.created_at.isoformat(),
        "claimed-at": runner.claimed_at.isoformat() if runner.claimed_at else "",
    }
    return {LABEL + key: value for key, value in values.items()}


@dataclass(frozen=True)
class Adopted:
    """What a container's labels say of it."""

    runner_name: str
    org: str
    pool: str
    job_key: str
    job_name: str
    profile: str
    image: str
    privileges: str
    egress: RunnerEgress
    pids: int
    sizing: SizingRules
    idle_timeout_s: int
    slot: int
    provisioned_at: datetime
    claimed_at: datetime | None


def from_labels(labels: Mapping[str, str]) -> Adopted | None:
    """The other way round; None for a container that is not a runner of ours."""
    try:
        return Adopted(
            runner_name=labels[LABEL + "runner"],
            org=labels[LABEL + "org"],
            pool=labels[LABEL + "pool"],
            job_key=labels[LABEL + "job"],
            job_name=labels[LABEL + "job-name"],
            profile=labels[LABEL + "profile"],
            image=labels[LABEL + "image"],
            privileges=labels[LABEL + "privileges"],
            egress=RunnerEgress.model_validate_json(labels[LABEL + "egress"]),
            # Containers of an earlier version have none of these.
            pids=int(labels.get(LABEL + "pids", "0")),
            sizing=SizingRules.model_validate_json(labels.get(LABEL + "sizing", "{}")),
            idle_timeout_s=int(labels.get(LABEL + "idle-timeout", "300")),
            slot=int(labels[LABEL + "slot"]),
            provisioned_at=datetime.fromisoformat(labels[LABEL + "provisioned-at"]),
            claimed_at=datetime.fromisoformat(text) if (text := labels[LABEL + "claimed-at"]) else None,
        )
    except (KeyError, ValueError):
        return None
