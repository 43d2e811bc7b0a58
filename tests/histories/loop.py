"""An event loop whose time passes only when everybody waits for it: sleeping costs nothing."""

import asyncio
from typing import Any

from tests.histories.crash import Crashed


class PatientLoop(asyncio.SelectorEventLoop):
    """Jumps to the next moment for which somebody waits."""

    def __init__(self) -> None:
        super().__init__()
        self._passed = 0.0
        self.set_exception_handler(_unless_crashed)

    def time(self) -> float:
        return self._passed

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self._passed = max(self._passed, self._scheduled[0]._when)  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


def _unless_crashed(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Nobody asks the tasks of a dead instance what they died of."""
    if not isinstance(context.get("exception"), Crashed):
        loop.default_exception_handler(context)
