"""Tasks: what one node does for all, whichever claims it first.

Laws
1. A task has one owner, as its row says. A node claims one whose owner's epoch has ended, and keeps it until its own
   has: nothing moves from a live node to another. What the owner before stores is stored before its epoch ends, or
   never (the fence of each group); so there are never two that do it.
2. The new owner first loads what there is of the task, as a start of the only server does. Until then it does nothing.
3. What other nodes store is found by looking: a task that has to notice them has a `follow`, called a few times a
   second by its owner.

A node looks once in CLAIM_SECONDS for tasks that are free, which is one statement, and writes when there are any. One
server by itself has none of this: its components are called as they are.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, TypeVar

from gateway.nodes.membership import Node
from gateway.store.app_locks import NO_APP
from gateway.store.database import Database
from gateway.store.nodes.tasks import add_tasks, claim_task, free_tasks

log = logging.getLogger(__name__)
T = TypeVar("T")

CLAIM_SECONDS = 0.5
"""Time between two looks for tasks that are free, as between two renewals of a lease."""
FOLLOW_SECONDS = 0.25
"""Time between two looks at what other nodes have stored: by so much a step is late that another node made due."""


class TaskName(StrEnum):
    """The tasks, as their rows are named."""

    RECOVERY = "recovery"  #: ends what nodes that have ended left in flight
    SWEEP = "sweep"  #: ends what has outlived its lifetime
    RETENTION = "retention"  #: removes what was kept long enough
    SESSIONS = "sessions"  #: ends MQTT sessions that no node has, and publishes their wills
    QUOTAS = "quotas"  #: removes what is too much: events, messages of devices, answers
    ANALYTICS = "analytics"  #: counts pushes
    FATIGUE = "fatigue"  #: counts alerts by device and day, and reviews caps
    SCHEDULES = "schedules"  #: sends what is due of schedules
    CAMPAIGNS = "campaigns"  #: carries out campaigns
    ESCALATIONS = "escalations"  #: sends the next steps, and clears screens
    HEARTBEATS = "heartbeats"  #: beats
    WATCHES = "watches"  #: tells of senders that are silent
    WEBHOOKS = "webhooks"  #: sends events to webhooks


async def nothing_to_load() -> None:
    """Load nothing: the task has nothing from before."""


@dataclass(slots=True, eq=False)
class _Task:
    """A task, owned by this node or not."""

    load: Callable[[], Awaitable[None]]
    follow: Callable[[], Awaitable[None]] | None
    work: Callable[[], Coroutine[Any, Any, None]] | None
    is_claimed: bool = False
    """Whether the row says that it is ours."""
    is_owned: bool = False
    """Whether it is loaded as well, so that it is done here."""


class Tasks:
    """The tasks that this node owns, or may come to own. Loop."""

    def __init__(self, database: Database, own: Node) -> None:
        self._database = database
        self._own = own
        self._tasks: dict[TaskName, _Task] = {}
        self._works: list[asyncio.Task[None]] = []

    def add(
        self,
        name: TaskName,
        load: Callable[[], Awaitable[None]] = nothing_to_load,
        follow: Callable[[], Awaitable[None]] | None = None,
        work: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        """Add a task that this node may claim, before `run`.

        `load` reads what there is of it, when it is claimed, and `follow` what other nodes have stored since, again and
        again. `work` is begun behind `load`, and goes on until it is cancelled.
        """
        self._tasks[name] = _Task(load, follow, work)

    def is_owned(self, name: TaskName) -> bool:
        """Whether this node does a task now."""
        return self._tasks[name].is_owned

    def owned(self) -> list[TaskName]:
        """List the tasks that this node does, for people."""
        return [name for name, task in self._tasks.items() if task.is_owned]

    def by_owner(self, name: TaskName, work: Callable[[], T]) -> Callable[[], T | None]:
        """Make a work that does nothing unless this node owns the task."""
        task = self._tasks[name]
        return lambda: work() if task.is_owned else None

    async def run(self) -> None:
        """Claim what is free, and follow what others store, until cancelled."""
        try:
            async with asyncio.TaskGroup() as loops:
                loops.create_task(self._claim_repeatedly())
                loops.create_task(self._follow_repeatedly())
        finally:
            for work in self._works:
                work.cancel()
            await asyncio.gather(*self._works, return_exceptions=True)

    async def claim(self) -> None:
        """Claim the tasks that are free, and load them."""
        wanted = [name for name, task in self._tasks.items() if not task.is_claimed]
        if wanted:
            await self._claim_free(wanted)
        for name, task in self._tasks.items():
            if task.is_claimed and not task.is_owned:
                try:
                    await task.load()
                except Exception as error:  # nobody else can have it, and the others are not to wait for it
                    log.warning("the task %s cannot be begun, trying again: %s", name, error)
                    continue
                task.is_owned = True
                if task.work is not None:
                    work = asyncio.get_running_loop().create_task(task.work(), name=f"the task {name}")
                    work.add_done_callback(_report_failure)
                    self._works.append(work)
                log.info("this node does the task %s", name)

    async def _claim_free(self, wanted: Sequence[TaskName]) -> None:
        free = await self._database.read_soon(partial(free_tasks, names=wanted))
        for one in free:
            if await self._database.write(
                partial(claim_task, free=one, node_no=self._own.no, node_epoch=self._own.epoch), apps=NO_APP
            ):
                self._tasks[TaskName(one.name)].is_claimed = True

    async def follow(self) -> None:
        """Have each task that is owned find what other nodes have stored."""
        await asyncio.gather(*(self._follow(name, task) for name, task in self._tasks.items() if task.is_owned))

    @staticmethod
    async def _follow(name: TaskName, task: _Task) -> None:
        if task.follow is not None:
            try:
                await task.follow()
            except Exception as error:  # above all a database that is away: it is tried again
                log.warning("the task %s cannot see what is new, trying again: %s", name, error)

    async def _claim_repeatedly(self) -> None:
        has_rows = False
        while True:
            try:
                if not has_rows:
                    await self._database.write(partial(add_tasks, names=list(self._tasks)), apps=NO_APP)
                    has_rows = True
                await self.claim()
            except Exception as error:  # above all a database that is away: it is tried again
                log.warning("tasks cannot be claimed, trying again: %s", error)
            await asyncio.sleep(CLAIM_SECONDS)

    async def _follow_repeatedly(self) -> None:
        while True:
            await self.follow()
            await asyncio.sleep(FOLLOW_SECONDS)


def _report_failure(work: asyncio.Task[None]) -> None:
    error = None if work.cancelled() else work.exception()
    if error is not None:
        log.critical("%s has failed, and is done again by the next owner only", work.get_name(), exc_info=error)
