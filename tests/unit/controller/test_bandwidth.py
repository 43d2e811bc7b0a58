"""How fast a runner may be."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.proxy.bandwidth import Bucket


@settings(deadline=None)
@given(
    st.integers(64 << 10, 10 << 30),
    st.lists(st.tuples(st.floats(0, 0.2), st.integers(1, 1 << 20)), min_size=1, max_size=200),
)
def test_over_any_time_no_more_is_moved_than_the_rate_allows(bytes_per_s: int, steps: list[tuple[float, int]]) -> None:
    """As flows do it: never more than what is in the bucket."""
    bucket, now, moved = Bucket(bytes_per_s, 0), 0.0, 0
    for pause_s, wanted in steps:
        now += pause_s
        bucket.fill(now)
        taken = min(wanted, max(bucket.level, 0))
        bucket.spend(taken)
        moved += taken
    assert moved <= bytes_per_s * (now + 0.25) + 1


def test_whoever_always_wants_more_gets_the_whole_rate() -> None:
    bucket, moved = Bucket(1_000_000, 0), 0
    for step in range(1, 501):
        bucket.fill(step * 0.02)
        moved += bucket.level
        bucket.spend(bucket.level)
    assert moved == pytest.approx(1_000_000 * 10.25, rel=0.03)


def test_calls_that_come_faster_than_bytes_lose_none() -> None:
    bucket = Bucket(65536, 0)
    bucket.spend(bucket.level)
    for step in range(1, 1_000_001):
        bucket.fill(step * 1e-6)
    assert bucket.level == pytest.approx(65536 // 4, abs=1)


def test_what_was_not_used_is_not_kept_for_ever() -> None:
    bucket = Bucket(1_000_000, 0)
    bucket.fill(3600)
    assert bucket.level == 250_000
