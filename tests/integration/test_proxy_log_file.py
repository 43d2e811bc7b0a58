"""The log's file: rotation, retention, and whoever else moves it."""

import errno
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from controller.proxy.log_file import LogFile

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now.timestamp()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "connections.log"


def aside(path: Path) -> list[str]:
    return sorted(one.name.removeprefix("connections.log.") for one in path.parent.glob("connections.log.*"))


def open_log(path: Path, clock: Clock, max_bytes: int = 1000, keep_files: int = 100, keep_days: int = 30) -> LogFile:
    return LogFile(path, max_bytes, keep_files, keep_days, clock)


def test_a_file_that_has_grown_is_set_aside_and_no_line_is_lost(path: Path) -> None:
    clock = Clock()
    log = open_log(path, clock, max_bytes=100)
    for number in range(30):
        clock.now += timedelta(seconds=1)
        log.write(f"line {number:04}\n")
    log.close()
    files = [path.with_name(f"connections.log.{name}") for name in aside(path)]
    assert [file.stat().st_size for file in files] == [100, 100]
    written = "".join(file.read_text() for file in (*files, path))
    assert written == "".join(f"line {number:04}\n" for number in range(30))


def test_a_new_day_is_a_new_file(path: Path) -> None:
    clock = Clock()
    log = open_log(path, clock)
    log.write("today\n")
    clock.now += timedelta(days=1)
    log.write("tomorrow\n")
    log.close()
    assert path.read_text() == "tomorrow\n"
    assert aside(path) == ["2026-11-23T12-00-00.000000Z"]


def test_a_file_of_yesterday_that_is_continued_is_set_aside(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("yesterday\n")
    os.utime(path, ((NOON - timedelta(days=1)).timestamp(),) * 2)
    log = open_log(path, Clock())
    log.write("today\n")
    log.close()
    assert path.read_text() == "today\n"
    assert len(aside(path)) == 1


def test_files_are_removed_when_they_are_too_many_or_too_old_and_nothing_else_is(path: Path) -> None:
    clock = Clock()
    path.parent.mkdir()
    for name in (
        "2026-10-01T00-00-00.000000Z",
        "2026-11-20T00-00-00.000000Z",
        "gz",
        "2026-10-01T00-00-00.000000Z.gz",
    ):
        path.with_name(f"connections.log.{name}").touch()
    log = open_log(path, clock, max_bytes=1, keep_files=2)
    assert aside(path) == ["2026-10-01T00-00-00.000000Z.gz", "2026-11-20T00-00-00.000000Z", "gz"]
    for _ in range(4):
        clock.now += timedelta(seconds=1)
        log.write("x\n")
    log.close()
    assert aside(path) == [
        "2026-10-01T00-00-00.000000Z.gz",
        "2026-11-22T12-00-03.000000Z",
        "2026-11-22T12-00-04.000000Z",
        "gz",
    ]


def test_a_file_that_logrotate_has_moved_is_followed_by_a_new_one(path: Path) -> None:
    log = open_log(path, Clock())
    log.write("before\n")
    path.rename(path.with_suffix(".1"))
    log.write("behind\n")
    path.unlink()
    log.write("after\n")
    log.close()
    assert (path.with_suffix(".1").read_text(), path.read_text()) == ("before\n", "after\n")


def test_a_full_disk_is_an_error_and_the_next_line_goes_on() -> None:
    log = LogFile(Path("/dev/full"), 1000, 1, 1, Clock())
    for _ in range(2):
        with pytest.raises(OSError, match="No space left") as caught:
            log.write("x\n")
        assert caught.value.errno == errno.ENOSPC
    log.close()
