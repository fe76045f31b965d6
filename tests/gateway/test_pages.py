from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.pages import PAGE_BYTES, ListPage, fill_page


def rows(sizes: list[int], read: list[int]) -> Iterator[tuple[int, int]]:
    for number, size in enumerate(sizes):
        read.append(number)
        yield number, size


def fill(sizes: list[int], limit: int, read: list[int] | None = None) -> ListPage:
    def describe(row: tuple[int, int]) -> dict[str, Any]:
        return {"no": row[0], "text": "x" * row[1]}

    return fill_page(rows(sizes, [] if read is None else read), limit, describe, lambda row: row[0])


def test_a_page_is_the_document_that_lists_answer() -> None:
    document = json.loads(fill([1, 2], 10).encoded())
    assert document == {"items": [{"no": 0, "text": "x"}, {"no": 1, "text": "xx"}], "next_cursor": None}


@pytest.mark.parametrize(
    ("sizes", "limit", "count", "cursor"),
    [
        ([], 10, 0, None),
        ([1, 1, 1], 3, 3, None),
        ([1, 1, 1], 2, 2, "1"),
        ([PAGE_BYTES, PAGE_BYTES], 10, 1, "0"),
        ([PAGE_BYTES * 3], 10, 1, None),
        ([10, PAGE_BYTES, 10], 10, 1, "0"),
    ],
)
def test_a_page_ends_where_it_is_full_and_has_one_item_at_least(
    sizes: list[int], limit: int, count: int, cursor: str | None
) -> None:
    page = fill(sizes, limit)
    assert len(page.items) == count
    assert page.next_cursor == cursor


def test_what_has_no_room_is_not_read() -> None:
    read: list[int] = []
    fill([PAGE_BYTES // 2] * 100, 100, read)
    assert len(read) <= 3


def test_what_is_counted_is_what_is_sent() -> None:
    # A control character is six bytes of JSON.
    page = fill_page([0, 1, 2], 10, lambda row: {"text": "\0" * (PAGE_BYTES // 4)}, lambda row: row)
    assert len(page.items) == 1
