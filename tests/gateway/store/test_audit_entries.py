"""The chain of the audit log: whatever is done to single rows is found, and what a chain cannot find is known."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.audit_chain import ChainBroken, ChainVerifier, Head
from gateway.store.audit_entries import (
    COLUMNS,
    MAX_DETAILS_BYTES,
    EntryFacts,
    append,
    described,
    remove_oldest,
    stored_chain,
    verify,
)
from tests.empty_ledger import empty_ledger

ENTRIES = 9
NAMES = COLUMNS.split(", ")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    path = tmp_path / "fleetpush.db"
    path.write_bytes(empty_ledger())
    connection = sqlite3.connect(path, isolation_level=None)
    for app in ("default", "canteen"):
        connection.execute("INSERT INTO application (id, created_at) VALUES (?, 0)", (app,))
    for number in range(1, ENTRIES + 1):
        append(connection, 1, facts(number), 1_800_000_000_000 + number)
        append(connection, 2, facts(number), 1_800_000_000_000 + number)
    yield connection
    connection.close()


def facts(number: int) -> EntryFacts:
    details: dict[str, Any] = {"fields": ["name", "tags"]} if number % 2 else {"count": number, "name": "Grüße"}
    return EntryFacts(f"key:k_{number % 3}", "device.change", f"device:kiosk-{number}", "192.0.2.1", "done", details)


def is_found(ledger: sqlite3.Connection, change: Callable[[], object]) -> bool:
    """Whether a change of the tables is found; it is taken back."""
    ledger.execute("SAVEPOINT change")
    try:
        change()
        verify(ledger, 1)
    except ChainBroken:
        return True
    finally:
        ledger.execute("ROLLBACK TO change")
        ledger.execute("RELEASE change")
    return False


def other(value: Any, chance: random.Random) -> Any:
    """A value like this one, with a bit flipped or a character changed."""
    if isinstance(value, int):
        return value ^ 1 << chance.randrange(20)
    if isinstance(value, bytes):
        place = chance.randrange(len(value))
        return value[:place] + bytes([value[place] ^ 1 << chance.randrange(8)]) + value[place + 1 :]
    place = chance.randrange(len(value))
    return value[:place] + chr(ord(value[place]) ^ 1) + value[place + 1 :]


@pytest.mark.parametrize("seed", range(3))
def test_every_change_of_any_column_of_any_row_is_found(ledger: sqlite3.Connection, seed: int) -> None:
    chance = random.Random(seed)
    for seq in range(1, ENTRIES + 1):
        for name in NAMES:
            (value,) = ledger.execute(f"SELECT {name} FROM audit_entry WHERE app_no = 1 AND seq = ?", (seq,)).fetchone()
            changes = [other(value, chance), None if name not in ("seq",) else -1, "", b"\x00" * 32, "[]", 1.5]
            for changed in changes:
                if changed == value and type(changed) is type(value):
                    continue
                statement = f"UPDATE OR REPLACE audit_entry SET {name} = ? WHERE app_no = 1 AND seq = ?"

                def change(statement: str = statement, changed: Any = changed, seq: int = seq) -> None:
                    try:
                        ledger.execute(statement, (changed, seq))
                    except sqlite3.IntegrityError:
                        raise ChainBroken from None  # the table does not take it

                assert is_found(ledger, change), (seq, name, changed)
    for name in ("base_seq", "base_hash", "seq", "hash", "size"):
        (value,) = ledger.execute(f"SELECT {name} FROM audit_chain WHERE app_no = 1").fetchone()
        change_chain = f"UPDATE audit_chain SET {name} = ? WHERE app_no = 1"
        assert is_found(ledger, lambda: ledger.execute(change_chain, (other(value, chance),))), name  # noqa: B023  at once
    verify(ledger, 1)


def test_every_removal_addition_and_exchange_is_found(ledger: sqlite3.Connection) -> None:
    assert not is_found(ledger, lambda: None)
    others = ", ".join(name for name in NAMES if name != "seq")
    for seq in range(1, ENTRIES + 1):
        assert is_found(ledger, lambda: ledger.execute("DELETE FROM audit_entry WHERE app_no = 1 AND seq = ?", (seq,)))  # noqa: B023
        for place in range(ENTRIES + 2):
            copy = (
                f"INSERT OR REPLACE INTO audit_entry (app_no, seq, {others}) SELECT 1, ?, {others} FROM audit_entry"
                " WHERE app_no = 1 AND seq = ?"
            )
            if place != seq:
                assert is_found(ledger, lambda: ledger.execute(copy, (place, seq))), (seq, place)  # noqa: B023

                def exchange(first: int = seq, second: int = place) -> None:
                    for was, becomes in ((first, -1), (second, first), (-1, second)):
                        ledger.execute("UPDATE audit_entry SET seq = ? WHERE app_no = 1 AND seq = ?", (becomes, was))

                assert is_found(ledger, exchange), (seq, place)
    assert is_found(ledger, lambda: ledger.execute("DELETE FROM audit_entry WHERE app_no = 1"))
    assert is_found(ledger, lambda: ledger.execute("DELETE FROM audit_chain WHERE app_no = 1"))
    # Entries of another app are no entries of this one, though they say the same.
    swap = "UPDATE audit_entry SET app_no = 3 - app_no"
    assert is_found(ledger, lambda: (ledger.execute("DELETE FROM audit_entry WHERE app_no = 1"), ledger.execute(swap)))


def test_details_that_are_nested_without_end_are_found(ledger: sqlite3.Connection) -> None:
    nested = "[" * 100_000 + "]" * 100_000
    change = "UPDATE audit_entry SET details = ? WHERE app_no = 1 AND seq = 1"
    assert is_found(ledger, lambda: ledger.execute(change, (nested,)))


def test_what_is_left_after_the_oldest_have_gone_is_still_verified(ledger: sqlite3.Connection) -> None:
    rows = ledger.execute("SELECT seq, hash FROM audit_entry WHERE app_no = 1 ORDER BY seq")
    places = [Head.genesis("default"), *(Head(*row) for row in rows)]
    assert remove_oldest(ledger, 1, before=1_800_000_000_004, size=1 << 30, most=2) == 2
    assert remove_oldest(ledger, 1, before=1_800_000_000_004, size=1 << 30, most=2) == 1
    assert stored_chain(ledger, 1).base == places[3]
    verifier = verify(ledger, 1, [places[2], places[3], places[5]])
    assert verifier.older == [places[2]]
    assert verifier.entries == ENTRIES - 3
    for name in ("base_seq", "base_hash"):
        change = f"UPDATE audit_chain SET {name} = {'4' if name == 'base_seq' else 'zeroblob(32)'} WHERE app_no = 1"
        assert is_found(ledger, lambda: ledger.execute(change))  # noqa: B023  at once
    half = stored_chain(ledger, 1).size // 2
    assert remove_oldest(ledger, 1, before=0, size=half, most=100) > 0
    assert stored_chain(ledger, 1).size <= half
    verify(ledger, 1)
    assert remove_oldest(ledger, 1, before=1 << 50, size=0, most=100) > 0
    assert verify(ledger, 1).at == stored_chain(ledger, 1).head == places[-1]
    append(ledger, 1, facts(1), 1_800_000_001_000)
    verify(ledger, 1)


def test_a_whole_chain_made_anew_is_found_by_who_has_noted_a_head(ledger: sqlite3.Connection) -> None:
    noted = stored_chain(ledger, 1).head
    ledger.execute("DELETE FROM audit_entry WHERE app_no = 1")
    ledger.execute("DELETE FROM audit_chain WHERE app_no = 1")
    for number in range(2, ENTRIES + 1):
        append(ledger, 1, facts(number), 1_800_000_000_000)
    verify(ledger, 1)  # it agrees with itself
    with pytest.raises(ChainBroken, match="ends with entry 8, and a head of entry 9 had been noted"):
        verify(ledger, 1, [noted])
    append(ledger, 1, facts(1), 1_800_000_000_000)
    with pytest.raises(ChainBroken, match="entry 9 has another hash"):
        verify(ledger, 1, [noted])


def test_entries_are_proven_by_their_digests_alone(ledger: sqlite3.Connection) -> None:
    from gateway.audit_chain import digest_of

    rows = ledger.execute(f"SELECT {COLUMNS} FROM audit_entry WHERE app_no = 1 ORDER BY seq").fetchall()
    chain = stored_chain(ledger, 1)
    verifier = ChainVerifier("default", chain.base, [chain.head])
    for row in rows:
        if row[0] == 4:
            verifier.follow(described(row))
        else:
            verifier.follow_digest(digest_of(described(row)))
    verifier.end(chain.head)


def test_an_entry_is_cut_to_its_bounds(ledger: sqlite3.Connection) -> None:
    long = EntryFacts("a" * 9_999, "b" * 9_999, "\ud800ü" * 9_999, "d" * 9_999, "done", {"x": "y" * 9_999})
    append(ledger, 1, long, 1_800_000_000_000)
    row = ledger.execute(f"SELECT {COLUMNS} FROM audit_entry WHERE app_no = 1 ORDER BY seq DESC").fetchone()
    assert [len(text) for text in row[2:6]] == [200] * 4
    assert described(row)["details"] == {"cut": True}
    assert len(row[7]) < MAX_DETAILS_BYTES
    verify(ledger, 1)


def test_what_is_long_does_not_push_out_who_it_was(ledger: sqlite3.Connection) -> None:
    """64 tags of the longest are no way to hide from which session they were given."""
    tags = [f"{number:02}" + "t" * 62 for number in range(64)]
    details: dict[str, Any] = {"session": "s_1", "name": "Ada", "count": 900, "add": tags, "remove": tags[:9]}
    append(ledger, 1, EntryFacts("person:u_1", "device.change_tags", "", "", "done", details), 1_800_000_000_000)
    row = ledger.execute(f"SELECT {COLUMNS} FROM audit_entry WHERE app_no = 1 ORDER BY seq DESC").fetchone()
    kept = {"session": "s_1", "name": "Ada", "count": 900, "remove": tags[:9], "cut": True}
    assert described(row)["details"] == kept
    assert len(row[7]) <= MAX_DETAILS_BYTES
    verify(ledger, 1)


@pytest.mark.parametrize("text", ["", "41", "x:" + "0" * 64, "1:" + "0" * 63, "-1:" + "0" * 64])
def test_what_is_no_head_is_not_taken_for_one(text: str) -> None:
    with pytest.raises(ValueError, match="is no head"):
        Head.parse(text)
    head = Head(41, bytes(32))
    assert Head.parse(f" {head}\n") == head
