"""Globs over job names, labels and branches: one at a time, and many at once without trying each.

`*` is any text, `?` one character, `[…]` one of some; upper and lower case are alike, as GitHub compares labels.
"""

import fnmatch
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache

_SPECIAL = re.compile(r"[*?\[]")
_PIECE = 4
"""characters; rare enough to tell globs apart, short enough for most to have one"""


@lru_cache(maxsize=16_384)
def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(pattern))


def matches(pattern: str, text: str) -> bool:
    """Whether a glob fits the whole text."""
    pattern, text = pattern.casefold(), text.casefold()
    return _compile(pattern).match(text) is not None if _SPECIAL.search(pattern) else pattern == text


def split_target(target: str) -> tuple[str, str]:
    """Host glob and port of a target such as `*.example.com:443`; the port of `example.com` is `*`."""
    host, separator, port = target.rpartition(":")
    return (host, port) if separator and not port.endswith("]") else (target, "*")


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


def _longest_literal(pattern: str) -> str:
    """Something that every text that fits must contain; empty where that is not plain to see."""
    return max(re.split(r"[*?]", pattern.partition("[")[0]), key=len)


def _pieces(text: str, length: int) -> set[str]:
    return {text[start : start + length] for start in range(len(text) - length + 1)}


_Entry = tuple[str, int]


class GlobIndex:
    """Finds which of many globs fit a text, in time that depends on how they are written, not on how many there are.

    Literal globs are looked up; the others are tried only where their literal beginning, or else their literal end, is
    the text's, or else a few characters from their middle, the rarest that they have, are in the text. Only globs
    without any literal characters are tried one by one.
    """

    def __init__(self, globs: Iterable[tuple[str, int]]):
        """Takes pairs of a glob and a number, which need not be unique."""
        self._literal: dict[str, list[int]] = {}
        self._by_prefix: dict[str, list[_Entry]] = {}
        self._by_suffix: dict[str, list[_Entry]] = {}
        self._by_piece: dict[str, list[_Entry]] = {}
        self._others: list[_Entry] = []
        middles: list[tuple[str, _Entry]] = []
        for glob, number in globs:
            self._add(glob.casefold(), number, middles)
        self._file_by_rarest_piece(middles)
        self._piece_lengths = sorted({len(piece) for piece in self._by_piece})
        self._prefix_lengths = sorted({len(prefix) for prefix in self._by_prefix})
        self._suffix_lengths = sorted({len(suffix) for suffix in self._by_suffix})

    def _add(self, glob: str, number: int, middles: list[tuple[str, _Entry]]) -> None:
        if not _SPECIAL.search(glob):
            self._literal.setdefault(glob, []).append(number)
            return
        entry = (glob, number)
        if prefix := _literal_prefix(glob):
            self._by_prefix.setdefault(prefix, []).append(entry)
        elif suffix := _literal_suffix(glob):
            self._by_suffix.setdefault(suffix, []).append(entry)
        elif middle := _longest_literal(glob):
            middles.append((middle, entry))
        else:
            self._others.append(entry)

    def _file_by_rarest_piece(self, middles: Iterable[tuple[str, _Entry]]) -> None:
        pieces = [(_pieces(middle, min(len(middle), _PIECE)), entry) for middle, entry in middles]
        counts = Counter(piece for of_one, _ in pieces for piece in of_one)
        for of_one, entry in pieces:
            rarest = min(of_one, key=lambda piece: (counts[piece], piece))
            self._by_piece.setdefault(rarest, []).append(entry)

    def find(self, text: str) -> Iterator[int]:
        """The numbers of the globs that fit, in no order."""
        text = text.casefold()
        yield from self._literal.get(text, ())
        for glob, number in self._candidates(text):
            # Compiled when it is first tried: of thousands, most never are.
            if _compile(glob).match(text) is not None:
                yield number

    def _candidates(self, text: str) -> Iterator[_Entry]:
        for length in self._prefix_lengths:
            if length > len(text):
                break
            yield from self._by_prefix.get(text[:length], ())
        for length in self._suffix_lengths:
            if length > len(text):
                break
            yield from self._by_suffix.get(text[-length:], ())
        for length in self._piece_lengths:
            for piece in _pieces(text, length):
                yield from self._by_piece.get(piece, ())
        yield from self._others
