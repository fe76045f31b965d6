"""The deliveries of one device, the newest first, with what the pushes say: wherever they are stored.

A delivery is a row, a member of a waiting set or of an outcome set (`delivery_sets`), and none of these is found by its
device. But a row is found by push and device, and a set by push and segment: so the pushes of the app are looked
through from the newest on, by an index that holds nothing else, with a step or two for each (`history_pages`). A row
says what is true, whatever the sets say.

`sent` is in memory (see the ledger): which pushes make a page is read first, then it is copied which of them are in
flight to the device, and then they are described, so that an answer is one snapshot with that laid over it.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gateway.delivery.delivery_description import describe_delivery
from gateway.delivery.history_pages import HistoryPage, SliceSize, fill_history, search_history
from gateway.delivery.ledger import Ledger
from gateway.delivery.push_texts import shown_text
from gateway.delivery_states import PRIORITIES, DeliveryState
from gateway.pages import to_json
from gateway.store.audience.device_sets import SEGMENT_BITS
from gateway.store.database import Database
from gateway.store.deliveries.delivery_sets import outcomes_of, pushes_waiting_for
from gateway.store.deliveries.device_history import Slice
from gateway.store.deliveries.whole_deliveries import WholeDelivery, member_of
from gateway.timestamps import rfc3339

FIRST_PUSHES, MOST_PUSHES = 5_000, 50_000
"""Pushes that a slice looks through."""
SLICE_OUTCOMES = 2_000
"""Outcome sets that a slice looks at, some 10 ms: a push to a large fleet has hundreds."""
CONTENT_BYTES = 8 * 1024 * 1024
"""Bytes of pushes that are read for a page: it has fewer items when they are large."""
_ROW = ", ".join(f"d.{name}" for name in WholeDelivery._fields)


class Wanted(NamedTuple):
    """The deliveries that are asked for; None: all."""

    state: DeliveryState | None = None
    reason: str | None = None
    """Empty: those without a reason."""

    def fits(self, delivery: WholeDelivery, in_flight: bool | None) -> bool:
        """Whether a delivery is asked for. `in_flight`: None is not known yet, so that what waits may be `sent`."""
        if self.reason is not None and (delivery.reason or "") != self.reason:
            return False
        if self.state is None or delivery.state == self.state:
            return not (self.state is DeliveryState.WAITING and in_flight)
        return self.state is DeliveryState.SENT and delivery.state == DeliveryState.WAITING and in_flight is not False


EVERYTHING = Wanted()


class DeviceDeliveries:
    """Lists the deliveries of a device. Loop."""

    def __init__(self, database: Database, ledger: Ledger) -> None:
        self._database = database
        self._ledger = ledger

    async def page(
        self, app_no: int, device_no: int, limit: int, cursor: str | None, wanted: Wanted = EVERYTHING
    ) -> HistoryPage:
        """A page of a device's deliveries. Raises Problem 422 for a cursor that is none."""

        def find(connection: sqlite3.Connection, before: int, room: int, pushes: int) -> Slice[int]:
            return find_pushes(connection, app_no, device_no, before, room, pushes, wanted)

        size = SliceSize(FIRST_PUSHES, MOST_PUSHES, time.monotonic)
        found = await search_history(self._database, app_no, cursor, limit, size, find)
        in_flight = {no for no in found.hits if self._ledger.is_sent(no, device_no)}

        def describe(connection: sqlite3.Connection) -> HistoryPage:
            described = _described(connection, device_no, found.hits, in_flight, wanted)
            return fill_history(found, found.hits, described, lambda no: _time_of(connection, no))

        return await self._database.read(describe, app_no)


def find_pushes(
    connection: sqlite3.Connection,
    app_no: int,
    device_no: int,
    before: int,
    limit: int,
    pushes: int,
    wanted: Wanted = EVERYTHING,
) -> Slice[int]:
    """Find the newest pushes before one that have a delivery to a device which is wanted, among so many of its app.

    Reader thread.
    """
    segment = device_no >> SEGMENT_BITS
    oldest = connection.execute(_OLDEST).fetchone()[0]
    if oldest is None:
        return Slice([], before, True)
    scope = {"app_no": app_no, "before": before, "pushes": pushes, "oldest": oldest}
    last, count = connection.execute(f"SELECT min(no), count(*) FROM {SLICE}", scope).fetchone()
    if not count:
        return Slice([], before, True)
    waiting = set(pushes_waiting_for(connection, device_no))
    rows = connection.execute(
        CANDIDATES, scope | {"device_no": device_no, "segment": segment, "waiting": json.dumps(list(waiting))}
    )
    found: list[int] = []
    outcomes = 0
    for push_no, *row in rows:
        if row[0] is not None:
            delivery: WholeDelivery | None = WholeDelivery._make(row)
        elif push_no in waiting:
            delivery = WholeDelivery(device_no, DeliveryState.WAITING)
        else:
            delivery, looked_at = _outcome_of(connection, push_no, device_no)
            outcomes += looked_at
        if delivery is not None and wanted.fits(delivery, None):
            found.append(push_no)
        if len(found) == limit or outcomes >= SLICE_OUTCOMES:
            rows.close()
            return Slice(found, push_no, False)
    return Slice(found, last, count < pushes)


