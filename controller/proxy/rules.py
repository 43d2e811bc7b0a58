"""Which targets a runner may reach. Pure."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


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
    if not address.is_global:
        return "a private address"
    return None


def _embedded_ipv4(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address leads to, in each of the ways that there are."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
