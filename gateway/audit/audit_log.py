"""The audit log as the API reads it, and what is written to it without a change: refusals, sign-ins, failures.

Laws
1. What a request changes is written by `Database.write` itself (`store/audited_writes`). Here is what has no change.
2. Strangers and refused keys cannot fill the log: of what is refused REFUSALS_PER_HOUR are written for each app, the
   first ones, and then one entry that says how many more there were. What nobody has a key for is in the log of the app
   `default`, whose admins run the server.
3. A page is read on a reader thread in its app's turn, the newest entry first. Filters are looked at entry by entry: of
   the most that an app keeps that is a tenth of a second.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from gateway.audit_chain import Head
from gateway.delivery.reports import cursor_number
from gateway.device_topics import DEFAULT_APP
from gateway.pages import ListPage, fill_page
from gateway.store.access.apps import app_id_of, app_number
from gateway.store.app_locks import apps_of
from gateway.store.audit_entries import (
    AuditFilter,
    Detail,
    EntryFacts,
    append,
    described,
    entries_behind,
    logs_due,
    oldest_entry_at,
    remove_oldest,
    stored_chain,
)
from gateway.store.audited_writes import FAILED, REFUSED, Attempt, open_attempt
from gateway.store.database import Database
from gateway.store.transaction import Transaction
from gateway.timestamps import rfc3339_of_wall, wall_time

log = logging.getLogger(__name__)

REFUSALS_PER_HOUR = 10
"""Entries of an app's refusals: in the 400 days that entries are kept by default 30 MiB, half of what an app may
have."""
HOUR_MS = 3_600_000
APP_BYTES = 64 * 1024 * 1024
"""Bytes of an app's entries, 200,000 of the usual size; the oldest make room."""
SLICE_ENTRIES = 500
"""Entries that one operation removes, about 2 ms of the writer."""


@dataclass(slots=True)
class _Refusals:
    """The refusals of an app in this hour."""

    hour: int
    written: int = 0
    left_out: int = 0


class AuditLog:
    """The audit logs of all apps. Loop."""

    def __init__(self, database: Database, clock_ms: Callable[[], int], keep_ms: int) -> None:
        """`clock_ms` gives server time; entries are kept for `keep_ms`."""
        self._database = database
        self._clock_ms = clock_ms
        self._keep_ms = keep_ms
        self._refusals: dict[int | None, _Refusals] = {}
        """By app; None for those of nobody's key. As many as there are apps at most."""
        self._crowded: set[int] = set()
        """Apps of which the log says that they have too many entries."""
        self.refused = 0
        """Refused attempts, for metrics."""
        self.crowded_out = 0
        """Entries that left for want of room, for metrics."""

    async def page(self, app_no: int, wanted: AuditFilter, limit: int, cursor: str | None) -> ListPage:
        """List a page of an app's entries, the newest first unless the filter says otherwise. Raises Problem 422."""
        after = cursor_number(cursor) or (0 if wanted.oldest_first else 1 << 62)

        def read(transaction: Transaction) -> ListPage:
            rows = entries_behind(transaction, app_no, wanted, after, limit + 1)
            return fill_page(rows, limit, described, lambda row: row[0])

        return await self._database.read(read, app_no)

    async def chain(self, app_no: int) -> dict[str, Any]:
        """Describe the two ends of an app's chain."""

        def read(transaction: Transaction) -> dict[str, Any]:
            chain = stored_chain(transaction, app_no)
            oldest_at = oldest_entry_at(transaction, app_no)
            return {
                "app": app_id_of(transaction, app_no),
                "head": {"seq": chain.head.seq, "hash": chain.head.hash.hex()},
                "base": {"seq": chain.base.seq, "hash": chain.base.hash.hex()},
                "oldest_at": None if oldest_at is None else rfc3339_of_wall(oldest_at),
                "bytes": chain.size,
            }

        return await self._database.read(read, app_no)

    # -- what has no change --------------------------------------------------------------------------------------------

    def refuse(self, attempt: Attempt, code: str) -> None:
        """Note a refused attempt. Its answer does not wait for it."""
        self.refused += 1
        attempt.is_refused = True
        found = self._refusals_of(attempt.app_no)
        if found.written >= REFUSALS_PER_HOUR:
            found.left_out += 1
            return
        found.written += 1
        self._append(attempt, REFUSED, code=code)

    def fail(self, attempt: Attempt, status: int) -> None:
        """Note that a request whose change has an entry was answered with a problem: a part may be missing."""
        self._append(attempt, FAILED, status=status)

    async def note(self, app_no: int, facts: EntryFacts) -> Head:
        """Write an entry of its own, of what changes nothing in the ledger, and answer its place."""
        return await self._database.write(lambda transaction: self._store(transaction, app_no, facts), app_no)

    async def note_attempt(self) -> None:
        """Write the entry of the request that is under way now, because what it changes is not in the ledger."""
        attempt = open_attempt()
        if attempt is not None:
            apps = apps_of(None, attempt.app_no)
            await self._database.write(
                lambda transaction: attempt.store(transaction, None, self._clock_ms()), apps=apps
            )

    def _refusals_of(self, app_no: int | None) -> _Refusals:
        hour = self._clock_ms() // HOUR_MS
        found = self._refusals.get(app_no)
        if found is None or found.hour != hour:
            if found is not None and found.left_out:
                self._append_left_out(app_no, found.left_out)
            found = self._refusals[app_no] = _Refusals(hour)
        return found

    def _append_left_out(self, app_no: int | None, count: int) -> None:
        self._append(Attempt(app_no, "server", "refusals.left_out", "", ""), REFUSED, count=count)

    def _append(self, attempt: Attempt, result: str, **details: Detail) -> None:
        facts = attempt.facts(result, details)

        def on_error(error: BaseException) -> None:
            log.warning("an entry of the audit log (%s, %s) is not stored: %s", attempt.action, result, error)

        self._database.submit(
            lambda transaction: self._store(transaction, attempt.app_no, facts),
            lambda _: None,
            on_error,
            apps=apps_of(None, attempt.app_no),
        )

    def _store(self, transaction: Transaction, app_no: int | None, facts: EntryFacts) -> Head:
        if app_no is None:
            app_no = app_number(transaction, DEFAULT_APP)
        assert app_no is not None, "the app is made at the first start"
        return append(transaction, app_no, facts, wall_time.of(self._clock_ms()))

    # -- retention -----------------------------------------------------------------------------------------------------

    async def remove_old(self) -> int:
        """Remove what has been kept long enough, or does not fit; how many entries. Called once a minute."""
        for app_no, found in list(self._refusals.items()):
            if found.hour != self._clock_ms() // HOUR_MS:
                del self._refusals[app_no]
                if found.left_out:
                    self._append_left_out(app_no, found.left_out)
        before = wall_time.of(self._clock_ms()) - self._keep_ms
        removed = 0
        due = await self._database.read(partial(logs_due, before=before, size=APP_BYTES))
        for app_no, is_crowded in due:
            if is_crowded and app_no not in self._crowded:
                self._crowded.add(app_no)
                log.warning("app %d has more than %d MiB of audit log: the oldest leave", app_no, APP_BYTES >> 20)
            elif not is_crowded:
                self._crowded.discard(app_no)
            remove = partial(remove_oldest, app_no=app_no, before=before, size=APP_BYTES, most=SLICE_ENTRIES)
            while count := await self._database.write(remove, apps=frozenset((app_no,))):
                removed += count
                self.crowded_out += count * is_crowded
        return removed
