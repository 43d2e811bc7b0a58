"""Many globs at once give the same answer as one after the other."""

import fnmatch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.routing.globs import GlobIndex, covers, matches

ALPHABET = "aAbß*?[]!-.x"
GLOBS = st.text(ALPHABET, min_size=1, max_size=8)
TEXTS = st.text("aAbßx.-][", max_size=8)


@settings(max_examples=500, deadline=None)
@given(st.lists(GLOBS, max_size=20), TEXTS)
def test_the_index_finds_exactly_the_globs_that_match(globs: list[str], text: str) -> None:
    index = GlobIndex((glob, number) for number, glob in enumerate(globs))
    expected = {number for number, glob in enumerate(globs) if matches(glob, text)}
    assert set(index.find(text)) == expected


@settings(max_examples=500, deadline=None)
@given(GLOBS, GLOBS, TEXTS)
def test_what_covers_another_matches_all_that_it_matches(wider: str, narrower: str, text: str) -> None:
    if covers(wider, narrower) and matches(narrower, text):
        assert matches(wider, text)


@pytest.mark.parametrize(
    ("wider", "narrower", "does"),
    [
        ("*", "anything*", True),
        ("ci", "CI", True),
        ("ci-*", "ci-large-*", True),
        ("ci-*", "ci-?x", True),
        ("*-x", "ci-x", True),
        ("c?", "ci", True),
        ("ci", "ci-*", False),
        ("ci-large*", "ci-*", False),
        ("*-x", "*-y", False),
    ],
)
def test_plain_cases_of_covering_are_seen(wider: str, narrower: str, does: bool) -> None:
    assert covers(wider, narrower) is does


@pytest.mark.parametrize("text", ["", "build (größe ✓)", "a\nb", "*"])
def test_a_glob_is_what_the_standard_library_takes_it_for(text: str) -> None:
    for glob in ("*", "b*", "?*", "[ab]*", "*)", "\\*"):
        assert matches(glob, text) is fnmatch.fnmatchcase(text.casefold(), glob.casefold())
