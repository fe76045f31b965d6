"""The deliveries of one device, the newest first, with what the pushes say: wherever they are stored.

A delivery is a row, a member of a waiting set or of an outcome set (`delivery_sets`), and none of these is found by its
device. But a row is found by push and device, and a set by push and segment: so the pushes of the app are looked
through from the newest on, by an index that holds nothing else, with a step or two for each (`history_pages`). A row
says what is true, whatever the sets say.

`sent` is in memory (see the ledger): which pushes make a page is read first, then it is copied which of them are in
flight to the device, and then they are described, so that an answer is one snapshot with that laid over it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from gateway.delivery.delivery_description import describe_delivery
from gateway.delivery.history_pages import HistoryPage, SliceSize, fill_history, search_history
from gateway.delivery.in_flight import InFlight
from gateway.delivery.push_texts import shown_text
from gateway.delivery_states import PRIORITIES
from gateway.pages import to_json
from gateway.store.database import Database
from gateway.store.deliveries.device_history import (
    EVERYTHING,
    Slice,
    Wanted,
    acceptance_time,
    deliveries_to_device,
    find_pushes,
)
from gateway.store.transaction import Transaction
from gateway.timestamps import rfc3339

FIRST_PUSHES, MOST_PUSHES = 5_000, 50_000
"""Pushes that a slice looks through."""
CONTENT_BYTES = 8 * 1024 * 1024
"""Bytes of pushes that are read for a page: it has fewer items when they are large."""


class DeviceDeliveries:
    """Lists the deliveries of a device. Loop."""

    def __init__(self, database: Database, in_flight: InFlight) -> None:
        self._database = database
        self._in_flight = in_flight

    async def page(
        self, app_no: int, device_no: int, limit: int, cursor: str | None, wanted: Wanted = EVERYTHING
    ) -> HistoryPage:
        """A page of a device's deliveries. Raises Problem 422 for a cursor that is none."""

        def find(transaction: Transaction, before: int, room: int, pushes: int) -> Slice[int]:
            return find_pushes(transaction, app_no, device_no, before, room, pushes, wanted)

        size = SliceSize(FIRST_PUSHES, MOST_PUSHES, time.monotonic)
        found = await search_history(self._database, app_no, cursor, limit, size, find)
        in_flight = await self._in_flight.pushes_to(device_no, found.hits)

        def describe(transaction: Transaction) -> HistoryPage:
            described = _described(transaction, device_no, found.hits, in_flight, wanted)
            return fill_history(found, found.hits, described, lambda no: acceptance_time(transaction, no))

        return await self._database.read(describe, app_no)


def _described(
    transaction: Transaction, device_no: int, push_nos: Sequence[int], in_flight: set[int], wanted: Wanted
) -> Iterator[tuple[int, bytes]]:
    """Describe the deliveries of these pushes to a device, as JSON: empty for what has moved on, and is not wanted any
    more. Ends where too many bytes were read."""
    room = CONTENT_BYTES
    for one in deliveries_to_device(transaction, device_no, push_nos):
        is_in_flight = one.push_no in in_flight
        if one.delivery is None or not wanted.fits(one.delivery, is_in_flight):  # removed, or moved, meanwhile
            yield one.push_no, b""
            continue
        yield (
            one.push_no,
            to_json(
                {
                    "push_id": one.push_id,
                    "kind": one.kind,
                    **shown_text(transaction, one.push_no, one.content, device_no),
                    "channel": one.channel,
                    "priority": PRIORITIES[one.priority],
                    "collapse_key": one.collapse_key,
                    "sent_at": rfc3339(one.accepted_at),
                    "expires_at": rfc3339(one.expires_at),
                    **describe_delivery(one.delivery, is_in_flight, replaced_by=one.replaced_by, attempts=one.attempts),
                }
            ),
        )
        room -= one.size
        if room < 0:
            return
