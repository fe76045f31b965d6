"""Pages of lists, bounded by bytes: what others have said is encoded off the loop, a mebibyte at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

Row = TypeVar("Row")

PAGE_BYTES = 1024 * 1024
"""Bytes of JSON in a page beyond its first item: it has fewer items than asked for when they are large. The loop needs
about a millisecond to send it, and a reader ten to make it."""


class ListPage(NamedTuple):
    """A page as it is sent."""

    items: list[bytes]
    """Each as JSON."""
    next_cursor: str | None

    def encoded(self) -> bytes:
        """Encode the page as the API answers it: `{"items": [..], "next_cursor": ..}`."""
        return b'{"items":[%b],"next_cursor":%b}' % (b",".join(self.items), to_json(self.next_cursor))


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode  # `dumps` makes one for each call


def to_json(document: Any) -> bytes:
    # `replace`: a problem may repeat what the request held, and that need not be text.
    return _encode(document).encode(errors="replace")


def fill_page(
    rows: Iterable[Row],
    limit: int,
    describe: Callable[[Row], dict[str, Any]],
    cursor_of: Callable[[Row], Any],
    least_size: Callable[[Row], int] = lambda row: 0,
) -> ListPage:
    """Make a page of as many rows as fit, at least one. They are read one by one, and there may be more of them than
    `limit`. For a reader's thread: each item is encoded here, unless `least_size` says that it will not fit."""
    items: list[bytes] = []
    room = PAGE_BYTES
    last: Row | None = None
    for row in rows:
        full = len(items) == limit or (last is not None and least_size(row) > room)
        item = b"" if full else to_json(describe(row))
        if last is not None and (full or len(item) > room):
            return ListPage(items, str(cursor_of(last)))
        items.append(item)
        room -= len(item)
        last = row
    return ListPage(items, None)
