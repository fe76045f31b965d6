from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.json_items import TOKENS_PER_TURN, items_of
from gateway.errors import Problem

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


async def at_once() -> None:
    pass


@given(st.lists(VALUES, max_size=5), st.sampled_from([None, 2]), st.booleans())
def test_items_are_those_that_a_parser_finds(values: list[Any], indent: int | None, is_ascii: bool) -> None:
    body = json.dumps({"devices": values}, indent=indent, ensure_ascii=is_ascii).encode(errors="replace")
    items = asyncio.run(items_of(body, "devices", 5, at_once))
    assert [json.loads(item) for item in items] == json.loads(body)["devices"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_request"),
        (b"[]", "invalid_request"),
        (b'{"other": []}', "invalid_request"),
        (b'{"devices": 1}', "invalid_request"),
        (b'{"devices": [', "malformed_json"),
        (b'{"devices": ["]}', "malformed_json"),
        (b'{"devices": ["\\', "malformed_json"),
        (b'{"devices": [{]}', "malformed_json"),
        (b'{"devices": []', "malformed_json"),
        (b'{"devices": []]', "malformed_json"),
        (b'{"devices": []}}', "malformed_json"),
        (b'{"devices": [], "more": 1}', "malformed_json"),
        (b'{"devices": [1, 2, 3, 4]}', "invalid_request"),
    ],
)
async def test_what_is_no_such_list(body: bytes, code: str) -> None:
    with pytest.raises(Problem) as refusal:
        await items_of(body, "devices", 3, at_once)
    assert refusal.value.code == code


async def test_an_item_that_is_missing_is_one_that_is_no_json() -> None:
    assert await items_of(b'{"devices": [1,,2,]}', "devices", 9, at_once) == [b"1", b"", b"2", b""]


async def test_others_have_their_turns() -> None:
    turns = 0

    async def next_slice() -> None:
        nonlocal turns
        turns += 1

    body = b'{"devices": [' + b"[" * TOKENS_PER_TURN * 5 + b"]" * TOKENS_PER_TURN * 5 + b"]}"
    await items_of(body, "devices", 9, next_slice)
    assert turns >= 9


async def test_quotes_are_looked_at_once() -> None:
    """Not again from each of them when the last one lacks its end: that took minutes for a megabyte."""
    with pytest.raises(Problem):
        await asyncio.wait_for(items_of(b'{"devices": ["' + b'\\"' * 500_000 + b"\\", "devices", 9, at_once), 5)
