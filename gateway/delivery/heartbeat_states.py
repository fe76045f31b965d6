"""The states of devices that heartbeats ask for: who is beaten, what a beat says of them, and what is told of it.

A beat is a push like any other, of the kind `heartbeat`, and goes the way of all pushes: acceptance, ledger, hand-over,
acknowledgement. It belongs to the server itself (`SERVER_APP`) and not to the app of its devices, so that it is in no
list, event, webhook or sum of anybody: 1,440 a day and site would drown what people send.

Laws
1. A beat is evaluated by the operation that sends the next one, and states move with their events there: a kill between
   two of them changes nothing.
2. What the server slept through is no fault of a device: the first beat after a start is evaluated by nobody
   (`forget_beats`).
3. A beat leaves KEPT_MS after its lifetime, with its deliveries and events; what is kept of it is each device's state.

Every function runs inside an operation, on the writer thread, unless it says otherwise; the rows are
`store/deliveries/heartbeats`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import ConfigDict, Field, model_validator
from pyroaring import BitMap

from gateway.delivery.duties import ChosenDevices, chosen_devices
from gateway.delivery.push import DeviceId
from gateway.described_model import DescribedModel
from gateway.errors import Problem, problem
from gateway.names import Name
from gateway.store.deliveries.event_log import log_of_device, remove_events_of_app
from gateway.store.deliveries.heartbeats import (
    DueBeat,
    HeartbeatState,
    beaten_devices,
    device_states,
    due_heartbeats,
    forget_beats,
    note_state,
)
from gateway.store.deliveries.retention import remove_beats
from gateway.store.transaction import Transaction
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

    def chosen(self, transaction: Transaction, app_no: int) -> ChosenDevices:
        """Find the devices. Writer or reader thread."""
        ids = self.devices if self.device is None else [self.device]
        return chosen_devices(transaction, app_no, ids, self.tag, BEATEN_DEVICES)


class DueHeartbeat(NamedTuple):
    """A heartbeat whose next beat is due."""

    row: DueBeat
    """Its last beat."""
    fields: HeartbeatFields


class Beaten(NamedTuple):
    """Result of the evaluation of a beat."""

    devices: dict[str, int]
    """Number of devices in each state."""
    slowest_ms: int | None
    """The longest that any of them took to answer; None if none did."""


def unknown_heartbeat(name: str) -> Problem:
    return problem("heartbeat_not_found", f"no heartbeat {name!r} in this app; make it with PUT /v1/heartbeats/{name}")


def due_beats(transaction: Transaction, now_ms: int) -> list[DueHeartbeat]:
    """Find the heartbeats that are due, the longest due first, DUE_BEATS at most."""
    return [
        DueHeartbeat(row, HeartbeatFields.model_validate_json(row.content))
        for row in due_heartbeats(transaction, now_ms, DUE_BEATS)
    ]


def begin_anew(transaction: Transaction, now_ms: int) -> None:
    """Begin anew after a start: what was under way is evaluated by nobody, and devices have time to come back."""
    forget_beats(transaction, now_ms + RETURN_MS, SPREAD_MS)


def evaluate_beat(transaction: Transaction, due: DueHeartbeat, now_ms: int) -> Beaten:
    """Note what became of the last beat, with its events."""
    count: Counter[str] = Counter()
    slowest: int | None = None
    row = due.row
    for device in beaten_devices(transaction, row.app_no, row.name, row.push_no):
        was = state = HeartbeatState(device.state)
        if row.beat_at is not None:
            took = None if device.delivered_at is None else max(0, device.delivered_at - row.beat_at)
            state, streak = _next_state(was, device.streak, took, due.fields)
            if took is not None:
                slowest = took if slowest is None else max(slowest, took)
            if state != was:
                _log_change(transaction, due, device.device_no, was, state, streak, device.answered_at, took, now_ms)
            after = device._replace(state=state, streak=streak)
            note_state(transaction, row.app_no, row.name, after, took, now_ms)
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
    transaction: Transaction,
    due: DueHeartbeat,
    device_no: int,
    before: HeartbeatState,
    state: HeartbeatState,
    streak: int,
    answered_at: int | None,
    took: int | None,
    now_ms: int,
) -> None:
    content: dict[str, Any] = {"heartbeat": due.row.name}
    if state is HeartbeatState.ANSWERING:
        if before is HeartbeatState.UNKNOWN:
            return  # the first answer is no news
        log_of_device(
            transaction, "heartbeat.back", now_ms, device_no, content | {"was": before.value, "took_ms": took}
        )
    elif state is HeartbeatState.SLOW:
        log_of_device(transaction, "heartbeat.slow", now_ms, device_no, content | {"beats": streak, "took_ms": took})
    else:
        content |= {"beats": streak, "answered_at": rfc3339_or_none(answered_at)}
        log_of_device(transaction, "heartbeat.silent", now_ms, device_no, content)


def remove_old_beats(transaction: Transaction, now_ms: int) -> None:
    """Remove beats whose lifetime has been over for KEPT_MS, and what the event log has of them."""
    before = now_ms - KEPT_MS
    remove_beats(transaction, SERVER_APP, before, REMOVED_BEATS)
    remove_events_of_app(transaction, SERVER_APP, before, BEATEN_DEVICES * REMOVED_BEATS)


def describe_devices(transaction: Transaction, app_no: int, name: str) -> list[dict[str, Any]]:
    """The devices of a heartbeat as the API shows them. Reader or writer thread."""
    return [
        {
            "device_id": device.device_id,
            "state": device.state,
            "since": rfc3339(device.changed_at),
            "missed": device.streak,
            "answered_at": rfc3339_or_none(device.answered_at),
            "took_ms": device.took_ms,
        }
        for device in device_states(transaction, app_no, name)
    ]


def online_among(devices: Sequence[int], connected: BitMap) -> list[int]:
    """The devices of these that are connected, in order."""
    return [device_no for device_no in devices if device_no in connected]
