"""Invalidations: noted with the change, read in order, and waited for."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from gateway.nodes.invalidations import Invalidations
from gateway.store.database import Database
from gateway.store.nodes.invalidations import Invalidation, InvalidationKind, remove_seen
from gateway.store.transaction import Transaction
from tests.gateway.nodes.conftest import Pair
from tests.gateway.nodes.peers import until

KEYS = 40


def insert_keys(transaction: Transaction) -> None:
    transaction.execute("INSERT INTO application (no, id, created_at) VALUES (1, 'default', 0)")
    for number in range(KEYS):
        transaction.execute(
            "INSERT INTO api_key (id, app_no, name, scopes, secret_hash, created_at) VALUES (?, 1, '', 'send', ?, 0)",
            (f"k{number}", b"%d" % number),
        )


def revoke(number: int) -> Callable[[Transaction], None]:
    def operation(transaction: Transaction) -> None:
        transaction.execute("UPDATE api_key SET revoked_at = 1 WHERE id = ?", (f"k{number}",))

    return operation


async def count(database: Database) -> int:
    return await database.read(lambda t: int(t.execute("SELECT count(*) FROM invalidation").fetchone()[0]))


class Reader:
    """A node's invalidations, and the keys that it has heard of."""

    def __init__(self, pair: Pair, number: int) -> None:
        self.heard: list[str] = []
        self.has_lease = True
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.held_back = asyncio.Event()
        self.held_back.set()
        self.invalidations = Invalidations(
            pair.databases[number], pair.owners[number], self._note_lost, lambda: self.has_lease
        )
        self.invalidations.on(InvalidationKind.KEY, self._hear)

    def _note_lost(self, reason: str) -> None:
        if not self.lost.done():
            self.lost.set_result(reason)

    async def _hear(self, found: Invalidation) -> None:
        await self.held_back.wait()
        self.heard.append(found.key)


@pytest.fixture
async def readers(pair: Pair) -> list[Reader]:
    await pair.databases[0].write(insert_keys)
    readers = [Reader(pair, number) for number in range(2)]
    for reader in readers:
        await reader.invalidations.begin()
    return readers


async def test_a_change_is_answered_when_the_other_node_knows_it(pair: Pair, readers: list[Reader]) -> None:
    here, there = readers
    there.held_back.clear()
    running = asyncio.create_task(there.invalidations.run())
    await pair.databases[0].write(revoke(1))
    answer = asyncio.create_task(here.invalidations.confirm())
    done, _ = await asyncio.wait([answer], timeout=0.3)
    assert not done, "the other one is still at it"
    there.held_back.set()
    await answer
    assert here.heard == there.heard == ["k1"]
    running.cancel()


async def test_a_node_that_has_ended_is_not_waited_for(pair: Pair, readers: list[Reader]) -> None:
    here, _ = readers  # the other one reads nothing
    await pair.databases[0].write(revoke(1))
    answer = asyncio.create_task(here.invalidations.confirm())
    done, _ = await asyncio.wait([answer], timeout=0.3)
    assert not done
    await pair.end(1)
    await answer


async def test_a_node_that_is_silent_for_too_long_is_no_reason_to_wait_for_ever(
    readers: list[Reader], pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.nodes.invalidations.LONGEST_SECONDS", 0.1)
    await pair.databases[0].write(revoke(1))
    with pytest.raises(Exception, match="not every node has confirmed"):
        await readers[0].invalidations.confirm()
    assert readers[0].invalidations.waiting == 0


async def test_nothing_is_skipped_whoever_commits_first(pair: Pair, readers: list[Reader]) -> None:
    """Both nodes store at once, some of it is rolled back, and both read meanwhile."""
    running = [asyncio.create_task(reader.invalidations.run()) for reader in readers]

    def fail(transaction: Transaction) -> None:
        revoke(0)(transaction)
        raise ValueError("rolled back")

    numbers = list(range(1, KEYS))
    random.shuffle(numbers)
    work = [pair.databases[number % 2].write(revoke(number)) for number in numbers]
    work += [pair.databases[number % 2].write(fail) for number in range(6)]
    failures = [one for one in await asyncio.gather(*work, return_exceptions=True) if one is not None]
    assert len(failures) == 6
    await readers[0].invalidations.confirm()
    for reader in readers:
        assert sorted(reader.heard) == sorted(f"k{number}" for number in range(1, KEYS)), "each of them, and once"
    assert readers[0].heard == readers[1].heard, "in one order"
    for task in running:
        task.cancel()


async def test_a_handler_that_fails_is_called_again(pair: Pair, readers: list[Reader]) -> None:
    here, _ = readers
    failures = [OSError("away"), None]

    async def hear(found: Invalidation) -> None:
        failure = failures.pop(0)
        if failure is not None:
            raise failure

    here.invalidations.on(InvalidationKind.KEY, hear)
    await pair.databases[0].write(revoke(1))
    with pytest.raises(OSError, match="away"):
        await here.invalidations.read()
    await here.invalidations.read()
    assert not failures


async def test_a_node_that_cannot_follow_gives_up_its_lease(
    pair: Pair, readers: list[Reader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.nodes.invalidations.LONGEST_SECONDS", 0.1)
    here, _ = readers

    async def fail(found: Invalidation) -> None:
        raise OSError("never")

    here.invalidations.on(InvalidationKind.KEY, fail)
    running = asyncio.create_task(here.invalidations.run())
    await pair.databases[0].write(revoke(1))
    assert "never" in await here.lost
    running.cancel()


async def test_what_everybody_has_read_leaves(pair: Pair, readers: list[Reader]) -> None:
    here, there = readers
    await pair.databases[0].write(revoke(1))
    await here.invalidations.read()
    await pair.databases[0].write(remove_seen)
    assert await count(pair.databases[0]) == 1, "the other one has not read it"
    await there.invalidations.read()
    await pair.databases[0].write(remove_seen)
    assert await count(pair.databases[0]) == 0
    latecomer = Reader(pair, 1)
    await latecomer.invalidations.begin()
    await pair.databases[0].write(revoke(2))
    await latecomer.invalidations.read()
    await here.invalidations.confirm()
    assert latecomer.heard == ["k2"]


async def test_while_nobody_reads_nothing_is_written(pair: Pair) -> None:
    await pair.databases[0].write(insert_keys)
    await pair.databases[0].write(revoke(1))
    assert await count(pair.databases[0]) == 0


async def test_a_node_without_a_lease_waits_for_the_database_with_the_others(
    pair: Pair, readers: list[Reader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.nodes.invalidations.LONGEST_SECONDS", 0.1)
    monkeypatch.setattr("gateway.nodes.invalidations.READ_SECONDS", 0.02)
    here, _ = readers
    is_away, tries = True, 0
    heard = asyncio.Event()

    async def fail(found: Invalidation) -> None:
        nonlocal tries
        tries += 1
        if is_away:
            raise OSError("the database is away")
        heard.set()

    here.invalidations.on(InvalidationKind.KEY, fail)
    here.has_lease = False
    running = asyncio.create_task(here.invalidations.run())
    await pair.databases[0].write(revoke(1))
    began = asyncio.get_running_loop().time()
    await until(lambda: tries > 3 and asyncio.get_running_loop().time() - began > 0.3)
    assert not here.lost.done()
    here.has_lease, is_away = True, False
    await heard.wait()
    assert not here.lost.done()
    running.cancel()
