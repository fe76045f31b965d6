"""Quotas of mailboxes: how much each can still take before it has to be counted.

A mailbox is counted over its rows and the sets that it is in, which costs as much as it holds. Only acceptance makes it
larger, so what was counted once is good until as many pushes have been accepted for the device as there was room for. A
guess that is too low costs a count; none is ever too high: what ends meanwhile, or is rolled back, is not given back.

Sets are a part of a mailbox at most (`delivery_sets.SHARE_OF_MAILBOX`), so a push that is stored as one asks only for
*deep* mailboxes, which hold many rows. A device is noted as one when its rows are counted, which happens before they
are so many, or when they were made of sets, which nobody else would count.

It belongs to the writer's thread, and is never behind what that has stored.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.store.deliveries import delivery_sets
from gateway.store.deliveries.mailboxes import Mailbox

MAX_DEVICES = 200_000
"""Devices remembered, about 30 MB; over it all are forgotten, and counted again as they come."""


class MailboxQuota:
    """Room that is known to be left in mailboxes. Writer thread, but for `forget`.

    `deliveries` and `size` (bytes) are the limits of a mailbox.
    """

    def __init__(self, deliveries: int, size: int) -> None:
        self._deliveries = deliveries
        self._size = size
        self._until: dict[int, list[int]] = {}
        """Device number to [deliveries, bytes] that may have been accepted for everybody when its room is used up."""
        self._everybody = [0, 0]

    def reserve(self, device_no: int, size: int) -> bool:
        """Reserve room for a push to one device. False: its mailbox has to be counted."""
        until = self._until.get(device_no)
        if until is None:
            return False
        until[0] -= 1
        until[1] -= size
        return until[0] >= self._everybody[0] and until[1] >= self._everybody[1]

    def has_room(self, device_no: int) -> bool:
        """Whether what was accepted for everybody has left room in a mailbox. False: it has to be counted."""
        until = self._until.get(device_no)
        return until is not None and until[0] >= self._everybody[0] and until[1] >= self._everybody[1]

    def reserve_everywhere(self, size: int) -> None:
        """Reserve room for a push in every mailbox: its devices are not listed."""
        self._everybody[0] += 1
        self._everybody[1] += size

    def counted(self, mailboxes: Iterable[Mailbox]) -> None:
        """Remember mailboxes as they are on disk now."""
        deliveries, size = self._everybody
        for mailbox in mailboxes:
            if len(self._until) >= MAX_DEVICES:
                self._until.clear()
            count, total = self._deliveries - mailbox.deliveries, self._size - mailbox.size
            if not mailbox.is_deep:
                count = min(count, delivery_sets.DEEP_DELIVERIES - mailbox.rows)
                total = min(total, delivery_sets.DEEP_BYTES - mailbox.row_bytes)
            self._until[mailbox.device_no] = [deliveries + count, size + total]

    def forget(self) -> None:
        """Have every mailbox counted again. Any thread."""
        self._until = {}
