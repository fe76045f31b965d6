"""Uplink messages in the database: what devices have said, the newest of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from gateway.store.transaction import Transaction

MESSAGE_BYTES = 64
"""Size of a message besides its topic and payload, with its places in the indexes, about."""
_SIZE = f"{MESSAGE_BYTES} + length(u.topic) + length(u.payload)"


class UplinkMessageRow(NamedTuple):
    """A message that a device has said."""

    no: int
    topic: str
    payload: bytes
    received_at: int
    """Server time in milliseconds."""


class MeasuredMessages(NamedTuple):
    """Messages that were measured."""

    sizes: dict[int, int]
    """Bytes by app."""
    to: int
    """Number of the last message that was looked at."""
    more: bool


def insert_uplink(transaction: Transaction, device_no: int, topic: str, payload: bytes, now_ms: int) -> int:
    """Store a message of a device; its number. Writer thread."""
    number = transaction.execute(
        "INSERT INTO uplink_message (device_no, topic, payload, received_at) VALUES (?, ?, ?, ?)",
        (device_no, topic, payload, now_ms),
    ).lastrowid
    assert number is not None, "a row was inserted"
    return number


def uplinks_before(
    transaction: Transaction, device_no: int, before: int | None, limit: int
) -> Iterator[UplinkMessageRow]:
    """Yield messages of a device with numbers before this, the newest first; None: from the newest."""
    rows = transaction.execute(
        "SELECT no, topic, payload, received_at FROM uplink_message WHERE device_no = ? AND no < ?"
        " ORDER BY no DESC LIMIT ?",
        (device_no, before if before is not None else 2**62, limit),
    )
    return map(UplinkMessageRow._make, rows)


def remove_uplinks_of_device(transaction: Transaction, device_no: int) -> None:
    """Remove the messages of a device. Writer thread."""
    transaction.execute("DELETE FROM uplink_message WHERE device_no = ?", (device_no,))


def remove_uplinks_behind(transaction: Transaction, device_no: int, keep: int) -> None:
    """Remove the messages of a device but for the newest `keep`. Writer thread."""
    transaction.execute(
        "DELETE FROM uplink_message WHERE device_no = ?1 AND no <= (SELECT no FROM uplink_message"
        " WHERE device_no = ?1 ORDER BY no DESC LIMIT 1 OFFSET ?2)",
        (device_no, keep),
    )


def remove_uplinks_beyond(transaction: Transaction, device_no: int, size: int, before: int) -> None:
    """Remove the messages of a device beyond its newest `size` bytes, with numbers before this. Writer thread."""
    transaction.execute(
        "DELETE FROM uplink_message WHERE no IN (SELECT no FROM (SELECT no,"
        " sum(length(payload)) OVER (ORDER BY no DESC) AS total FROM uplink_message WHERE device_no = ?1)"
        " WHERE total > ?2 AND no < ?3)",
        (device_no, size, before),
    )


def remove_old_uplinks(transaction: Transaction, before: int, count: int) -> int:
    """Remove up to `count` messages that came by a time; how many. Writer thread."""
    return transaction.execute(
        "DELETE FROM uplink_message WHERE no IN (SELECT no FROM uplink_message WHERE received_at <= ? LIMIT ?)",
        (before, count),
    ).rowcount


def measure_uplinks(transaction: Transaction, after: int, count: int, horizon: int | None = None) -> MeasuredMessages:
    """Measure the next `count` messages behind this one, by app; up to the horizon, where several nodes store some.
    Reader thread."""
    rows = transaction.execute(
        f"SELECT u.no, d.app_no, {_SIZE} FROM uplink_message AS u"
        " CROSS JOIN device AS d ON d.no = u.device_no WHERE u.no > ? AND u.no <= ? ORDER BY u.no LIMIT ?",
        (after, 2**62 if horizon is None else horizon, count),
    ).fetchall()
    sizes: Counter[int] = Counter()
    for number, app_no, size in rows:
        sizes[app_no] += size
        after = number
    return MeasuredMessages(sizes, after, len(rows) == count)


def measure_uplinks_of_app(transaction: Transaction, app_no: int, after: int, count: int) -> tuple[int, int | None]:
    """Measure those of an app among the next `count` messages behind this one. Reader thread.

    Returns their bytes, and where to go on; None: that was all.
    """
    rows = transaction.execute(
        f"SELECT u.no, iif(d.app_no = ?, {_SIZE}, 0) FROM uplink_message AS u"
        " CROSS JOIN device AS d ON d.no = u.device_no WHERE u.no > ? ORDER BY u.no LIMIT ?",
        (app_no, after, count),
    ).fetchall()
    return sum(size for _, size in rows), rows[-1][0] if len(rows) == count else None


def remove_oldest_uplinks(transaction: Transaction, app_no: int, count: int, size: int) -> tuple[int, int]:
    """Remove some of an app's oldest messages, at most `count`, until they have `size` bytes. Writer thread.

    Returns how many, and their bytes.
    """
    rows = transaction.execute(
        f"SELECT u.no, {_SIZE} FROM uplink_message AS u CROSS JOIN device AS d ON d.no = u.device_no"
        " WHERE d.app_no = ? ORDER BY u.no LIMIT ?",
        (app_no, count),
    ).fetchall()
    removed = freed = 0
    for number, length in rows:
        transaction.execute("DELETE FROM uplink_message WHERE no = ?", (number,))
        removed, freed = removed + 1, freed + length
        if freed >= size:
            break
    return removed, freed
