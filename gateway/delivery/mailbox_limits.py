"""The limits of mailboxes: which mailboxes may be over one now, and what has to leave them, slice by slice.

To count a full mailbox takes 0.7 ms of the writer. So acceptance counts those that may be over a limit (`MailboxQuota`)
only as far as COUNTED_ROWS go in the operation that stores a push; operations of their own do the rest, and until they
have, no further push to many devices of that app is accepted: a mailbox is over its limit by one operation's pushes at
most, for a moment.

`enforce_rows` runs on the writer thread, everything else on the loop.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

from gateway.delivery.ledger import Ledger
from gateway.delivery.ledger_statements import overflow_rows, waiting_devices
from gateway.delivery.mailbox_quota import MailboxQuota, count_mailboxes
from gateway.delivery.submission import PendingPush

COUNTED_ROWS = 20_000
"""Deliveries that one operation counts, about 15 ms, and those of the mailboxes it has begun with."""
STEP_MAILBOXES = 200
"""Mailboxes that one statement counts at most: 140 ms if all are full after others that were not."""
FIRST_MAILBOXES = 25
"""Mailboxes of the first statement; twice as many follow while they turn out to be small."""


@dataclass(slots=True, frozen=True)
class EnforcedLimits:
    """Result of an operation, for the loop."""

    losers: list[int]
    """Handles of deliveries that ended by it."""
    rest: dict[int, list[int]]
    """App number -> devices whose mailboxes are still to be counted."""


class MailboxLimits:
    """Keeps mailboxes within their limits, counting as few of them as possible. Loop, but for `*_rows`.

    `deliveries` and `size` (bytes) are the limits of a mailbox; `clock_ms` gives server time in milliseconds.
    `on_caught_up` is called when nothing of an app is behind any more.
    """

    def __init__(
        self,
        ledger: Ledger,
        deliveries: int,
        size: int,
        clock_ms: Callable[[], int],
        *,
        on_caught_up: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._deliveries = deliveries
        self._size = size
        self._clock_ms = clock_ms
        self._quota = MailboxQuota(deliveries, size)
        self.behind: dict[int, dict[int, None]] = {}
        """App number -> devices whose mailboxes are still to be counted; the first app is the next."""
        self._under_way = False
        self.counted_later = 0
        """Mailboxes that were counted after the push that may have filled them, for metrics."""
        self.on_caught_up = on_caught_up

    def accept_rows(
        self, connection: sqlite3.Connection, pending_pushes: Iterable[PendingPush], now_ms: int
    ) -> EnforcedLimits:
        """Limit the mailboxes of new pushes, and set the devices of pushes that select them. Writer thread."""
        suspects: dict[int, dict[int, None]] = {}
        quota = self._quota
        for pending in pending_pushes:
            if not pending.push_no:
                continue
            size = pending.frame_size
            if pending.listed is None:
                quota.reserve_everywhere(size)
                pending.devices = waiting_devices(connection, pending.push_no)
                full = [device_no for device_no in pending.devices if not quota.has_room(device_no)]
            else:
                full = [device_no for device_no in pending.devices if not quota.reserve(device_no, size)]
            if full:
                suspects.setdefault(pending.app.no, {}).update(dict.fromkeys(full))
        return self.enforce_rows(connection, {app_no: list(found) for app_no, found in suspects.items()}, now_ms)

    def enforce_rows(
        self, connection: sqlite3.Connection, suspects: dict[int, list[int]], now_ms: int
    ) -> EnforcedLimits:
        """Count mailboxes and bring them below the limits, as far as is good at once. Writer thread."""
        counted: list[tuple[int, int, int]] = []
        rest: dict[int, list[int]] = {}
        rows, step = 0, FIRST_MAILBOXES
        for app_no, devices in suspects.items():
            at = 0
            while at < len(devices) and rows < COUNTED_ROWS:
                found = count_mailboxes(connection, devices[at : at + step])
                at += step
                of_step = sum(count for _, count, _ in found)
                rows += of_step
                counted += found
                step = min(2 * step, STEP_MAILBOXES) if of_step < 10 * step else FIRST_MAILBOXES
            if at < len(devices):
                rest[app_no] = devices[at:]
        crowded = [mailbox for mailbox in counted if mailbox[1] > self._deliveries or mailbox[2] > self._size]
        losers = overflow_rows(connection, crowded, self._deliveries, self._size, self._ledger.is_sent, now_ms)
        # At once and not after the commit: the next acceptance may be stored before that is called back. If this one is
        # rolled back, less is in them than was counted; `forget` is for what it has superseded.
        self._quota.counted(counted)
        return EnforcedLimits(losers, rest)

    def forget(self) -> None:
        """Count every mailbox anew: an operation was rolled back. Any thread."""
        self._quota.forget()

    def enforced(self, found: EnforcedLimits) -> None:
        """Count the rest, now that what was counted is on disk."""
        for app_no, devices in found.rest.items():
            self.behind.setdefault(app_no, {}).update(dict.fromkeys(devices))
            self.counted_later += len(devices)
        if self.behind and not self._under_way:
            self._enforce_rest()

    def _enforce_rest(self) -> None:
        self._under_way = True
        app_no = next(iter(self.behind))
        waiting = self.behind[app_no]
        devices = list(islice(waiting, COUNTED_ROWS))
        now_ms = self._clock_ms()

        def on_commit(found: EnforcedLimits) -> None:
            self._under_way = False
            rest = found.rest.get(app_no, [])
            for device_no in devices[: len(devices) - len(rest)]:
                del waiting[device_no]
            del self.behind[app_no]
            if waiting:
                self.behind[app_no] = waiting  # behind the others
            self._ledger.note_ended(found.losers)
            if self.behind:
                self._enforce_rest()
            if not waiting:
                self.on_caught_up()

        self._ledger.submit_until_done(
            lambda connection: self.enforce_rows(connection, {app_no: devices}, now_ms), on_commit
        )
