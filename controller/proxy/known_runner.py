"""What the proxy knows of a runner: who it is, where it may connect to, and what it has used."""

from collections.abc import Collection
from dataclasses import dataclass

from functions.routing.policy import EgressMode

from ..attribution import Attribution
from .access_log import LogFormat
from .bandwidth import Bandwidth
from .loop import Loop
from .rules import EgressRules
from .usage import MOST_TARGETS, MOST_TARGETS_TO_LEARN, Usage


@dataclass(frozen=True)
class HostRules:
    """What holds for all runners of a host."""

    log_format: LogFormat
    github_hosts: tuple[str, ...]
    private_targets: Collection[str]


class KnownRunner:
    """One runner of this host. It may get its job, and other rules, while its connections are open."""

    __slots__ = ("attribution", "bandwidth", "log_subject", "open_connections", "rules", "usage")

    def __init__(self, attribution: Attribution, usage: Usage, host: HostRules, loop: Loop):
        self.open_connections = 0
        self.usage = usage
        """as far as it has been counted"""
        self.bandwidth: Bandwidth | None = None
        self.update(attribution, host, loop)

    def update(self, attribution: Attribution, host: HostRules, loop: Loop) -> None:
        """Takes up what the controller says of it now. A limit of bandwidth holds for new connections."""
        egress = attribution.egress
        self.attribution = attribution
        self.rules = EgressRules(egress, attribution.profile, host.github_hosts, host.private_targets)
        self.log_subject = host.log_format.describe(attribution, attribution.address)
        if egress.bytes_per_s is None:
            self.bandwidth = None
        elif self.bandwidth is None:
            self.bandwidth = Bandwidth(egress.bytes_per_s, loop)
        else:
            self.bandwidth.bucket.bytes_per_s = egress.bytes_per_s

    @property
    def most_targets(self) -> int:
        """That are listed in its job's document."""
        is_learning = self.attribution.egress.mode is EgressMode.LEARN
        return MOST_TARGETS_TO_LEARN if is_learning else MOST_TARGETS

    @property
    def name(self) -> str:
        return self.attribution.runner_name
