"""Tasks: one owner at a time, and the next one when its epoch has ended."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial

from gateway.nodes.tasks import TaskName, Tasks
from gateway.store.nodes.tasks import add_tasks
from tests.gateway.nodes.conftest import Pair

NAMES = list(TaskName)


async def both(pair: Pair, loads: Counter[int]) -> list[Tasks]:
    """The tasks of two nodes, which count what they load."""

    def load(number: int) -> None:
        loads[number] += 1

    nodes = []
    for number, (database, owner) in enumerate(zip(*pair, strict=True)):
        tasks = Tasks(database, owner)
        for name in NAMES:
            tasks.add(name, partial(asyncio.to_thread, load, number))
        nodes.append(tasks)
    await pair.databases[0].write(partial(add_tasks, names=NAMES))
    await pair.databases[1].write(partial(add_tasks, names=NAMES))
    return nodes


async def test_each_task_has_one_owner_however_many_ask_at_once(pair: Pair) -> None:
    loads: Counter[int] = Counter()
    nodes = await both(pair, loads)
    await asyncio.gather(*(tasks.claim() for tasks in nodes))
    owned = [set(tasks.owned()) for tasks in nodes]
    assert not owned[0] & owned[1]
    assert owned[0] | owned[1] == set(NAMES)
    assert [loads[0], loads[1]] == [len(names) for names in owned], "what is claimed is loaded once"


async def test_a_task_is_kept_until_its_owner_has_ended(pair: Pair) -> None:
    loads: Counter[int] = Counter()
    first, second = await both(pair, loads)
    done: list[str] = []
    works = [
        tasks.by_owner(TaskName.SWEEP, partial(done.append, name))
        for tasks, name in ((first, "first"), (second, "second"))
    ]
    await first.claim()
    for _ in range(3):
        await second.claim()
        for work in works:
            work()
    assert done == ["first"] * 3
    assert not second.owned()
    await pair.end(0)
    await second.claim()
    works[1]()
    assert done[-1] == "second"
    assert set(second.owned()) == set(NAMES)
    assert loads[1] == len(NAMES)


async def test_what_cannot_be_loaded_is_not_done(pair: Pair) -> None:
    tasks = Tasks(pair.databases[0], pair.owners[0])
    outcomes = [OSError("away"), None]

    async def load() -> None:
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome

    followed: list[bool] = []
    is_followed = asyncio.Event()

    async def follow() -> None:
        followed.append(tasks.is_owned(TaskName.CAMPAIGNS))
        is_followed.set()

    tasks.add(TaskName.CAMPAIGNS, load, follow)
    running = asyncio.create_task(tasks.run())
    await is_followed.wait()  # it is tried again
    running.cancel()
    assert followed[0], "nothing is followed before it is loaded"
    assert not outcomes


async def test_a_task_that_cannot_be_loaded_keeps_no_other_from_being_done(pair: Pair) -> None:
    tasks = Tasks(pair.databases[0], pair.owners[0])
    fails = True

    async def load() -> None:
        if fails:
            raise RuntimeError("what it needs cannot be read")

    tasks.add(TaskName.SCHEDULES, load)
    tasks.add(TaskName.WEBHOOKS)
    await pair.databases[0].write(partial(add_tasks, names=[TaskName.SCHEDULES, TaskName.WEBHOOKS]))
    await tasks.claim()
    assert tasks.owned() == [TaskName.WEBHOOKS]
    fails = False
    await tasks.claim()
    assert tasks.owned() == [TaskName.SCHEDULES, TaskName.WEBHOOKS]
