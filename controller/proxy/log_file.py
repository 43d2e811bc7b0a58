"""The log's file: a new one each day and whenever it has grown, old ones removed."""

import errno
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from io import FileIO
from pathlib import Path

_log = logging.getLogger("runyard.proxy")
_SUFFIX = "%Y-%m-%dT%H-%M-%S.%fZ"


class LogFile:
    """Appends to a file; what is full or of an earlier day is set aside as `NAME.TIME`.

    If somebody else moves the file away, as logrotate does, the next line goes into a new one.

    Args:
        path: the file.
        max_bytes: of one file.
        keep_files: that were set aside.
        keep_days: after which they are removed.
        clock: Unix time in seconds.
    """

    def __init__(
        self, path: Path, max_bytes: int, keep_files: int, keep_days: int, clock: Callable[[], float] = time.time
    ):
        self._path = path
        self._max_bytes = max_bytes
        self._keep_files = keep_files
        self._keep_days = keep_days
        self._clock = clock
        self._file = self._open()
        self._remove_old()

    def write(self, lines: str) -> None:
        """Appends whole lines.

        Raises:
            OSError: they cannot be written; nothing else is lost.
        """
        if self._was_moved():
            self._file.close()
            self._file = self._open()
        elif self._is_due():
            self._set_aside()
        data = lines.encode()
        if self._file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        self._file.close()

    def _open(self) -> FileIO:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Without a buffer: lines that a full disk does not take are gone, and do not pile up here.
        file = self._path.open("ab", buffering=0)
        # Of a file that is continued, the last line tells the day.
        at = self._path.stat().st_mtime if file.tell() else self._clock()
        self._day = datetime.fromtimestamp(at, UTC).date()
        return file

    def _was_moved(self) -> bool:
        with suppress(FileNotFoundError):
            ours, theirs = os.fstat(self._file.fileno()), self._path.stat()
            return not os.path.samestat(ours, theirs)
        return True

    def _is_due(self) -> bool:
        size = self._file.tell()
        return size > 0 and (size >= self._max_bytes or self._now().date() != self._day)

    def _set_aside(self) -> None:
        self._file.close()
        try:
            self._path.rename(f"{self._path}.{self._now().strftime(_SUFFIX)}")
        except OSError as error:
            _log.error("the log cannot be set aside: %s", error.strerror)
        self._file = self._open()
        self._remove_old()

    def _remove_old(self) -> None:
        aside = sorted(self._aside(), reverse=True)
        oldest = self._now() - timedelta(days=self._keep_days)
        for number, (at, path) in enumerate(aside):
            if number >= self._keep_files or at < oldest:
                path.unlink(missing_ok=True)

    def _aside(self) -> list[tuple[datetime, Path]]:
        found = []
        for path in self._path.parent.glob(f"{self._path.name}.*"):
            with suppress(ValueError):
                name = path.name.removeprefix(f"{self._path.name}.")
                found.append((datetime.strptime(name, _SUFFIX).replace(tzinfo=UTC), path))
        return found

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)
