"""Entries of the audit log in the ledger: appended by the writer, read and verified by anybody who can open the file.

Laws
1. An entry is appended in the transaction of the change that it is about, and the head of its app's chain with it.
2. Entries leave from the oldest on, and the *base* of the chain moves with them, so that what is kept can still be
   verified. Nothing else ever changes or removes one.
3. An entry is bounded (MAX_DETAILS_BYTES and the lengths beside it): what is longer is cut, and says so.

An append takes three statements, of rows that are in the page cache: about 30 us of the writer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from gateway.audit_chain import ChainBroken, ChainVerifier, Head, canonical, digest_of
from gateway.store.access.apps import app_id_of
from gateway.store.transaction import Transaction
from gateway.timestamps import rfc3339_of_wall

Detail: TypeAlias = str | int | bool | list[str]

MAX_DETAILS_BYTES = 1_024
"""Bytes of the details as JSON. With the texts beside them an entry has 2 KiB at most, and 300 bytes as a rule."""
MAX_TEXT_CHARACTERS = 200
"""Characters of an actor, an action, an object and an address each."""
ROW_BYTES = 96
"""Size of an entry besides its texts, about: its numbers, its hash, its place in the tree."""
VERIFIED_ROWS = 1_000
"""Entries that are read together for a verification: about 500 KiB."""
COLUMNS: Final = "seq, at, actor, action, object, address, result, details, hash"


@dataclass(slots=True, frozen=True)
class EntryFacts:
    """The content of an entry, without its place."""

    actor: str
    action: str
    object: str
    address: str
    result: str
    """`done`, `refused` or `failed`."""
    details: Mapping[str, Detail]


@dataclass(slots=True, frozen=True, kw_only=True)
class AuditFilter:
    """The entries that a page is to have; None in a field: any."""

    actor: str | None = None
    action: str | None = None
    """An action, or `KIND.*` for all of one kind."""
    object: str | None = None
    since: int | None = None
    """Milliseconds of the wall clock."""
    until: int | None = None
    """Milliseconds of the wall clock; entries from it on are left out."""
    oldest_first: bool = False

    def conditions(self) -> tuple[str, list[Any]]:
        """Return the conditions as SQL, each with AND before it, and their values."""
        conditions: list[tuple[str, Any]] = []
        if self.action is not None and self.action.endswith(".*"):
            conditions.append(("substr(action, 1, length(?)) = ?", self.action[:-1]))
        elif self.action is not None:
            conditions.append(("action = ?", self.action))
        for column, value in (("actor = ?", self.actor), ("object = ?", self.object)):
            if value is not None:
                conditions.append((column, value))
        for column, time in (("at >= ?", self.since), ("at < ?", self.until)):
            if time is not None:
                conditions.append((column, time))
        values = [value for condition, value in conditions for _ in range(condition.count("?"))]
        return "".join(f" AND {condition}" for condition, _ in conditions), values


@dataclass(slots=True, frozen=True)
class StoredChain:
    """The two ends of an app's chain, as they are stored."""

    base: Head
    head: Head
    size: int


def append(transaction: Transaction, app_no: int, facts: EntryFacts, wall_ms: int) -> Head:
    """Append an entry to an app's log, and answer its place. Writer thread; the app must be there."""
    chain = stored_chain(transaction, app_no)
    texts = [_text(text) for text in (facts.actor, facts.action, facts.object, facts.address)]
    details = _bounded(facts.details)
    row = (chain.head.seq + 1, wall_ms, *texts, facts.result, details)
    head = chain.head.follow(digest_of(described((*row, b""))))
    size = chain.size + size_of(texts, details)
    transaction.execute(
        f"INSERT INTO audit_entry (app_no, {COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (app_no, *row, head.hash)
    )
    transaction.execute(
        "INSERT INTO audit_chain (app_no, base_seq, base_hash, seq, hash, size) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (app_no) DO UPDATE SET seq = excluded.seq, hash = excluded.hash, size = excluded.size",
        (app_no, chain.base.seq, chain.base.hash, head.seq, head.hash, size),
    )
    return head


