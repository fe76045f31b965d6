"""Pages of a device's history, which is looked for among everything that its app has.

Nothing is indexed by device for it: an index would cost each delivery a page that is written, for what somebody asks
for now and then. So the newest things of the app are looked through, in slices that grow and shrink to SLICE_SECONDS
of a reader, each in the app's turn, and MAX_SLICES for a request. A page is full, or ends where the slices did: then it
may have few items or none, and says up to when everything was looked through.

Of 300,000 pushes, of which a device had 1,300, all were looked through in 0.4 s, and for a page of 25 it took 36 ms; of
a log of 200 MiB each MiB takes 9 ms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

from gateway.delivery.reports import cursor_number
from gateway.pages import PAGE_BYTES, to_json
from gateway.store.database import Database
from gateway.store.deliveries.device_history import Slice
from gateway.store.transaction import Transaction
from gateway.timestamps import rfc3339_or_none

Hit = TypeVar("Hit")

SLICE_SECONDS = 0.02
"""Time of a reader that a slice should take."""
MAX_SLICES = 10
"""Slices that a request looks through."""
LEAST_ROWS = 100
_NEWEST = 2**62


class FoundHistory(NamedTuple, Generic[Hit]):
    """Hits of all slices of a request, the newest first: those of a page."""

    hits: list[Hit]
    """As many as the page may have."""
    has_more: bool
    """Whether there was one more."""
    last: Slice[Hit]


class HistoryPage(NamedTuple):
    """A page as it is sent."""

    items: list[bytes]
    """Each as JSON, the newest first."""
    next_cursor: str | None
    searched_to: str | None
    """Time up to which everything was looked through, RFC 3339; None: all there is."""

    def encoded(self) -> bytes:
        """Encode the page as the API answers it."""
        rest = to_json({"next_cursor": self.next_cursor, "searched_to": self.searched_to})
        return b'{"items":[%b],%b' % (b",".join(self.items), rest[1:])


class SliceSize:
    """The number of rows that a slice looks through: as many as take SLICE_SECONDS. `monotonic` gives seconds."""

    def __init__(self, rows: int, most_rows: int, monotonic: Callable[[], float]) -> None:
        self.rows = rows
        self._most_rows = most_rows
        self._monotonic = monotonic

    def begin(self) -> Callable[[], None]:
        """Begin a slice; call what is returned at its end. Reader thread."""
        began = self._monotonic()

        def end() -> None:
            elapsed = max(self._monotonic() - began, 1e-6)
            factor = min(max(SLICE_SECONDS / elapsed, 0.1), 4.0)
            self.rows = min(max(int(self.rows * factor), LEAST_ROWS), self._most_rows)

        return end


async def search_history(
    database: Database,
    app_no: int,
    cursor: str | None,
    limit: int,
    size: SliceSize,
    find: Callable[[Transaction, int, int, int], Slice[Hit]],
) -> FoundHistory[Hit]:
    """Search what an app has for a page, slice by slice. Loop. Raises Problem 422 for a cursor that is none.

    `find(transaction, before, limit, rows)`, on a reader thread, looks through so many rows with numbers before one.
    """
    before = cursor_number(cursor)
    last: Slice[Hit] = Slice([], _NEWEST if before is None else before, False)
    hits: list[Hit] = []
    for _ in range(MAX_SLICES):

        def find_next(
            transaction: Transaction, before: int = last.reached, room: int = limit + 1 - len(hits)
        ) -> Slice[Hit]:
            end = size.begin()
            found = find(transaction, before, room, size.rows)
            end()
            return found

        last = await database.read(find_next, app_no)
        hits += last.hits
        if last.is_end or len(hits) > limit:
            break
    return FoundHistory(hits[:limit], len(hits) > limit, last)


def fill_history(
    found: FoundHistory[Hit],
    numbers: Sequence[int],
    described: Iterable[tuple[int, bytes]],
    time_of: Callable[[int], int | None],
) -> HistoryPage:
    """Make a page of what was found. Reader thread.

    `numbers` are those of its hits; `described` has (number, JSON) of each in this order, empty JSON for what is left
    out, and may end early. `time_of` reads the time of a number, in milliseconds of server time.
    """
    items: list[bytes] = []
    room, end = PAGE_BYTES, None
    for number, item in described:
        if items and len(item) > room:
            break
        end = number
        if item:
            items.append(item)
            room -= len(item)
    if end == (numbers[-1] if numbers else None) and not found.has_more:
        if found.last.is_end:
            return HistoryPage(items, None, None)
        end = found.last.reached
        if found.last.reached_at is not None:
            return HistoryPage(items, str(end), rfc3339_or_none(found.last.reached_at))
    assert end is not None, "a page has one hit at least, or there is none"
    return HistoryPage(items, str(end), rfc3339_or_none(time_of(end)))
