"""Devices that connect and disconnect: events for senders, lines for the log, and the reason in `last_error`.

Laws
1. Nothing is written at the moment itself. What INTERVAL_SECONDS have gathered is one operation, and in the event log
   an entry of many devices: ten thousand that return cost the writer a few statements, and the log a few lines.
2. Of one device at most one event of each type is kept of an interval, in their order; how often it came and went
   besides is said in `flaps`. So two clients that throw each other out fill nothing.
3. Not promises: a kill forgets the last interval, and whom it disconnected. A `device.connected` that follows another
   one says so.

Everything but the operation runs on the loop.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from gateway.auth import DeviceIdentity
from gateway.delivery.device_activity import DeviceActivity
from gateway.delivery.recent_disconnects import Disconnect, RecentDisconnects
from gateway.store.deliveries.event_log import ENTRY_DEVICES, log_connections
from gateway.store.protocols import Timers, Writer
from gateway.store.transaction import Transaction

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 0.2
"""Time that connections gather for, the same as of `device_activity`."""
LOG_LINES = 20
"""Lines in the log for one interval, a hundred a second: more devices are counted in one line."""
MAX_DETAIL_CHARACTERS = 200
"""Characters of what the broker says of an end."""

REASONS = {
    "disconnected": "client",
    "session taken over": "take_over",
    "keep alive timeout": "keep_alive",
    "ack timeout": "not_acknowledged",
    "connection lost": "network",
    "connection reset": "network",
    "connection timed out": "network",
    "server shutting down": "server_ending",
    "session removed": "revoked",
    "disconnected by the server": "revoked",
    "server busy": "server_busy",
    "slow consumer": "slow_consumer",
    "quota exceeded": "limit_exceeded",
    "receive maximum exceeded": "limit_exceeded",
    "too many unacknowledged messages": "limit_exceeded",
    "answer larger than the client takes": "limit_exceeded",
    "packet too large": "limit_exceeded",
    "websocket frame too large": "limit_exceeded",
    "internal error": "internal_error",
}
"""Ends of a connection, in the broker's words, to the `reason` of `device.disconnected`."""
PROTOCOL_ERROR = "protocol_error"
"""Every other one."""
ERRORS = {
    "keep_alive": "nothing was heard of the device for one and a half times its keep alive",
    "not_acknowledged": "a push was not acknowledged in time",
    "slow_consumer": "the device did not read what it asked for",
    "limit_exceeded": "the device exceeded a limit",
    "server_busy": "the server was busy",
    "internal_error": "a mistake of the server; see its log",
    PROTOCOL_ERROR: "the device broke the protocol",
}
"""Reasons that an operator has to know of, in words."""


