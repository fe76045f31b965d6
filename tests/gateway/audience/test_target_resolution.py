from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from pyroaring import BitMap

from gateway.audience import target_resolution
from gateway.audience.segment_language.segment import compile_expression
from gateway.audience.target_resolution import KeptSegments, TargetResolver
from gateway.delivery.push import Target
from gateway.errors import InvalidExpression
from gateway.store.audience.device_sets import ALL_TAG, add_to_sets
from gateway.store.transaction import Transaction
from tests.gateway.delivery.machinery import fresh_database

APP = 7


class ReaderStub:
    """The database, whose reads are done at once and noted by app."""

    def __init__(self, connection: Transaction) -> None:
        self.connection = connection
        self.reads: list[int | None] = []
        self.is_reading = False

    async def read(self, operation: Callable[[Transaction], Any], app_no: int | None = None) -> Any:
        self.reads.append(app_no)
        self.is_reading = True
        try:
            return operation(self.connection)
        finally:
            self.is_reading = False


@pytest.fixture
def database() -> Iterator[ReaderStub]:
    connection = fresh_database()
    add_to_sets(connection, APP, {ALL_TAG: [1, 2, 3], "hall": [2, 3]})
    yield ReaderStub(connection)
    connection.close()


def resolver_over(database: ReaderStub, online: tuple[int, ...] = ()) -> TargetResolver:
    stub: Any = database
    return TargetResolver(database=stub, online=lambda: BitMap(online), clock_ms=lambda: 0)


def resolved(resolver: TargetResolver, target: Target) -> list[int]:
    return list(asyncio.run(resolver.resolve(APP, target)))


def test_an_expression_is_compiled_once_by_a_read_of_its_app(
    database: ReaderStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[bool] = []

    def compile_there(text: str) -> Any:
        compiled.append(database.is_reading)
        return compile_expression(text)

    monkeypatch.setattr(target_resolution, "compile_expression", compile_there)
    resolver = resolver_over(database)
    assert [resolved(resolver, Target(where="'hall' in tags")) for _ in range(3)] == [[2, 3]] * 3
    assert compiled == [True]
    assert database.reads == [APP] * 4


@pytest.mark.parametrize("target", [Target(where="'hall' in tgas"), Target(condition="'a' in topics &&")])
def test_a_mistake_is_found_by_a_read_of_its_app(database: ReaderStub, target: Target) -> None:
    resolver = resolver_over(database)
    assert resolver.is_searched_for(target)
    assert database.reads == []
    with pytest.raises(InvalidExpression):
        resolved(resolver, target)
    assert database.reads == [APP]


def test_who_is_connected_in_other_apps_is_not_selected(database: ReaderStub) -> None:
    assert resolved(resolver_over(database, (3, 4, 99)), Target(where="online")) == [3]


def test_an_app_that_compiles_much_costs_no_other_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_resolution, "KEPT_SEGMENTS", 4)
    kept = KeptSegments()
    others: Any = SimpleNamespace(text="online")
    kept.put(1, others)
    for number in range(10):
        mine: Any = SimpleNamespace(text=f"size(tags) > {number}")
        kept.put(2, mine)
        assert kept.get(2, "size(tags) > 0") is not None
    assert kept.get(1, "online") is others
    assert kept.get(1, "size(tags) > 9") is None
    assert [number for number in range(10) if kept.get(2, f"size(tags) > {number}")] == [0, 8, 9]
