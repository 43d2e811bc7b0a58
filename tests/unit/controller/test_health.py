"""Whether a host should take new runners."""

from datetime import timedelta

import pytest

from controller.health import Health
from tests.fakes.examples import NOW


def failing(count: int) -> Health:
    health = Health()
    for _ in range(count):
        health = health.after_failure("image runner:1 is not on this host", NOW)
    return health


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_a_few_failures_are_nobodys_business(failures: int) -> None:
    assert failing(failures).most_claims(NOW) is None
    assert failing(failures).in_words() == ""


@pytest.mark.parametrize(("failures", "pause_s"), [(3, 10), (4, 20), (5, 40), (8, 300), (1000, 300)])
def test_a_host_on_which_everything_fails_pauses_and_then_tries_one(failures: int, pause_s: int) -> None:
    """It has room all the time, and would win every race for a runner."""
    health = failing(failures)
    assert health.most_claims(NOW + timedelta(seconds=pause_s - 1)) == 0
    assert health.most_claims(NOW + timedelta(seconds=pause_s)) == 1
    assert health.in_words() == (
        f"{failures} starts failed one after the other, the last one because image runner:1 is not on this host"
    )


def test_one_start_that_succeeds_is_enough() -> None:
    assert failing(9).after_start().most_claims(NOW) is None


def test_a_host_that_drains_takes_nothing_however_well_it_is() -> None:
    health = Health().with_draining(is_draining=True)
    assert health.most_claims(NOW) == 0
    assert "runyard resume" in health.in_words()
    assert health.with_draining(is_draining=False) == Health()
