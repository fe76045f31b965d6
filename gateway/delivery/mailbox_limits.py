"""The limits of mailboxes: which mailboxes may be over one now, and what has to leave them, slice by slice.

To count a full mailbox takes 0.7 ms of the writer. So acceptance counts those that may be over a limit (`MailboxQuota`)
only as far as COUNTED_ROWS go in the operation that stores a push; operations of their own do the rest, and until they
have, no further push to many devices of that app is accepted: a mailbox is over its limit by one operation's pushes at
most, for a moment.

Pushes that wait as sets (`delivery_sets`) are kept few: every read of mailboxes looks at all of its app, and they may
fill a part of each mailbox only. Of the smallest ones rows are made, slice by slice, when there are too many, and the
app's next push to many waits until there are not.

`*_rows` runs on the writer thread, everything else on the loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TypeVar

from pyroaring import BitMap

from gateway.delivery.ledger import Ledger
from gateway.delivery.mailbox_quota import MailboxQuota
from gateway.delivery.submission import PendingPush
from gateway.store.deliveries import delivery_sets
from gateway.store.deliveries.ledger_statements import overflow_rows
from gateway.store.deliveries.mailboxes import Mailbox, count_mailboxes
from gateway.store.transaction import Transaction

T = TypeVar("T")

COUNTED_ROWS = 20_000
"""Deliveries that one operation counts, about 15 ms, and those of the mailboxes it has begun with."""
STEP_MAILBOXES = 200
"""Mailboxes that one statement counts at most: 140 ms if all are full after others that were not."""
FIRST_MAILBOXES = 25
"""Mailboxes of the first statement; twice as many follow while they turn out to be small."""
REDUCED_DEVICES = 1_000
"""Devices of a set that become rows in one operation, about 5 ms."""
SIZE_FACTOR = 4
"""Bytes of a mailbox in which sets fit beside rows that are not deep, as a factor of those."""
YOUNG_MS = 5_000
"""Time after which those that are there have acknowledged a push, and the few others get rows."""
YOUNG_SETS = 10_000
"""Pushes that are looked at again then; when there are more, the oldest stay sets until there are too many."""
SETTLED_SETS = 100
"""Pushes of which one operation makes rows: those of fewer than SET_DEVICES each, about 8 ms."""


@dataclass(slots=True, frozen=True)
class EnforcedLimits:
    """Result of an operation, for the loop."""

    losers: list[int] = field(default_factory=list)
    """Handles of deliveries that ended by it."""
    rest: dict[int, list[int]] = field(default_factory=dict)
    """App number -> devices whose mailboxes are still to be counted."""
    crowded: list[int] = field(default_factory=list)
    """Apps with too many sets."""


class MailboxLimits:
    """Keeps mailboxes within their limits, counting as few of them as possible. Loop, but for `*_rows`.

    `deliveries` and `size` (bytes) are the limits of a mailbox; `clock_ms` gives server time in milliseconds.
    `storage_left` says whether the disk has room to spare: rows take more of it than sets. `on_caught_up` is called
    when nothing of an app is behind any more.
    """

    def __init__(
        self,
        ledger: Ledger,
        deliveries: int,
        size: int,
        clock_ms: Callable[[], int],
        *,
        storage_left: Callable[[], bool],
        on_caught_up: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._deliveries = deliveries
        self._size = size
        self._clock_ms = clock_ms
        self._storage_left = storage_left
        share = delivery_sets.SHARE_OF_MAILBOX
        self._most_sets = min(delivery_sets.WAITING_SETS, deliveries // share), size // share
        """Pushes of an app that may wait as sets, and their bytes."""
        self._quota = MailboxQuota(deliveries, size)
        self.behind: dict[int, dict[int, None]] = {}
        """App number -> devices whose mailboxes are still to be counted; the first app is the next."""
        self._crowded: dict[int, None] = {}
        """Apps with too many sets; the first is the next of which some become rows."""
        self._sets: dict[int, tuple[int, int]] = {}
        """App number -> pushes that wait as sets, and their bytes, or more."""
        self._young: deque[tuple[int, int, int]] = deque(maxlen=YOUNG_SETS)
        """Pushes that were stored as sets: (time of acceptance, push number, app number)."""
        self._under_way = self._reducing = False
        self.counted_later = 0
        """Mailboxes that were counted after the push that may have filled them, for metrics."""
        self.on_caught_up = on_caught_up

    @property
    def keeps_sets(self) -> bool:
        """Whether pushes to many may be stored as sets: those and the rows of a mailbox that is not deep have room."""
        return (
            self._deliveries >= 2 * delivery_sets.DEEP_DELIVERIES
            and self._size >= SIZE_FACTOR * delivery_sets.DEEP_BYTES
        )

    def has_room_for_sets(self, app_no: int) -> bool:
        """Whether an app has not too many sets, as far as is known. Writer thread."""
        most, most_bytes = self._most_sets
        known = self._sets.get(app_no)
        return known is None or (known[0] <= most and known[1] <= most_bytes)

    def apps_behind(self) -> set[int]:
        """Apps whose pushes to many have to wait."""
        return {*self.behind, *self._crowded}

    def accept_rows(
        self, transaction: Transaction, pending_pushes: Iterable[PendingPush], now_ms: int
    ) -> EnforcedLimits:
        """Limit the mailboxes of new pushes. Writer thread."""
        suspects: dict[int, dict[int, None]] = {}
        crowded: list[int] = []
        were_deep = BitMap()
        deep_of: dict[int, BitMap] = {}
        quota = self._quota
        for pending in pending_pushes:
            if not pending.push_no:
                continue
            size, app_no = pending.frame_size, pending.app.no
            if isinstance(pending.devices, BitMap):
                quota.reserve_everywhere(size)
                if app_no not in deep_of:
                    deep_of[app_no] = delivery_sets.deep_mailboxes(transaction, app_no)
                deep = deep_of[app_no] & pending.devices
                full = [device_no for device_no in deep if not quota.has_room(device_no)]
                were_deep.update(full)
                if self._has_too_many_sets(transaction, app_no, size):
                    crowded.append(app_no)
            else:
                full = [device_no for device_no in pending.devices if not quota.reserve(device_no, size)]
            if full and app_no:
                suspects.setdefault(app_no, {}).update(dict.fromkeys(full))
            elif full:  # a beat, in mailboxes that belong to the apps of their devices
                for owner, mailboxes in delivery_sets.devices_by_app(transaction, BitMap(full)):
                    suspects.setdefault(owner, {}).update(dict.fromkeys(mailboxes))
        counted = {app_no: list(found) for app_no, found in suspects.items()}
        return replace(self.enforce_rows(transaction, counted, now_ms, were_deep), crowded=crowded)

    def _has_too_many_sets(self, transaction: Transaction, app_no: int, size: int | None = None) -> bool:
        """Whether the app has too many sets, one of a push of `size` bytes more than before. Writer thread.

        They are counted only when there may be.
        """
        most, most_bytes = self._most_sets
        known = self._sets.get(app_no) if size is not None else None
        if known is not None and size is not None:
            known = (known[0] + 1, known[1] + size)
        if known is None or known[0] > most or known[1] > most_bytes:
            known = delivery_sets.sets_of_app(transaction, app_no)
        self._sets[app_no] = known
        return known[0] > most or known[1] > most_bytes

    def enforce_rows(
        self,
        transaction: Transaction,
        suspects: dict[int, list[int]],
        now_ms: int,
        were_deep: BitMap | None = None,
    ) -> EnforcedLimits:
        """Count mailboxes and bring them below the limits, as far as is good at once. Writer thread.

        `were_deep`: those that were noted as deep.
        """
        counted: list[Mailbox] = []
        rest: dict[int, list[int]] = {}
        rows, step = 0, FIRST_MAILBOXES
        for app_no, devices in suspects.items():
            at = 0
            of_app: list[Mailbox] = []
            while at < len(devices) and rows < COUNTED_ROWS:
                found = count_mailboxes(transaction, app_no, devices[at : at + step], not self.keeps_sets)
                at += step
                of_step = sum(mailbox.deliveries for mailbox in found)
                rows += of_step
                of_app += found
                step = min(2 * step, STEP_MAILBOXES) if of_step < 10 * step else FIRST_MAILBOXES
            if at < len(devices):
                rest[app_no] = devices[at:]
            deep = BitMap([mailbox.device_no for mailbox in of_app if mailbox.is_deep])
            shallow = BitMap() if were_deep is None else were_deep & BitMap([each.device_no for each in of_app])
            shallow -= deep
            if deep or shallow:
                delivery_sets.note_deep_mailboxes(transaction, app_no, deep, shallow)
            counted += of_app
        crowded = [
            (mailbox.device_no, mailbox.deliveries, mailbox.size)
            for mailbox in counted
            if mailbox.deliveries > self._deliveries or mailbox.size > self._size
        ]
        losers = overflow_rows(transaction, crowded, self._deliveries, self._size, self._ledger.is_sent, now_ms)
        # At once and not after the commit: the next acceptance may be stored before that is called back. If this one is
        # rolled back, less is in them than was counted; `forget` is for what it has superseded.
        self._quota.counted(counted)
        return EnforcedLimits(losers, rest)

    def forget(self) -> None:
        """Count every mailbox and all sets anew: an operation was rolled back. Any thread."""
        self._quota.forget()
        self._sets = {}

    def _reduce_rows(self, transaction: Transaction, app_no: int, now_ms: int) -> tuple[EnforcedLimits, bool]:
        """Make rows of a slice of the app's smallest set; whether there are still too many sets. Writer thread."""
        found = EnforcedLimits()
        smallest = delivery_sets.smallest_set(transaction, app_no)
        if smallest is not None:
            found = self._to_rows(transaction, app_no, smallest, REDUCED_DEVICES, now_ms)
        return found, self._has_too_many_sets(transaction, app_no)

    def _to_rows(self, transaction: Transaction, app_no: int, push_no: int, count: int, now_ms: int) -> EnforcedLimits:
        """Make rows of what a push waits for in sets, of `count` devices at most. Writer thread."""
        devices, size = delivery_sets.some_to_rows(transaction, push_no, count)
        full = [device_no for device_no in devices if not self._quota.reserve(device_no, size)]
        return self.enforce_rows(transaction, {app_no: full} if full else {}, now_ms)

    def accepted_set(self, push_no: int, app_no: int, now_ms: int) -> None:
        """Note a push that was stored as a set, to look at what is left of it in a while."""
        self._young.append((now_ms, push_no, app_no))

    def tick(self) -> None:
        """Make rows of sets with few devices left, a while after their push was accepted. Called a few times a
        second."""
        now_ms = self._clock_ms()
        if self._crowded and not self._reducing:
            self._reduce()
        due: list[tuple[int, int]] = []
        while self._young and self._young[0][0] <= now_ms - YOUNG_MS and len(due) < SETTLED_SETS:
            _, push_no, app_no = self._young.popleft()
            due.append((push_no, app_no))
        if not due or not self._storage_left():
            return

        def operation(transaction: Transaction) -> list[EnforcedLimits]:
            few = delivery_sets.remnants(transaction, [push_no for push_no, _ in due])
            return [
                self._to_rows(transaction, app_no, push_no, delivery_sets.SET_DEVICES, now_ms)
                for push_no, app_no in due
                if push_no in few
            ]

        def on_commit(found: list[EnforcedLimits]) -> None:
            for each in found:
                self.enforced(each)
                self._ledger.note_ended(each.losers)

        self._submit(operation, on_commit, [app_no for _, app_no in due])

    def enforced(self, found: EnforcedLimits) -> None:
        """Count the rest, now that what was counted is on disk."""
        self._crowded.update(dict.fromkeys(found.crowded))
        if self._crowded and not self._reducing:
            self._reduce()
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
            lambda transaction: self.enforce_rows(transaction, {app_no: devices}, now_ms),
            on_commit,
            frozenset((app_no,)),
        )

    def _reduce(self) -> None:
        if not self._storage_left():
            return  # `tick` comes back
        self._reducing = True
        app_no = next(iter(self._crowded))
        now_ms = self._clock_ms()

        def on_commit(found: tuple[EnforcedLimits, bool]) -> None:
            self._reducing = False
            limits, still = found
            del self._crowded[app_no]
            if still:
                self._crowded[app_no] = None  # behind the others
            self.enforced(limits)
            self._ledger.note_ended(limits.losers)
            if self._crowded and not self._reducing:
                self._reduce()
            if not still:
                self.on_caught_up()

        self._submit(lambda transaction: self._reduce_rows(transaction, app_no, now_ms), on_commit, [app_no])

    def _submit(self, operation: Callable[[Transaction], T], done: Callable[[T], None], apps: Iterable[int]) -> None:
        """Have the writer run an operation that reserves room; what it had counted is void if it is rolled back."""
        has_run = False

        def run(transaction: Transaction) -> T:
            nonlocal has_run
            if has_run:
                self.forget()
            has_run = True
            return operation(transaction)

        self._ledger.submit_until_done(run, done, frozenset(apps))
