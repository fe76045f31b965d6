"""Pages of lists, bounded by bytes: what others have said is encoded off the loop, a mebibyte at a time."""

from __future__ import annotations

import hashlib
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

    def encoded(self, count: int | None = None) -> bytes:
        """Encode the page as the API answers it: `{"items": [..], "next_cursor": ..}`, and `count` if it is given."""
        counted = b"" if count is None else b',"count":%d' % count
        return b'{"items":[%b],"next_cursor":%b%b}' % (b",".join(self.items), to_json(self.next_cursor), counted)


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode  # `dumps` makes one for each call


def to_json(document: Any) -> bytes:
    # `replace`: a problem may repeat what the request held, and that need not be text.
    return _encode(document).encode(errors="replace")


def entity_tag(document: Any) -> str:
    """Make the header `ETag` of a document: the same for the same content, whatever the order of its fields."""
    return f'"{hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:32]}"'


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
