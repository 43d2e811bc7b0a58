"""What runners have used, on disk: a proxy that is started anew goes on counting where the one before it was.

A file of JSON lines that are added up. A line is runner, target, connections, refused, unlisted, bytes up, bytes down;
the target is null for all beyond the most that are listed. A line with a runner alone forgets it. The file is written
as often as the log, and made anew when it has grown.
"""

import json
import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from .usage import MOST_TARGETS_TO_LEARN, Counts, Usage

_log = logging.getLogger("runyard.proxy")
_LARGEST = 4 * 1024 * 1024
"""bytes, before it is made anew"""


class Journal:
    """The file, with what is still to be written."""

    def __init__(self, path: Path):
        self._path = path
        self._new: dict[tuple[str, str | None], Counts] = {}
        self._forgotten: list[str] = []

    def load(self) -> dict[str, Usage]:
        """What was used before, by runner. A line that was cut off by a crash is left out."""
        found: dict[str, Usage] = {}
        with suppress(OSError), self._path.open(encoding="utf-8") as lines:
            for line in lines:
                with suppress(ValueError, TypeError):
                    runner_name, *rest = json.loads(line)
                    if not rest:
                        found.pop(runner_name, None)
                        continue
                    target, *counts = rest
                    found.setdefault(runner_name, Usage()).add(target, Counts(*counts), MOST_TARGETS_TO_LEARN)
        return found

    def note(self, runner_name: str, target: str | None, counts: Counts) -> None:
        """Adds up what is to be written next."""
        known = self._new.get((runner_name, target))
        if known is None:
            self._new[runner_name, target] = counts
        else:
            known.add(counts)

    def forget(self, runner_name: str) -> None:
        self._new = {key: counts for key, counts in self._new.items() if key[0] != runner_name}
        self._forgotten.append(runner_name)

    @property
    def is_dirty(self) -> bool:
        return bool(self._new or self._forgotten)

    def flush(self, usages: Iterable[tuple[str, Usage]]) -> None:
        """Writes what is new; when the file has grown too large, it is made anew from the sums of all runners."""
        lines = [json.dumps([name]) for name in self._forgotten]
        lines += [json.dumps([*key, *counts.values()]) for key, counts in self._new.items()]
        self._new, self._forgotten = {}, []
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in lines))
                has_grown = file.tell() > _LARGEST
            if has_grown:
                self.compact(usages)
        except OSError as error:
            _log.error("what runners use cannot be written down: %s", error.strerror)

    def compact(self, usages: Iterable[tuple[str, Usage]]) -> None:
        """Makes the file anew.

        Raises:
            OSError: it cannot be written.
        """
        new = self._path.with_suffix(".new")
        with new.open("w", encoding="utf-8") as file:
            for name, usage in usages:
                for target, counts in (*usage.targets.items(), (None, usage.others)):
                    file.write(json.dumps([name, target, *counts.values()]) + "\n")
        os.replace(new, self._path)  # noqa: PTH105 - as atomic as it says
