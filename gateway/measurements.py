"""Measurements for `/metrics` that take time of their own: made in the background, shown whenever somebody asks.

What is counted where it happens is read by `metrics` directly. Here is what has to be looked up: the states of all
deliveries, those that have ended undelivered, the critical pushes that wait; and by how much the event loop is late.
What is read for that fills the curves of `GET /v1/stats` as well (`minute_counts`). Where other nodes serve the same
apps, what these have accepted is counted from what is stored, and they are asked who is connected to them.

Laws
1. The hot path pays nothing. Ends, and what else happens, are counted from the event log, which has each of them once
   and committed (`store/deliveries/event_log`), so an operation that is rolled back or run again counts for nothing.
2. A look that grows with what is stored takes a hundredth of a core and a tenth of the time at most, that of the disk
   included (`Pace`), on the reader that the server keeps for itself. So a figure may be old, and never costs more.
3. Label values are bounded: states, reasons of ours, and `other` for whatever would be too many.

Everything here runs on the loop; what is read is in `store/analytics/delivery_counts`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

from pyroaring import BitMap

from gateway.audience.enrolments import EnrolmentQuota
from gateway.delivery.acceptance import Acceptance
from gateway.delivery.device_connections import DeviceConnections
from gateway.delivery.hand_over import HandOver
from gateway.delivery.ledger import Ledger
from gateway.delivery_states import DeliveryState
from gateway.latency import LatencyHistogram
from gateway.minute_counts import EVENT_TYPES, MINUTE_MS, MinuteCounts
from gateway.store.analytics.delivery_counts import (
    count_by_state,
    count_events,
    count_pushes,
    count_waiting,
    longest_waiting_critical,
)
from gateway.store.audience.devices import count_devices
from gateway.store.database import Database
from gateway.store.deliveries.event_log import ENDS
from gateway.store.nodes.horizon import Horizon, newest_numbers
from gateway.store.numbers import last_number
from gateway.store.transaction import Transaction

log = logging.getLogger(__name__)
T = TypeVar("T")

CENSUS_INTERVAL_SECONDS = 60.0
"""Seconds between two counts of all deliveries, at least."""
CRITICAL_INTERVAL_SECONDS = 2.0
"""Seconds between two looks for critical pushes that wait, at least."""
WAITING_INTERVAL_SECONDS = 5.0
"""Seconds between two counts of what waits, at least."""
ENROLLED_INTERVAL_SECONDS = 10.0
"""Seconds between two counts of the devices of all apps, at least, where other nodes enrol as well."""
CPU_FACTOR = 100
"""The pause after a look as a multiple of the CPU time that it took, at least."""
WAIT_FACTOR = 10
"""The pause as a multiple of all the time that it took: on a cold ledger it waits for the disk, as others do."""
TURN_SECONDS = 1.0
"""Seconds between two turns of what is measured in the background."""
LAG_SECONDS = 0.1
"""Seconds between two measurements of the event loop."""
ENTRIES_PER_READ = 20_000
"""Entries of the event log that one read counts, about 10 ms."""
CRITICAL_DEVICES = 1_000
"""Devices with a critical push that waits, and pushes that wait in sets, of which one look finds out how long: those
that have waited longest. More would be no news."""
MAX_REASONS = 64
"""Reasons that have a time series of their own, several times what there are; more count as `other`."""
KNOWN_ENDS = (
    ("expired", "ttl"),
    ("superseded", "collapse_key"),
    ("superseded", "digested"),
    ("cancelled", "recalled"),
    ("cancelled", "mailbox_emptied"),
    ("cancelled", "removed_from_mailbox"),
    ("overflowed", "mailbox_bytes"),
    ("overflowed", "mailbox_limit"),
    ("refused", "not_acknowledged"),
    ("refused", "packet_too_large"),
    ("refused", "reason_code"),
    ("suppressed", "capped"),
    ("suppressed", "channel_muted"),
    ("suppressed", "no_consent"),
    ("suppressed", "no_text"),
    ("suppressed", "quiet_hours"),
    ("revoked", "device_removed"),
)
"""States and reasons that are shown from the start, as 0: Prometheus does not see a counter's first step from nothing
to 1."""


class Pace:
    """Says when a look is due whose share of core and disk is bounded."""

    def __init__(self, interval_seconds: float) -> None:
        self._interval_seconds = interval_seconds
        self._next = 0.0
        self._under_way = False

    def begin(self, now: float) -> bool:
        """Whether it is due; then `end` follows. `now` gives seconds that only grow."""
        if now < self._next or self._under_way:
            return False
        self._under_way = True
        return True

    def end(self, now: float, pause_seconds: float) -> None:
        """Note that it has been done, or has failed; `now` as `begin` had it, and the pause that it is worth."""
        self._under_way = False
        self._next = now + max(self._interval_seconds, pause_seconds)


def with_pause(operation: Callable[[Transaction], T]) -> Callable[[Transaction], tuple[T, float]]:
    """Make a read also answer the pause that it is worth, in seconds."""

    def run(transaction: Transaction) -> tuple[T, float]:
        began, cpu_began = time.monotonic(), time.thread_time()
        found = operation(transaction)
        cpu = time.thread_time() - cpu_began
        return found, max(CPU_FACTOR * cpu, WAIT_FACTOR * (time.monotonic() - began))

    return run


class DeliveryCensus:
    """Counts of the deliveries in each state, as of a moment ago."""

    def __init__(self, database: Database, ledger: Ledger) -> None:
        self._database = database
        self._ledger = ledger
        self._pace = Pace(CENSUS_INTERVAL_SECONDS)
        self.by_state: dict[str, int] = {state.label: 0 for state in DeliveryState}
        self.devices = 0
        """Enrolled."""
        self.counted_at = 0.0
        """Wall clock, as Prometheus wants it; 0: not yet."""

    async def count_if_due(self, now: float) -> None:
        """Count deliveries, unless that was done a short time ago. `now` gives seconds that only grow."""
        if not self._pace.begin(now):
            return
        pause = 0.0
        try:
            (rows, self.devices), pause = await self._database.read(with_pause(count_by_state))
        finally:
            self._pace.end(now, pause)
        counts = {state.label: 0 for state in DeliveryState}
        for state, count in rows:
            counts[DeliveryState(state).label] = count
        in_flight = min(self._ledger.pushes.in_flight(), counts["waiting"])
        counts["waiting"] -= in_flight
        counts["sent"] += in_flight
        self.by_state = counts
        self.counted_at = time.time()


class WaitingDeliveries:
    """Counts of the deliveries of each app that wait or are in flight, as of a moment ago. `clock_ms` gives server time
    in milliseconds."""

    def __init__(self, database: Database, clock_ms: Callable[[], int]) -> None:
        self._database = database
        self._clock_ms = clock_ms
        self._pace = Pace(WAITING_INTERVAL_SECONDS)
        self.by_app: dict[int, int] = {}
        self.counted_at: int | None = None
        """Server time; None: not yet."""

    async def count_if_due(self, now: float) -> None:
        """Count them, unless that was done a short time ago. `now` gives seconds that only grow."""
        if not self._pace.begin(now):
            return
        pause = 0.0
        counted_at = self._clock_ms()
        try:
            self.by_app, pause = await self._database.read(with_pause(count_waiting))
        finally:
            self._pace.end(now, pause)
        self.counted_at = counted_at


class EnrolledDevices:
    """Counts the devices of each app anew now and then, for overviews: other nodes enrol and remove as well."""

    def __init__(self, database: Database, quota: EnrolmentQuota) -> None:
        self._database = database
        self._quota = quota
        self._pace = Pace(ENROLLED_INTERVAL_SECONDS)

    async def count_if_due(self, now: float) -> None:
        """Count them, unless that was done a short time ago. `now` gives seconds that only grow."""
        if not self._pace.begin(now):
            return
        pause = 0.0
        self._quota.begin_count()
        try:
            devices, pause = await self._database.read(with_pause(count_devices))
        finally:
            self._pace.end(now, pause)
        self._quota.counted(devices)


class EndedDeliveries:
    """Counts of the deliveries that have ended undelivered in this run, by state and reason.

    Everything that is counted in the event log on the way goes to `minutes`.
    """

    def __init__(self, database: Database, minutes: MinuteCounts) -> None:
        self._database = database
        self._minutes = minutes
        self._counted_to: int | None = None
        """Number of the last entry of the event log that has been counted; None: before the first look."""
        self.by_end: dict[tuple[str, str], int] = dict.fromkeys(KNOWN_ENDS, 0)

    async def load(self) -> None:
        """Begin behind what an earlier run has logged, after a start and before anything ends."""
        self._counted_to = await self._database.read(partial(last_number, table="event"))

    async def count_new(self, last: int | None = None) -> None:
        """Count what has been logged since the last time, up to this entry; None: to the newest."""
        if self._counted_to is None:
            await self.load()
        more = True
        while more:
            read = partial(
                count_events,
                after=self._counted_to or 0,
                entries=ENTRIES_PER_READ,
                types=EVENT_TYPES,
                unit_ms=MINUTE_MS,
                last=last,
            )
            rows, self._counted_to, more = await self._database.read(read)
            for app_no, event, reason, minute, devices in rows:
                self._minutes.add_events(app_no, event, minute, devices)
                if event in _END_TYPES:
                    self._add(event.removeprefix("delivery."), reason or "", devices)

    def _add(self, state: str, reason: str, count: int) -> None:
        end = (state, "reason_code" if reason.startswith("reason_code_") else reason)
        if end not in self.by_end and len(self.by_end) >= MAX_REASONS:
            end = (state, "other")
        self.by_end[end] = self.by_end.get(end, 0) + count


_END_TYPES = frozenset(f"delivery.{state.label}" for state in ENDS)


class CriticalPushes:
    """Ages of the critical pushes that have waited longest: for a connected device, and for one that is away.

    What is in flight waits too. A connected device has been waiting since its connection at the earliest. One that is
    connected to another node, which `online` knows as well, is neither here nor away.
    """

    def __init__(
        self,
        database: Database,
        hand_over: HandOver,
        clock_ms: Callable[[], int],
        online: Callable[[], BitMap],
    ) -> None:
        self._database = database
        self._hand_over = hand_over
        self._online = online
        self._clock_ms = clock_ms
        self._pace = Pace(CRITICAL_INTERVAL_SECONDS)
        self._since: dict[str, int | None] = {"connected": None, "away": None}

    def seconds(self) -> dict[str, float]:
        """Seconds by where the device is; 0: nothing waits."""
        now_ms = self._clock_ms()
        return {where: 0.0 if since is None else max(now_ms - since, 0) / 1000 for where, since in self._since.items()}

    async def find_if_due(self, now: float) -> None:
        """Look for what waits, unless that was done a short time ago. `now` gives seconds that only grow."""
        if not self._pace.begin(now):
            return
        pause = 0.0
        try:
            waiting, pause = await self._database.read(
                with_pause(partial(longest_waiting_critical, most=CRITICAL_DEVICES))
            )
        finally:
            self._pace.end(now, pause)
        connected, devices = self._hand_over.connected, self._hand_over.devices
        online = self._online()
        since_connection: list[int] = []
        away: int | None = None
        for accepted_at, waits_for in waiting:
            if away is None and waits_for - online:
                away = accepted_at
            here = (waits_for & connected)[:CRITICAL_DEVICES]
            since_connection += [max(accepted_at, devices[device_no].connected_at) for device_no in here]
        self._since = {"connected": min(since_connection, default=None), "away": away}


class Measurements:
    """Everything that is measured in the background. `clock_ms` gives server time in milliseconds."""

    def __init__(
        self,
        *,
        database: Database,
        ledger: Ledger,
        hand_over: HandOver,
        acceptance: Acceptance,
        connections: DeviceConnections,
        enrolments: EnrolmentQuota,
        clock_ms: Callable[[], int],
    ) -> None:
        self._acceptance = acceptance
        self._connections = connections
        self._clock_ms = clock_ms
        self._database = database
        self._accepted: dict[int, tuple[int, int]] = {}
        """Pushes and deliveries by app, as of the last turn."""
        self._newest = Horizon(0, 0, 0)
        """What there was a turn ago, where other nodes store as well: what has a smaller number is on disk by now,
        unless a group of theirs takes longer. It would not be counted."""
        self._pushes_to = 0
        """Number of the last push that has been counted, where other nodes accept as well."""
        self._online_elsewhere: Mapping[int, int] = {}
        """Devices connected to other nodes by app, as of the last turn."""
        self.minutes = MinuteCounts(clock_ms())
        self.census = DeliveryCensus(database, ledger)
        self.enrolled = EnrolledDevices(database, enrolments)
        self.waiting = WaitingDeliveries(database, clock_ms)
        self.ended = EndedDeliveries(database, self.minutes)
        self.critical = CriticalPushes(database, hand_over, clock_ms, connections.online_set)
        self.lag = LatencyHistogram()
        """Time by which the event loop was late, measured several times a second."""

    async def measure(self) -> None:
        """Measure what is due, a turn each second, until cancelled."""
        while True:
            try:
                await self.count_new()
                await self.critical.find_if_due(time.monotonic())
                await self.waiting.count_if_due(time.monotonic())
                await self.census.count_if_due(time.monotonic())
                if self._connections.elsewhere is not None:
                    await self.enrolled.count_if_due(time.monotonic())
            except Exception as error:  # a metric may be missing; the server may not
                log.warning("deliveries cannot be counted: %s", error)
            await asyncio.sleep(TURN_SECONDS)

    async def load(self) -> None:
        """Begin behind what is stored, after a start and before anything else is."""
        if self._connections.elsewhere is not None:
            self._newest = await self._database.read(newest_numbers)
            self._pushes_to = self._newest.push_no
        await self.ended.load()

    async def count_new(self) -> None:
        """Count what has happened since the last time; where there are other nodes, what had a turn ago."""
        elsewhere = self._connections.elsewhere
        if elsewhere is None:
            self.count_minute()
            await self.ended.count_new()
            return
        self._online_elsewhere = await elsewhere.online_by_app()
        self.count_minute()
        before, newest = self._newest, await self._database.read(newest_numbers)
        await self.ended.count_new(before.event_no)
        read = partial(count_pushes, after=self._pushes_to, last=before.push_no, unit_ms=MINUTE_MS)
        for app_no, minute, pushes, targeted in await self._database.read(read):
            self.minutes.add_pushes(app_no, pushes, targeted, minute)
        self._pushes_to, self._newest = before.push_no, newest

    def count_minute(self) -> None:
        """Add to the present minute what was accepted since the last time, and note its levels."""
        now_ms = self._clock_ms()
        if self._connections.elsewhere is None:
            self._count_accepted(now_ms)
        here = self._connections.online_of
        online = Counter(here) + Counter(self._online_elsewhere) if self._online_elsewhere else here
        self.minutes.note_levels(online, self.waiting.by_app, now_ms)

    def _count_accepted(self, now_ms: int) -> None:
        for app_no, pushes in self._acceptance.accepted_of.items():
            targeted = self._acceptance.targeted_of[app_no]
            before = self._accepted.get(app_no, (0, 0))
            if (pushes, targeted) != before:
                self.minutes.add_pushes(app_no, pushes - before[0], targeted - before[1], now_ms // MINUTE_MS)
                self._accepted[app_no] = pushes, targeted

    async def watch_loop(self) -> None:
        """Measure by how much the event loop is late, until cancelled."""
        while True:
            due = time.monotonic() + LAG_SECONDS
            await asyncio.sleep(LAG_SECONDS)
            self.lag.add(max(time.monotonic() - due, 0.0) * 1000, 1)
