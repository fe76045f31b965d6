"""Recalls: what waits of a push is taken back, in slices, and nothing of it is handed over from the first line on.

That is known in memory before it is on disk, so that nothing leaves while it is on its way there. Where it does not
get there (the disk is full, the database away, too many changes of the app wait), the caller is told so, and the push
goes on: mailboxes that were read without it are read again. What is recalled on disk is taken back to the end, by us
or by the next start.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from pyroaring import BitMap

from gateway.delivery.push import ActivePushes
from gateway.errors import Problem
from gateway.store.app_locks import NO_APP, DeclaredApps
from gateway.store.deliveries.ledger_statements import recall_rows, start_recall, waiting_devices
from gateway.store.deliveries.pushes import push_number
from gateway.store.errors import OutcomeUnknown, StorageError
from gateway.store.protocols import Writer
from gateway.store.transaction import Transaction

T = TypeVar("T")

SentElsewhere = Callable[[Sequence[int], int | None], Awaitable[Mapping[int, BitMap]]]
"""Asks the other nodes what is in flight there: (push numbers, the one device that it is about, or None for all) ->
devices by push number."""

KEPT_RECALLS = 10_000
"""Recalls that are remembered; it is only needed until they are on disk."""


class Deliveries(Protocol):
    """The part of the ledger that recalls need."""

    pushes: ActivePushes
    read_again: Callable[[Iterable[int]], None]

    def flush(self) -> None: ...

    def sent_of(self, push_no: int) -> list[int]: ...

    def submit_until_done(
        self, operation: Callable[[Transaction], T], done: Callable[[T], None], apps: DeclaredApps = None
    ) -> None: ...


class Recalls:
    """Takes pushes back. Loop."""

    def __init__(
        self,
        ledger: Deliveries,
        database: Writer,
        clock_ms: Callable[[], int],
        confirm: Callable[[], Awaitable[None]] | None,
    ) -> None:
        """`confirm` waits until every other node knows what is stored; None: there are no others."""
        self._confirm = confirm
        self._ledger = ledger
        self._database = database
        self._clock_ms = clock_ms
        self.noted: dict[int, None] = {}
        """Pushes that are recalled on disk, or about to be; the newest of them."""
        self.sent_elsewhere: SentElsewhere | None = None
        """None: there are no other nodes."""
        self._refused: set[int] = set()
        """Pushes whose recall could not be stored, and of which something may have been left in a mailbox."""

    async def recall(self, app_no: int, push_id: str) -> dict[str, int] | None:
        """Take back what is still waiting of a push. None: no such push.

        `in_flight`: handed over, its outcome still open (a lost one will end `cancelled`); `too_late`: delivered.
        Raises Problem (410, 503), StorageError.
        """
        push_no = await self._database.write(lambda transaction: push_number(transaction, app_no, push_id), app_no)
        if push_no is None:
            return None
        is_first = not self._is_noted(push_no)
        self.note([push_no])
        self._ledger.flush()
        now_ms = self._clock_ms()
        try:
            final = await self._database.write(lambda transaction: start_recall(transaction, push_no, now_ms), app_no)
        except (StorageError, Problem) as error:
            was_possible = isinstance(error, StorageError) or error.retryable
            if is_first and was_possible and not isinstance(error, OutcomeUnknown):
                self._go_on_with(push_no)
            raise
        self.note([push_no])  # again: another recall of it may have been refused meanwhile
        if final is not None:
            return final
        if self._confirm is not None:  # or what is cancelled here could be on its way from there
            try:
                await self._confirm()
            except (StorageError, Problem):
                self._finish(push_no, 0, now_ms, lambda: self._ledger.sent_of(push_no))
                raise
        elsewhere: Iterable[int] = ()
        if self.sent_elsewhere is not None:
            elsewhere = (await self.sent_elsewhere([push_no], None)).get(push_no, ())

        def sent() -> list[int]:
            return [*self._ledger.sent_of(push_no), *elsewhere]

        found = Counter(cancelled=0, in_flight=0, too_late=0)
        after: int | None = 0
        while after is not None:  # if the server ends before the last, `recover_rows` does the rest
            seen = after
            try:
                part, after = await self._database.write(
                    lambda rows: recall_rows(rows, push_no, seen, sent(), now_ms),  # noqa: B023  awaited here
                    app_no,
                )
            except (StorageError, Problem):
                self._finish(push_no, seen, now_ms, sent)
                raise
            found.update(part)
        return dict(found)

    def note(self, push_nos: Iterable[int]) -> None:
        """Hand nothing of these pushes over any more: they are recalled on disk, or about to be."""
        for push_no in push_nos:
            self.noted[push_no] = None
            push = self._ledger.pushes.get(push_no)
            if push is not None:
                push.recalled = True
        while len(self.noted) > KEPT_RECALLS:
            del self.noted[next(iter(self.noted))]

    def recall_few(self, transaction: Transaction, push_no: int, now_ms: int) -> None:
        """Take back what is still waiting of a push to few devices. Writer thread; `note` when it is on disk.

        Raises Problem 410 for a push whose counts are no longer kept.
        """
        if start_recall(transaction, push_no, now_ms) is None:
            recall_rows(transaction, push_no, 0, self._ledger.sent_of(push_no), now_ms)

    def _is_noted(self, push_no: int) -> bool:
        push = self._ledger.pushes.get(push_no)
        return push_no in self.noted or (push is not None and push.recalled)

    def _finish(self, push_no: int, after: int, now_ms: int, sent: Callable[[], list[int]]) -> None:
        """Take back the rest of a push that is recalled on disk, behind this device, as soon as that can be stored."""

        def go_on(found: tuple[dict[str, int], int | None]) -> None:
            if found[1] is not None:
                self._finish(push_no, found[1], now_ms, sent)

        self._ledger.submit_until_done(
            lambda rows: recall_rows(rows, push_no, after, sent(), now_ms),
            go_on,
            lambda: self._ledger.pushes.apps_of((push_no,)),
        )

    def _go_on_with(self, push_no: int) -> None:
        self.noted.pop(push_no, None)
        push = self._ledger.pushes.get(push_no)
        if push is not None:
            push.recalled = False
        self._refused.add(push_no)
        if len(self._refused) == 1:  # one look for all that come until it is done
            self._read_mailboxes()

    def _read_mailboxes(self) -> None:
        push_nos = tuple(self._refused)

        def read_again(devices: BitMap) -> None:
            self._refused.difference_update(push_nos)
            self._ledger.read_again(devices)
            if self._refused:
                self._read_mailboxes()

        self._ledger.submit_until_done(lambda transaction: waiting_devices(transaction, push_nos), read_again, NO_APP)
