"""Which targets a runner may reach. Pure.

1. GitHub's own hosts, on port 443, and the host's `private_targets` are always allowed.
2. Of a profile's rules the first one that fits decides.
3. What none fits is allowed by none: `enforce` refuses it, `audit` and `learn` let it pass and say so in the log.
4. A TLS client must ask for the name that the proxy was asked for; `audit` and `learn` only say so.
5. Whatever the rules say: the addresses that the name stands for must be of the public internet.
"""

import ipaddress
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

from functions.documents.workflow_job import RunnerEgress
from functions.routing.globs import matches, split_target
from functions.routing.policy import EgressMode

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_HTTPS = 443
_ANSWERS_KEPT = 1024
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# RFC 4291, section 2.4: all that IANA gives out of IPv6. The rest is reserved, local or leads to IPv4 in some way.
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_ALSO_PRIVATE = (
    # Protocol assignments, where some clouds keep metadata, and documentation: Python 3.11 takes them for public.
    ipaddress.ip_network("192.0.0.0/24"),
    ipaddress.ip_network("3fff::/20"),
    # Looks public, but is the agent service that Azure offers each machine, with the machine's secrets.
    ipaddress.ip_network("168.63.129.16/32"),
)


@dataclass(frozen=True)
class Verdict:
    """Whether a connection may be made, and why not."""

    is_allowed: bool
    reason: str = ""
    addresses: tuple[str, ...] = ()
    """the only addresses that may be connected to: what was checked is what is used"""


def judge(target: str, addresses: Sequence[str], private_targets: frozenset[str]) -> Verdict:
    """Judges a target by the addresses that its name was resolved to.

    Args:
        target: `host:port` as the client asked for it.
        addresses: what the name stands for.
        private_targets: the targets that may have private addresses.
    """
    if target in private_targets:
        return Verdict(True, addresses=tuple(addresses))
    reasons = [refuse_address(ipaddress.ip_address(address)) for address in addresses]
    allowed = tuple(address for address, reason in zip(addresses, reasons, strict=True) if reason is None)
    if allowed:
        return Verdict(True, addresses=allowed)
    return Verdict(False, f"{target} is {reasons[0] if reasons else 'nowhere'}")


def refuse_address(address: Address) -> str | None:
    """Why no runner may connect there; None for an address of the public internet."""
    embedded = _embedded_ipv4(address)
    if embedded is not None:
        return refuse_address(embedded)
    if address.is_loopback or address.is_unspecified:
        return "a loopback address"
    if address.is_link_local:
        return "a link-local address, where clouds keep their metadata"
    if address.is_multicast:
        return "a multicast address"
    return None if _is_public(address) else "a private address"


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    return address.is_global and not any(address in network for network in _ALSO_PRIVATE)


def _embedded_ipv4(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address leads to, in each of the ways that there are."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)


@dataclass(frozen=True)
class Ruling:
    """What a profile's rules say of a target."""

    is_allowed: bool
    """by the rules, whether they are enforced or not"""
    rule: str
    """that decided: its name, `github`, `private_targets`, or `none`"""
    refusal: str = ""
    """why the connection must not be made; empty when it may"""

    @property
    def policy(self) -> str:
        """In one word, for the log."""
        return "allowed" if self.is_allowed else "refused"


class EgressRules:
    """A profile's rules, ready to be asked; answers are remembered.

    Args:
        egress: the profile's rules.
        profile: its name, for messages.
        github_hosts: names and globs of GitHub's own hosts.
        private_targets: `host:port` that every profile may reach.
    """

    def __init__(
        self, egress: RunnerEgress, profile: str, github_hosts: Sequence[str], private_targets: Collection[str]
    ):
        self.is_enforced = egress.mode is EgressMode.ENFORCE
        self._profile = profile
        github = [(glob, str(_HTTPS)) for glob in github_hosts]
        private = [split_target(target) for target in private_targets]
        self._rules = [("github", True, github), ("private_targets", True, private)]
        self._rules += [
            (rule.name, rule.is_allowed, [split_target(target) for target in rule.targets]) for rule in egress.rules
        ]
        self.judge = lru_cache(_ANSWERS_KEPT)(self._judge)
        """the ruling on a host (lower case, IPv6 without brackets) and a port"""

    def judge_server_name(self, host: str, server_name: str) -> Ruling | None:
        """The ruling on a TLS client that asks for another name than the proxy was asked for; None when it does not.

        One address serves many names: a client could be let through to one of them, and speak to another.
        """
        if not server_name or server_name.removesuffix(".") == host.removesuffix(".") or _is_address(host):
            return None
        refusal = f"TLS asks for {server_name}, but the proxy was asked for {host}"
        return Ruling(False, "server-name", refusal if self.is_enforced else "")

    def _judge(self, host: str, port: int) -> Ruling:
        # A final dot makes no other name of it.
        host = host.removesuffix(".")
        for name, is_allowed, targets in self._rules:
            if any(ports in {"*", str(port)} and _fits(glob, host) for glob, ports in targets):
                refusal = "" if is_allowed else f"{host}:{port} is denied by rule {name} of profile {self._profile}"
                return Ruling(is_allowed, name, refusal if self.is_enforced else "")
        refusal = f"{host}:{port} is not allowed by profile {self._profile}: no rule of its egress lists it"
        return Ruling(False, "none", refusal if self.is_enforced else "")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _fits(glob: str, host: str) -> bool:
    if glob.startswith("["):
        # An IPv6 address, not a class of characters.
        return ":" in host and ipaddress.ip_address(glob.strip("[]")) == ipaddress.ip_address(host)
    return matches(glob, host)
