"""Whatever is lost, doubled, delayed, shuffled or killed: in the end all is as if everything had gone in order.

RUNYARD_HISTORIES says how many histories are made up.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulator.world import Job
from tests.fakes.examples import policy_document
from tests.histories.documents import MemoryDocuments
from tests.histories.github import FAULTS
from tests.histories.loop import PatientLoop
from tests.histories.yard import OWNER, PLACES, Container, Yard

HISTORIES = int(os.environ.get("RUNYARD_HISTORIES", "10000"))
MOST_JOBS = 5
Step = tuple[str, int, int]
"""what happens, to which of those that it can happen to, and how"""
T = TypeVar("T")


def take_one(several: list[T], which: int) -> T | None:
    """One of those that there are, and it is gone from there."""
    return several.pop(which % len(several)) if several else None


def one_of(several: Sequence[T], which: int) -> T | None:
    return several[which % len(several)] if several else None


def queued(yard: Yard) -> list[Job]:
    return [job for job in yard.world.jobs.values() if job.status == "queued"]


def idle(yard: Yard) -> list[Container]:
    return [container for container in yard.containers if container.job is None]


async def dispatch(yard: Yard, which: int, how: int) -> None:
    first = len(yard.world.jobs)
    numbers = range(first, min(first + 1 + which % 3, MOST_JOBS))
    sizes, ends = ("large", "small"), ("success", "failure")
    if numbers:
        yard.dispatch([(f"{sizes[(how + n) % 2]} {n}", ends[(how // 2 + n) % 2]) for n in numbers])


async def deliver(yard: Yard, which: int, how: int) -> None:
    if (told := take_one(yard.github.waiting, which)) is not None:
        await yard.deliver(told)


async def deliver_all(yard: Yard, which: int, how: int) -> None:
    waiting = yard.github.waiting
    several = [waiting.pop(which % len(waiting)) for _ in range(len(waiting))]
    await asyncio.gather(*(yard.deliver(told) for told in several))


async def double(yard: Yard, which: int, how: int) -> None:
    if (told := one_of(yard.github.waiting, which)) is not None:
        await asyncio.gather(yard.deliver(told), yard.deliver(told))


async def drop(yard: Yard, which: int, how: int) -> None:
    take_one(yard.github.waiting, which)


async def fail_delivery(yard: Yard, which: int, how: int) -> None:
    if (told := take_one(yard.github.waiting, which)) is not None:
        yard.fail_delivery(told)


async def die_while_delivering(yard: Yard, which: int, how: int) -> None:
    if (told := take_one(yard.github.waiting, which)) is not None:
        await yard.deliver(told, crash_at=how % 20)


async def start_runners(yard: Yard, which: int, how: int) -> None:
    await yard.start_runners(yard.hosts[which % 2], 1 + how % 3)


async def hand_out(yard: Yard, which: int, how: int) -> None:
    yard.hand_out()


async def finish(yard: Yard, which: int, how: int) -> None:
    running = [container for container in yard.containers if container.job is not None]
    if (container := one_of(running, which)) is not None and container.job is not None:
        # A controller that is killed at that moment leaves the runner's document as it is.
        await yard.finish(container, container.job.script, is_written_down=bool(how % 3))


async def cancel(yard: Yard, which: int, how: int) -> None:
    if (job := one_of(queued(yard), which)) is not None:
        yard.cancel(job)


async def steal(yard: Yard, which: int, how: int) -> None:
    if (job := one_of(queued(yard), which)) is not None:
        yard.steal(job)


async def pass_time(yard: Yard, which: int, how: int) -> None:
    await yard.pass_time((5, 30, 61, 200)[how % 4])


async def reconcile(yard: Yard, which: int, how: int) -> None:
    await yard.reconcile()


async def die_while_reconciling(yard: Yard, which: int, how: int) -> None:
    await yard.reconcile(crash_at=how + 61 * (which % 3))


async def reconcile_twice_at_once(yard: Yard, which: int, how: int) -> None:
    await yard.reconcile_twice_at_once()


async def break_jit_call(yard: Yard, which: int, how: int) -> None:
    yard.github.faults.append(list(FAULTS.values())[which % len(FAULTS)])


async def drop_runner(yard: Yard, which: int, how: int) -> None:
    if (container := one_of(idle(yard), which)) is not None:
        yard.world.drop_runner(container.name)


async def lose_container(yard: Yard, which: int, how: int) -> None:
    if (container := one_of(yard.containers, which)) is not None:
        yard.lose(container)


async def kill_container(yard: Yard, which: int, how: int) -> None:
    if (container := one_of(idle(yard), which)) is not None:
        await yard.die(container)


async def crash_host(yard: Yard, which: int, how: int) -> None:
    await yard.crash_host(yard.hosts[0])


async def trigger(yard: Yard, which: int, how: int) -> None:
    if (command := take_one(yard.commands, which)) is not None:
        await yard.trigger(command)


async def die_while_triggered(yard: Yard, which: int, how: int) -> None:
    if (command := take_one(yard.commands, which)) is not None:
        await yard.trigger(command, crash_at=how % 20)


async def drop_trigger(yard: Yard, which: int, how: int) -> None:
    take_one(yard.commands, which)


async def edit_ledger(yard: Yard, which: int, how: int) -> None:
    """A person in the console."""
    yard.was_ledger_edited = True
    fields = await yard.documents.read_raw_ledger()
    leases = fields.get("leases", {})
    match how % 6:
        case 0:
            await yard.documents.spoil_ledger(None)
        case 1:
            await yard.documents.spoil_ledger({**fields, "queue": {}})
        case 2 if leases:
            leases.pop(sorted(leases)[which % len(leases)])
            await yard.documents.spoil_ledger({**fields, "leases": leases})
        case 3 if leases:
            leases[sorted(leases)[which % len(leases)]] = "mine"
            await yard.documents.spoil_ledger({**fields, "leases": leases})
        case 4 if leases:
            await yard.documents.spoil_ledger({**fields, "leases": {**leases, "made-up": leases[min(leases)]}})
        case 5:
            await yard.documents.spoil_ledger({**fields, "limits": {}})
        case _:
            return


HAPPENINGS: dict[str, Callable[[Yard, int, int], Awaitable[None]]] = {
    "dispatch": dispatch,
    "deliver": deliver,
    "deliver all at once": deliver_all,
    "deliver twice": double,
    "lose webhook": drop,
    "fail delivery": fail_delivery,
    "die while delivering": die_while_delivering,
    "start runners": start_runners,
    "hand out": hand_out,
    "finish": finish,
    "cancel": cancel,
    "steal": steal,
    "pass time": pass_time,
    "reconcile": reconcile,
    "die while reconciling": die_while_reconciling,
    "reconcile twice at once": reconcile_twice_at_once,
    "break JIT call": break_jit_call,
    "drop runner at GitHub": drop_runner,
    "lose container": lose_container,
    "kill container": kill_container,
    "crash host": crash_host,
    "fire trigger": trigger,
    "die while triggered": die_while_triggered,
    "lose trigger": drop_trigger,
    "edit ledger": edit_ledger,
}


async def take(yard: Yard, step: Step) -> None:
    """Lets one thing happen; nothing when there is nobody to whom it could."""
    what, which, how = step
    await HAPPENINGS[what](yard, which, how)


async def make_yard(documents: Any, seed: int) -> Yard:
    yard = Yard(documents, seed)
    document = policy_document()
    document["scale_sets"]["ci"]["max_runners"] = PLACES
    await documents.write_policy(OWNER, document)
    await yard.beat()
    return yard


async def live(documents: Any, seed: int, steps: Sequence[Step]) -> Yard:
    """A history, and what it comes to."""
    yard = await make_yard(documents, seed)
    yard.dispatch([("small 0", "success")])
    for step in steps:
        await take(yard, step)
        await yard.check()
    yard.github.faults.clear()
    await yard.settle()
    return yard


async def live_in_order(documents: Any, ends: Sequence[tuple[str, str]]) -> Yard:
    """The same jobs, every webhook delivered once and in order, nobody killed."""
    yard = await make_yard(documents, 1)
    jobs = yard.dispatch([(name, end) for name, end in ends])
    for job in jobs:
        if job.script == "cancelled":
            yard.cancel(job)
    while yard.github.waiting:
        await yard.deliver(yard.github.waiting.pop(0))
    await yard.settle()
    return yard


LOOP = PatientLoop()


@lru_cache(maxsize=1000)
def orderly_outcome(ends: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    async def outcome() -> dict[str, Any]:
        return await (await live_in_order(MemoryDocuments(), ends)).outcome()

    return LOOP.run_until_complete(outcome())


steps = st.lists(st.tuples(st.sampled_from(list(HAPPENINGS)), st.integers(0, 5), st.integers(0, 60)), max_size=30)


@settings(max_examples=HISTORIES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 9), steps=steps)
def test_every_history_ends_as_the_orderly_one(seed: int, steps: list[Step]) -> None:
    async def history() -> tuple[dict[str, Any], tuple[tuple[str, str], ...]]:
        yard = await live(MemoryDocuments(), seed, steps)
        ends = tuple((job.name, str(job.conclusion)) for job in yard.world.jobs.values())
        return await yard.outcome(), ends

    outcome, ends = LOOP.run_until_complete(history())
    expected = orderly_outcome(ends)
    assert outcome == {name: expected[name] for name in outcome}
