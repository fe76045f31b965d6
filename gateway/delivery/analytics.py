"""Analytics of pushes, counted as things happen: targeted, eligible, delivered, displayed, opened, acted.

Nothing is counted on the hot path: the ledger notes the numbers of pushes of which something has changed, and a few
times a second those are counted anew, set by set, on the writer thread between other operations. A push of more than
WRITER_DELIVERIES is counted on a reader, a part at a time, and nobody waits for it. What a push counted before is kept
with it (`funnels`), so that the difference can be added to the hours of its channel, its devices' tags and its app. A
request reads those rows; it counts only what has changed since.

Counts are cumulative: what was acted on was opened, what was opened was displayed, and all of it delivered. Data and
commands show nothing, so they have no part in what was displayed and opened, nor in the rates of people; among `acted`
are the commands that were carried out as well. A push belongs to the hour in which it was accepted. Times to deliver
and to open are kept as histograms whose steps are a fifth apart, of every delivery up to SAMPLE of a push, of a sample
beyond.

A crash loses no count. When everything that had changed up to a moment has been counted, the operation that counts the
last of it stores how far the event log and the pushes had come by then (`analytics_position`). After a restart what is
behind that position is counted anew, whatever its age: each change of a delivery that counts is in the event log.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any, Literal
from weakref import WeakValueDictionary

from gateway.audience.policy import PolicyStore
from gateway.audience.time_zones import time_zone
from gateway.delivery.ledger import Ledger
from gateway.errors import problem
from gateway.store.analytics.funnels import (
    HOUR_MS,
    KEPT_TAGS,
    MAX_TAGS,
    RECOUNTED_PUSHES,
    STEP,
    CountedTo,
    Tally,
    Uncounted,
    add_up_hours,
    changed_pushes,
    count_part,
    count_rows,
    known_hours,
    open_pushes,
    position,
    read_tally,
    store_counts,
    store_position,
    uncounted_pushes,
)
from gateway.store.app_locks import EVERY_APP, NO_APP
from gateway.store.database import Database
from gateway.store.deliveries.campaign_parts import add_up_campaigns
from gateway.store.deliveries.pushes import push_number
from gateway.store.protocols import Timers
from gateway.store.transaction import Transaction
from gateway.timestamps import rfc3339, wall_time

log = logging.getLogger(__name__)

COUNTED_PUSHES = 25
"""Pushes that one operation counts, about 0.7 ms of the writer: a push that comes meanwhile waits for all of it."""
CATCH_UP_SECONDS = 1.0
"""Time that a question about all pushes waits for what has changed to be counted."""
MAX_ITEMS = 1_000
"""Items of an answer at most: those with most deliveries."""
ADD_UP_SECONDS = 10.0
"""Time that a question has for adding up hours, the newest first, and for waiting for those before it: a week of 500
tags in every hour with all their times, so much more of fewer."""
PAUSE_SECONDS = 0.0125
"""Seconds between two operations: the writer has most of them for others, and 1,900 pushes a second are counted."""
LARGE_PUSH_SECONDS = 0.5
"""Seconds until somebody looks again for a push of many deliveries."""
SHARED_SECONDS = 5.0
"""Time that a question about a push waits for the node that counts large ones: twice what it takes to notice one."""
REST_FACTOR = 4
"""Pause after counting one of those, as a multiple of the time that it took: a fifth of a core at most."""
GATHER_MS = 2_000
"""Milliseconds that changes gather before they are counted, so that most pushes are counted once, when they have been
accepted and delivered."""
STAGES = ("targeted", "eligible", "delivered", "displayed", "dismissed", "opened", "acted")
RATES = {
    "delivered": ("delivered", "eligible"),
    "displayed": ("displayed", "shown"),
    "opened": ("opened", "displayed"),
    "acted": ("acted_on", "opened"),
    "opted_out": ("opted_out", "shown"),
}
"""Rates: the stage that is counted, and the one that it is a share of."""
By = Literal["channel", "tag", "hour", "campaign", "variant"]


class Analytics:
    """Counts what becomes of pushes and answers the sums. Loop.

    `clock_ms` gives server time in milliseconds. `storage_left` says whether the disk has room to accept more: until
    then no counting is begun unasked, and what is left is for what was accepted.
    """

    def __init__(
        self,
        *,
        database: Database,
        ledger: Ledger,
        policies: PolicyStore,
        clock_ms: Callable[[], int],
        timers: Timers,
        storage_left: Callable[[], bool],
    ) -> None:
        self._timers = timers
        self._storage_left = storage_left
        self._database = database
        self._ledger = ledger
        self._policies = policies
        self._clock_ms = clock_ms
        self._aged: set[int] = set()
        """Pushes that are being counted; what changes meanwhile gathers in `Ledger.changed`."""
        self._aged_at = 0
        self._large: set[int] = set()
        """Pushes of many deliveries, which are counted on a reader."""
        self._on_writer: set[int] = set()
        """Pushes that are being counted on the writer."""
        self._on_reader: list[int] = []
        """Pushes that are being counted on a reader, or are the next to be."""
        self._asked: set[int] = set()
        """Pushes that are being counted because somebody asked."""
        self._position: CountedTo | None = None
        """Everything up to here is in those sets, or has been counted."""
        self._reading_position = False
        self._counted: set[int] = set()
        """Large ones that this server has counted: what has come to them since is in one of those sets."""
        self._adding_up: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()
        """Locks by app."""
        self.horizon: Callable[[], Awaitable[tuple[int, int]]] | None = None
        """How far the numbers of events and pushes can be followed, where several nodes store them; None: this server
        stores all of them, and the ledger notes what has changed."""
        self.is_counting = True
        """Whether this server counts, of several; others answer what is stored."""
        self._followed = CountedTo(0, 0)
        """What other nodes have changed is known up to here."""
        self._lock = asyncio.Lock()
        """Held while a large push is counted: a later count must not be replaced by an earlier one."""

    async def load(self) -> None:
        """Find the pushes that were not counted before a restart."""
        if self.horizon is not None:
            self._followed = CountedTo(*await self.horizon())
        numbers, is_known = await self._database.read(uncounted_pushes)
        if not is_known:
            log.info("what had not been counted before the restart is not known: the newest pushes are counted anew")
        if self.horizon is None:
            self._ledger.changed.update(numbers)
        else:
            self._aged, self._position = numbers, self._followed

    async def follow_others(self) -> None:
        """Find what all nodes have changed, once everything before is counted. For the node that counts."""
        assert self.horizon is not None, "there are others"
        is_early = self._clock_ms() - self._aged_at < GATHER_MS
        if self._aged or self._on_writer or is_early or not self._storage_left():
            return
        reached = CountedTo(*await self.horizon())
        if reached == self._followed:
            return
        changed = await self._database.read(partial(changed_pushes, after=self._followed, to=reached))
        self._followed = reached
        self._aged |= changed
        self._position = reached
        self._aged_at = self._clock_ms()
        self.tick()

    def forget_changes(self) -> None:
        """Forget what this node has changed: it is found in the log, by whichever counts."""
        self._ledger.changed.clear()

    def tick(self) -> None:
        """Count what has changed. Called a few times a second."""
        if (
            not self._aged
            and self._clock_ms() - self._aged_at >= GATHER_MS
            and self._ledger.changed
            and self.horizon is None
            and not self._reading_position
            and self._storage_left()
        ):
            self._reading_position = True
            # Everything up to it is on disk, or never comes: whoever writes has been waited for.
            self._database.submit(position, self._start_counting, self._on_position_error, apps=EVERY_APP)
        if self._on_writer or not self._aged:
            return
        changed = [self._aged.pop() for _ in range(min(len(self._aged), COUNTED_PUSHES))]
        self._on_writer = set(changed)
        reached = self._position if not self._aged else None
        later = self._large.union(self._asked, self._on_reader)

        def operation(transaction: Transaction) -> Uncounted:
            rest = count_rows(transaction, changed)
            if reached is not None and not rest.left:
                store_position(transaction, reached, later.union(rest.large))
            return rest

        def on_commit(rest: Uncounted) -> None:
            self._on_writer = set()
            self._aged.update(rest.left)
            self._large.update(rest.large)
            if self._aged:
                self._timers.call_later(PAUSE_SECONDS, self.tick)

        def on_error(error: BaseException) -> None:
            log.error("pushes cannot be counted, trying again: %s", error)
            self._on_writer = set()
            self._aged.update(changed)

        apps = partial(self._ledger.pushes.apps_of, changed)
        self._database.submit(operation, on_commit, on_error, apps=apps, uses_reserve=False)

    def _start_counting(self, reached: CountedTo) -> None:
        """Start to count what has changed up to a position: callbacks come in the order of the operations."""
        self._reading_position = False
        self._position = reached
        self._aged |= self._ledger.changed
        self._ledger.changed = set()
        self._aged_at = self._clock_ms()
        self.tick()

    def _on_position_error(self, error: BaseException) -> None:
        log.error("pushes cannot be counted, trying again: %s", error)
        self._reading_position = False

    async def count_large(self) -> None:
        """Count pushes of many deliveries, until cancelled."""
        while True:
            pause = LARGE_PUSH_SECONDS
            if self._large and self._storage_left():
                push_no = self._large.pop()
                began = time.monotonic()
                try:
                    await self._count_on_reader(push_no)
                except Exception as error:
                    log.error("a push cannot be counted, trying again: %s", error)
                    self._large.add(push_no)
                pause = max(PAUSE_SECONDS, REST_FACTOR * (time.monotonic() - began))
            await asyncio.sleep(pause)

    async def catch_up(self, push_no: int | None = None) -> int:
        """Count everything that has changed until now, of one push or of all; how many pushes are left for later.

        Of all as far as CATCH_UP_SECONDS allow.
        """
        self._ledger.flush()
        await self._database.write(lambda transaction: None, apps=NO_APP)  # what was flushed is called back
        # And what is being counted: it may have been read before its last change.
        changed = self._aged.union(self._ledger.changed, self._large, self._on_writer, self._on_reader)
        if push_no is not None:  # an old one may never have been counted, or not since a crash
            is_counted = push_no in self._counted and self.horizon is None
            changed = {push_no} if push_no in changed or not is_counted else set()
        for waiting in (self._aged, self._ledger.changed, self._large):
            waiting -= changed
        asked = frozenset(changed)
        self._asked |= asked
        try:
            await self._count_asked(changed, None if push_no is not None else time.monotonic() + CATCH_UP_SECONDS)
        finally:
            self._asked -= asked
        self._aged |= changed
        return len(changed)

    async def _count_asked(self, changed: set[int], deadline: float | None) -> None:
        """Count changed pushes until the deadline; the rest is left in `changed`."""
        while changed and (deadline is None or time.monotonic() < deadline):
            some = [changed.pop() for _ in range(min(len(changed), COUNTED_PUSHES))]
            try:
                apps = partial(self._ledger.pushes.apps_of, some)
                rest = await self._database.write(partial(count_rows, push_nos=some), apps=apps)
                changed.update(rest.left)
                for large in rest.large if self.is_counting else ():
                    if deadline is not None and time.monotonic() > deadline:
                        changed.add(large)
                    else:
                        await self._count_on_reader(large)
            except BaseException:
                self._aged |= changed.union(some)
                raise

    async def _count_on_reader(self, push_no: int) -> None:
        self._on_reader.append(push_no)
        try:
            async with self._lock:
                tally: Tally = Counter()
                tags: dict[str, Tally] = {}
                after: int | None = 0
                while after is not None:
                    part, part_of_tags, after = await self._database.read(
                        partial(count_part, push_no=push_no, after=after)
                    )
                    tally.update(part)
                    for tag, of_tag in part_of_tags.items():
                        tags.setdefault(tag, Counter()).update(of_tag)
                tags = dict(sorted(tags.items(), key=lambda item: (-item[1]["targeted"], item[0]))[:MAX_TAGS])
                await self._database.write(
                    lambda transaction: store_counts(
                        transaction, open_pushes(transaction, [push_no]), {push_no: tally}, {push_no: tags}
                    ),
                    apps=partial(self._ledger.pushes.apps_of, [push_no]),
                )
                if len(self._counted) >= RECOUNTED_PUSHES:
                    self._counted.clear()
                self._counted.add(push_no)
        finally:
            self._on_reader.remove(push_no)

    async def of_push(self, app_no: int, push_id: str) -> dict[str, Any]:
        """The funnel of one push. Raises Problem 404, 410."""
        push_no = await self._database.read(lambda transaction: push_number(transaction, app_no, push_id), app_no)
        if push_no is None:
            raise problem("push_not_found", f"no push {push_id!r} in this app")
        await self.catch_up(push_no)

        tally = await self._database.read(partial(read_tally, push_no=push_no), app_no)
        deadline = time.monotonic() + SHARED_SECONDS
        while tally is None and not self.is_counting and time.monotonic() < deadline:
            await asyncio.sleep(LARGE_PUSH_SECONDS)  # it is a large one, and another node counts those
            tally = await self._database.read(partial(read_tally, push_no=push_no), app_no)
        if tally is None:
            raise problem("gone", "this push ended long ago and its counts are no longer kept")
        return {"push_id": push_id, **_described(tally), "counted_at": rfc3339(self._clock_ms())}

    async def by(self, app_no: int, by: By, since: int | None, until: int | None) -> dict[str, Any]:
        """Sums by channel, tag, hour, campaign or variant, of pushes accepted from `since` to before `until` (ms).

        `limited`: there may be more tags than are counted, or hours before `counted_from`, for which there was no time.
        `uncounted`: so many pushes have changed since they were counted.
        """
        uncounted = await self.catch_up()
        deadline = time.monotonic() + ADD_UP_SECONDS
        lock = self._adding_up.setdefault(app_no, asyncio.Lock())  # one question of an app at a time holds its sums
        async with lock:
            if by in ("campaign", "variant"):
                tallies, limited = await self._add_up_campaigns(app_no, by, since, until, deadline)
                counted_from = None
            else:
                tallies, limited, counted_from = await self._add_up(app_no, by, since, until, deadline)
        chosen = sorted(tallies, key=lambda name: (-tallies[name]["targeted"], name))[:MAX_ITEMS]
        return {
            "items": [{by: name or None, **_described(tallies[name])} for name in sorted(chosen)],
            "limited": counted_from is not None
            or (by not in ("channel", "hour") and (limited or len(tallies) > MAX_ITEMS)),
            "counted_from": None if counted_from is None else rfc3339(counted_from * HOUR_MS),
            "uncounted": uncounted,
        }

    async def _add_up_campaigns(
        self, app_no: int, by: Literal["campaign", "variant"], since: int | None, until: int | None, deadline: float
    ) -> tuple[dict[str, Tally], bool]:
        """Add up the parts of campaigns: the sums, and whether there was no time for all of them."""
        first = (since or 0) // HOUR_MS
        end = 2**40 if until is None else -(-until // HOUR_MS)
        tallies: dict[str, Tally] = defaultdict(Counter)
        before: int | None = 2**62
        while before is not None:
            began = time.monotonic()
            part = await self._database.read(
                partial(add_up_campaigns, app_no=app_no, by=by, first_hour=first, before_hour=end, before=before),
                app_no,
            )
            before = part.before
            for name, tally in part.tallies.items():
                tallies[name].update(tally)
            if before is not None:
                ended = time.monotonic()
                if ended > deadline:
                    return tallies, True
                await asyncio.sleep((ended - began) / 2)  # the interpreter lock is everybody's
        return tallies, False

    async def _add_up(
        self, app_no: int, by: By, since: int | None, until: int | None, deadline: float
    ) -> tuple[dict[str, Tally], bool, int | None]:
        """Add up hours: the sums; whether there may be more tags; the hour before which there was no time to read."""
        zone = time_zone(self._policies.of(app_no).policy.timezone)

        def name_of(key: str, hour: int) -> str:
            if by != "hour":
                return key
            shown_ms = wall_time.of((hour + 1) * HOUR_MS - 1)
            return f"{datetime.fromtimestamp(shown_ms / 1000, zone):%H}"

        first, before = await self._database.read(known_hours, app_no)
        first = max(first, (since or 0) // HOUR_MS)
        before = before if until is None else min(before, -(-until // HOUR_MS))
        dimension = "all" if by == "hour" else by
        tallies: dict[str, Tally] = defaultdict(Counter)
        limited = False
        while before > first:
            began = time.monotonic()
            part = await self._database.read(
                partial(add_up_hours, app_no=app_no, dimension=dimension, first=first, before=before, name_of=name_of),
                app_no,
            )
            before = part.first
            for name, tally in part.tallies.items():
                tallies[name].update(tally)
            limited = limited or part.is_full
            if len(tallies) > KEPT_TAGS:
                limited = True
                for name in sorted(tallies, key=lambda name: -tallies[name]["targeted"])[KEPT_TAGS:]:
                    del tallies[name]
            if before > first:
                ended = time.monotonic()
                if ended > deadline:
                    return tallies, limited, before
                await asyncio.sleep((ended - began) / 2)  # the interpreter lock is everybody's
        return tallies, limited, None


def _described(tally: Mapping[str, int]) -> dict[str, Any]:
    rates = {
        rate: round(tally.get(part, 0) / tally[whole], 4) if tally.get(whole) else None
        for rate, (part, whole) in RATES.items()
    }
    if not tally.get("shown") and tally.get("delivered"):  # commands
        rates["acted"] = round(tally.get("acted", 0) / tally["delivered"], 4)
    return {
        **{stage: tally.get(stage, 0) for stage in STAGES},
        "opted_out": tally.get("opted_out", 0),
        "rates": rates,
        "time_to_deliver_ms": percentiles(tally, "d"),
        "time_to_open_ms": percentiles(tally, "o"),
    }


def percentiles(tally: Mapping[str, int], prefix: str) -> dict[str, int] | None:
    """Percentiles in milliseconds of the times whose steps begin with this letter; None if there are none."""
    steps = sorted((int(name[1:]), count) for name, count in tally.items() if name[0] == prefix and name[1:].isdigit())
    total = sum(count for _, count in steps)
    if not total:
        return None
    found: dict[str, int] = {}
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        below = 0
        for step, count in steps:
            below += count
            if below >= share * total:
                found[name] = round(math.exp((step + 0.5) * STEP) - 1)
                break
    return found
