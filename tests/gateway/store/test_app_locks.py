"""The locks of groups that write: which they are, in which order, and what becomes of who keeps them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import psycopg
import pytest

from gateway.store.app_locks import EVERY_APP, MOST_APPS, NO_APP, Apps, apps_of, locks_for, with_app
from gateway.store.database import Database
from gateway.store.errors import StorageContended, StorageError
from gateway.store.postgresql.server import IDLE_MS, PostgresqlServer
from gateway.store.transaction import Transaction
from gateway.store.write_queue import WriteOperation
from tests.postgresql import Postgresql

LOCKS = """SELECT objid::int::text || CASE mode WHEN 'ExclusiveLock' THEN '' ELSE ' shared' END
 FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND granted ORDER BY objid::int"""
WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


def operation(apps: Apps | None, *, is_shared: bool = False) -> WriteOperation:
    return WriteOperation(lambda _: None, lambda _: None, lambda _: None, apps=apps, is_shared=is_shared)


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ([operation(frozenset((2,))), operation(frozenset((1, 2)))], (frozenset((1, 2)), NO_APP)),
        ([operation(NO_APP)], (NO_APP, NO_APP)),
        ([operation(frozenset((3,)), is_shared=True)], (NO_APP, frozenset((3,)))),
        (
            [operation(frozenset((3, 4)), is_shared=True), operation(frozenset((3,)))],
            (frozenset((3,)), frozenset((4,))),
        ),
        ([operation(frozenset((3,))), operation(EVERY_APP)], (EVERY_APP, NO_APP)),
        ([operation(frozenset((3,))), operation(None)], (EVERY_APP, NO_APP)),
    ],
)
def test_a_group_has_the_locks_of_all_its_operations(
    group: list[WriteOperation], expected: tuple[Apps, frozenset[int]]
) -> None:
    assert locks_for(group) == expected


def test_very_many_apps_are_every_app() -> None:
    """PostgreSQL has room for some thousand locks, of all connections together."""
    most = frozenset(range(MOST_APPS))
    assert locks_for([operation(most)]) == (most, NO_APP)
    assert locks_for([operation(most), operation(frozenset((MOST_APPS,)), is_shared=True)]) == (EVERY_APP, NO_APP)


def test_an_operation_that_says_nothing_writes_every_app() -> None:
    assert apps_of(None, None) is EVERY_APP
    assert apps_of(None, 3) == frozenset((3,))
    assert apps_of(NO_APP, 3) == NO_APP
    assert apps_of(lambda: frozenset((4,)), 3) == frozenset((4,))
    assert apps_of(with_app(EVERY_APP, None, 3), None) is EVERY_APP
    assert apps_of(with_app(None, None, 3), None) is EVERY_APP
    assert apps_of(with_app(NO_APP, None, 3), None) == frozenset((3,))
    assert apps_of(with_app(lambda: frozenset((4,)), None, 3), None) == frozenset((3, 4))
    assert with_app(None, 3, 3) is None
    assert with_app(None, 3, None) is None


@pytest.fixture(scope="module")
def server() -> Iterator[Postgresql]:
    with Postgresql() as server:
        yield server


@pytest.fixture
async def nodes(server: Postgresql, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[list[Database]]:
    """Two writers of one schema."""
    schema = f"s{abs(hash(request.node.name))}"
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(2):
            backend = PostgresqlServer.open(server.url, schema, has_nodes=True)
            found.append(await Database.over(backend, tmp_path / "ledger", lambda _: lambda: 1_000, lambda: False))
            stack.push_async_callback(found[-1].close)
        yield found


def locks_held(transaction: Transaction) -> list[str]:
    return [name for (name,) in transaction.execute(LOCKS)]


async def test_locks_are_taken_before_an_operation_and_given_up_with_the_commit(nodes: list[Database]) -> None:
    one, other = nodes
    apps: Iterable[tuple[Apps | None, list[str]]] = (
        (frozenset((7, 0, 12)), ["-1 shared", "0", "7", "12"]),
        (NO_APP, []),
        (EVERY_APP, ["-1"]),
        (None, ["-1"]),
    )
    for wanted, expected in apps:
        assert await one.write(locks_held, apps=wanted) == expected
    assert await one.write(locks_held, 5) == ["-1 shared", "5"]
    assert await one.write(locks_held, apps=frozenset((5,)), is_shared=True) == ["-1 shared", "5 shared"]
    assert await other.write(locks_held, apps=NO_APP) == [], "nothing is left of them"


async def test_writers_of_an_app_wait_for_each_other_and_its_readers_and_others_do_not(
    server: Postgresql, nodes: list[Database]
) -> None:
    one, other = nodes
    loop = asyncio.get_running_loop()
    begun = asyncio.Event()
    written: list[str] = []

    def hold(transaction: Transaction) -> None:
        """Until somebody waits for what this group has locked."""
        loop.call_soon_threadsafe(begun.set)
        with psycopg.connect(server.url, autocommit=True) as looking:
            while looking.execute(WAITING).fetchone() == (0,):
                pass
        written.append("one")

    def note(name: str, apps: Apps, *, is_shared: bool = False) -> asyncio.Task[None]:
        return loop.create_task(other.write(lambda _: written.append(name), apps=apps, is_shared=is_shared))

    async def held(apps: Apps, *, is_shared: bool) -> asyncio.Task[None]:
        written.clear()
        begun.clear()
        holding = loop.create_task(one.write(hold, apps=apps, is_shared=is_shared))
        await begun.wait()
        return holding

    holding = await held(frozenset((1,)), is_shared=False)
    await note("other app", frozenset((2,)))
    await note("no app", NO_APP)
    await asyncio.gather(holding, note("same app", frozenset((1, 2))))
    assert written == ["other app", "no app", "one", "same app"]

    holding = await held(frozenset((1,)), is_shared=True)
    await note("reader", frozenset((1,)), is_shared=True)
    await asyncio.gather(holding, note("writer", frozenset((1,))))
    assert written == ["reader", "one", "writer"]

    holding = await held(frozenset((1,)), is_shared=False)
    await asyncio.gather(holding, note("every app", EVERY_APP))
    assert written == ["one", "every app"]

    holding = await held(EVERY_APP, is_shared=False)
    await note("no app", NO_APP)
    await asyncio.gather(holding, note("any app", frozenset((9,))))
    assert written == ["no app", "one", "any app"]


async def test_an_app_that_others_keep_for_too_long_is_refused(nodes: list[Database]) -> None:
    one, other = nodes
    loop = asyncio.get_running_loop()
    await other.write(lambda transaction: transaction.execute("SET lock_timeout = 50"), apps=NO_APP)

    async def refused() -> None:
        with pytest.raises(StorageContended, match="lock timeout"):
            await other.write(locks_held, apps=frozenset((1,)))

    def keep(transaction: Transaction) -> None:
        asyncio.run_coroutine_threadsafe(refused(), loop).result(60)

    await one.write(keep, apps=frozenset((1,)))
    assert await other.write(locks_held, apps=frozenset((1,))) == ["-1 shared", "1"]
    assert other.unready() is None
    assert dict(other.lock_waits.buckets())["+Inf"] == 2, "who is refused has not waited"


async def test_a_group_that_is_run_again_has_its_locks_again(nodes: list[Database]) -> None:
    def fail(transaction: Transaction) -> list[str]:
        raise ValueError("its own fault")

    group = [
        nodes[0].write(locks_held, apps=frozenset((1,))),
        nodes[0].write(fail, apps=frozenset((2,))),
        nodes[0].write(locks_held, apps=frozenset((3,)), is_shared=True),
    ]
    first, failed, last = await asyncio.gather(*group, return_exceptions=True)
    assert first == last == ["-1 shared", "1", "2", "3 shared"]
    assert isinstance(failed, ValueError)


async def test_a_node_that_stops_inside_a_group_loses_its_locks(nodes: list[Database]) -> None:
    one, other = nodes
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop(transaction: Transaction) -> None:
        transaction.execute("UPDATE server_start SET no = 1000")
        assert asyncio.run_coroutine_threadsafe(answer(), loop).result(60) == ["-1 shared", "1"]
        transaction.execute("UPDATE server_start SET no = 1001")

    async def answer() -> list[str]:
        asked.set()
        began = loop.time()
        found = await other.write(locks_held, apps=frozenset((1,)))
        assert loop.time() - began >= IDLE_MS / 1000 - 0.5
        return found

    with pytest.raises(StorageError):
        await one.write(stop, apps=frozenset((1,)))
    assert asked.is_set()
    number = await other.read(lambda transaction: transaction.execute("SELECT no FROM server_start").fetchone()[0])
    assert number < 1_000, "its group was rolled back"
    assert await one.write(locks_held, apps=frozenset((1,))) == ["-1 shared", "1"], "it connects again"
    assert not one.lost.done()
