"""The statements of heartbeats: which devices are beaten, what became of the last beat, and what is removed again.

A beat is a push like any other, of the kind `heartbeat`, and goes the way of all pushes: acceptance, ledger, hand-over,
acknowledgement. It belongs to the server itself (`SERVER_APP`) and not to the app of its devices, so that it is in no
list, event, webhook or sum of anybody: 1,440 a day and site would drown what people send.

Laws
1. A beat is evaluated by the operation that sends the next one, and states move with their events there: a kill between
   two of them changes nothing.
2. What the server slept through is no fault of a device: the first beat after a start is evaluated by nobody
   (`forget_beats`).
3. A beat leaves KEPT_MS after its lifetime, with its deliveries and events; what is kept of it is each device's state.

Every function runs inside an operation, on the writer thread, unless it says otherwise.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, NamedTuple

from pydantic import ConfigDict, Field, model_validator
from pyroaring import BitMap

from gateway.delivery.duties import ChosenDevices, chosen_devices
from gateway.delivery.push import DeviceId
from gateway.delivery.retention import remove_beats
from gateway.described_model import DescribedModel
from gateway.errors import Problem, problem
from gateway.names import Name
from gateway.store.deliveries.event_log import log_of_device, remove_events_to
from gateway.timestamps import rfc3339, rfc3339_or_none

SERVER_APP = 0
"""Number that stands for the server itself where an app's would."""
KIND = "heartbeat"
BEATEN_DEVICES = 20
"""Devices of a heartbeat: some of a site, to tell whether it is there."""
DUE_BEATS = 20
"""Heartbeats that one operation sees to: 400 deliveries at most, about 10 ms."""
KEPT_MS = 600_000
"""Time for which a beat is kept after its lifetime, so that what comes late finds it."""
REMOVED_BEATS = 100
"""Beats that one operation removes."""
RETURN_MS = 30_000
"""Time that devices have to come back after a start before they are beaten again."""
SPREAD_MS = 200
"""Time between the first beats of two heartbeats after a start."""


class HeartbeatState(StrEnum):
    """States of a device's heartbeat, as the database holds them."""

    UNKNOWN = "unknown"  #: not beaten yet
    ANSWERING = "answering"  #: it answers in time
    SLOW = "slow"  #: it answers, but too late, several times in a row
    SILENT = "silent"  #: it does not answer, several times in a row


