"""Draining: whose mailbox is read next, how much of it at once, and how urgent a push must be to be read now.

A connected device has a `Slot`, whose lane says how its next push travels:

    CLOSED    connected but not able to take pushes (no subscription, or its inflight messages are still being judged)
    WAITING   in a line for its mailbox to be read
    READING   being read
    OPEN      its mailbox is empty: what is accepted goes from group commit to socket without being read back
    FULL      the carrier had no room; the rest waits on disk until it says `ready`

There is a line for each priority. A device stands in the first; having been given what is critical, it goes on to the
line of the most urgent push that is left. The first lines are read first, many devices with one statement.

Laws
1. Critical first across the fleet. While a storm of connections goes on, only the first line is read: what is less
   urgent waits until (nearly) everybody is back who has something critical, but not longer than `MAX_HOLD`.
2. The first `Slot.drained` priorities are up to date: such pushes go straight to the socket, whatever else the device
   waits for, and none that was stored before `Slot.read_to` is left. So a read is of one priority only.
3. What one read takes of memory and of the loop is bounded, however many devices and pushes wait.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from gateway.delivery.engine import Message
from gateway.delivery.ledger import RETRY_SECONDS, Ledger
from gateway.delivery.push import ActivePush, last_push_no, load_pushes
from gateway.delivery_states import IS_WAITING, PRIORITIES
from gateway.store.protocols import Timers, Writer

log = logging.getLogger(__name__)

ALL = len(PRIORITIES)
READ_SLOTS = 250
"""Devices whose mailboxes one statement reads."""
READ_ROWS = 1_000
"""Pushes that one read hands over, about 10 ms of the loop."""
READ_BYTES = 16 * 1024 * 1024
"""Wire payload of those."""
STORM_CONNECTS = 200
"""Connections within a second that make a storm; CALM_MS after the last one it is over."""
STORM_MS = 1_000
CALM_MS = 300
MAX_HOLD = 30_000
"""Milliseconds that a storm may keep back what is not critical: so long may the whole fleet take to return."""


class Lane(Enum):
    CLOSED = "closed"
    WAITING = "waiting"
    READING = "reading"
    OPEN = "open"
    FULL = "full"


@dataclass(slots=True, eq=False)
class Slot:
    """A connected device."""

    client_id: str
    device_no: int
    app_no: int
    topic: str
    connected_at: int
    deliver: Callable[[Message, int], bool]
    """The engine's `deliver_to` for this client."""
    granted: int = 0
    """QoS of its subscription to its push topic."""
    lane: Lane = Lane.CLOSED
    line: int = 0
    """Its line: the priority that is read next."""
    drained: int = 0
    """So many priorities, from the most urgent on, need no reading: pushes go straight to the socket."""
    read_to: list[int] = field(default_factory=lambda: [0] * ALL)
    """By priority: the last push that was stored when this part of its mailbox was read; what is later comes by an
    offer."""


@dataclass(slots=True, frozen=True)
class _Page:
    """What one read found for one device, in drain order."""

    push_nos: list[int]
    is_last: bool
    """There is no more of the priority that was asked for."""
    next_priority: int
    """The most urgent priority below it that something waits with; ALL: nothing waits."""

    def with_judged(self, push_nos: list[int]) -> _Page:
        """With those that were judged, up to where the page ends."""
        if not push_nos:
            return self
        end = None if self.is_last else self.push_nos[-1] if self.push_nos else 0
        here = [no for no in push_nos if end is None or no < end]
        return _Page(sorted([*self.push_nos, *here]), self.is_last, self.next_priority)


