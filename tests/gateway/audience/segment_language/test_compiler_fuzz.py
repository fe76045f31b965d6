"""Whatever somebody sends as an expression is compiled in bounded time, or refused with a message."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import suppress
from unittest.mock import patch

import pytest

from gateway.audience.segment_language import names
from gateway.audience.segment_language.segment import compile_expression
from gateway.audience.segment_language.topic_conditions import compile_condition
from gateway.errors import InvalidExpression
from gateway.store.audience.device_sets import ALL_TAG, add_to_sets
from gateway.store.segments import evaluation
from gateway.store.segments.sql_compiler import compile_question
from gateway.store.transaction import Transaction
from tests.gateway.audience.segment_language.fleet import NOW_MS
from tests.gateway.delivery.machinery import APP_NO, fresh_database

INPUTS = 2_000
"""In a normal run; 100,000 with `--full`."""
EXAMPLES = [*names.FIELDS.values(), *names.FUNCTIONS.values(), *names.METHODS.values()]
TOKENS = [
    *names.FIELDS, *names.FUNCTIONS, *names.METHODS, "true", "false", "null", "in", "&&", "||", "==", "!=", "<", "<=",
    ">", ">=", "+", "-", "!", "(", ")", "[", "]", ",", ".", "'hall'", '"K2"', "''", "'7d'", "'2.3'", "5", "-1", "2.5",
    "1e400", "99999999999999999999", "'2026-01-01T00:00:00Z'", "attributes.model", "attributes['x y']", "?", "=", "'",
    "\\", "\n", "//", "/*", "\0", "é", "‘", "\ud800", "\U0010ffff",
]  # fmt: skip


def soup(chance: random.Random) -> str:
    return "".join(
        chr(chance.choice([chance.randrange(128), chance.randrange(0x500)])) for _ in range(chance.randrange(60))
    )


def tokens(chance: random.Random) -> str:
    return " ".join(chance.choice(TOKENS) for _ in range(chance.randrange(1, 16)))


def mutated(chance: random.Random) -> str:
    text = chance.choice(["&&", "||"]).join(chance.choice(EXAMPLES) for _ in range(chance.randrange(1, 4)))
    for _ in range(chance.randrange(3)):
        at = chance.randrange(len(text) + 1)
        text = text[:at] + chance.choice(["", chance.choice(TOKENS)]) + text[at + chance.randrange(3) :]
    return text


@pytest.fixture
def connection() -> Iterator[Transaction]:
    connection = fresh_database()
    add_to_sets(connection, APP_NO, {ALL_TAG: [1]})  # whose conditions are found or asked for
    yield connection
    connection.close()


@pytest.mark.timeout(300)
def test_nothing_but_a_problem_comes_out(connection: Transaction, full: int) -> None:
    chance = random.Random(1)
    compiled = 0
    refusals: list[InvalidExpression] = []
    for number in range(INPUTS if full == 1 else 100_000):
        text = (soup, tokens, mutated)[number % 3](chance)
        try:
            segment = compile_expression(text)
        except InvalidExpression as error:
            refusals.append(error)
        else:
            segment.devices(connection, APP_NO, NOW_MS, [1])
            compiled += 1
        if number % 10 == 0:
            with suppress(InvalidExpression):
                compile_condition(text)
    assert compiled > INPUTS // 20
    assert len(refusals) > INPUTS // 3
    assert all(error.line >= 1 and error.column >= 1 for error in refusals)
    assert max(len(error.detail) for error in refusals) < 600


@pytest.mark.parametrize("few", [0, 1_000], ids=["found", "asked"])
@pytest.mark.parametrize(
    "text",
    [
        "(" * 4_096, "!" * 4_096, "-" * 4_096, "[" * 4_096, "a." * 2_048, "a[" * 2_048, "f(" * 2_048, "'" * 4_096,
        "\\" * 4_096, "'" + "\\" * 4_095, '"\\' * 1_365, "1" * 4_096, "1." * 2_048, "1e" * 2_048, "/" * 4_096,
        " " * 4_096, "&&" * 2_048, "in " * 1_365, "x" * 4_096, "é" * 4_096, "online||" * 249 + "online",
        "(" * 249 + "online" + ")" * 249, "id in [" + ",".join(["'x'"] * 240) + "]",
        "attributes.a=='x'||" * 83 + "online", "version(attributes.v)<version('1')||" * 38 + "online",
        "attributes.a.contains('x')||" * 55 + "online",
    ],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_the_worst_expressions_take_few_steps(text: str, few: int, connection: Transaction) -> None:
    """Counted as calls of functions, because time says little of a loaded machine: 50,000 take some 5 ms."""
    calls = 0

    def count(_: object, event: str, __: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        segment = compile_expression(text)
    except InvalidExpression:
        segment = None
    finally:
        sys.setprofile(None)
    assert calls < 50_000
    if segment is not None:
        with patch.object(evaluation, "FEW_DEVICES", few):
            segment.devices(connection, APP_NO, NOW_MS, [1])
        assert len(compile_question([segment.term]).sql) < 200_000
