"""Keys sort as SQLite sorts the values themselves."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.store.segments.terms import Value
from gateway.store.segments.value_forms import BOOLEAN, KEYED, PLAIN, TEXT

NUMBERS = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-3, 3).flatmap(lambda off: st.sampled_from([off, 2**53 + off, -(2**53) + off, 2**62 + off])),
    st.floats(allow_nan=False),
    st.integers(-(2**62), 2**62).map(float),
    st.sampled_from([0.0, -0.0, 5e-324, -5e-324, 2**63 - 1, -(2**63), float(2**63), 1e300]),
)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=4)


@pytest.fixture(scope="module")
def sqlite() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as connection:
        yield connection


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(NUMBERS, TEXTS, st.booleans()), st.one_of(NUMBERS, TEXTS, st.booleans()))
def test_keys_compare_as_values_do(sqlite: sqlite3.Connection, one: Value, other: Value) -> None:
    compared = sqlite.execute("SELECT ?1 < ?2, ?1 = ?2", (PLAIN.key(one), PLAIN.key(other))).fetchone()
    keys = KEYED.key(one), KEYED.key(other)
    assert (keys[0] < keys[1], keys[0] == keys[1]) == (bool(compared[0]), bool(compared[1]))


@given(NUMBERS, TEXTS, st.booleans())
def test_types_lie_between_their_bounds(number: float, text: str, truth: bool) -> None:
    assert KEYED.key(number) < TEXT <= KEYED.key(text) < BOOLEAN <= KEYED.key(truth)
    assert (KEYED.texts, KEYED.booleans) == (f"x'{TEXT.hex()}'", f"x'{BOOLEAN.hex()}'")


def test_a_list_is_of_keys() -> None:
    assert [bytes.fromhex(key) for key in json.loads(KEYED.listed(("a", 5)))] == [KEYED.key("a"), KEYED.key(5)]
