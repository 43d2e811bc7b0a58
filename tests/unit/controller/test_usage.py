"""What each runner has used of the network."""

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.proxy.usage import MOST_TARGETS, Counts, Usage


def test_connections_are_summed_up_for_each_target_and_in_all() -> None:
    usage = Usage()
    usage.add("github.com:443", Counts(connections=1, bytes_up=10, bytes_down=200))
    usage.add("github.com:443", Counts(connections=1, bytes_up=1, bytes_down=2))
    usage.add("10.0.0.1:80", Counts(connections=1, refused=1, unlisted=1))
    assert usage.targets["github.com:443"] == Counts(connections=2, bytes_up=11, bytes_down=202)
    assert usage.total() == Counts(connections=3, refused=1, unlisted=1, bytes_up=11, bytes_down=202)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a:1", "b:1", "c:1"])))
def test_each_target_is_named_once_in_the_order_of_first_use(targets: list[str]) -> None:
    usage = Usage()
    for target in targets:
        assert usage.add(target, Counts(connections=1)) == target
    assert list(usage.targets) == list(dict.fromkeys(targets))
    assert usage.total().connections == len(targets)


def test_a_job_that_scans_the_internet_does_not_fill_its_document_and_is_counted_all_the_same() -> None:
    usage = Usage()
    for number in range(10 * MOST_TARGETS):
        key = usage.add(f"host-{number}:443", Counts(connections=1, bytes_up=1))
        assert key == (f"host-{number}:443" if number < MOST_TARGETS else None)
    assert list(usage.targets) == [f"host-{number}:443" for number in range(MOST_TARGETS)]
    assert usage.others.connections == 9 * MOST_TARGETS
    assert usage.total() == Counts(connections=10 * MOST_TARGETS, bytes_up=10 * MOST_TARGETS)


def test_a_target_that_is_listed_already_goes_on_being_counted_when_the_list_is_full() -> None:
    usage = Usage()
    for target in ("a:1", "b:1", "a:1", "c:1"):
        usage.add(target, Counts(connections=1), most_targets=2)
    assert {target: counts.connections for target, counts in usage.targets.items()} == {"a:1": 2, "b:1": 1}
    assert usage.others.connections == 1


def test_a_copy_does_not_follow_what_it_was_made_of() -> None:
    usage = Usage()
    usage.add("a:1", Counts(connections=1))
    copy = usage.copy()
    usage.add("a:1", Counts(connections=1))
    usage.add(None, Counts(connections=1))
    assert copy.total() == Counts(connections=1)


def test_two_runners_do_not_share_their_targets() -> None:
    Usage().add("github.com:443", Counts(connections=1))
    assert Usage().targets == {}
