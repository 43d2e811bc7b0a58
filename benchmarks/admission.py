"""Admission in a burst, and what a job costs in Firestore: `python -m benchmarks.admission`.

A burst is 500 signed webhooks, all at once over HTTP, for 200 places, against the Firestore emulator and the simulated
GitHub. Ours with one and with four function processes, beside the check that counts and then writes, the counter in a
transaction, and a function that does nothing; in turns. What GitHub takes is taken out of the decisions' times: the
function's `Server-Timing` header tells it.

What is billed is counted by a proxy before the emulator, in runs of their own. A job's whole life needs a Docker engine
and root.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from local.emulator import running_emulator
from local.engine import running_engine
from local.stack import local_environment

from .burst import PLACES, WEBHOOKS, Arena, Burst
from .counting import Bill, counting_proxy
from .life import Cost, Yard
from .report import Target, finish, median, say

ONE, FOUR = "ours, 1 process", "ours, 4 processes"
FULL = "ours, 1 process, no place free"
EMPTY, COUNTING, COUNTER = "empty function", "count, then write", "counter in a transaction"
MATRIX, SINGLE, MEAN = "a job in a matrix of 10", "a job by itself", "a job, the mean of 20 and 5 of these"
_COLUMNS = (
    "what",
    "admitted",
    "waiting",
    "failed",
    "lost",
    "seconds",
    "p50 ms",
    "p99 ms",
    "webhooks/s",
    "commits",
    "reads",
    "writes",
    "deletes",
)
_WARM_UPS = 3
"""the emulator's Java is slow at first"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and reports; the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.admission", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["burst", "life"], help="one half; its targets alone are checked")
    options = parser.parse_args(arguments)
    local_environment()
    rows: list[dict[str, Any]] = []
    targets: list[Target] = []
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="runyard-bench-")))
        emulator = cleanup.enter_context(running_emulator(say))
        os.environ["FIRESTORE_EMULATOR_HOST"] = emulator
        for half, measure in (("burst", _measure_burst), ("life", _measure_life)):
            if options.only in {None, half}:
                more_rows, more_targets = measure(folder / half, emulator, options.rounds)
                rows += more_rows
                targets += more_targets
    return finish(f"{WEBHOOKS} webhooks at once for {PLACES} places; a job's life", rows, targets)


Measured = tuple[list[dict[str, Any]], list[Target]]


def _measure_burst(folder: Path, emulator: str, rounds: int) -> Measured:
    timed = _time_bursts(folder / "timed", emulator, rounds)
    counted = _count_bursts(folder / "counted", emulator)
    rows = [_burst_row(what, bursts, counted.get(what)) for what, bursts in timed.items()]
    rate = median([ours.per_second / empty.per_second for ours, empty in zip(timed[FULL], timed[EMPTY], strict=True)])
    targets = []
    for what, p99_s in ((ONE, 0.3), (FOUR, 1.0)):
        bursts, bill = timed[what], counted[what]
        wrong = sum(burst.failed + burst.lost for burst in bursts)
        targets += [
            Target(f"{what}: places given away beyond {PLACES}", max(b.admitted for b in bursts) - PLACES, 0),
            Target(f"{what}: places left empty", PLACES - min(b.admitted for b in bursts), 0),
            Target(f"{what}: webhooks failed or lost", wrong, 0),
            Target(f"{what}: p99 of a decision, s", median([burst.p99_s for burst in bursts]), p99_s),
            Target(f"{what}: commits for each webhook", bill.commits / WEBHOOKS, 0.2),
        ]
    targets.append(Target("webhooks/s beside an empty function", rate, 0.5, at_least=True))
    return rows, targets


