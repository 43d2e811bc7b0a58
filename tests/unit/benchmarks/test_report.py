"""What a benchmark says, and how it ends."""

import json
from typing import Any

import pytest

from benchmarks import __main__ as runner
from benchmarks.report import Target, finish, percentile


@pytest.mark.parametrize(
    ("value", "at_least", "is_met"),
    [(0.9, False, True), (1.0, False, True), (1.1, False, False), (0.9, True, False), (1.0, True, True)],
)
def test_a_limit_is_kept_or_missed(value: float, at_least: bool, is_met: bool) -> None:
    assert Target("ratio", value, 1.0, at_least=at_least).is_met is is_met


@pytest.mark.parametrize(("value", "code"), [(1, 0), (3, 1)])
def test_the_exit_code_says_whether_all_targets_are_met(
    value: float, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[dict[str, Any]] = [{"what": "ours", "ms": 1.5}, {"what": "the floor", "ms": None}]
    assert finish("A title", rows, [Target("ms", value, 2), Target("others", 1, 2)]) == code
    told = json.loads(capsys.readouterr().out)
    assert told["rows"] == rows
    assert [target["is_met"] for target in told["targets"]] == [code == 0, True]


@pytest.mark.parametrize(("part", "value"), [(0, 1), (0.5, 51), (0.99, 100), (1, 100)])
def test_percentiles_are_values_that_were_measured(part: float, value: int) -> None:
    assert percentile(range(1, 101), part) == value


def test_benchmarks_are_known_by_their_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert {"admission", "routing"} <= set(runner.names())
    assert "report" not in runner.names()
    assert runner.main(["rooting"]) == 2
    assert "there is no benchmark rooting: known are admission" in capsys.readouterr().err
