"""What runners have used, on disk."""

from pathlib import Path

import pytest

from controller.proxy import journal as journal_module
from controller.proxy.journal import Journal
from controller.proxy.usage import MOST_TARGETS, Counts, Usage


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "usage.jsonl"


def write(path: Path, *notes: tuple[str, str | None, Counts]) -> None:
    journal = Journal(path)
    for note in notes:
        journal.note(*note)
    journal.flush([])


def test_what_several_proxies_have_noted_is_added_up(path: Path) -> None:
    write(path, ("r1", "a:1", Counts(1, 0, 0, 5, 6)), ("r1", "a:1", Counts(1, 0, 0, 1, 1)), ("r2", "b:1", Counts(1, 1)))
    write(path, ("r1", "a:1", Counts(0, 0, 0, 10, 20)), ("r1", None, Counts(7)))
    found = Journal(path).load()
    assert found["r1"].targets == {"a:1": Counts(2, 0, 0, 16, 27)}
    assert found["r1"].others == Counts(7)
    assert found["r2"].total() == Counts(1, 1)


def test_a_runner_that_was_forgotten_starts_at_nothing(path: Path) -> None:
    journal = Journal(path)
    journal.note("r1", "a:1", Counts(1))
    journal.flush([])
    journal.note("r1", "a:1", Counts(1))
    journal.forget("r1")
    journal.flush([])
    assert Journal(path).load() == {}
    write(path, ("r1", "b:1", Counts(1)))
    assert list(Journal(path).load()["r1"].targets) == ["b:1"]


@pytest.mark.parametrize("damage", ['["r1", "a:1", 1, 0', "[]", "null", "{}", '["r1", "a:1", 1]x', "\x00" * 40])
def test_a_line_that_is_damaged_costs_that_line_only(path: Path, damage: str) -> None:
    write(path, ("r1", "a:1", Counts(1)))
    with path.open("a") as file:
        file.write(damage + "\n")
    write(path, ("r1", "a:1", Counts(1)))
    assert Journal(path).load()["r1"].total().connections == 2


def test_no_file_is_no_usage(path: Path) -> None:
    assert Journal(path).load() == {}


def test_the_file_does_not_grow_for_ever_and_loses_nothing_when_it_is_made_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "_LARGEST", 50_000)
    usage, journal, largest = Usage(), Journal(path), 0
    for number in range(3_000):
        target = f"host-{number % (2 * MOST_TARGETS)}.example.com:443"
        journal.note("r1", usage.add(target, Counts(1, 0, 0, 2, 3)), Counts(1, 0, 0, 2, 3))
        journal.flush([("r1", usage)])
        largest = max(largest, path.stat().st_size)
    assert 40_000 < largest <= 50_000
    assert Journal(path).load() == {"r1": usage}


def test_a_folder_that_cannot_be_written_to_is_told_and_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(tmp_path / "gone" / "usage.jsonl")
    journal.note("r1", "a:1", Counts(1))
    journal.flush([])
    assert "cannot be written down: No such file or directory" in caplog.text
