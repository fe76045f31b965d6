"""The export of evidence about a device: its slice of the ledger, and the proof of the audit chain, as a stream.

Laws
1. The slice is read page by page in the app's turn, and each page is sent before the next is read: memory holds one.
   Of deliveries and of events MAX_LINES each are exported; what is older has no room, and the file says so.
2. When the slice has been sent, an entry of the audit log is written that holds its SHA-256; then the chain is sent up
   to that entry. Whoever reads a broken-off file sees no end (`audit_evidence`).
3. EXPORT_JOBS of all apps run at a time, one of an app: further ones are 503 `busy`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from gateway.audit.audit_log import AuditLog
from gateway.audit_chain import Head, digest_of
from gateway.audit_evidence import FORMAT_VERSION, SliceDigest, line_around, line_of
from gateway.delivery.device_deliveries import DeviceDeliveries
from gateway.delivery.device_timeline import DeviceTimeline
from gateway.delivery.history_pages import HistoryPage
from gateway.delivery.submission import AppRef
from gateway.errors import RetryableProblem, problem
from gateway.pages import to_json
from gateway.store.audience.devices import last_device_of_id
from gateway.store.audit_entries import described, entries_between, stored_chain
from gateway.store.audited_writes import DONE, Attempt
from gateway.store.database import Database
from gateway.store.deliveries.pushes import senders_of
from gateway.store.transaction import Transaction
from gateway.timestamps import rfc3339

EXPORT_JOBS = 4
PAGE_ITEMS = 500
MAX_LINES = 100_000
"""Deliveries, and events, of one export: a push a minute for two months."""
PROOF_ROWS = 1_000
"""Entries of the audit log that are read together: about 500 KiB, and 10 ms of a reader for their digests."""
RETRY_SECONDS = 10


@dataclass(slots=True, frozen=True)
class EvidencePeriod:
    """The time whose deliveries and events are exported; None: from the oldest, or to the newest."""

    since: str | None = None
    """RFC 3339, UTC, milliseconds, as the API answers times: so texts compare as times do."""
    until: str | None = None


class EvidenceExports:
    """Makes files of evidence. Loop."""

    def __init__(
        self,
        *,
        database: Database,
        audit: AuditLog,
        deliveries: DeviceDeliveries,
        timeline: DeviceTimeline,
        clock_ms: Callable[[], int],
    ) -> None:
        self._database = database
        self._audit = audit
        self._deliveries = deliveries
        self._timeline = timeline
        self._clock_ms = clock_ms
        self._running: Counter[int] = Counter()
        """Exports that are under way, by app."""

    async def begin(
        self, app: AppRef, device_id: str, period: EvidencePeriod, attempt: Attempt
    ) -> AsyncGenerator[bytes, None]:
        """Begin the file about the device that has this id, or had it last: its lines, for the request of the attempt.

        Raises Problem 404, 503 if an export of the app is under way, or too many are."""
        device_no = await self._database.read(
            lambda transaction: last_device_of_id(transaction, app.no, device_id), app.no
        )
        if device_no is None:
            raise problem("device_not_found", f"no device {device_id!r} in this app, and none that was removed of late")
        if self._running[app.no] or self._running.total() >= EXPORT_JOBS:
            raise RetryableProblem("busy", "another export of evidence is under way: wait for it", RETRY_SECONDS)
        lines = self._lines(app, device_no, device_id, period, attempt)
        await anext(lines)  # nothing awaits before it has its place, which it gives back however it ends
        return lines

    async def _lines(
        self, app: AppRef, device_no: int, device_id: str, period: EvidencePeriod, attempt: Attempt
    ) -> AsyncGenerator[bytes, None]:
        """Make the lines of a file, after nothing at all when it has its place among those under way."""
        self._running[app.no] += 1
        try:
            yield b""
            digest = SliceDigest()
            first = line_of(
                "evidence",
                version=FORMAT_VERSION,
                app=app.id,
                device_id=device_id,
                made_at=rfc3339(self._clock_ms()),
                since=period.since,
                until=period.until,
            )
            digest.add(first)
            yield first
            complete = True
            pages: tuple[tuple[str, Callable[[str | None], Awaitable[HistoryPage]]], ...] = (
                ("delivery", lambda at: self._deliveries.page(app.no, device_no, PAGE_ITEMS, at)),
                ("event", partial(self._events, app.no, device_no)),
            )
            for kind, read in pages:
                count, cursor = 0, None
                while True:
                    page = await read(cursor)
                    select = partial(_selected, kind=kind, items=page.items, period=period)
                    items, is_over = await self._database.read(select, app.no)
                    for item in items:
                        line = line_around(kind, kind, item)
                        digest.add(line)
                        count += 1
                        yield line
                    cursor = page.next_cursor
                    if is_over or cursor is None:
                        break
                    if count >= MAX_LINES:
                        complete = False
                        break
            yield line_of("slice", lines=digest.lines, sha256=digest.hex())
            attempt.details.update(lines=digest.lines, sha256=digest.hex(), complete=complete)
            head = await self._audit.note(app.no, attempt.facts(DONE))
            async for line in self._proof(app.no, device_id, head):
                yield line
        finally:
            self._running[app.no] -= 1

    async def _events(self, app_no: int, device_no: int, cursor: str | None) -> HistoryPage:
        return await self._timeline.page(app_no, device_no, PAGE_ITEMS, cursor, lambda event: True)

    async def _proof(self, app_no: int, device_id: str, head: Head) -> AsyncIterator[bytes]:
        chain = await self._database.read(lambda transaction: stored_chain(transaction, app_no), app_no)
        at = chain.base
        yield line_of("base", seq=at.seq, hash=at.hash.hex())
        seq = at.seq
        while seq < head.seq:
            read = partial(_proof_lines, app_no=app_no, device_id=device_id, after=seq, to=head.seq)
            lines, seq = await self._database.read(read, app_no)
            if not lines:
                raise RuntimeError("entries of the audit log have left meanwhile")  # the file ends in the middle
            for line in lines:
                yield line
        yield line_of("head", seq=head.seq, hash=head.hash.hex())


def _selected(
    transaction: Transaction, kind: str, items: Sequence[bytes], period: EvidencePeriod
) -> tuple[list[bytes], bool]:
    """Select the items of a page that are of the period, deliveries with who sent their push; and say whether all
    further ones are older. Reader thread: a page is a mebibyte of JSON."""
    found, is_over = _within(items, "sent_at" if kind == "delivery" else "timestamp", period)
    return _with_senders(transaction, found) if kind == "delivery" else found, is_over


def _with_senders(transaction: Transaction, items: Sequence[bytes]) -> list[bytes]:
    documents = [json.loads(item) for item in items]
    senders = senders_of(transaction, [document["push_id"] for document in documents])
    return [to_json({**document, "sent_by": senders.get(document["push_id"])}) for document in documents]


def _within(items: Sequence[bytes], time: str, period: EvidencePeriod) -> tuple[list[bytes], bool]:
    """Return those of a page that are of the period, and whether all further ones are older. They come newest first."""
    if period.since is None and period.until is None:
        return list(items), False
    found: list[bytes] = []
    for item in items:
        at = json.loads(item)[time]
        if period.since is not None and at < period.since:
            return found, True
        if period.until is None or at < period.until:
            found.append(item)
    return found, False


def _proof_lines(transaction: Transaction, app_no: int, device_id: str, after: int, to: int) -> tuple[list[bytes], int]:
    """Make the lines of the entries behind one, and the number of the last. Reader thread."""
    lines: list[bytes] = []
    digests: list[str] = []
    about = f"device:{device_id}"
    rows = entries_between(transaction, app_no, after, to, PROOF_ROWS)
    for row in rows:
        entry = described(row)
        if entry["object"] == about or entry["details"].get("device") == device_id:
            if digests:
                lines.append(line_of("digests", digests=digests))
                digests = []
            lines.append(line_of("entry", entry=entry))
        else:
            digests.append(digest_of(entry).hex())
    if digests:
        lines.append(line_of("digests", digests=digests))
    return lines, rows[-1][0] if rows else to
