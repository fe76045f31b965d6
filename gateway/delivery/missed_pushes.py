"""Gap notices: a device that comes back is told once what ended while it was away, and why.

Expired, overflowed and recalled pushes never reach it, and a program that shows "you have missed 3 messages", or that
fetches a price list anew, has to know. What was superseded or suppressed is no gap: something newer came, or nobody
wanted it.

Told are devices that have subscribed to their `notices`, a moment after they have connected; what was told is
remembered with the device (`gap_told_to`, the time up to which), before it is sent. The broker keeps the notice for a
device that vanishes again. What thousands of groups of devices have missed is told in several notices.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable
from operator import itemgetter
from typing import Any, NamedTuple

from pyroaring import BitMap

from gateway.delivery_states import MISSED, DeliveryState
from gateway.store.audience.device_sets import segments_of, unpack
from gateway.store.deliveries.conditions import is_one_of
from gateway.store.deliveries.delivery_sets import with_rows
from gateway.store.deliveries.event_log import log_of_device
from gateway.store.protocols import Timers, Writer
from gateway.timestamps import rfc3339

log = logging.getLogger(__name__)

PAUSE_SECONDS = 0.5
"""Seconds after a connection: for its other subscriptions, and so that a storm is a few statements."""
DEVICES_TOGETHER = 250
"""Devices that one statement reads."""
MISSED_SETS = 2_000
"""Outcomes that one operation looks at for what devices have missed, about 10 ms; the next one goes on behind them."""
LISTED_PUSHES = 100
"""Pushes that a notice names; all are counted."""


class ReturnedDevice(NamedTuple):
    """A device that has connected again."""

    app_id: str
    device_id: str


class Missed(NamedTuple):
    """A delivery that ended, in a set, without reaching its device."""

    device_no: int
    push_no: int
    state: DeliveryState
    reason: str | None
    at: int


class MissedPushes:
    """Tells devices that return what they have missed. Loop.

    `is_listening(app_id, device_id)`: connected and subscribed to its notices. `notify(app_id, device_id, content)`
    sends one. `clock_ms` gives server time in milliseconds.
    """

    def __init__(
        self,
        *,
        database: Writer,
        clock_ms: Callable[[], int],
        timers: Timers,
        is_listening: Callable[[str, str], bool],
        notify: Callable[[str, str, dict[str, Any]], None],
    ) -> None:
        self._database = database
        self._clock_ms = clock_ms
        self._timers = timers
        self._is_listening = is_listening
        self._notify = notify
        self._returned: dict[int, ReturnedDevice] = {}
        self._scheduled = False

    def returned(self, device_no: int, app_id: str, device_id: str) -> None:
        """Note a device that can take pushes, for the first time on this connection."""
        self._returned[device_no] = ReturnedDevice(app_id, device_id)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._timers.call_later(PAUSE_SECONDS, self._report)

    def _report(self) -> None:
        self._scheduled = False
        devices: dict[int, ReturnedDevice] = {}
        while self._returned and len(devices) < DEVICES_TOGETHER:
            device_no = next(iter(self._returned))
            device = self._returned.pop(device_no)
            if self._is_listening(*device):
                devices[device_no] = device
        if self._returned:
            self._schedule()
        if not devices:
            return
        now_ms = self._clock_ms()

        def on_commit(found: tuple[dict[int, dict[str, Any]], list[int]]) -> None:
            gaps, unfinished = found
            for device_no, gap in gaps.items():
                self._notify(*devices[device_no], gap)
            for device_no in unfinished:
                self.returned(device_no, *devices[device_no])

        self._database.submit(
            lambda connection: missed_push_rows(connection, list(devices), now_ms),
            on_commit,
            lambda error: log.error("gaps could not be told: %s", error),
        )


def missed_push_rows(
    connection: sqlite3.Connection, devices: list[int], now_ms: int
) -> tuple[dict[int, dict[str, Any]], list[int]]:
    """Find what devices have missed since they were told last; it counts as told. Writer thread.

    Device number -> `{"count", "reasons": {state: n}, "pushes": [{"push_id", "state", "reason", "ended_at"}]}`; and
    the devices for which there may be more.
    """
    rows = connection.execute(
        "SELECT v.no, p.id, d.state, d.reason, d.ended_at, p.no FROM json_each(?) AS wanted"
        " CROSS JOIN device AS v ON v.no = wanted.value"
        f" CROSS JOIN delivery AS d INDEXED BY delivery_missed ON d.device_no = v.no AND d.state {is_one_of(*MISSED)}"
        "  AND d.ended_at > coalesce(v.gap_told_to, 0) AND d.ended_at <= ?"
        " JOIN push AS p ON p.no = d.push_no AND p.app_no > 0 ORDER BY wanted.key, d.ended_at",  # but for beats
        (json.dumps(devices), now_ms),
    ).fetchall()
    in_sets, looked_to = _missed_in_sets(connection, devices, now_ms)
    # What ended behind where sets were looked at is told with the next part, in rows too.
    rows = [row for row in rows if row[4] <= looked_to.get(row[0], now_ms)]
    gaps: dict[int, dict[str, Any]] = {}
    for device_no, push_id, state, reason, ended_at, _ in sorted(rows + in_sets, key=itemgetter(4, 5)):
        gap = gaps.setdefault(device_no, {"count": 0, "reasons": {}, "pushes": []})
        label = DeliveryState(state).label
        gap["count"] += 1
        gap["reasons"][label] = gap["reasons"].get(label, 0) + 1
        if gap["count"] <= LISTED_PUSHES:
            gap["pushes"].append({"push_id": push_id, "state": label, "reason": reason, "ended_at": rfc3339(ended_at)})
    told_to = dict.fromkeys(gaps, now_ms) | looked_to
    connection.execute(
        "UPDATE device SET gap_told_to = told.value ->> 1 FROM json_each(?) AS told WHERE device.no = told.value ->> 0",
        (json.dumps(list(told_to.items())),),
    )
    for device_no, gap in gaps.items():
        log_of_device(connection, "device.gap", now_ms, device_no, gap)
    return gaps, [device_no for device_no, until in looked_to.items() if until < now_ms]


def _missed_in_sets(
    connection: sqlite3.Connection, devices: list[int], now_ms: int
) -> tuple[list[tuple[Any, ...]], dict[int, int]]:
    """What devices have missed of pushes that were stored as sets, as rows; and up to when that was looked at."""
    told_to = dict(
        connection.execute(
            "SELECT no, coalesce(gap_told_to, created_at) FROM device WHERE no IN (SELECT value FROM json_each(?))",
            (json.dumps(devices),),
        ).fetchall()
    )
    found, looked_to = _missed_of(connection, told_to, now_ms)
    ids = dict(
        connection.execute(
            "SELECT no, id FROM push WHERE no IN (SELECT value FROM json_each(?))",
            (json.dumps(list({missed.push_no for missed in found})),),
        ).fetchall()
    )
    return [(one.device_no, ids[one.push_no], one.state, one.reason, one.at, one.push_no) for one in found], looked_to


def _missed_of(
    connection: sqlite3.Connection, devices: dict[int, int], now_ms: int
) -> tuple[list[Missed], dict[int, int]]:
    """Find what has ended, in sets, without reaching these devices (number -> after which time), the oldest first.

    And up to which time was looked, for those devices of whose segments anything was: not before the time given.
    """
    found: list[Missed] = []
    looked_to: dict[int, int] = {}
    room = MISSED_SETS
    ended = (
        "SELECT push_no, state, reason, at, devices FROM outcome_set INDEXED BY outcome_set_missed"
        f" WHERE segment = ? AND state {is_one_of(*MISSED)} AND"
    )
    for segment, here in segments_of(BitMap(devices)):
        if room <= 0:
            looked_to.update((device_no, devices[device_no]) for device_no in here)
            continue
        after, until = min(devices[device_no] for device_no in here), now_ms
        rows = connection.execute(
            f"{ended} at > ? AND at <= ? ORDER BY at LIMIT ?", (segment, after, now_ms, room)
        ).fetchall()
        if len(rows) == room:  # up to a moment and with all of it: a sweep ends many at once
            until = rows[-1][3]
            rows = [row for row in rows if row[3] < until]
            rows += connection.execute(f"{ended} at = ?", (segment, until)).fetchall()
        if rows:
            looked_to.update((device_no, max(devices[device_no], until)) for device_no in here)
        room -= len(rows)
        for push_no, state, reason, at, blob in rows:
            hit = unpack(blob) & here
            if hit:
                hit -= with_rows(connection, push_no, hit)
            found += [
                Missed(device_no, push_no, DeliveryState(state), reason, at)
                for device_no in hit
                if at > devices[device_no]
            ]
    return found, looked_to
