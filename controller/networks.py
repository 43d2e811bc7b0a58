"""Addresses and names of the runners' bridges. Pure."""

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass

_PREFIX_LENGTH = 29


@dataclass(frozen=True)
class BridgePlan:
    """One bridge, for one runner at a time."""

    slot: int
    name: str
    """of the Docker network"""
    interface: str
    """of the bridge on the host"""
    subnet: str
    gateway: str
    address: str
    """of the runner"""


class NoBridgeLeft(Exception):
    """The range of addresses is used up."""


class BridgeTaken(Exception):
    """Somebody else has a network of this name or with these addresses."""


def plan_bridge(network: ipaddress.IPv4Network, interface_prefix: str, slot: int) -> BridgePlan:
    """The bridge with a number.

    Raises:
        NoBridgeLeft: the range has no such slot.
    """
    size = 1 << (32 - _PREFIX_LENGTH)
    if not 0 <= slot < network.num_addresses // size:
        raise NoBridgeLeft(f"{network} has no room for bridge {slot}: give network.range more addresses")
    base = network.network_address + slot * size
    return BridgePlan(
        slot=slot,
        name=f"{interface_prefix}-{slot}",
        interface=f"{interface_prefix}{slot}",
        subnet=f"{base}/{_PREFIX_LENGTH}",
        gateway=str(base + 1),
        address=str(base + 2),
    )


def lowest_free_slot(used: Collection[int]) -> int:
    """The smallest number that is not in use."""
    slot = 0
    while slot in used:
        slot += 1
    return slot
