"""Answers that are kept with idempotency keys, so that who sends again learns what the first request was answered.

A record is of an app's key: the hash of the body that came with it, and the answer. It is written by the operation that
stores what was asked for, a push or a schedule, and read by every operation that comes with the key. For how long it is
kept is `retention`'s and `idempotency_quota`'s; what is older than its time and still there is no answer any more.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from typing import Any

from gateway.delivery.submission import key_reused
from gateway.errors import Problem

Record = tuple[int, str, bytes | None, str, int]
"""App, key, hash of the body, answer as a JSON object, time."""


def remembered_answer(
    connection: sqlite3.Connection, app_no: int, key: str, body_hash: bytes | None, after_ms: int
) -> dict[str, Any] | Problem | None:
    """The answer that an app's key was given behind a time; Problem 422 if that was to another body. Any thread."""
    row = connection.execute(
        "SELECT body_hash, response FROM idempotency_record WHERE app_no = ? AND key = ? AND created_at > ?",
        (app_no, key, after_ms),
    ).fetchone()
    if row is None:
        return None
    if row[0] != body_hash:
        return key_reused(key)
    answer: dict[str, Any] = json.loads(row[1])
    return answer


def remember_answers(connection: sqlite3.Connection, records: Iterable[Record]) -> None:
    """Keep answers with their keys. Writer thread, in the operation that stores what they are about."""
    connection.executemany(
        "INSERT OR REPLACE INTO idempotency_record (app_no, key, body_hash, response, created_at)"
        " VALUES (?, ?, ?, ?, ?)",
        records,
    )