_OLDEST = (
    "SELECT min(no) FROM (SELECT min(push_no) AS no FROM delivery UNION ALL SELECT min(push_no) FROM waiting_set"
    " UNION ALL SELECT min(push_no) FROM outcome_set)"
)
"""The oldest push of which anything is kept: of those before it the counts are, for a year."""
SLICE = (
    "(SELECT no FROM push INDEXED BY push_of_app WHERE app_no = :app_no AND no < :before AND no >= :oldest"
    " ORDER BY no DESC LIMIT :pushes)"
)
CANDIDATES = (
    f"SELECT p.no, {_ROW} FROM {SLICE} AS p LEFT JOIN delivery AS d ON d.push_no = p.no AND d.device_no = :device_no"
    " WHERE d.push_no IS NOT NULL OR p.no IN (SELECT value FROM json_each(:waiting)) OR EXISTS ("
    " SELECT 1 FROM outcome_set AS o INDEXED BY outcome_set_of_push WHERE o.push_no = p.no AND o.segment = :segment)"
    " ORDER BY p.no DESC"
)


def _outcome_of(connection: sqlite3.Connection, push_no: int, device_no: int) -> tuple[WholeDelivery | None, int]:
    """The delivery of a push to a device that has no row, if an outcome set has it; and how many were looked at."""
    looked_at = 0
    for outcome in outcomes_of(connection, push_no, segment=device_no >> SEGMENT_BITS):
        looked_at += 1
        if device_no in outcome.devices:
            return member_of(outcome, device_no), looked_at
    return None, looked_at


def _described(
    connection: sqlite3.Connection, device_no: int, push_nos: Sequence[int], in_flight: set[int], wanted: Wanted
) -> Iterator[tuple[int, bytes]]:
    """Describe the deliveries of these pushes to a device, as JSON: empty for what has moved on, and is not wanted any
    more. Ends where too many bytes were read."""
    waiting = set(pushes_waiting_for(connection, device_no))
    rows = connection.execute(
        "SELECT p.no, p.id, p.kind, p.channel, p.priority, p.collapse_key, p.accepted_at, p.expires_at, p.content,"
        f" p.size, r.id, coalesce(a.count, 0), {_ROW} FROM json_each(?1) AS w CROSS JOIN push AS p ON p.no = w.value"
        " LEFT JOIN delivery AS d ON d.push_no = p.no AND d.device_no = ?2"
        " LEFT JOIN push AS r ON r.no = d.replaced_by"
        " LEFT JOIN failed_attempt AS a ON a.push_no = p.no AND a.device_no = ?2 ORDER BY w.key",
        (json.dumps(push_nos), device_no),
    )
    room = CONTENT_BYTES
    for row in rows:
        push_no, push_id, kind, channel, priority, collapse_key, accepted_at, expires_at, content, size = row[:10]
        if row[12] is not None:
            delivery: WholeDelivery | None = WholeDelivery._make(row[12:])
        elif push_no in waiting:
            delivery = WholeDelivery(device_no, DeliveryState.WAITING)
        else:
            delivery, _ = _outcome_of(connection, push_no, device_no)
        if delivery is None or not wanted.fits(delivery, push_no in in_flight):  # removed, or moved, meanwhile
            yield push_no, b""
            continue
        yield (
            push_no,
            to_json(
                {
                    "push_id": push_id,
                    "kind": kind,
                    **shown_text(connection, push_no, content, device_no),
                    "channel": channel,
                    "priority": PRIORITIES[priority],
                    "collapse_key": collapse_key,
                    "sent_at": rfc3339(accepted_at),
                    "expires_at": rfc3339(expires_at),
                    **describe_delivery(delivery, push_no in in_flight, replaced_by=row[10], attempts=row[11]),
                }
            ),
        )
        room -= size
        if room < 0:
            return


def _time_of(connection: sqlite3.Connection, push_no: int) -> int | None:
    row = connection.execute("SELECT accepted_at FROM push WHERE no = ?", (push_no,)).fetchone()
    return None if row is None else int(row[0])