def stored_chain(transaction: Transaction, app_no: int) -> StoredChain:
    """Return the ends of an app's chain; those of an empty one if it has none yet."""
    row = transaction.execute(
        "SELECT base_seq, base_hash, seq, hash, size FROM audit_chain WHERE app_no = ?", (app_no,)
    ).fetchone()
    if row is None:
        genesis = Head.genesis(app_id_of(transaction, app_no))
        return StoredChain(genesis, genesis, 0)
    return StoredChain(Head(row[0], row[1]), Head(row[2], row[3]), row[4])


def is_stored(transaction: Transaction, app_no: int, place: Head) -> bool:
    """Whether an entry with this place is there. Any transaction that wrote it may have been rolled back."""
    row = transaction.execute(
        "SELECT hash FROM audit_entry WHERE app_no = ? AND seq = ?", (app_no, place.seq)
    ).fetchone()
    return row is not None and row[0] == place.hash


def described(row: Sequence[Any]) -> dict[str, Any]:
    """Describe a row of COLUMNS as the API shows it, and as its digest is made of it.

    Raises ValueError for details that are no JSON, which the server does not write.
    """
    seq, at, actor, action, about, address, result, details, entry_hash = row
    return {
        "seq": seq,
        "at": rfc3339_of_wall(at),
        "actor": actor,
        "action": action,
        "object": about,
        "address": address,
        "result": result,
        "details": json.loads(details),
        "hash": entry_hash.hex(),
    }


def entries_behind(
    transaction: Transaction, app_no: int, wanted: AuditFilter, after: int, limit: int
) -> Iterator[tuple[Any, ...]]:
    """Yield rows of COLUMNS that a filter wants, behind a number: the newest first unless it says otherwise."""
    behind, order = ("seq > ?", "seq") if wanted.oldest_first else ("seq < ?", "seq DESC")
    conditions, values = wanted.conditions()
    return transaction.execute(
        f"SELECT {COLUMNS} FROM audit_entry WHERE app_no = ? AND {behind}{conditions} ORDER BY {order} LIMIT ?",
        (app_no, after, *values, limit),
    )


def entries_between(transaction: Transaction, app_no: int, after: int, to: int, limit: int) -> list[tuple[Any, ...]]:
    """List rows of COLUMNS behind a number and up to another, in their order."""
    return transaction.execute(
        f"SELECT {COLUMNS} FROM audit_entry WHERE app_no = ? AND seq > ? AND seq <= ? ORDER BY seq LIMIT ?",
        (app_no, after, to, limit),
    ).fetchall()


def oldest_entry_at(transaction: Transaction, app_no: int) -> int | None:
    """Return the wall time of the oldest entry of an app (ms); None: it has no entries."""
    row = transaction.execute("SELECT at FROM audit_entry WHERE app_no = ? ORDER BY seq LIMIT 1", (app_no,)).fetchone()
    return None if row is None else int(row[0])


def _text(text: str) -> str:
    # What somebody asked for need not be text: a path may hold anything.
    return text[:MAX_TEXT_CHARACTERS].encode(errors="replace").decode()


def _bounded(details: Mapping[str, Detail]) -> str:
    """Encode details as JSON. Of too many the longest ones are left out: with them nobody gets rid of the others, as
    of the session that a request came with."""
    kept = dict(details)
    text = canonical(kept).decode()
    while len(text) > MAX_DETAILS_BYTES:
        del kept[max(kept.keys() - {"cut"}, key=lambda name: len(canonical(kept[name])))]
        kept["cut"] = True
        text = canonical(kept).decode()
    return text


def size_of(texts: Iterable[str], details: str) -> int:
    """Size of an entry in bytes, about, as the size of its app's log counts it. `texts`: actor to address."""
    return ROW_BYTES + sum(len(text.encode()) for text in texts) + len(details)


