"""What a benchmark says: a table for people on standard error, JSON for machines on standard output, an exit code."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

_console = Console(stderr=True, highlight=False)
if not _console.is_terminal:
    _console.width = 200


@dataclass(frozen=True)
class Target:
    """What the project has promised of a figure."""

    what: str
    value: float
    limit: float
    at_least: bool = False
    """the limit is the smallest good value, not the largest"""

    @property
    def is_met(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        sign = "[green]✔[/green]" if self.is_met else "[red]✘[/red]"
        return f"{sign} {self.what}: {self.value:.3g} ({'at least' if self.at_least else 'at most'} {self.limit:g})"


def say(text: str) -> None:
    """Progress, for whoever waits."""
    _console.print(f"• {text}")


def finish(title: str, rows: Sequence[Mapping[str, Any]], targets: Sequence[Target]) -> int:
    """Prints everything; the exit code is 1 when a target is missed.

    Args:
        title: of the table.
        rows: of the table, all with the same columns; the first row names them.
        targets: to be kept.
    """
    table = Table(title=title, title_justify="left")
    for column in rows[0]:
        table.add_column(column, justify="left" if isinstance(rows[0][column], str) else "right")
    for row in rows:
        table.add_row(*(_in_words(value) for value in row.values()))
    _console.print(table)
    for target in targets:
        _console.print(str(target))
    figures = {"rows": list(rows), "targets": [asdict(target) | {"is_met": target.is_met} for target in targets]}
    print(json.dumps({"benchmark": title, **figures}, indent=2, ensure_ascii=False))
    return 0 if all(target.is_met for target in targets) else 1


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest value that is not exceeded by this part of all."""
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def _in_words(value: Any) -> str:
    if value is None:
        return ""
    return (
        f"{value:,.3g}"
        if isinstance(value, float) and abs(value) < 1000
        else f"{value:,.0f}"
        if isinstance(value, float)
        else str(value)
    )
