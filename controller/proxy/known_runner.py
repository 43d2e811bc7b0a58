"""What the proxy knows of a runner: who it is, where it may connect to, and what it has used."""

from collections.abc import Iterable

from ..attribution import Attribution
from .access_log import describe
from .rules import EgressRules
from .usage import Usage


class KnownRunner:
    """One runner of this host. It may get its job while its connections are open."""

    __slots__ = ("attribution", "log_subject", "open_connections", "rules", "usage")

    def __init__(self, attribution: Attribution, always: Iterable[str], host_id: str):
        self.open_connections = 0
        self.usage = Usage()
        """of the connections that have ended"""
        self.update(attribution, always, host_id)

    def update(self, attribution: Attribution, always: Iterable[str], host_id: str) -> None:
        """Takes up what the controller says of it now.

        Args:
            attribution: its names and rules.
            always: targets that every profile allows.
            host_id: this host, for the log.
        """
        self.attribution = attribution
        self.rules = EgressRules(attribution.egress, always)
        self.log_subject = describe(attribution, attribution.address, host_id)

    @property
    def name(self) -> str:
        return self.attribution.runner_name
