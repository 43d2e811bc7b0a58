"""What each runner has used of the network."""

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.proxy.usage import MOST_TARGETS, Usage


def test_connections_are_summed_up() -> None:
    usage = Usage()
    usage.add("github.com:443", 10, 200, was_refused=False)
    usage.add("github.com:443", 1, 2, was_refused=False)
    usage.add("10.0.0.1:80", 0, 0, was_refused=True)
    assert (usage.connections, usage.refused, usage.bytes_up, usage.bytes_down) == (3, 1, 11, 202)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a:1", "b:1", "c:1"])))
def test_each_target_is_named_once_in_the_order_of_first_use(targets: list[str]) -> None:
    usage = Usage()
    for target in targets:
        usage.add(target, 0, 0, was_refused=False)
    assert list(usage.targets) == list(dict.fromkeys(targets))
    assert usage.connections == len(targets)


def test_a_job_that_scans_the_internet_does_not_fill_its_document() -> None:
    usage = Usage()
    for number in range(10 * MOST_TARGETS):
        usage.add(f"host-{number}:443", 1, 1, was_refused=False)
    assert list(usage.targets) == [f"host-{number}:443" for number in range(MOST_TARGETS)]
    assert usage.connections == usage.bytes_up == 10 * MOST_TARGETS


def test_a_connection_that_never_named_a_target_counts() -> None:
    usage = Usage()
    usage.add("", 0, 0, was_refused=True)
    assert (usage.connections, usage.refused, list(usage.targets)) == (1, 1, [])


def test_two_runners_do_not_share_their_targets() -> None:
    Usage().add("github.com:443", 0, 0, was_refused=False)
    assert Usage().targets == {}
