"""Activity of devices: connected, last seen, last error.

Facts collect in memory and are written together, at most once per interval and only the newest of each kind, so that a
mass reconnect is one statement and not ten thousand. They are not promises: a crash may forget the last second of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from pyroaring import BitMap

from gateway.auth import DeviceIdentity
from gateway.store.app_locks import EVERY_APP, Apps
from gateway.store.audience.devices import store_activity
from gateway.store.protocols import Timers, Writer
from gateway.store.transaction import Transaction

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 0.2
"""Short enough that an operator who looks after a failed attempt finds it."""
MAX_ERROR_CHARACTERS = 500
"""Characters of a `last_error`."""


class DeviceActivity:
    """Gathers what devices do and writes it together. Loop.

    `clock_ms` gives server time in milliseconds.
    """

    def __init__(self, *, database: Writer, clock_ms: Callable[[], int], timers: Timers) -> None:
        self._database = database
        self._clock_ms = clock_ms
        self._timers = timers
        self._connected: dict[int, int] = {}
        self._seen: dict[int, int] = {}
        self._errors: dict[int, tuple[str, int]] = {}
        self._apps: dict[int, int] = {}
        """Their apps, as far as they are known."""
        self._scheduled = False
        self.came = BitMap()
        """Devices that have connected since it was last taken away (`presence_hours`)."""
        self.denied = 0
        """Topics refused to devices, for metrics."""
        self.dropped = 0
        """Device messages that said nothing usable (bad JSON, foreign push ids), for metrics."""

    def connected(self, identity: DeviceIdentity, now_ms: int) -> None:
        self._connected[identity.device_no] = now_ms
        self._apps[identity.device_no] = identity.app_no
        self._schedule()

    def seen(self, identity: DeviceIdentity, now_ms: int) -> None:
        self._seen[identity.device_no] = now_ms
        self._apps[identity.device_no] = identity.app_no
        self._schedule()

    def error(self, device_no: int, text: str, app_no: int | None = None) -> None:
        self._errors[device_no] = (text[:MAX_ERROR_CHARACTERS], self._clock_ms())
        if app_no is not None:
            self._apps[device_no] = app_no
        self._schedule()

    def on_denied(self, identity: DeviceIdentity, text: str) -> None:
        """Count a topic that was refused to a device, and keep it as the device's last error."""
        self.denied += 1
        self.error(identity.device_no, text, identity.app_no)

    def on_dropped(self, device_no: int, text: str, app_no: int | None = None) -> None:
        """Count a message that was dropped, and keep it as the device's last error."""
        self.dropped += 1
        self.error(device_no, text, app_no)

    def last_error(self, device_no: int) -> tuple[str, int] | None:
        """The newest error of a device that is not written yet, with its time (ms)."""
        return self._errors.get(device_no)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._timers.call_later(INTERVAL_SECONDS, self.flush)

    def flush(self) -> None:
        self._scheduled = False
        connected, self._connected = self._connected, {}
        seen, self._seen = self._seen, {}
        apps, self._apps = self._apps, {}
        errors = self._errors
        if not (connected or seen or errors):
            return
        if connected:
            self.came.update(connected)

        written = dict(errors)

        def operation(transaction: Transaction) -> None:
            store_activity(
                transaction, connected, seen, [(text, at, device_no) for device_no, (text, at) in written.items()]
            )

        def known_apps() -> Apps:
            return frozenset(apps.values()) if written.keys() <= apps.keys() else EVERY_APP

        def on_commit(_: None) -> None:
            for device_no, fact in written.items():
                if self._errors.get(device_no) == fact:
                    del self._errors[device_no]

        self._database.submit(
            operation, on_commit, lambda error: log.warning("device facts not stored: %s", error), apps=known_apps
        )
