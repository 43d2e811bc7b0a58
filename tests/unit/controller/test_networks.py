"""Addresses and names of the runners' bridges."""

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.networks import NoBridgeLeft, lowest_free_slot, plan_bridge

RANGES = st.builds(
    lambda address, prefix_length: ipaddress.IPv4Network((address, prefix_length), strict=False),
    st.integers(0, (1 << 32) - 1),
    st.integers(8, 29),
)


def last_slot(network: ipaddress.IPv4Network) -> int:
    return network.num_addresses // 8 - 1


@settings(deadline=None)
@given(st.data(), RANGES)
def test_every_bridge_lies_in_the_range_with_both_ends_on_it(
    data: st.DataObject, network: ipaddress.IPv4Network
) -> None:
    slot = data.draw(st.integers(0, last_slot(network)))
    plan = plan_bridge(network, "runyard", slot)
    subnet = ipaddress.IPv4Network(plan.subnet)
    ends = {ipaddress.IPv4Address(plan.gateway), ipaddress.IPv4Address(plan.address)}
    assert subnet.subnet_of(network)
    assert len(ends) == 2
    assert ends <= set(subnet.hosts())


@settings(deadline=None)
@given(st.data(), RANGES)
def test_no_two_bridges_share_an_address_or_a_name(data: st.DataObject, network: ipaddress.IPv4Network) -> None:
    slots = data.draw(st.sets(st.integers(0, last_slot(network)), max_size=5))
    # Neighbours are the ones that could overlap.
    slots |= {slot + 1 for slot in slots if slot < last_slot(network)}
    plans = [plan_bridge(network, "runyard", slot) for slot in slots]
    addresses = [address for plan in plans for address in ipaddress.IPv4Network(plan.subnet)]
    assert len(set(addresses)) == len(addresses)
    assert len({plan.name for plan in plans}) == len({plan.interface for plan in plans}) == len(slots)


def test_the_whole_range_is_used() -> None:
    network = ipaddress.IPv4Network("10.213.0.0/26")
    addresses = {
        address for slot in range(8) for address in ipaddress.IPv4Network(plan_bridge(network, "ry", slot).subnet)
    }
    assert addresses == set(network)


@pytest.mark.parametrize(
    ("network", "slot"),
    [
        pytest.param("10.213.0.0/16", 8192, id="one beyond the last"),
        pytest.param("10.213.0.0/16", -1, id="before the first"),
        pytest.param("10.213.0.0/30", 0, id="a range that is smaller than a bridge"),
    ],
)
def test_a_slot_that_the_range_does_not_have_is_refused(network: str, slot: int) -> None:
    with pytest.raises(NoBridgeLeft, match=r"give network\.range more addresses"):
        plan_bridge(ipaddress.IPv4Network(network), "runyard", slot)


@settings(deadline=None)
@given(st.lists(st.integers(4, 8191), max_size=20))
def test_interface_names_fit_into_the_kernels_15_characters(slots: list[int]) -> None:
    for slot in slots:
        assert len(plan_bridge(ipaddress.IPv4Network("10.213.0.0/16"), "a" * 10, slot).interface) <= 15


@pytest.mark.parametrize(
    ("used", "slot"), [((), 0), ((0, 1, 2), 3), ((1, 2), 0), ((0, 2, 3), 1), ((5,), 0), ((2, 0, 1), 3)]
)
def test_the_lowest_number_that_is_free_comes_next(used: tuple[int, ...], slot: int) -> None:
    assert lowest_free_slot(used) == slot
