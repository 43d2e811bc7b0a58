"""Shows the rows: a live table in a terminal, plain lines elsewhere."""

from collections.abc import Sequence
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from .rows import Check, Row, format_seconds

_STATE_STYLES = {"completed": "green", "in_progress": "bold cyan", "registered": "cyan", "scheduled": "cyan"}
_PROFILE_STYLES = {"high-cpu": "magenta"}
_WIDE = 190
"""columns that the whole table needs"""


class View:
    """What the person in front of the terminal sees while the jobs run."""

    def __init__(self, console: Console):
        self._console = console
        self._live = Live(console=console, refresh_per_second=8) if console.is_terminal else None
        self._said: dict[str, str] = {}

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, rows: Sequence[Row], seconds: float) -> None:
        """Brings the display up to date."""
        if self._live is not None:
            self._live.update(_table(rows, f"{seconds:.0f} s", self._console.width))
            return
        for row in rows:
            words = [row.state, row.conclusion, row.profile and f"profile {row.profile}", row.runner_in_words]
            state = " ".join(filter(None, words))
            if self._said.get(row.name) != state:
                self._said[row.name] = state
                self._console.print(f"{seconds:5.1f} s  {row.name:<11} {state}", highlight=False, soft_wrap=True)


def show_result(console: Console, title: str, rows: Sequence[Row], checks: Sequence[Check], seconds: float) -> None:
    """The last table, when nothing changes any more, and the verdict."""
    if not console.is_terminal:
        console.width = _WIDE
    console.print(_table(rows, title, console.width))
    for check in checks:
        sign = Text("✔", "bold green") if check.holds else Text("✘", "bold red")
        console.print(sign, f"{check.claim}: {check.detail}", highlight=False)
    console.print(f"From dispatch to the last container's end: {seconds:.1f} s", highlight=False)


def _table(rows: Sequence[Row], title: str, width: int) -> Table:
    """Every phase in a column of its own, or their sum where there is no room for that."""
    table = Table(title=title, title_justify="left", header_style="bold", expand=False, pad_edge=False)
    for heading in ("job", "profile", "decision", "runner", "state"):
        table.add_column(heading, no_wrap=True)
    for heading in ("CPUs", "memory", "conn."):
        table.add_column(heading, justify="right")
    phases = next((row.phases for row in rows if row.phases), ())
    shown = [name for name, _ in phases] if width >= _WIDE else ["wait", "run"] if phases else []
    for name in shown:
        table.add_column(f"{name} s", justify="right", style="dim")
    for row in rows:
        times = dict(row.phases)
        times["wait"] = sum(value or 0 for name, value in row.phases if name != "run") or None
        runner = Text(row.runner)
        if row.made_for:
            runner.append(f" ↻ {row.made_for}", "bold yellow")
        style = "red" if row.conclusion not in {"", "success"} else _STATE_STYLES.get(row.state, "yellow")
        table.add_row(
            row.name,
            Text(row.profile, _PROFILE_STYLES.get(row.profile, "")),
            row.decision,
            runner,
            Text(row.conclusion or row.state, style),
            row.cpus,
            row.memory,
            str(row.connections or ""),
            *(format_seconds(times.get(name)) for name in shown),
        )
    if any(row.made_for for row in rows):
        table.caption = "↻ GitHub gave the job a runner made for this other profile"
        table.caption_justify = "left"
    return table
