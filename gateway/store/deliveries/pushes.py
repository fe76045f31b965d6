"""Pushes as rows. Their numbers rise, within an app, in the order in which they are stored (`numbers`)."""

from __future__ import annotations

import json
from collections.abc import Collection, Generator, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

from gateway.store.rows import insert_rows
from gateway.store.transaction import Transaction

PUSH_COLUMNS = (
    "no, id, app_no, kind, priority, qos, ttl, collapse_key, channel, target, content, size, accepted_at, expires_at,"
    " targeted, suppressed, in_sets, key_id"
)
"""Columns of a new push, in the order of its values."""
LoadedPush: TypeAlias = tuple[
    int, str, str, int, int, int, str | None, str | None, str, int, int, int | None, int, int
]  # fmt: skip
"""A push as a device is given it: number, id, kind, priority, QoS, ttl in seconds, collapse key, channel, content as
JSON, when it was accepted, when it expires and when it was recalled (ms), whether it was stored as sets,
number of the app that its devices are of."""
_LOADED_PUSH = (
    "no, id, kind, priority, qos, ttl, collapse_key, channel, content, accepted_at, expires_at, recalled_at, in_sets,"
    # A push of the server's own (0) is for devices of one app, each of which has a row.
    " CASE app_no WHEN 0 THEN (SELECT v.app_no FROM delivery AS d JOIN device AS v ON v.no = d.device_no"
    " WHERE d.push_no = push.no LIMIT 1) ELSE app_no END"
)


class DigestMember(NamedTuple):
    """A push that is to be a part of a digest."""

    push_id: str
    app_no: int
    priority: int
    qos: int
    expires_at: int
    """Milliseconds of server time."""
    push_no: int
    content: str
    """As its row has it, JSON."""


class NewDigest(NamedTuple):
    """A digest, which is an alert to one device."""

    push_no: int
    push_id: str
    app_no: int
    priority: int
    qos: int
    ttl: int
    """Seconds."""
    channel: str | None
    target: str
    """JSON."""
    content: str
    """JSON."""
    size: int
    """Bytes on the wire at most."""
    accepted_at: int
    """Milliseconds of server time, as the next one."""
    expires_at: int


def insert_pushes(transaction: Transaction, pushes: Sequence[tuple[Any, ...]]) -> None:
    """Store new pushes, the values of PUSH_COLUMNS each. Writer thread."""
    insert_rows(transaction, "push", PUSH_COLUMNS, pushes)


def insert_digest(transaction: Transaction, digest: NewDigest) -> None:
    """Store a digest without its delivery. Writer thread."""
    transaction.execute(
        "INSERT INTO push (no, id, app_no, kind, priority, qos, ttl, channel, target, content, size, accepted_at,"
        " expires_at, targeted, suppressed) VALUES (?, ?, ?, 'alert', ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, 0)",
        digest,
    )


def digest_members(transaction: Transaction, push_nos: Sequence[int]) -> list[DigestMember]:
    """Read the pushes of a digest, in the order given."""
    rows = transaction.execute(
        "SELECT p.id, p.app_no, p.priority, p.qos, p.expires_at, p.no, p.content FROM json_each(?) AS wanted"
        " JOIN push AS p ON p.no = wanted.value ORDER BY wanted.key",
        (json.dumps(push_nos),),
    )
    return [DigestMember(*row) for row in rows.fetchall()]


def pushes_of_numbers(transaction: Transaction, push_nos: Iterable[int]) -> list[LoadedPush]:
    """Read the pushes of these numbers, in the order of the numbers."""
    return transaction.execute(
        f"SELECT {_LOADED_PUSH} FROM push WHERE no IN (SELECT value FROM json_each(?)) ORDER BY no",
        (json.dumps(list(push_nos)),),
    ).fetchall()


def push_number(transaction: Transaction, app_no: int, push_id: str) -> int | None:
    """The number of a push; None if the app has none of this id."""
    row = transaction.execute("SELECT no FROM push WHERE id = ? AND app_no = ?", (push_id, app_no)).fetchone()
    return row[0] if row is not None else None


def shown_push(transaction: Transaction, push_id: str) -> int | None:
    """The number of a push that devices show; None if there is none of this id, or nobody sees its kind."""
    row = transaction.execute("SELECT no FROM push WHERE id = ? AND kind IN ('alert', 'in_app')", (push_id,)).fetchone()
    return None if row is None else int(row[0])


