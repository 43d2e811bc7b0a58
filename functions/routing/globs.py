"""Globs over job names, labels and branches: one at a time, and many at once without trying each.

`*` is any text, `?` one character, `[…]` one of some; upper and lower case are alike, as GitHub compares labels.
"""

import fnmatch
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

_SPECIAL = re.compile(r"[*?\[]")


@lru_cache(maxsize=4096)
def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(pattern))


def matches(pattern: str, text: str) -> bool:
    """Whether a glob fits the whole text."""
    return _compile(pattern.casefold()).match(text.casefold()) is not None


def covers(wider: str, narrower: str) -> bool:
    """Whether every text that fits `narrower` also fits `wider`; False where that is not plain to see."""
    wider, narrower = wider.casefold(), narrower.casefold()
    if wider == narrower or set(wider) == {"*"}:
        return True
    if not _SPECIAL.search(narrower):
        return _compile(wider).match(narrower) is not None
    return _is_prefix_glob(wider) and _literal_prefix(narrower).startswith(wider[:-1])


def _is_prefix_glob(pattern: str) -> bool:
    return pattern.endswith("*") and not _SPECIAL.search(pattern[:-1])


def _literal_prefix(pattern: str) -> str:
    special = _SPECIAL.search(pattern)
    return pattern if special is None else pattern[: special.start()]


def _literal_suffix(pattern: str) -> str:
    """What every text that fits must end with."""
    return re.split(r"[*?\]]", pattern)[-1]


class GlobIndex:
    """Finds which of many globs fit a text, in time that depends on how they are written, not on how many there are.

    Literal globs are looked up; the others are tried only where their literal beginning, or else their literal end, is
    the text's. Only globs that begin and end with a wildcard are tried one by one.
    """

    def __init__(self, globs: Iterable[tuple[str, int]]):
        """Takes pairs of a glob and a number, which need not be unique."""
        self._literal: dict[str, list[int]] = {}
        self._by_prefix: dict[str, list[tuple[re.Pattern[str], int]]] = {}
        self._by_suffix: dict[str, list[tuple[re.Pattern[str], int]]] = {}
        self._others: list[tuple[re.Pattern[str], int]] = []
        for glob, number in globs:
            self._add(glob.casefold(), number)
        self._prefix_lengths = sorted({len(prefix) for prefix in self._by_prefix})
        self._suffix_lengths = sorted({len(suffix) for suffix in self._by_suffix})

    def _add(self, glob: str, number: int) -> None:
        if not _SPECIAL.search(glob):
            self._literal.setdefault(glob, []).append(number)
            return
        # Not through the cache: an index of thousands would push everything else out of it.
        entry = (re.compile(fnmatch.translate(glob)), number)
        if prefix := _literal_prefix(glob):
            self._by_prefix.setdefault(prefix, []).append(entry)
        elif suffix := _literal_suffix(glob):
            self._by_suffix.setdefault(suffix, []).append(entry)
        else:
            self._others.append(entry)

    def find(self, text: str) -> Iterator[int]:
        """The numbers of the globs that fit, in no order."""
        text = text.casefold()
        yield from self._literal.get(text, ())
        for pattern, number in self._candidates(text):
            if pattern.match(text) is not None:
                yield number

    def _candidates(self, text: str) -> Iterator[tuple[re.Pattern[str], int]]:
        for length in self._prefix_lengths:
            if length > len(text):
                break
            yield from self._by_prefix.get(text[:length], ())
        for length in self._suffix_lengths:
            if length > len(text):
                break
            yield from self._by_suffix.get(text[-length:], ())
        yield from self._others