def _time_bursts(folder: Path, emulator: str, rounds: int) -> dict[str, list[Burst]]:
    with ExitStack() as cleanup:
        arena = Arena(folder, emulator, cleanup)
        arena.start_github()
        one, four = arena.start_ours(1), arena.start_ours(4)
        empty, counting, counter = (arena.start_peer(name) for name in ("empty", "count_then_write", "counter"))
        turns: dict[str, Callable[[], Burst]] = {
            ONE: lambda: arena.burst(one),
            FOUR: lambda: arena.burst(four),
            FULL: lambda: arena.burst(one, places=1),
            EMPTY: lambda: arena.burst_at_empty(empty),
            COUNTING: lambda: arena.burst_at_peer(counting),
        }
        for _ in range(_WARM_UPS):
            arena.burst(four)
        bursts: dict[str, list[Burst]] = {what: [] for what in turns}
        for number in range(rounds):
            say(f"bursts, round {number + 1} of {rounds}")
            for what, burst in turns.items():
                bursts[what].append(burst())
        say("the counter in a transaction, once: it takes as long as a webhook may")
        return bursts | {COUNTER: [arena.burst_at_peer(counter)]}


def _count_bursts(folder: Path, emulator: str) -> dict[str, Bill]:
    """What bursts are billed; their times would be the proxy's."""
    bills = {}
    with ExitStack() as cleanup:
        address, proxy = cleanup.enter_context(counting_proxy(emulator))
        arena = Arena(folder, address, cleanup)
        arena.start_github()
        for what, count in ((ONE, 1), (FOUR, 4)):
            say(f"counting what is billed: {what}")
            functions = arena.start_ours(count)
            arena.burst(functions)
            proxy.take_bill()
            arena.burst(functions)
            bills[what] = proxy.take_bill()
    return bills


def _measure_life(folder: Path, emulator: str, rounds: int) -> Measured:
    with ExitStack() as cleanup:
        docker_host = cleanup.enter_context(running_engine(say))
        address, proxy = cleanup.enter_context(counting_proxy(emulator))
        yard = Yard(folder, docker_host, address, proxy, cleanup)
        # The policy is noted, and the connections are open.
        yard.run(1)
        say("jobs from the first webhook to the end: matrices of 10, then one after the other")
        matrices, singles = yard.run(10, 10), yard.run(1, 1, 1, 1, 1)
    mean = matrices.mean_with(singles, share=20 / 25)
    say(f"{mean.usd_for_1000_jobs:.3f} USD for 1,000 jobs, at Firestore's list price for multi-region locations")
    rows = [_row(what, **asdict(cost)) for what, cost in ((MATRIX, matrices), (SINGLE, singles), (MEAN, mean))]
    limits = Cost(reads=6, writes=9, deletes=2)
    return rows, [Target(f"{MEAN}: {what}", value, asdict(limits)[what]) for what, value in asdict(mean).items()]


def _burst_row(what: str, bursts: Sequence[Burst], bill: Bill | None) -> dict[str, Any]:
    """Medians; of admissions the range."""
    admitted = sorted({burst.admitted for burst in bursts})
    figures: dict[str, Any] = {
        "admitted": "-".join(map(str, admitted[:: max(1, len(admitted) - 1)])),
        "waiting": median([burst.waiting for burst in bursts]),
        "failed": max(burst.failed for burst in bursts),
        "lost": max(burst.lost for burst in bursts),
        "seconds": median([burst.seconds for burst in bursts]),
        "p50 ms": median([burst.p50_s for burst in bursts]) * 1000,
        "p99 ms": median([burst.p99_s for burst in bursts]) * 1000,
        "webhooks/s": median([burst.per_second for burst in bursts]),
    }
    if bill is not None:
        figures |= {
            "commits": bill.commits / WEBHOOKS,
            "reads": bill.reads.total() / WEBHOOKS,
            "writes": bill.writes.total() / WEBHOOKS,
            "deletes": bill.deletes.total() / WEBHOOKS,
        }
    return _row(what, **figures)


def _row(what: str, **figures: Any) -> dict[str, Any]:
    return dict.fromkeys(_COLUMNS) | {"what": what} | figures


if __name__ == "__main__":
    sys.exit(main())