@dataclass(slots=True)
class _Change:
    """Connections of one device within an interval."""

    identity: DeviceIdentity
    was_online: bool
    is_online: bool
    connected: tuple[int, str] | None = None
    """Time and address of the last connection."""
    disconnected: tuple[int, int, str, str] | None = None
    """Time, duration in milliseconds, reason and detail: of the connection that was there when the interval started, if
    there was one, or of the last."""
    moves: int = 0

    def events(self) -> Iterable[tuple[int, str, list[Any]]]:
        """Yield (place among all events of the interval, type, item of the log)."""
        stays_away = not self.was_online and not self.is_online
        kept = 1 + (stays_away or (self.was_online and self.is_online))
        flaps = {"flaps": (self.moves - kept) // 2} if self.moves > kept else {}
        if self.connected is not None and (self.is_online or stays_away):
            at, address = self.connected
            place = 2 if self.was_online else 0
            yield place, "device.connected", [self.identity.device_no, at, {"address": address, **flaps}]
        if self.disconnected is not None and (self.was_online or stays_away):
            at, lasted, reason, detail = self.disconnected
            content = {"reason": reason, "duration": lasted / 1000, **({"detail": detail} if detail else {}), **flaps}
            yield 1, "device.disconnected", [self.identity.device_no, at, content]


class ConnectionEvents:
    """Gathers connections that come and go, and stores them as events. Loop.

    `clock_ms` gives server time in milliseconds. `logged`: each device that comes or goes is a line of the log.
    """

    def __init__(
        self,
        *,
        database: Writer,
        activity: DeviceActivity,
        clock_ms: Callable[[], int],
        timers: Timers,
        logged: bool = True,
    ) -> None:
        self._database = database
        self._activity = activity
        self._clock_ms = clock_ms
        self._timers = timers
        self._logged = logged
        self._changes: dict[int, _Change] = {}
        self.recent = RecentDisconnects(clock_ms())
        self.ended: Counter[str] = Counter()
        """Connections of devices by the reason of their end, for metrics."""

    def connected(self, identity: DeviceIdentity, now_ms: int) -> None:
        """Note that a device has connected at this time (ms)."""

        change = self._change(identity, was_online=False)
        change.connected = (now_ms, identity.peer)
        change.is_online = True

    def disconnected(self, identity: DeviceIdentity, connected_at: int, reason: str, detail: str) -> None:
        """Note that a connection since `connected_at` (ms) has ended; `reason` and `detail` in the broker's words."""
        named = REASONS.get(reason, PROTOCOL_ERROR)
        if named == PROTOCOL_ERROR and not detail:
            detail = reason
        self.ended[named] += 1
        text = detail[:MAX_DETAIL_CHARACTERS]
        now_ms = self._clock_ms()
        change = self._change(identity, was_online=True)
        change.is_online = False
        lasted = max(now_ms - connected_at, 0)
        self.recent.add(identity.device_no, Disconnect(now_ms, lasted, named, text))
        if change.disconnected is None or not change.was_online:
            change.disconnected = (now_ms, lasted, named, text)
        if named in ERRORS or (named == "client" and text):
            said = ERRORS.get(named, "the device gave up the connection")
            self._activity.error(
                identity.device_no,
                f"connection ended ({named}): {said}" + (f": {text}" if text else ""),
                identity.app_no,
            )

    def _change(self, identity: DeviceIdentity, *, was_online: bool) -> _Change:
        change = self._changes.get(identity.device_no)
        if change is None:
            if not self._changes:
                self._timers.call_later(INTERVAL_SECONDS, self.flush)
            change = self._changes[identity.device_no] = _Change(identity, was_online, was_online)
        change.moves += 1
        return change

    def flush(self) -> None:
        """Submit what has gathered."""
        changes, self._changes = self._changes, {}
        if not changes:
            return
        if self._logged:
            _write_log(list(changes.values()))
        now_ms = self._clock_ms()
        self._database.submit(
            lambda transaction: _store(transaction, changes.values(), now_ms),
            lambda _: None,
            lambda error: log.warning("connections of %d devices are not in the event log: %s", len(changes), error),
            apps=lambda: frozenset([change.identity.app_no for change in changes.values()]),
        )


def _store(transaction: Transaction, changes: Iterable[_Change], now_ms: int) -> None:
    """Store the events of an interval. Writer thread."""
    entries: dict[tuple[int, int, str], list[list[Any]]] = {}
    for change in changes:
        for place, event, item in change.events():
            entries.setdefault((place, change.identity.app_no, event), []).append(item)
    for (_, app_no, event), items in sorted(entries.items()):
        for start in range(0, len(items), ENTRY_DEVICES):
            log_connections(transaction, event, now_ms, app_no, items[start : start + ENTRY_DEVICES])


def _write_log(changes: list[_Change]) -> None:
    events = [(change, event, item[2]) for change in changes for _, event, item in sorted(change.events())]
    if len(events) > LOG_LINES:
        ends = Counter(content["reason"] for _, event, content in events if event == "device.disconnected")
        said = ", ".join(f"{reason} {count}" for reason, count in ends.most_common())
        log.info("%d devices connected, %d disconnected%s", len(events) - ends.total(), ends.total(),
                 f" ({said})" if said else "")  # fmt: skip
        return
    for change, event, content in events:
        name = f"{change.identity.app_id}/{change.identity.device_id}"
        fields = {"app": change.identity.app_id, "device": change.identity.device_id}
        flaps = f" (and came and went {content['flaps']} times more)" if "flaps" in content else ""
        if event == "device.connected":
            log.info("device %s connected from %s%s", name, content["address"], flaps, extra=fields)
        else:
            detail = (f": {content['detail']}" if "detail" in content else "") + flaps
            log.info(
                "device %s disconnected after %.1f s: %s%s", name, content["duration"], content["reason"], detail,
                extra=fields,
            )  # fmt: skip
