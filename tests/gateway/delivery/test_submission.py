"""The ids of pushes."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from gateway.delivery.push import PUSH_ID_CHARACTERS
from gateway.delivery.submission import new_push_ids

START = 1_800_000_000_000
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
"""RFC 4648, table 2."""


def test_no_id_is_taken_for_an_option_of_a_command() -> None:
    """One in 64 began with a hyphen: `watch -voIW..` was wrong use."""
    found = new_push_ids(5_000, START)
    assert len(set(found)) == 5_000
    assert all(re.fullmatch(rf"[A-Za-z0-9_][A-Za-z0-9_-]{{{PUSH_ID_CHARACTERS - 1}}}", push_id) for push_id in found)


@given(st.integers(0, 2**42 - 2), st.integers(1, 2**41), st.integers(1, 20))
def test_ids_are_in_the_order_of_time_and_of_their_group(now_ms: int, later: int, count: int) -> None:
    first = new_push_ids(count, now_ms)
    assert first == sorted(first, reverse=True)
    assert max(first) < min(new_push_ids(count, min(now_ms + later, 2**42 - 1)))


def test_an_id_has_72_bits_that_are_not_to_be_guessed() -> None:
    """Each of the last 12 letters is any of 64, whatever the others are."""
    ends = [push_id[-12:] for push_id in new_push_ids(5_000, START)]
    assert [set(place) for place in zip(*ends, strict=True)] == [set(LETTERS)] * 12
    assert len({push_id[:-12] for push_id in new_push_ids(100, START)}) == 1


def test_ids_go_on_when_their_time_begins_again() -> None:
    assert all(len(push_id) == PUSH_ID_CHARACTERS for push_id in new_push_ids(3, 2**42 + START))