def remove_oldest(transaction: Transaction, app_no: int, before: int, size: int, most: int) -> int:
    """Remove entries of before a wall time, and the oldest until `size` bytes are left; at most so many. How many.

    The base of the chain moves to the last that has left. Writer thread.
    """
    chain = stored_chain(transaction, app_no)
    left, base, removed = chain.size, chain.base, 0
    rows = transaction.execute(
        f"SELECT {COLUMNS} FROM audit_entry WHERE app_no = ? ORDER BY seq LIMIT ?", (app_no, most)
    ).fetchall()
    for row in rows:
        if row[1] >= before and left <= size:
            break
        left -= size_of(row[2:6], row[7])
        base, removed = Head(row[0], row[8]), removed + 1
    if removed:
        transaction.execute("DELETE FROM audit_entry WHERE app_no = ? AND seq <= ?", (app_no, base.seq))
        transaction.execute(
            "UPDATE audit_chain SET base_seq = ?, base_hash = ?, size = ? WHERE app_no = ?",
            (base.seq, base.hash, left, app_no),
        )
    return removed


def logs_due(transaction: Transaction, before: int, size: int) -> list[tuple[int, bool]]:
    """List the apps of which something is to leave: entries of before a wall time, or more than `size` bytes.

    With each, whether it is for want of room. Reader thread.
    """
    return transaction.execute(
        "SELECT c.app_no, c.size > ?1 FROM audit_chain AS c WHERE c.size > ?1 OR (SELECT e.at FROM audit_entry AS e"
        " WHERE e.app_no = c.app_no ORDER BY e.seq LIMIT 1) < ?2",
        (size, before),
    ).fetchall()


# -- verification ------------------------------------------------------------------------------------------------------


def verify(transaction: Transaction, app_no: int, noted: Iterable[Head] = ()) -> ChainVerifier:
    """Verify what is kept of an app's log, and its head. Raises ChainBroken. Any connection, in one snapshot."""
    chain = stored_chain(transaction, app_no)
    verifier = ChainVerifier(app_id_of(transaction, app_no), chain.base, noted)
    size = 0
    for row in _rows(transaction, app_no):
        try:
            verifier.follow(described(row))
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ChainBroken(f"entry {row[0]} is none that the server has written: {error}") from None
        if row[7] != canonical(json.loads(row[7])).decode():
            raise ChainBroken(f"entry {row[0]} has been changed: its details are written in another way")
        size += size_of(row[2:6], row[7])
    verifier.end(chain.head)
    if size != chain.size:
        raise ChainBroken(f"the entries have {size} bytes, and {chain.size} were counted")
    return verifier


def has_log(transaction: Transaction) -> bool:
    """Whether the file of a ledger, which may be an earlier version's, has an audit log. SQLite only."""
    return transaction.execute("SELECT 1 FROM sqlite_master WHERE name = 'audit_chain'").fetchone() is not None


def verify_all(transaction: Transaction) -> list[str]:
    """Verify the logs of all apps, and answer what is wrong, a line for each app; none if all agree.

    Any connection, in one snapshot.
    """
    wrong = []
    try:
        for app_no, app_id in apps_with_chain(transaction):
            try:
                verify(transaction, app_no)
            except ChainBroken as error:
                wrong.append(f"app {app_id}: {error}")
    except ChainBroken as error:
        wrong.append(str(error))
    return wrong


def count_entries(transaction: Transaction) -> int:
    """Count the entries of all apps."""
    (count,) = transaction.execute("SELECT count(*) FROM audit_entry").fetchone()
    return int(count)


def apps_with_chain(transaction: Transaction) -> list[tuple[int, str]]:
    """List the apps (number, id) that have an entry or a chain. Raises ChainBroken for one without an app."""
    rows = transaction.execute(
        "SELECT l.app_no, a.id FROM (SELECT app_no FROM audit_chain UNION SELECT app_no FROM audit_entry) AS l"
        " LEFT JOIN application AS a ON a.no = l.app_no ORDER BY l.app_no"
    ).fetchall()
    for app_no, app_id in rows:
        if app_id is None:
            raise ChainBroken(f"there are entries of app {app_no}, which does not exist")
    return rows


def _rows(transaction: Transaction, app_no: int) -> Iterator[tuple[Any, ...]]:
    """All entries of an app in their order, some at a time."""
    after = -1 << 62
    while True:
        rows = transaction.execute(
            f"SELECT {COLUMNS} FROM audit_entry WHERE app_no = ? AND seq > ? ORDER BY seq LIMIT ?",
            (app_no, after, VERIFIED_ROWS),
        ).fetchall()
        yield from rows
        if len(rows) < VERIFIED_ROWS:
            return
        after = rows[-1][0]
