"""What this host has given away."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.host_ledger import HostLedger
from functions.routing.capacity import NOTHING, Size

CAPACITY = Size(4000, 8000)
SIZES = st.builds(Size, st.integers(0, 3000), st.integers(0, 6000))


@pytest.mark.parametrize(
    ("taken", "name", "size", "has_room"),
    [
        pytest.param({}, "new", Size(4000, 8000), True, id="the whole of an empty host"),
        pytest.param({}, "new", Size(4001, 1), False, id="more CPU than the host has"),
        pytest.param({}, "new", Size(1, 8001), False, id="more memory than the host has"),
        pytest.param({"a": Size(3000, 1)}, "new", Size(1000, 7999), True, id="exactly what is left"),
        pytest.param({"a": Size(3000, 1)}, "new", Size(1001, 1), False, id="more CPU than is left"),
        pytest.param({"a": Size(1, 8000)}, "new", Size(1, 1), False, id="CPU is left but no memory"),
        pytest.param({"a": Size(3000, 1)}, "a", Size(4000, 8000), True, id="a runner grows into what is left"),
        pytest.param(
            {"a": Size(3000, 1), "b": Size(1000, 1)}, "a", Size(3001, 1), False, id="a neighbour is in the way"
        ),
        pytest.param({"a": Size(5000, 9000)}, "new", Size(1, 1), False, id="an overfull host"),
        pytest.param(
            {"a": Size(3000, 9), "b": Size(3000, 9)}, "a", Size(3000, 9), True, id="a runner keeps what it has on one"
        ),
        pytest.param(
            {"a": Size(3000, 9), "b": Size(3000, 9)},
            "a",
            Size(1000, 9),
            True,
            id="a runner shrinks on an overfull host",
        ),
        pytest.param(
            {"a": Size(3000, 9), "b": Size(3000, 9)}, "a", Size(1000, 50), True, id="and grows where there is room"
        ),
        pytest.param(
            {"a": Size(3000, 9), "b": Size(3000, 9)}, "a", Size(3001, 9), False, id="but not where there is none"
        ),
    ],
)
def test_there_is_room_for_what_the_others_leave(taken: dict[str, Size], name: str, size: Size, has_room: bool) -> None:
    assert HostLedger(CAPACITY, taken).has_room_for(name, size) is has_room


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.none() | SIZES), max_size=20))
def test_no_sequence_of_admitted_sizes_gives_away_more_than_there_is(steps: list[tuple[str, Size | None]]) -> None:
    ledger = HostLedger(CAPACITY)
    expected: dict[str, Size] = {}
    for name, size in steps:
        if size is None:
            ledger = ledger.without_runner(name)
            expected.pop(name, None)
        elif ledger.has_room_for(name, size):
            ledger = ledger.with_runner(name, size)
            expected[name] = size
        assert dict(ledger.taken) == expected
        assert NOTHING.fits_into(ledger.free)
        assert ledger.free + sum(expected.values(), NOTHING) == CAPACITY


def test_a_ledger_does_not_change_under_those_who_hold_it() -> None:
    before = HostLedger(CAPACITY, {"a": Size(1, 1)})
    before.with_runner("b", Size(2, 2))
    before.without_runner("a")
    assert dict(before.taken) == {"a": Size(1, 1)}
