"""Which targets a runner may reach. Pure."""

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from functions.routing.globs import matches

from ..attribution import Egress
from .github_hosts import RUNNER_HOSTS

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


class EgressRules:
    """A profile's rules, ready to be asked; answers are remembered.

    Args:
        egress: the profile's rules.
        always: `host:port` or `host` globs that hold for every profile.
    """

    def __init__(self, egress: Egress, always: Iterable[str]):
        self._is_enforced = egress.is_enforced
        self._targets = (*always, *egress.allow)
        self.refuse = lru_cache(_ANSWERS_KEPT)(self._refuse)
        """why its jobs may not connect to a host (lower case) and port; None when they may"""

    def _refuse(self, host: str, port: int) -> str | None:
        if not self._is_enforced:
            return None
        if port == _HTTPS and any(matches(glob, host) for glob in RUNNER_HOSTS):
            return None
        for target in self._targets:
            glob, _, ports = target.rpartition(":") if ":" in target else (target, "", "*")
            if ports in {"*", str(port)} and matches(glob, host):
                return None
        return f"{host}:{port} is not in the profile's egress.allow"