class Drain:
    """`hand_over` gives a slot what was read for it and says whether there was room; `in_flight` counts what a client
    has not acknowledged; `clock` gives server time in milliseconds."""

    def __init__(
        self,
        database: Writer,
        ledger: Ledger,
        clock: Callable[[], int],
        timers: Timers,
        hand_over: Callable[[Slot, list[ActivePush]], bool],
        in_flight: Callable[[str], int],
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._clock = clock
        self._timers = timers
        self._hand_over = hand_over
        self._in_flight = in_flight
        self._lines: list[dict[int, Slot]] = [{} for _ in PRIORITIES]
        self._scheduled = self._under_way = self._holding = False
        self._second_began = self._second_count = 0
        self._storm_since: int | None = None
        self._calm_at = 0

    def noticed_connection(self, now: int) -> None:
        """A device has connected: is it one of very many?"""
        if now - self._second_began >= STORM_MS:
            self._second_began, self._second_count = now, 0
        self._second_count += 1
        if self._second_count >= STORM_CONNECTS:
            self._calm_at = now + CALM_MS
            if self._storm_since is None:
                self._storm_since = now

    def begin(self, slot: Slot) -> None:
        """The device can take pushes: read its mailbox from the most urgent on."""
        slot.drained = 0
        self._stand(slot, 0)

    def read_again(self, slot: Slot) -> None:
        """Something was stored for the device that is judged when its mailbox is read, in its place: until then nothing
        goes straight to the socket."""
        if slot.lane is not Lane.CLOSED and slot.lane is not Lane.FULL:  # those are read from the first on anyway
            self.leave(slot, Lane.FULL)
            self.begin(slot)

    def leave(self, slot: Slot, lane: Lane) -> None:
        """Nothing can be handed to it for now."""
        if slot.lane is Lane.WAITING:
            del self._lines[slot.line][slot.device_no]
        slot.lane = lane
        slot.drained = 0

    @property
    def waiting(self) -> int:
        """Devices that stand in a line, for metrics."""
        return sum(map(len, self._lines))

    def _stand(self, slot: Slot, priority: int) -> None:
        slot.lane = Lane.WAITING
        slot.line = priority
        self._lines[priority][slot.device_no] = slot
        self._go_on()

    def _go_on(self) -> None:
        if not self._scheduled and not self._under_way:
            self._scheduled = True
            self._timers.call_soon(self._read)

    def _held(self, now: int) -> int:
        """Milliseconds that what is not critical has to wait."""
        if self._storm_since is None:
            return 0
        left = min(self._calm_at, self._storm_since + MAX_HOLD) - now
        if left <= 0:
            self._storm_since = None
        return max(left, 0)

    def _read(self) -> None:
        self._scheduled = False
        if self._under_way:
            return
        priority = next((number for number, line in enumerate(self._lines) if line), None)
        if priority is None:
            return
        now = self._clock()
        held = self._held(now)
        if held and priority:
            if not self._holding:
                self._holding = True
                self._timers.call_later(held / 1000, self._held_long_enough)
            return
        slots, in_flight = self._first_of(priority)
        for slot in slots:
            slot.lane = Lane.READING
        self._under_way = True
        self._ledger.flush()  # what is acknowledged need not be read and passed over
        self._database.submit(
            self._operation(slots, priority, READ_ROWS // len(slots) + in_flight, now),
            lambda found: self._found(slots, *found),
            lambda error: self._failed(slots, error),
        )

    def _held_long_enough(self) -> None:
        self._holding = False
        self._go_on()

    def _first_of(self, priority: int) -> tuple[list[Slot], int]:
        """The first of a line, and how much the busiest has in flight: it waits on disk as well and comes first, so
        as much more is read for each. Only a few of them, if it is much."""
        line = self._lines[priority]
        slots: list[Slot] = []
        rows = most = 0
        for slot in line.values():
            in_flight = self._in_flight(slot.client_id)
            rows += in_flight
            if slots and (len(slots) == READ_SLOTS or rows > READ_ROWS):
                break
            slots.append(slot)
            most = max(most, in_flight)
        for slot in slots:
            del line[slot.device_no]
        return slots, most

    def _operation(
        self, slots: list[Slot], priority: int, limit: int, now: int
    ) -> Callable[[sqlite3.Connection], tuple[int, list[_Page], list[ActivePush], list[int]]]:
        devices = [slot.device_no for slot in slots]
        ledger = self._ledger

        def operation(connection: sqlite3.Connection) -> tuple[int, list[_Page], list[ActivePush], list[int]]:
            pages = page_rows(connection, devices, priority, limit, ledger.is_sent, now, ledger.limited)
            ended: list[int] = []
            if ledger.limited and priority == 0:
                passed, ended = ledger.check_in_place(connection, devices, now)
                pages = [page.with_judged(passed.get(no, [])) for no, page in zip(devices, pages, strict=False)]
            missing = {no for page in pages for no in page.push_nos if ledger.pushes.get(no) is None}
            return last_push_no(connection), pages, load_pushes(connection, missing) if missing else [], ended

        return operation

    def _failed(self, slots: list[Slot], error: BaseException) -> None:
        log.error("mailboxes cannot be read, trying again: %s", error)
        self._timers.call_later(RETRY_SECONDS, lambda: self._again(slots))

    def _again(self, slots: list[Slot]) -> None:
        self._under_way = False
        for slot in slots:
            if slot.lane is Lane.READING:
                self._stand(slot, slot.line)
        self._go_on()

    def _found(
        self, slots: list[Slot], read_to: int, pages: list[_Page], loaded: list[ActivePush], ended: list[int]
    ) -> None:
        self._under_way = False
        self._ledger.note_ended(ended)
        unknown = {push.no: push for push in loaded}
        # Before the next is read: whoever stands in a line again may be in that, and must be given nothing of this.
        given = [(slot, page) for slot, page in zip(slots, pages, strict=False) if slot.lane is Lane.READING]
        for slot in slots[len(pages) :]:  # there were too many bytes before them
            if slot.lane is Lane.READING:
                self._stand(slot, slot.line)
        self._read()  # on the writer's thread, while these are handed over
        for slot, page in given:
            if slot.lane is Lane.READING:
                for priority in range(slot.line, page.next_priority):  # those in between are empty
                    slot.read_to[priority] = read_to
                self._give(slot, page, unknown)
        self._go_on()

    def _give(self, slot: Slot, page: _Page, unknown: dict[int, ActivePush]) -> None:
        ready: list[ActivePush] = []
        for no in page.push_nos:
            push = self._ledger.pushes.get(no) or unknown.get(no)
            if push is None:  # it was in memory when the page was read, and is not any more
                self._stand(slot, slot.line)
                return
            ready.append(push)
        if not self._hand_over(slot, ready):
            self.leave(slot, Lane.FULL)
        elif not page.is_last:
            self._stand(slot, slot.line)
        else:
            slot.drained = page.next_priority
            if page.next_priority == ALL:
                slot.lane = Lane.OPEN
            else:
                self._stand(slot, page.next_priority)


# -- on the writer thread ----------------------------------------------------------------------------------------------


def page_rows(
    connection: sqlite3.Connection,
    devices: list[int],
    priority: int,
    limit: int,
    is_sent: Callable[[int, int], bool],
    now: int,
    limited: bool = False,
) -> list[_Page]:
    """For each device number the oldest `limit` waiting pushes of this priority, without those in flight, and without
    limited ones, where there may be any (that costs a look at each row).

    Fewer pages than asked for if they would be more than READ_BYTES. One row comes back, whatever is found: each row is
    a pass of the interpreter lock. SQLite cannot limit the rows of each device, so it looks for the first one too many.
    """
    here = " AND d.not_before IS NULL" if limited else ""
    (text,) = connection.execute(
        "WITH edge AS MATERIALIZED (SELECT slot.value AS device_no,"
        " (SELECT d.push_no FROM delivery AS d INDEXED BY delivery_mailbox JOIN push AS p ON p.no = d.push_no"
        f"   WHERE d.device_no = slot.value AND d.state {IS_WAITING} AND d.priority = ?2 AND p.expires_at > ?3{here}"
        "   ORDER BY d.push_no LIMIT 1 OFFSET ?4) AS stop,"
        " (SELECT d.priority FROM delivery AS d INDEXED BY delivery_mailbox JOIN push AS p ON p.no = d.push_no"
        f"   WHERE d.device_no = slot.value AND d.state {IS_WAITING} AND d.priority > ?2 AND p.expires_at > ?3{here}"
        "   ORDER BY d.priority LIMIT 1) AS below"
        " FROM json_each(?1) AS slot ORDER BY slot.key)"
        "SELECT json_group_array(json_array(stop IS NULL, coalesce(below, ?5), (SELECT json_group_array("
        "   json_array(d.push_no, d.size)) FROM delivery AS d INDEXED BY delivery_mailbox"
        "   JOIN push AS p ON p.no = d.push_no"
        f"   WHERE d.device_no = edge.device_no AND d.state {IS_WAITING} AND d.priority = ?2"
        f"   AND d.push_no < coalesce(stop, 1 << 62) AND p.expires_at > ?3{here}))) FROM edge",
        (json.dumps(devices), priority, now, limit, ALL),
    ).fetchone()
    pages: list[_Page] = []
    budget = READ_BYTES
    for device_no, (is_last, next_priority, rows) in zip(devices, json.loads(text), strict=True):
        push_nos: list[int] = []
        for push_no, size in sorted(rows):
            if is_sent(push_no, device_no):
                continue
            if budget <= 0:
                is_last = False
                break
            push_nos.append(push_no)
            budget -= size
        pages.append(_Page(push_nos, bool(is_last), next_priority))
        if budget <= 0:
            break
    return pages