class HeartbeatFields(DescribedModel):
    """A heartbeat: which devices of a site are to answer, how often, and how fast."""

    model_config = ConfigDict(extra="forbid", strict=True)

    device: DeviceId | None = None
    """One device by its id. Exactly one of `device`, `devices` and `tag`."""
    devices: Annotated[list[DeviceId], Field(min_length=1, max_length=BEATEN_DEVICES)] | None = None
    """1 to 20 devices by id. Those that there are not are left out."""
    tag: Name | None = None
    """The devices that have this tag, the first 20 in the order of their enrolment: give it to a few of each site."""
    every_s: Annotated[int, Field(ge=10, le=3_600)] = 60
    """Seconds between two beats, 10 to 3,600, default 60."""
    within_s: Annotated[int, Field(ge=1, le=3_600)] = 10
    """Seconds within which a beat is to be answered, at most `every_s`, default 10. Later is slow; not before the next
    beat is missed."""
    misses: Annotated[int, Field(ge=1, le=10)] = 2
    """Beats in a row that are missed or late before the device counts as silent or slow, 1 to 10, default 2."""

    @model_validator(mode="after")
    def _fits(self) -> HeartbeatFields:
        given = [name for name in ("device", "devices", "tag") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError('give exactly one of "device", "devices" or "tag"')
        if self.within_s > self.every_s:
            raise ValueError('"within_s" is at most "every_s"')
        return self

    def chosen(self, connection: sqlite3.Connection, app_no: int) -> ChosenDevices:
        """Find the devices. Writer or reader thread."""
        ids = self.devices if self.device is None else [self.device]
        return chosen_devices(connection, app_no, ids, self.tag, BEATEN_DEVICES)


class DueHeartbeat(NamedTuple):
    """A heartbeat whose next beat is due."""

    app_no: int
    app_id: str
    name: str
    fields: HeartbeatFields
    beat_at: int | None
    """Time of the last beat; None: there is none to evaluate."""
    push_no: int | None
    """Number of its push; None: no device was there to be sent it."""


class Beaten(NamedTuple):
    """Result of the evaluation of a beat."""

    devices: dict[str, int]
    """Number of devices in each state."""
    slowest_ms: int | None
    """The longest that any of them took to answer; None if none did."""


def unknown_heartbeat(name: str) -> Problem:
    return problem("heartbeat_not_found", f"no heartbeat {name!r} in this app; make it with PUT /v1/heartbeats/{name}")


def due_heartbeats(connection: sqlite3.Connection, now_ms: int) -> list[DueHeartbeat]:
    """Find the heartbeats that are due, the longest due first, DUE_BEATS at most."""
    rows = connection.execute(
        "SELECT h.app_no, a.id, h.id, h.content, h.beat_at, h.push_no FROM heartbeat AS h INDEXED BY heartbeat_next"
        " JOIN application AS a ON a.no = h.app_no WHERE h.next_at <= ? ORDER BY h.next_at LIMIT ?",
        (now_ms, DUE_BEATS),
    ).fetchall()
    return [
        DueHeartbeat(app_no, app_id, name, HeartbeatFields.model_validate_json(content), beat_at, push_no)
        for app_no, app_id, name, content, beat_at, push_no in rows
    ]


def next_beat(connection: sqlite3.Connection, after: int) -> int | None:
    """The time behind this one at which the next heartbeat is due; None if there is none."""
    row = connection.execute("SELECT min(next_at) FROM heartbeat WHERE next_at > ?", (after,)).fetchone()
    return None if row[0] is None else int(row[0])


def forget_beats(connection: sqlite3.Connection, now_ms: int) -> None:
    """Begin anew after a start: what was under way is evaluated by nobody, and devices have time to come back."""
    connection.execute(
        "UPDATE heartbeat SET beat_at = NULL, push_no = NULL, next_at = ? + ? * place.no FROM (SELECT app_no, id,"
        " row_number() OVER (ORDER BY app_no, id) AS no FROM heartbeat) AS place"
        " WHERE heartbeat.app_no = place.app_no AND heartbeat.id = place.id",
        (now_ms + RETURN_MS, SPREAD_MS),
    )


def evaluate_beat(connection: sqlite3.Connection, due: DueHeartbeat, now_ms: int) -> Beaten:
    """Note what became of the last beat, with its events."""
    rows = connection.execute(
        "SELECT s.device_no, s.state, s.streak, s.answered_at, d.delivered_at FROM heartbeat_device AS s"
        " LEFT JOIN delivery AS d ON d.push_no = ?3 AND d.device_no = s.device_no"
        " WHERE s.app_no = ?1 AND s.heartbeat = ?2",
        (due.app_no, due.name, due.push_no),
    ).fetchall()
    count: Counter[str] = Counter()
    slowest: int | None = None
    for device_no, before, streak, answered_at, delivered_at in rows:
        was = state = HeartbeatState(before)
        if due.beat_at is not None:
            took = None if delivered_at is None else max(0, delivered_at - due.beat_at)
            state, streak = _next_state(was, streak, took, due.fields)
            if took is not None:
                slowest = took if slowest is None else max(slowest, took)
            if state != was:
                _log_change(connection, due, device_no, was, state, streak, answered_at, took, now_ms)
            connection.execute(
                "UPDATE heartbeat_device SET state = ?1, streak = ?2, answered_at = coalesce(?3, answered_at),"
                " took_ms = coalesce(?4, took_ms), changed_at = iif(state = ?1, changed_at, ?5)"
                " WHERE app_no = ?6 AND heartbeat = ?7 AND device_no = ?8",
                (state, streak, delivered_at, took, now_ms, due.app_no, due.name, device_no),
            )
        count[state] += 1
    return Beaten({one.value: count[one] for one in HeartbeatState}, slowest)


def _next_state(
    state: HeartbeatState, streak: int, took: int | None, fields: HeartbeatFields
) -> tuple[HeartbeatState, int]:
    """The state after a beat that took so long (None: it was missed), and how many in a row were no good."""
    if took is not None and took <= fields.within_s * 1000:
        return HeartbeatState.ANSWERING, 0
    streak += 1
    if streak < fields.misses:
        return state, streak
    return HeartbeatState.SILENT if took is None else HeartbeatState.SLOW, streak


def _log_change(
    connection: sqlite3.Connection,
    due: DueHeartbeat,
    device_no: int,
    before: HeartbeatState,
    state: HeartbeatState,
    streak: int,
    answered_at: int | None,
    took: int | None,
    now_ms: int,
) -> None:
    content: dict[str, Any] = {"heartbeat": due.name}
    if state is HeartbeatState.ANSWERING:
        if before is HeartbeatState.UNKNOWN:
            return  # the first answer is no news
        log_of_device(connection, "heartbeat.back", now_ms, device_no, content | {"was": before.value, "took_ms": took})
    elif state is HeartbeatState.SLOW:
        log_of_device(connection, "heartbeat.slow", now_ms, device_no, content | {"beats": streak, "took_ms": took})
    else:
        content |= {"beats": streak, "answered_at": rfc3339_or_none(answered_at)}
        log_of_device(connection, "heartbeat.silent", now_ms, device_no, content)


def note_beat(
    connection: sqlite3.Connection, due: DueHeartbeat, devices: Sequence[int], next_at: int, now_ms: int
) -> None:
    """Note that a beat is sent, and to which devices it is; others are forgotten."""
    numbers = json.dumps(list(devices))
    connection.execute(
        "DELETE FROM heartbeat_device WHERE app_no = ? AND heartbeat = ?"
        " AND device_no NOT IN (SELECT value FROM json_each(?))",
        (due.app_no, due.name, numbers),
    )
    connection.execute(
        "INSERT OR IGNORE INTO heartbeat_device (app_no, heartbeat, device_no, state, streak, changed_at)"
        f" SELECT ?, ?, value, '{HeartbeatState.UNKNOWN}', 0, ? FROM json_each(?)",
        (due.app_no, due.name, now_ms, numbers),
    )
    connection.execute(
        "UPDATE heartbeat SET beat_at = ?, next_at = ?, push_no = NULL WHERE app_no = ? AND id = ?",
        (now_ms, next_at, due.app_no, due.name),
    )


def note_push(connection: sqlite3.Connection, due: DueHeartbeat, push_no: int) -> None:
    """Note the number of a beat's push."""
    connection.execute("UPDATE heartbeat SET push_no = ? WHERE app_no = ? AND id = ?", (push_no, due.app_no, due.name))


def remove_old_beats(connection: sqlite3.Connection, now_ms: int) -> None:
    """Remove beats whose lifetime has been over for KEPT_MS, and what the event log has of them."""
    before = now_ms - KEPT_MS
    remove_beats(connection, SERVER_APP, before, REMOVED_BEATS)
    (last,) = connection.execute(
        "SELECT max(no) FROM (SELECT no, at FROM event WHERE app_no = ? ORDER BY no LIMIT ?) WHERE at <= ?",
        (SERVER_APP, BEATEN_DEVICES * REMOVED_BEATS, before),
    ).fetchone()
    if last is not None:
        remove_events_to(connection, last, SERVER_APP)


def describe_devices(connection: sqlite3.Connection, app_no: int, name: str) -> list[dict[str, Any]]:
    """The devices of a heartbeat as the API shows them. Reader or writer thread."""
    rows = connection.execute(
        "SELECT v.id, s.state, s.streak, s.answered_at, s.took_ms, s.changed_at FROM heartbeat_device AS s"
        " JOIN device AS v ON v.no = s.device_no WHERE s.app_no = ? AND s.heartbeat = ? ORDER BY s.device_no",
        (app_no, name),
    ).fetchall()
    return [
        {
            "device_id": device_id,
            "state": state,
            "since": rfc3339(changed_at),
            "missed": streak,
            "answered_at": rfc3339_or_none(answered_at),
            "took_ms": took,
        }
        for device_id, state, streak, answered_at, took, changed_at in rows
    ]


def online_among(devices: Sequence[int], connected: BitMap) -> list[int]:
    """The devices of these that are connected, in order."""
    return [device_no for device_no in devices if device_no in connected]
