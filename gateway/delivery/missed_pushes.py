"""Gap notices: a device that comes back is told once what ended while it was away, and why.

Expired, overflowed and recalled pushes never reach it, and a program that shows "you have missed 3 messages", or that
fetches a price list anew, has to know. What was superseded or suppressed is no gap: something newer came, or nobody
wanted it.

Told are devices that have subscribed to their `notices`, a moment after they have connected; what was told is
remembered with the device (`gap_told_to`, the time up to which), before it is sent. The broker keeps the notice for a
device that vanishes again. What thousands of groups of devices have missed is told in several notices.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from gateway.delivery_states import DeliveryState
from gateway.store.app_locks import Apps
from gateway.store.deliveries.event_log import log_of_device
from gateway.store.deliveries.missed_pushes import missed_since_told, note_told
from gateway.store.protocols import Timers, Writer
from gateway.store.transaction import Transaction
from gateway.timestamps import rfc3339

log = logging.getLogger(__name__)

PAUSE_SECONDS = 0.5
"""Seconds after a connection: for its other subscriptions, and so that a storm is a few statements."""
DEVICES_TOGETHER = 250
"""Devices that one statement reads."""
LISTED_PUSHES = 100
"""Pushes that a notice names; all are counted."""


class ReturnedDevice(NamedTuple):
    """A device that has connected again."""

    app_id: str
    device_id: str


class MissedPushes:
    """Tells devices that return what they have missed. Loop.

    `is_listening(app_id, device_id)`: connected and subscribed to its notices. `notify(app_id, device_id, content)`
    sends one. `apps_of` says the apps of devices, on any thread. `clock_ms` gives server time in milliseconds.
    """

    def __init__(
        self,
        *,
        database: Writer,
        clock_ms: Callable[[], int],
        timers: Timers,
        is_listening: Callable[[str, str], bool],
        notify: Callable[[str, str, dict[str, Any]], None],
        apps_of: Callable[[Iterable[int]], Apps],
    ) -> None:
        self._database = database
        self._clock_ms = clock_ms
        self._timers = timers
        self._is_listening = is_listening
        self._notify = notify
        self._apps_of = apps_of
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
            lambda transaction: missed_push_rows(transaction, list(devices), now_ms),
            on_commit,
            lambda error: log.error("gaps could not be told: %s", error),
            apps=lambda: self._apps_of(devices),
        )


def missed_push_rows(
    transaction: Transaction, devices: list[int], now_ms: int
) -> tuple[dict[int, dict[str, Any]], list[int]]:
    """Find what devices have missed since they were told last; it counts as told. Writer thread.

    Device number -> `{"count", "reasons": {state: n}, "pushes": [{"push_id", "state", "reason", "ended_at"}]}`; and
    the devices for which there may be more.
    """
    missed, looked_to = missed_since_told(transaction, devices, now_ms)
    gaps: dict[int, dict[str, Any]] = {}
    for device_no, push_id, state, reason, ended_at, _ in missed:
        gap = gaps.setdefault(device_no, {"count": 0, "reasons": {}, "pushes": []})
        label = DeliveryState(state).label
        gap["count"] += 1
        gap["reasons"][label] = gap["reasons"].get(label, 0) + 1
        if gap["count"] <= LISTED_PUSHES:
            gap["pushes"].append({"push_id": push_id, "state": label, "reason": reason, "ended_at": rfc3339(ended_at)})
    told_to = dict.fromkeys(gaps, now_ms) | looked_to
    note_told(transaction, told_to)
    for device_no, gap in gaps.items():
        log_of_device(transaction, "device.gap", now_ms, device_no, gap)
    return gaps, [device_no for device_no, until in looked_to.items() if until < now_ms]
