"""What became of pushes, counted as it happens: targeted, eligible, delivered, displayed, opened, acted.

Nothing is counted on the hot path: the ledger notes the numbers of pushes of which something has changed, and a few
times a second those are counted anew, set by set, on the writer thread between other operations. A push of more than
DELIVERIES is counted on a reader, a part at a time, and nobody waits for it. What a push counted before is kept with it
(`push_funnel`), so that the difference can be added to the hours of its channel, its devices' tags and its app
(`funnel`). A request reads those rows; it counts only what has changed since.

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
import json
import logging
import math
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import partial
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

from gateway.audience.policy import SHOWN, PolicyBook
from gateway.delivery.event_log import last_position
from gateway.delivery.ledger import Ledger
from gateway.delivery.push import last_push_no, push_number
from gateway.delivery.states import DeliveryState
from gateway.errors import problem
from gateway.store.database import Database
from gateway.store.protocols import Timers
from gateway.timestamps import rfc3339, wall_time

log = logging.getLogger(__name__)

HOUR_MS = 3_600_000
DAY_MS = 86_400_000
PUSHES = 100
"""Pushes that one operation counts, about 1.7 ms of the writer: others wait for it."""
WRITER_DELIVERIES = 1_000
"""Deliveries of those: with 64 tags of each device about 25 ms, with a few about 2."""
DELIVERIES = 5_000
"""Deliveries of a part of a larger push."""
TAGS = 500
"""Tags that are counted of a push, those with most of its deliveries; and in an hour of an app, the first that there
are. The writer stores them all each time that a push is counted, in about 10 ms."""
SETTLE_SECONDS = 1.0
"""That a question about all pushes waits for what has changed to be counted."""
ITEMS = 1_000
"""Of an answer, those with most deliveries."""
PAUSE = 0.05
"""Seconds between two operations."""
LOOK = 0.5
"""Seconds until somebody looks again for a push of many deliveries."""
REST = 4
"""How many times as long as it took to count one of those is no other one counted: a fifth of a core at most."""
RECOUNTED = 10_000
"""Newest pushes that a restart counts anew when it does not know what had changed: after an upgrade, or when events
left that had not been counted."""
AGE = 2_000
"""Milliseconds that changes gather before they are counted, so that most pushes are counted once, when they have been
accepted and delivered."""
SAMPLE = 10_000
"""Deliveries of a push whose times are looked at one by one."""
STEP = math.log(1.2)
LAST_DEVICE = 2**53
STAGES = ("targeted", "eligible", "delivered", "displayed", "dismissed", "opened", "acted")
RATES = {
    "delivered": ("delivered", "eligible"),
    "displayed": ("displayed", "shown"),
    "opened": ("opened", "displayed"),
    "acted": ("acted_on", "opened"),
    "opted_out": ("opted_out", "shown"),
}
"""What each is of what."""
By = Literal["channel", "tag", "hour"]

Tally = Counter[str]
"""Stages; `d<step>` and `o<step>` for the times to deliver and to open; `opted_out`; and `shown`, `acted_on`: what was
delivered and acted of what people see."""


class Analytics:
    """`clock` gives server time in milliseconds."""

    def __init__(
        self, database: Database, ledger: Ledger, book: PolicyBook, clock: Callable[[], int], timers: Timers
    ) -> None:
        self._timers = timers
        self._database = database
        self._ledger = ledger
        self._book = book
        self._clock = clock
        self._aged: set[int] = set()
        """What is being counted; what changes meanwhile gathers in `Ledger.changed`."""
        self._aged_at = 0
        self._large: set[int] = set()
        """Those of them that are counted on a reader."""
        self._now: set[int] = set()
        """What is being counted on the writer."""
        self._on_reader: list[int] = []
        """What is being counted on a reader, or is the next to be."""
        self._asked: set[int] = set()
        """What is being counted because somebody asked."""
        self._position: Position | None = None
        """Everything up to here is in those sets, or has been counted."""
        self._looking = False
        self._counted: set[int] = set()
        """Large ones that this server has counted: what has come to them since is in one of those sets."""
        self._lock = asyncio.Lock()
        """Held while a large push is counted: a later count must not be replaced by an earlier one."""

    async def load(self) -> None:
        """After a restart."""
        numbers, is_known = await self._database.read(uncounted_pushes)
        if not is_known:
            log.info("what had not been counted before the restart is not known: the newest pushes are counted anew")
        self._ledger.changed.update(numbers)

    def tick(self) -> None:
        """Count what has changed. Called a few times a second."""
        if not self._aged and self._clock() - self._aged_at >= AGE and self._ledger.changed and not self._looking:
            self._looking = True
            self._database.submit(position, self._begin, self._failed_to_look)
        if self._now or not self._aged:
            return
        changed = [self._aged.pop() for _ in range(min(len(self._aged), PUSHES))]
        self._now = set(changed)
        reached = self._position if not self._aged else None
        later = self._large.union(self._asked, self._on_reader)

        def operation(connection: sqlite3.Connection) -> Rest:
            rest = count_rows(connection, changed)
            if reached is not None and not rest.left:
                store_position(connection, reached, later.union(rest.large))
            return rest

        def on_commit(rest: Rest) -> None:
            self._now = set()
            self._aged.update(rest.left)
            self._large.update(rest.large)
            if self._aged:
                self._timers.call_later(PAUSE, self.tick)

        def on_error(error: BaseException) -> None:
            log.error("pushes cannot be counted, trying again: %s", error)
            self._now = set()
            self._aged.update(changed)

        self._database.submit(operation, on_commit, on_error)

    def _begin(self, reached: Position) -> None:
        """What changed up to a position has been noted, since callbacks come in the order of the operations."""
        self._looking = False
        self._position = reached
        self._aged |= self._ledger.changed
        self._ledger.changed = set()
        self._aged_at = self._clock()
        self.tick()

    def _failed_to_look(self, error: BaseException) -> None:
        log.error("pushes cannot be counted, trying again: %s", error)
        self._looking = False

    async def count_large(self) -> None:
        """Count pushes of many deliveries, until cancelled."""
        while True:
            pause = LOOK
            if self._large:
                push_no = self._large.pop()
                began = time.monotonic()
                try:
                    await self._count_on_reader(push_no)
                except Exception as error:
                    log.error("a push cannot be counted, trying again: %s", error)
                    self._large.add(push_no)
                pause = max(PAUSE, REST * (time.monotonic() - began))
            await asyncio.sleep(pause)

    async def settle(self, push_no: int | None = None) -> int:
        """Count everything that has changed until now, of one push; or of all, as far as SETTLE_SECONDS allow. How many
        pushes are left, which are counted later."""
        self._ledger.flush()
        await self._database.write(lambda connection: None)  # what was flushed is called back
        # And what is being counted: it may have been read before its last change.
        changed = self._aged.union(self._ledger.changed, self._large, self._now, self._on_reader)
        if push_no is not None:  # an old one may never have been counted, or not since a crash
            changed = {push_no} if push_no in changed or push_no not in self._counted else set()
        for waiting in (self._aged, self._ledger.changed, self._large):
            waiting -= changed
        asked = frozenset(changed)
        self._asked |= asked
        try:
            await self._count_asked(changed, None if push_no is not None else time.monotonic() + SETTLE_SECONDS)
        finally:
            self._asked -= asked
        self._aged |= changed
        return len(changed)

    async def _count_asked(self, changed: set[int], deadline: float | None) -> None:
        """What there was no time for is left in `changed`."""
        while changed and (deadline is None or time.monotonic() < deadline):
            some = [changed.pop() for _ in range(min(len(changed), PUSHES))]
            try:
                rest = await self._database.write(partial(count_rows, push_nos=some))
                changed.update(rest.left)
                for large in rest.large:
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
                    part, part_of_tags, after = await self._database.read(partial(_part, push_no=push_no, after=after))
                    tally.update(part)
                    for tag, of_tag in part_of_tags.items():
                        tags.setdefault(tag, Counter()).update(of_tag)
                tags = dict(sorted(tags.items(), key=lambda item: (-item[1]["targeted"], item[0]))[:TAGS])
                await self._database.write(
                    lambda connection: _store(
                        connection, _open(connection, [push_no]), {push_no: tally}, {push_no: tags}
                    )
                )
                if len(self._counted) >= RECOUNTED:
                    self._counted.clear()
                self._counted.add(push_no)
        finally:
            self._on_reader.remove(push_no)

    async def of_push(self, app_no: int, push_id: str) -> dict[str, Any]:
        """Raises Problem 404, 410."""
        push_no = await self._database.read(lambda connection: push_number(connection, app_no, push_id), app_no)
        if push_no is None:
            raise problem("push_not_found", f"no push {push_id!r} in this app")
        await self.settle(push_no)

        def read(connection: sqlite3.Connection) -> Tally | None:
            row = connection.execute("SELECT content FROM push_funnel WHERE push_no = ?", (push_no,)).fetchone()
            if row is None:
                return None
            tally: Tally = Counter(json.loads(row[0])["tally"])
            if "opted_out" not in tally:  # its deliveries are still there
                tally["opted_out"] = opted_out_after(connection, push_no)
            return tally

        tally = await self._database.read(read, app_no)
        if tally is None:
            raise problem("gone", "this push ended long ago and its counts are no longer kept")
        return {"push_id": push_id, **_described(tally), "counted_at": rfc3339(self._clock())}

    async def by(self, app_no: int, by: By, since: int | None, until: int | None) -> dict[str, Any]:
        """One item per channel, tag or hour of the day, of pushes accepted from `since` to before `until` (ms).

        `limited`: there may be more tags than are counted. `uncounted`: so many pushes have changed since they were
        counted.
        """
        uncounted = await self.settle()
        first = (since or 0) // HOUR_MS
        last = 2**53 if until is None else -(-until // HOUR_MS)
        zone = ZoneInfo(self._book.of(app_no).policy.timezone)

        def read(connection: sqlite3.Connection) -> tuple[dict[str, Tally], bool]:
            tallies: dict[str, Tally] = defaultdict(Counter)
            of_hour: Counter[int] = Counter()
            for key, hour, content in connection.execute(
                "SELECT key, hour, content FROM funnel WHERE app_no = ? AND dimension = ? AND hour >= ? AND hour < ?",
                (app_no, "all" if by == "hour" else by, first, last),
            ):
                shown_ms = wall_time.of((hour + 1) * HOUR_MS - 1)
                name = f"{datetime.fromtimestamp(shown_ms / 1000, zone):%H}" if by == "hour" else key
                tallies[name].update(json.loads(content))
                of_hour[hour] += 1
            chosen = sorted(tallies, key=lambda name: (-tallies[name]["targeted"], name))[:ITEMS]
            full = any(count >= TAGS for count in of_hour.values())
            return {name: tallies[name] for name in sorted(chosen)}, by == "tag" and (full or len(tallies) > ITEMS)

        found, limited = await self._database.read(read, app_no)
        items = [{by: key or None, **_described(tally)} for key, tally in found.items()]
        return {"items": items, "limited": limited, "uncounted": uncounted}


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
        "time_to_deliver_ms": _percentiles(tally, "d"),
        "time_to_open_ms": _percentiles(tally, "o"),
    }


def _percentiles(tally: Mapping[str, int], prefix: str) -> dict[str, int] | None:
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


# -- on the threads of the database ------------------------------------------------------------------------------------


class Position(NamedTuple):
    """How far the log and the pushes have come."""

    event_no: int
    push_no: int


def position(connection: sqlite3.Connection) -> Position:
    return Position(last_position(connection).entry, last_push_no(connection))


def store_position(connection: sqlite3.Connection, reached: Position, later: Iterable[int]) -> None:
    """All is counted up to here, but for the pushes that are counted `later`."""
    connection.execute(
        "INSERT OR REPLACE INTO analytics_position (no, event_no, push_no, later) VALUES (1, ?, ?, ?)",
        (*reached, json.dumps(sorted(later))),
    )


def uncounted_pushes(connection: sqlite3.Connection) -> tuple[set[int], bool]:
    """The pushes of which something may not have been counted; False if some of them may be missing."""
    numbers: set[int] = set()
    row = connection.execute("SELECT event_no, push_no, later FROM analytics_position").fetchone()
    if row is not None:
        event_no, push_no, later = row
        numbers.update(json.loads(later))
        numbers.update(no for (no,) in connection.execute("SELECT no FROM push WHERE no > ?", (push_no,)))
        numbers.update(
            no
            for (no,) in connection.execute(
                "SELECT DISTINCT push_no FROM event WHERE no > ? AND push_no IS NOT NULL", (event_no,)
            )
        )
        (lost_to,) = connection.execute("SELECT coalesce(max(events_lost_to), 0) FROM application").fetchone()
        if lost_to <= event_no:
            return numbers, True
    numbers.update(
        no
        for (no,) in connection.execute(
            "SELECT no FROM push WHERE no > coalesce((SELECT max(push_no) FROM push_funnel), 0) - ?1"
            " ORDER BY no DESC LIMIT ?1 * 11",
            (RECOUNTED,),
        )
    )
    return numbers, row is None and not numbers


class Rest(NamedTuple):
    """Pushes that were not counted."""

    left: list[int]
    """There was no time for them."""
    large: list[int]
    """They have more than WRITER_DELIVERIES."""


def count_rows(connection: sqlite3.Connection, push_nos: list[int]) -> Rest:
    """Count these pushes anew and add the difference to their hours."""
    listed: dict[int, _Open] = {}
    rest = Rest([], [])
    size = 0
    for push_no, push in _open(connection, push_nos).items():
        if push.targeted > WRITER_DELIVERIES:
            rest.large.append(push_no)
        elif size + push.targeted > WRITER_DELIVERIES:
            rest.left.append(push_no)
        else:
            size += push.targeted
            listed[push_no] = push
    if listed:
        _store(connection, listed, *_counted(connection, list(listed)))
    return rest


class _Open(NamedTuple):
    """A push whose counts are not final."""

    app_no: int
    channel: str | None
    accepted_at: int
    targeted: int


def _open(connection: sqlite3.Connection, push_nos: list[int]) -> dict[int, _Open]:
    """Those of these pushes."""
    rows = _rows(
        connection,
        "SELECT json_group_array(json_array(no, app_no, channel, accepted_at, targeted)) FROM push"
        " WHERE no IN (SELECT value FROM json_each(?)) AND final_counts IS NULL",
        json.dumps(push_nos),
    )
    return {no: _Open(*rest) for no, *rest in rows}


def _part(connection: sqlite3.Connection, push_no: int, after: int) -> tuple[Tally, dict[str, Tally], int | None]:
    """Count the deliveries of a push to the next DELIVERIES devices behind a number; the number of the last, if there
    may be more."""
    row = connection.execute(
        "SELECT device_no FROM delivery WHERE push_no = ? AND device_no > ? ORDER BY device_no LIMIT 1 OFFSET ?",
        (push_no, after, DELIVERIES - 1),
    ).fetchone()
    last: int | None = None if row is None else row[0]
    tallies, by_tag = _counted(connection, [push_no], after, LAST_DEVICE if last is None else last)
    return tallies[push_no], by_tag[push_no], last


def _store(
    connection: sqlite3.Connection,
    pushes: dict[int, _Open],
    tallies: dict[int, Tally],
    by_tag: dict[int, dict[str, Tally]],
) -> None:
    """What these pushes count now, and the difference in their hours."""
    wanted = json.dumps(list(pushes))
    before: dict[int, Any] = dict(
        _rows(
            connection,
            "SELECT json_group_array(json_array(push_no, json(content))) FROM push_funnel"
            " WHERE push_no IN (SELECT value FROM json_each(?))",
            wanted,
        )
    )
    added: dict[tuple[int, str, str, int], Tally] = defaultdict(Counter)
    for push_no, (app_no, channel, accepted_at, _) in pushes.items():
        hour = accepted_at // HOUR_MS
        old = before.get(push_no, {"tally": {}, "tags": {}})
        tally = tallies[push_no]
        difference = _less(tally, old["tally"])
        added[app_no, "all", "", hour].update(difference)
        added[app_no, "channel", channel or "", hour].update(difference)
        for tag in by_tag[push_no].keys() | old["tags"].keys():
            added[app_no, "tag", tag, hour].update(_less(by_tag[push_no].get(tag, {}), old["tags"].get(tag, {})))
    counted = [[push_no, {"tally": tallies[push_no], "tags": by_tag[push_no]}] for push_no in pushes]
    connection.execute(
        "INSERT OR REPLACE INTO push_funnel (push_no, content) SELECT value ->> 0, value -> 1 FROM json_each(?)",
        (json.dumps(counted),),
    )
    add_rows(connection, added)


def _less(new: Mapping[str, int], old: Mapping[str, int]) -> dict[str, int]:
    found = {name: new.get(name, 0) - old.get(name, 0) for name in new.keys() | old.keys()}
    return {name: count for name, count in found.items() if count}


_WANTED = (
    "json_each(?1, '$[0]') AS wanted CROSS JOIN push AS p ON p.no = wanted.value CROSS JOIN delivery AS d"
    " ON d.push_no = p.no AND d.device_no > ?1 ->> 1 AND d.device_no <= ?1 ->> 2"
)


def _counted(
    connection: sqlite3.Connection, push_nos: list[int], after: int = 0, last: int = LAST_DEVICE
) -> tuple[dict[int, Tally], dict[int, dict[str, Tally]]]:
    """Of the devices with numbers behind `after`, up to `last`."""
    wanted = json.dumps([push_nos, after, last])
    tallies: dict[int, Tally] = {push_no: Counter() for push_no in push_nos}
    by_tag: dict[int, dict[str, Tally]] = defaultdict(lambda: defaultdict(Counter))
    for push_no, kind, state, count in _rows(
        connection,
        "SELECT json_group_array(json_array(no, kind, state, count)) FROM (SELECT p.no, p.kind, d.state,"
        f" count(*) AS count FROM {_WANTED} GROUP BY p.no, d.state)",
        wanted,
    ):
        _add_state(tallies[push_no], kind in SHOWN, state, count)
    for push_no, kind, tag, state, count in _rows(
        connection,
        "WITH found AS MATERIALIZED (SELECT p.no, p.kind, t.tag, d.state, count(*) AS count"
        f" FROM {_WANTED} CROSS JOIN device_tag AS t ON t.device_no = d.device_no GROUP BY p.no, t.tag, d.state),"
        " ranked AS (SELECT no, tag, row_number() OVER (PARTITION BY no ORDER BY sum(count) DESC, tag) AS place"
        "  FROM found GROUP BY no, tag)"
        " SELECT json_group_array(json_array(no, kind, tag, state, count)) FROM found JOIN ranked USING (no, tag)"
        f" WHERE place <= {TAGS}",
        wanted,
    ):
        _add_state(by_tag[push_no][tag], kind in SHOWN, state, count)
    for push_no, delivered, opened in _rows(
        connection,
        "SELECT json_group_array(json_array(no, json(delivered), json(opened))) FROM (SELECT p.no,"
        " json_group_array(d.delivered_at - p.accepted_at) FILTER (WHERE d.delivered_at IS NOT NULL) AS delivered,"
        " json_group_array(coalesce(d.opened_at, d.acted_at) - p.accepted_at)"
        f"  FILTER (WHERE p.kind IN {SHOWN} AND (d.opened_at IS NOT NULL OR d.acted_at IS NOT NULL)) AS opened"
        f" FROM {_WANTED} AND d.device_no % (1 + p.targeted / {SAMPLE}) = 0 GROUP BY p.no)",
        wanted,
    ):
        for prefix, times in (("d", delivered), ("o", opened)):
            for milliseconds in times:
                tallies[push_no][f"{prefix}{_step(milliseconds)}"] += 1
    return tallies, by_tag


def _step(milliseconds: int) -> int:
    return int(math.log(max(milliseconds, 0) + 1) / STEP)


def _add_state(tally: Tally, shown: bool, state: int, count: int) -> None:
    tally["targeted"] += count
    if state != DeliveryState.SUPPRESSED:
        tally["eligible"] += count
    if not DeliveryState.DELIVERED <= state <= DeliveryState.ACTED:
        return
    tally["delivered"] += count
    if state == DeliveryState.ACTED:
        tally["acted"] += count
    if not shown:
        return
    tally["shown"] += count
    for stage in ("displayed", "opened"):
        if state >= DeliveryState[stage.upper()]:
            tally[stage] += count
    if state == DeliveryState.DISMISSED:
        tally["dismissed"] += count
    if state == DeliveryState.ACTED:
        tally["acted_on"] += count


def add_rows(connection: sqlite3.Connection, added: Mapping[tuple[int, str, str, int], Mapping[str, int]]) -> None:
    """Add to hours: (app, dimension, key, hour since the epoch) -> counts."""
    wanted = [[*key, dict(tally)] for key, tally in _counted_tags(connection, added) if tally]
    if not wanted:
        return
    totals: list[list[Any]] = []
    for app_no, dimension, name, hour, tally, before in _rows(
        connection,
        "SELECT json_group_array(json_array(value ->> 0, value ->> 1, value ->> 2, value ->> 3, json(value -> 4),"
        " (SELECT json(f.content) FROM funnel AS f WHERE f.app_no = value ->> 0 AND f.dimension = value ->> 1"
        "  AND f.key = value ->> 2 AND f.hour = value ->> 3))) FROM json_each(?)",
        json.dumps(wanted),
    ):
        total: Tally = Counter(before or {})
        total.update(tally)
        totals.append([app_no, dimension, name, hour, {stage: count for stage, count in total.items() if count}])
    connection.execute(
        "INSERT OR REPLACE INTO funnel (app_no, dimension, key, hour, content)"
        " SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value -> 4 FROM json_each(?)",
        (json.dumps(totals),),
    )


def _counted_tags(
    connection: sqlite3.Connection, added: Mapping[tuple[int, str, str, int], Mapping[str, int]]
) -> Iterator[tuple[tuple[int, str, str, int], Mapping[str, int]]]:
    """Without tags that would be more than TAGS in their hour."""
    tags: dict[tuple[int, int], set[str]] = {}
    for key, tally in added.items():
        app_no, dimension, tag, hour = key
        if dimension == "tag":
            known = tags.get((app_no, hour))
            if known is None:
                known = tags[app_no, hour] = {
                    known_tag
                    for (known_tag,) in connection.execute(
                        "SELECT key FROM funnel INDEXED BY funnel_age WHERE hour = ? AND app_no = ? AND dimension = ?",
                        (hour, app_no, "tag"),
                    )
                }
            if tag not in known:
                if len(known) >= TAGS:
                    continue
                known.add(tag)
        yield key, tally


def _rows(connection: sqlite3.Connection, sql: str, parameter: str) -> list[Any]:
    """What a statement finds, as the one row of JSON that it answers: each row is a pass of the interpreter lock."""
    (text,) = connection.execute(sql, (parameter,)).fetchone()
    found: list[Any] = json.loads(text)
    return found


def opted_out_after(connection: sqlite3.Connection, push_no: int) -> int:
    """How many people withdrew consent within a day of having been sent this push. Read from its deliveries, if they
    are few, else from the withdrawals since."""
    targeted, accepted_at, closed_at = connection.execute(
        "SELECT targeted, accepted_at, closed_at FROM push WHERE no = ?", (push_no,)
    ).fetchone()
    within = "c.consent = 'denied' AND c.recorded_at BETWEEN d.delivered_at AND d.delivered_at + ?2"
    if targeted <= DELIVERIES:
        rows = connection.execute(
            "SELECT count(*) FROM delivery AS d WHERE d.push_no = ?1 AND EXISTS (SELECT 1 FROM consent_record AS c"
            f" INDEXED BY consent_record_of_device WHERE c.device_no = d.device_no AND {within})",
            (push_no, DAY_MS),
        )
    else:
        until = 2**53 if closed_at is None else closed_at + 2 * DAY_MS
        rows = connection.execute(
            "SELECT count(DISTINCT d.device_no) FROM consent_record AS c INDEXED BY consent_denied"
            f" CROSS JOIN delivery AS d ON d.push_no = ?1 AND d.device_no = c.device_no AND {within}"
            " WHERE c.consent = 'denied' AND c.recorded_at BETWEEN ?3 AND ?4",
            (push_no, DAY_MS, accepted_at, until),
        )
    found: int = rows.fetchone()[0]
    return found


def finish_row(connection: sqlite3.Connection, push_no: int) -> None:
    """Its deliveries are about to be removed: keep what is read from them."""
    connection.execute(
        "UPDATE push_funnel SET content = json_set(content, '$.tally.opted_out', ?) WHERE push_no = ?",
        (opted_out_after(connection, push_no), push_no),
    )


def opted_out(
    connection: sqlite3.Connection, app_no: int, device_no: int, denied: bool, muted: Iterable[str], now: int
) -> None:
    """A person has denied consent, or muted channels: counted in this hour."""
    hour = now // HOUR_MS
    added: dict[tuple[int, str, str, int], Mapping[str, int]] = {
        (app_no, "channel", channel, hour): {"opted_out": 1} for channel in muted
    }
    if denied:
        added[app_no, "all", "", hour] = {"opted_out": 1}
        for (tag,) in connection.execute("SELECT tag FROM device_tag WHERE device_no = ?", (device_no,)):
            added[app_no, "tag", tag, hour] = {"opted_out": 1}
    add_rows(connection, added)
