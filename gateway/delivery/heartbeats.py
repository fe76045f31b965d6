"""Heartbeats: chosen devices of a site are sent a real push every minute, and somebody is told when one is silent.

A site is cut off when nobody has noticed yet: the router, the certificate, the proxy. So a beat goes the whole way of a
push, to a device and back, and what it measures is what people's pushes would meet. What is true of a heartbeat is on
disk (`store/deliveries/heartbeats`), and what a beat says of a device is decided in `heartbeat_states`; here is the
moment at which the next beat is due.

Cost: one operation of the writer for all that are due, and a delivery for each device that is connected. A device that
is not is sent nothing: its mailbox is for what people send, and it is silent anyway. A beat has the lowest priority, so
that it never goes ahead of anything, and is late when pushes are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pyroaring import BitMap

from gateway.audience.policy import PolicyStore
from gateway.delivery.consent import unwanted_selected
from gateway.delivery.escalations import FAR_MS, StoreMade
from gateway.delivery.heartbeat_states import (
    DUE_BEATS,
    KIND,
    SERVER_APP,
    Beaten,
    DueHeartbeat,
    HeartbeatFields,
    begin_anew,
    describe_devices,
    due_beats,
    evaluate_beat,
    online_among,
    remove_old_beats,
    unknown_heartbeat,
)
from gateway.delivery.ledger import RETRY_SECONDS
from gateway.delivery.push import Target, wire_frame
from gateway.delivery.submission import AppRef, PendingPush
from gateway.delivery_states import PRIORITIES
from gateway.errors import Problem, problem
from gateway.store.database import Database
from gateway.store.deliveries.heartbeats import (
    count_other_heartbeats,
    find_heartbeat,
    names_behind,
    next_beat,
    note_beat,
    note_push,
    remove_heartbeat,
    replace_heartbeat,
)
from gateway.store.protocols import Timers
from gateway.store.transaction import Transaction
from gateway.timestamps import rfc3339, rfc3339_or_none

log = logging.getLogger(__name__)

MAX_HEARTBEATS = 20
"""Heartbeats of an app."""
ALL_HEARTBEATS = 200
"""Heartbeats of all apps: each is a label of metrics."""
_LOWEST = len(PRIORITIES) - 1
_FRAME_BYTES = sum(map(len, wire_frame("x" * 20, KIND, _LOWEST, None, None, "{}", 0))) + len("3600")


@dataclass(slots=True, eq=False)
class Beat:
    """Stores along with a beat which heartbeat it is of."""

    due: DueHeartbeat
    devices: list[int]

    def choose(self, transaction: Transaction, pending: PendingPush, now_ms: int) -> Problem | None:
        pending.devices = self.devices
        return None

    def store(self, transaction: Transaction, pending: PendingPush, now_ms: int) -> None:
        note_push(transaction, self.due.row.app_no, self.due.row.name, pending.push_no)

    def stored(self, pending: PendingPush) -> None:
        """Expect nothing of it; the next beat has its own time."""


class Heartbeats:
    """Keeps heartbeats, and sends the beats that are due. Loop.

    `clock_ms` gives server time in milliseconds; `storage_left` says whether the disk has room for a push; `store_made`
    is acceptance's; `connected` gives the devices that are there, in a set that is the caller's.
    """

    def __init__(
        self,
        *,
        database: Database,
        policies: PolicyStore,
        clock_ms: Callable[[], int],
        timers: Timers,
        storage_left: Callable[[], bool],
        store_made: StoreMade,
        connected: Callable[[], BitMap],
    ) -> None:
        self._database = database
        self._policies = policies
        self._clock_ms = clock_ms
        self._timers = timers
        self._storage_left = storage_left
        self._store_made = store_made
        self._connected = connected
        self._next = FAR_MS
        self._under_way = False
        self.beaten: dict[str, Beaten] = {}
        """What the last beat has found, by `APP/NAME`, for metrics."""
        self.beats = 0
        """Beats that were sent, for metrics."""

    async def load(self) -> None:
        """Begin anew after a start; before the first connection."""
        now_ms = self._clock_ms()

        def operation(transaction: Transaction) -> int | None:
            first = next_beat(transaction, -1)
            if first is not None:
                begin_anew(transaction, now_ms)
                first = next_beat(transaction, -1)
            return first

        first = await self._database.write(operation)
        self._next = FAR_MS if first is None else first

    async def follow_others(self) -> None:
        """Learn when the next beat is due: another node may have stored a heartbeat."""
        first = await self._database.read_soon(partial(next_beat, after=-1))
        if first is not None and not self._under_way:
            self._next = min(self._next, first)

    # -- beats -----------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Send the beats that are due. Called a few times a second; costs nothing until something is."""
        if self._next == FAR_MS or self._under_way or self._clock_ms() < self._next or not self._storage_left():
            return
        self._under_way = True
        self._next = FAR_MS
        connected = self._connected()
        found: list[tuple[dict[str, Beaten], int | None]] = []
        """Of the last run of the operation."""

        def make(transaction: Transaction, now_ms: int) -> list[PendingPush]:
            remove_old_beats(transaction, now_ms)
            due = due_beats(transaction, now_ms)
            beaten: dict[str, Beaten] = {}
            beats: list[PendingPush] = []
            for one in due:
                beaten[f"{one.row.app_id}/{one.row.name}"] = evaluate_beat(transaction, one, now_ms)
                devices = self._willing(transaction, one)
                next_at = now_ms + one.fields.every_s * 1000
                note_beat(transaction, one.row.app_no, one.row.name, devices, next_at, now_ms)
                there = online_among(devices, connected)
                if there:
                    beats.append(_beat(one, there))
            found.append((beaten, now_ms if len(due) == DUE_BEATS else next_beat(transaction, now_ms)))
            return beats

        def done() -> None:
            self._under_way = False
            beaten, following = found[-1]
            self.beats += len(beaten)
            self.beaten.update(beaten)
            if following is not None:
                self._next = min(self._next, following)

        def on_error(error: BaseException) -> None:
            log.error("heartbeats cannot be sent, trying again: %s", error)
            self._under_way = False
            self._timers.call_later(RETRY_SECONDS, self._expect_now)

        self._store_made(make, done, on_error)

    def _expect_now(self) -> None:
        self._next = 0

    def _willing(self, transaction: Transaction, due: DueHeartbeat) -> list[int]:
        """The devices of a heartbeat, without those whose people want no data. Writer thread."""
        app_no = due.row.app_no
        numbers = due.fields.chosen(transaction, app_no).numbers
        if not numbers or not self._policies.is_guarded(app_no):
            return numbers
        unwanted = unwanted_selected(
            transaction, app_no, self._policies.of(app_no), KIND, None, _LOWEST, BitMap(numbers)
        )
        gone = BitMap.union(*unwanted.values()) if unwanted else BitMap()
        return [device_no for device_no in numbers if device_no not in gone]

    # -- the API's commands ----------------------------------------------------------------------------------------

    async def put(self, app_no: int, name: str, fields: HeartbeatFields) -> dict[str, Any]:
        """Make a heartbeat, or replace it, and beat soon. Raises Problem 422."""
        now_ms = self._clock_ms()
        content = fields.model_dump_json(exclude_none=True)

        def operation(transaction: Transaction) -> dict[str, Any]:
            ours, all_others = count_other_heartbeats(transaction, app_no, name)
            if ours >= MAX_HEARTBEATS or all_others >= ALL_HEARTBEATS:
                raise problem(
                    "invalid_request",
                    f"an app has at most {MAX_HEARTBEATS} heartbeats, all together {ALL_HEARTBEATS}: remove one first",
                )
            replace_heartbeat(transaction, app_no, name, content, now_ms)
            return _read(transaction, app_no, name)

        stored = await self._database.write(operation, app_no)
        self._next = min(self._next, now_ms)
        return stored

    async def get(self, app_no: int, name: str) -> dict[str, Any]:
        """A heartbeat as the API shows it. Raises Problem 404."""
        return await self._database.read(lambda transaction: _read(transaction, app_no, name), app_no)

    async def page(self, app_no: int, limit: int, cursor: str | None) -> dict[str, Any]:
        """A page of the app's heartbeats, by name."""

        def read(transaction: Transaction) -> dict[str, Any]:
            names = names_behind(transaction, app_no, cursor or "", limit)
            items = [_read(transaction, app_no, name) for name in names[:limit]]
            return {"items": items, "next_cursor": names[limit - 1] if len(names) > limit else None}

        return await self._database.read(read, app_no)

    async def remove(self, app: AppRef, name: str) -> None:
        """Remove a heartbeat. Raises Problem 404."""
        removed = await self._database.write(lambda transaction: remove_heartbeat(transaction, app.no, name), app.no)
        if not removed:
            raise unknown_heartbeat(name)
        self.beaten.pop(f"{app.id}/{name}", None)


def _beat(due: DueHeartbeat, devices: Sequence[int]) -> PendingPush:
    return PendingPush(
        app=AppRef(SERVER_APP, ""),
        kind=KIND,
        priority=_LOWEST,
        qos=1,
        ttl=due.fields.every_s,
        channel=None,
        collapse_key=None,
        content="{}",
        frame_size=_FRAME_BYTES,
        listed=[],
        target=Target.model_validate(due.fields.model_dump(include={"device", "devices", "tag"}, exclude_none=True)),
        along=Beat(due, list(devices)),
        app_of_devices=due.row.app_no,
    )


def _read(transaction: Transaction, app_no: int, name: str) -> dict[str, Any]:
    stored = find_heartbeat(transaction, app_no, name)
    if stored is None:
        raise unknown_heartbeat(name)
    fields = HeartbeatFields.model_validate_json(stored.content)
    return {
        "name": name,
        **fields.model_dump(mode="json", exclude_none=True),
        "beat_at": rfc3339_or_none(stored.beat_at),
        "next_at": rfc3339(stored.next_at),
        "states": describe_devices(transaction, app_no, name),
        "created_at": rfc3339(stored.created_at),
        "updated_at": rfc3339(stored.updated_at),
    }
