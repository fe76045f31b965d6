"""Answers that are kept with idempotency keys, so that who sends again learns what the first request was answered.

A record is of an app's key: the hash of the body that came with it, and the answer. It is written by the operation that
stores what was asked for, a push or a schedule, and read by every operation that comes with the key. For how long it is
kept is `retention`'s and `idempotency_quota`'s; what is older than its time and still there is no answer any more.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from gateway.store.transaction import Transaction

Record = tuple[int, str, bytes | None, str, int]
"""App, key, hash of the body, answer as a JSON object, time in ms."""
RECORD_BYTES = 80
"""Size of a record besides its key and answer, with its place in the index, about."""
RECORDS_TOGETHER = 2_000
"""Records that one operation looks at, about 2 ms."""
MINUTE_MS = 60_000


class KeptAnswer(NamedTuple):
    """An answer, and the hash of the body that it was given to."""

    body_hash: bytes | None
    answer: dict[str, Any]


class MeasuredRecords(NamedTuple):
    """Some of an app's records."""

    sizes: Counter[int]
    """Bytes by the minute in which they were stored."""
    last: str | None
    """Key to go on behind; None: that was all."""


def answer_of_key(transaction: Transaction, app_no: int, key: str, after_ms: int) -> KeptAnswer | None:
    """The answer that an app's key was given behind a time; None if there was none. Any thread."""
    row = transaction.execute(
        "SELECT body_hash, response FROM idempotency_record WHERE app_no = ? AND key = ? AND created_at > ?",
        (app_no, key, after_ms),
    ).fetchone()
    return None if row is None else KeptAnswer(row[0], json.loads(row[1]))


def remember_answers(transaction: Transaction, records: Iterable[Record]) -> None:
    """Keep answers with their keys. Writer thread, in the operation that stores what they are about."""
    transaction.executemany(
        "INSERT OR REPLACE INTO idempotency_record (app_no, key, body_hash, response, created_at)"
        " VALUES (?, ?, ?, ?, ?)",
        records,
    )


def measure_records(transaction: Transaction, app_no: int, after: str) -> MeasuredRecords:
    """Measure some of an app's records, those with keys behind this one. Reader thread."""
    rows = transaction.execute(
        "SELECT key, created_at, length(CAST(key AS BLOB)) + length(CAST(response AS BLOB)) FROM idempotency_record"
        " WHERE app_no = ? AND key > ? ORDER BY key LIMIT ?",
        (app_no, after, RECORDS_TOGETHER),
    ).fetchall()
    sizes: Counter[int] = Counter()
    for _, created_at, size in rows:
        sizes[created_at // MINUTE_MS] += size + RECORD_BYTES
    return MeasuredRecords(sizes, rows[-1][0] if len(rows) == RECORDS_TOGETHER else None)


def forget_answers(transaction: Transaction, app_no: int, after: str, before: int) -> tuple[int, str | None]:
    """Forget some of an app's records that were stored before a time, those with keys behind this one. Writer thread.

    Answers how many, and the key to go on behind.
    """
    keys = transaction.execute(
        "SELECT key FROM idempotency_record WHERE app_no = ? AND key > ? ORDER BY key LIMIT ?",
        (app_no, after, RECORDS_TOGETHER),
    ).fetchall()
    if not keys:
        return 0, None
    last = keys[-1][0]
    count = transaction.execute(
        "DELETE FROM idempotency_record WHERE app_no = ? AND key > ? AND key <= ? AND created_at < ?",
        (app_no, after, last, before),
    ).rowcount
    return count, last if len(keys) == RECORDS_TOGETHER else None


def remove_answers(transaction: Transaction, before: int, count: int) -> int:
    """Remove up to `count` records of any app that were stored by a time; how many. Writer thread."""
    return transaction.execute(
        "DELETE FROM idempotency_record WHERE (app_no, key) IN"
        " (SELECT app_no, key FROM idempotency_record WHERE created_at <= ? LIMIT ?)",
        (before, count),
    ).rowcount