def last_push_nos(transaction: Transaction, apps: Collection[int]) -> dict[int, int]:
    """The number of the newest push of each of these apps; 0 of one that has none.

    Numbers rise within an app in the order in which its pushes become visible, and over all apps they need not: so it
    is a position of this app's pushes alone.
    """
    rows = transaction.execute(
        "SELECT app.value, coalesce((SELECT max(no) FROM push WHERE app_no = app.value), 0) FROM json_each(?) AS app",
        (str(list(apps)),),
    )
    return dict(rows.fetchall())


def push_id_of(transaction: Transaction, push_no: int) -> str:
    """The id of a push, which is there."""
    (push_id,) = transaction.execute("SELECT id FROM push WHERE no = ?", (push_no,)).fetchone()
    return str(push_id)


class StoredPush(NamedTuple):
    """A push as it is shown; times in milliseconds of server time."""

    no: int
    push_id: str
    kind: str
    priority: int
    qos: int
    ttl: int
    """Seconds."""
    collapse_key: str | None
    channel: str | None
    target: str
    """JSON."""
    content: str
    """JSON; of a push with several texts, what stands for them."""
    accepted_at: int
    expires_at: int
    recalled_at: int | None
    targeted: int
    suppressed: int
    final_counts: str | None
    """JSON of its counts by state, if its deliveries have left."""
    key_id: str | None


def stored_push(transaction: Transaction, push_no: int) -> StoredPush | None:
    """A push whose counts are kept; None for none: a tombstone, or no longer even that."""
    row = transaction.execute(
        "SELECT no, id, kind, priority, qos, ttl, collapse_key, channel, target, content, accepted_at, expires_at,"
        " recalled_at, targeted, suppressed, final_counts, key_id FROM push WHERE no = ? AND gone_at IS NULL",
        (push_no,),
    ).fetchone()
    return None if row is None else StoredPush._make(row)


def newest_pushes(
    transaction: Transaction, app_no: int, before: int | None, count: int
) -> Generator[tuple[int, int], None, None]:
    """The newest pushes of an app before a number, as far as they are read: (number, deliveries to be counted) each."""
    rows = transaction.execute(
        "SELECT no, iif(final_counts IS NULL AND NOT in_sets, targeted, 0) FROM push"
        " WHERE app_no = ? AND gone_at IS NULL AND no < ? ORDER BY no DESC LIMIT ?",
        (app_no, before if before is not None else 2**62, count),
    )
    try:
        yield from rows
    finally:
        rows.close()


def targeted_of(transaction: Transaction, push_no: int) -> int | None:
    """The number of a push's deliveries; None if they are no longer kept."""
    row = transaction.execute("SELECT targeted FROM push WHERE no = ? AND final_counts IS NULL", (push_no,)).fetchone()
    return None if row is None else int(row[0])


def targeted_and_final(transaction: Transaction, push_no: int) -> tuple[int, str | None]:
    """The number of a push's deliveries, and its final counts by state as JSON; None: its deliveries are kept."""
    targeted, final = transaction.execute("SELECT targeted, final_counts FROM push WHERE no = ?", (push_no,)).fetchone()
    return targeted, final


class StoredContent(NamedTuple):
    """The content of a push, and how large it is."""

    content: str
    """JSON, or what stands for several texts."""
    size: int
    """Bytes of the wire payload at its largest."""
    targeted: int


def stored_content(transaction: Transaction, push_no: int) -> StoredContent | None:
    """The content of a push; None if its texts have been removed with its deliveries, or itself."""
    row = transaction.execute(
        "SELECT content, size, targeted, swept_at IS NOT NULL FROM push WHERE no = ?", (push_no,)
    ).fetchone()
    return None if row is None or row[3] else StoredContent._make(row[:3])


def senders_of(transaction: Transaction, push_ids: Sequence[str]) -> dict[str, str]:
    """The ids of the keys that have sent these pushes, by the ids of those; of pushes that have gone there is none."""
    rows = transaction.execute(
        "SELECT id, key_id FROM push WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(push_ids),)
    )
    return dict(rows.fetchall())


def kept_pushes(transaction: Transaction, app_no: int, push_ids: Sequence[str]) -> dict[str, bool]:
    """Whether the deliveries of these pushes are kept, by the ids of those that the app has."""
    rows = transaction.execute(
        "SELECT p.id, p.final_counts IS NULL FROM json_each(?) AS x CROSS JOIN push AS p"
        " ON p.id = x.value AND p.app_no = ?",
        (json.dumps(push_ids), app_no),
    )
    return dict(rows.fetchall())
