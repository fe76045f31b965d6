"""Webhooks in the database: their addresses and secrets, how far each lane has come, and their dead letters.

A webhook is named by its key: the number of its row and its id. The number of a removed webhook is given again, and
what was under way for it must not be booked for another one, maybe another app's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

from gateway.store.transaction import Transaction

WebhookKey: TypeAlias = tuple[int, str]
"""Number and id of a webhook."""
_THIS_WEBHOOK = "(SELECT no FROM webhook WHERE no = ? AND id = ?)"
"""The number of a webhook's key, if it is still its own."""


class WebhookRow(NamedTuple):
    """A webhook, as it is stored."""

    no: int
    id: str
    app_no: int
    url: str
    types: list[str]
    description: str | None
    secret: str
    old_secret: str | None
    old_secret_until: int | None
    disabled_at: int | None
    disabled_reason: str | None
    succeeded_at: int | None
    failed_at: int | None
    last_error: str | None
    dropped: int
    created_at: int
    updated_at: int


class LaneRow(NamedTuple):
    """Progress of a part of a webhook's devices: entry and place in the event log behind what was sent."""

    webhook_no: int
    lane: int
    entry: int
    place: int
    attempts: int
    failing_since: int | None
    next_at: int


class DeadLetterRow(NamedTuple):
    """Events, as a JSON array, that a receiver has not taken."""

    no: int
    events: str
    attempts: int
    error: str
    at: int
    replay_at: int | None


_COLUMNS = ", ".join(WebhookRow._fields)
_LANE = ", ".join(LaneRow._fields)
_LETTER = ", ".join(DeadLetterRow._fields)


# -- webhooks ----------------------------------------------------------------------------------------------------------


def stored_webhooks(transaction: Transaction, webhook_id: str | None = None) -> list[WebhookRow]:
    """Read the webhooks of all apps, in the order in which they were made, or one of them. Reader thread."""
    rows = transaction.execute(
        f"SELECT {_COLUMNS} FROM webhook WHERE id = ? ORDER BY no"
        if webhook_id is not None
        else f"SELECT {_COLUMNS} FROM webhook ORDER BY no",
        () if webhook_id is None else (webhook_id,),
    )
    return [WebhookRow._make([*row[:4], json.loads(row[4]), *row[5:]]) for row in rows]


def stored_lanes(transaction: Transaction, webhook_no: int | None = None) -> list[LaneRow]:
    """Read the lanes of all webhooks, in order, or of one. Reader thread."""
    rows = transaction.execute(
        f"SELECT {_LANE} FROM webhook_lane WHERE webhook_no = ? ORDER BY lane"
        if webhook_no is not None
        else f"SELECT {_LANE} FROM webhook_lane ORDER BY webhook_no, lane",
        () if webhook_no is None else (webhook_no,),
    )
    return [LaneRow._make(row) for row in rows]


def count_webhooks(transaction: Transaction, app_no: int) -> int:
    """Count the webhooks of an app. Writer thread."""
    (count,) = transaction.execute("SELECT count(*) FROM webhook WHERE app_no = ?", (app_no,)).fetchone()
    return int(count)


def insert_webhook(
    transaction: Transaction,
    webhook_id: str,
    app_no: int,
    url: str,
    types: Sequence[str],
    description: str | None,
    secret: str,
    disabled_at: int | None,
    disabled_reason: str | None,
    now_ms: int,
) -> int:
    """Store a new webhook; its number. Writer thread."""
    number = transaction.execute(
        "INSERT INTO webhook (id, app_no, url, types, description, secret, disabled_at, disabled_reason,"
        " created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(webhook_id, app_no, url, json.dumps(list(types)), description, secret),
            *(disabled_at, disabled_reason, now_ms, now_ms),
        ),
    ).lastrowid
    assert number is not None, "a row was inserted"
    return number


def insert_lanes(transaction: Transaction, webhook_no: int, count: int, position: tuple[int, int]) -> None:
    """Store the lanes of a new webhook, which begin behind this entry and place of the event log. Writer thread."""
    transaction.executemany(
        "INSERT INTO webhook_lane (webhook_no, lane, entry, place) VALUES (?, ?, ?, ?)",
        [(webhook_no, lane, *position) for lane in range(count)],
    )


def change_webhook(
    transaction: Transaction,
    key: WebhookKey,
    url: str,
    types: Sequence[str],
    description: str | None,
    disabled_at: int | None,
    disabled_reason: str | None,
    now_ms: int,
) -> bool:
    """Replace what was asked for of a webhook; False: there is no such webhook any more. Writer thread."""
    changed = transaction.execute(
        "UPDATE webhook SET url = ?, types = ?, description = ?, disabled_at = ?, disabled_reason = ?,"
        f" updated_at = ? WHERE no = {_THIS_WEBHOOK}",
        (url, json.dumps(list(types)), description, disabled_at, disabled_reason, now_ms, *key),
    )
    return changed.rowcount > 0


def replace_secret(
    transaction: Transaction, key: WebhookKey, secret: str, old_secret: str, old_until: int, now_ms: int
) -> bool:
    """Store a new secret of a webhook, and until when the old one is good; as `change_webhook`. Writer thread."""
    changed = transaction.execute(
        "UPDATE webhook SET secret = ?, old_secret = ?, old_secret_until = ?, updated_at = ?"
        f" WHERE no = {_THIS_WEBHOOK}",
        (secret, old_secret, old_until, now_ms, *key),
    )
    return changed.rowcount > 0


def disable_webhook(transaction: Transaction, webhook_no: int, reason: str, now_ms: int) -> None:
    """Note that a webhook is disabled, and why. Writer thread."""
    transaction.execute(
        "UPDATE webhook SET disabled_at = ?, disabled_reason = ? WHERE no = ?", (now_ms, reason, webhook_no)
    )


def remove_webhook(transaction: Transaction, key: WebhookKey) -> None:
    """Remove a webhook with its lanes and its dead letters. Writer thread."""
    if not transaction.execute(f"DELETE FROM webhook WHERE no = {_THIS_WEBHOOK}", key).rowcount:
        return  # another request was faster
    for table in ("webhook_lane", "dead_letter"):
        transaction.execute(f"DELETE FROM {table} WHERE webhook_no = ?", (key[0],))


# -- attempts ----------------------------------------------------------------------------------------------------------


def note_success(transaction: Transaction, key: WebhookKey, now_ms: int) -> None:
    """Note that a receiver has taken something. Writer thread."""
    transaction.execute(f"UPDATE webhook SET succeeded_at = ? WHERE no = {_THIS_WEBHOOK}", (now_ms, *key))


def note_failure(transaction: Transaction, key: WebhookKey, error: str, now_ms: int) -> bool:
    """Note that an attempt has failed, and how; as `change_webhook`. Writer thread."""
    changed = transaction.execute(
        f"UPDATE webhook SET failed_at = ?, last_error = ? WHERE no = {_THIS_WEBHOOK}", (now_ms, error, *key)
    )
    return changed.rowcount > 0


def store_lane(
    transaction: Transaction,
    key: WebhookKey,
    lane: int,
    position: tuple[int, int],
    attempts: int,
    failing_since: int | None,
    next_at: int,
) -> None:
    """Store how far a lane has come: entry and place behind what was sent. Writer thread."""
    transaction.execute(
        "UPDATE webhook_lane SET entry = ?, place = ?, attempts = ?, failing_since = ?, next_at = ?"
        f" WHERE webhook_no = {_THIS_WEBHOOK} AND lane = ?",
        (*position, attempts, failing_since, next_at, *key, lane),
    )


def restart_lanes(transaction: Transaction, webhook_no: int) -> None:
    """Have the lanes of a webhook go on at once, as if nothing had failed. Writer thread."""
    transaction.execute(
        "UPDATE webhook_lane SET attempts = 0, failing_since = NULL, next_at = 0 WHERE webhook_no = ?", (webhook_no,)
    )


# -- dead letters ------------------------------------------------------------------------------------------------------


def insert_dead_letter(
    transaction: Transaction,
    webhook_no: int,
    events: str,
    attempts: int,
    error: str,
    dropped: int,
    letters: int,
    size: int,
    now_ms: int,
) -> int:
    """Store a dead letter, and remove the oldest ones that are too many; how many of the webhook had to go until now.

    `events`: a JSON array. `dropped`: those that had to go before. At most `letters` are kept, of `size` bytes, the
    newest excepted. Writer thread.
    """
    transaction.execute(
        "INSERT INTO dead_letter (webhook_no, events, attempts, error, at) VALUES (?, ?, ?, ?, ?)",
        (webhook_no, events, attempts, error, now_ms),
    )
    stored = transaction.execute(
        "SELECT no, length(events) FROM dead_letter WHERE webhook_no = ? ORDER BY no DESC", (webhook_no,)
    )
    room = size
    for count, (number, length) in enumerate(stored):
        room -= length
        if count and (count >= letters or room < 0):
            stored.close()
            dropped += transaction.execute(
                "DELETE FROM dead_letter WHERE webhook_no = ? AND no <= ?", (webhook_no, number)
            ).rowcount
            break
    transaction.execute("UPDATE webhook SET dropped = ? WHERE no = ?", (dropped, webhook_no))
    return dropped


def count_dead_letters(transaction: Transaction, key: WebhookKey) -> int:
    """Count the dead letters of a webhook. Reader thread."""
    (count,) = transaction.execute(
        f"SELECT count(*) FROM dead_letter WHERE webhook_no = {_THIS_WEBHOOK}", key
    ).fetchone()
    return int(count)


def dead_letters_before(transaction: Transaction, key: WebhookKey, before: int, limit: int) -> Iterator[DeadLetterRow]:
    """Read the dead letters of a webhook before a number, the newest first, `limit` and one more. Reader thread."""
    rows = transaction.execute(
        f"SELECT {_LETTER} FROM dead_letter WHERE webhook_no = {_THIS_WEBHOOK} AND no < ? ORDER BY no DESC LIMIT ?",
        (*key, before, limit + 1),
    )
    return map(DeadLetterRow._make, rows)


def remove_dead_letters(transaction: Transaction, before: int, count: int) -> int:
    """Remove up to `count` dead letters from before a time, and of it; how many. Writer thread."""
    return transaction.execute(
        "DELETE FROM dead_letter WHERE no IN (SELECT no FROM dead_letter WHERE at <= ? LIMIT ?)",
        (before, count),
    ).rowcount


def request_replays(transaction: Transaction, key: WebhookKey, numbers: Sequence[int] | None, now_ms: int) -> int:
    """Note that these dead letters of a webhook, or all, are to be sent again; how many. Writer thread."""
    chosen = "" if numbers is None else " AND no IN (SELECT value FROM json_each(?))"
    parameters = [now_ms, *key] + ([] if numbers is None else [json.dumps(list(numbers))])
    return transaction.execute(
        f"UPDATE dead_letter SET replay_at = ? WHERE webhook_no = {_THIS_WEBHOOK}{chosen}", parameters
    ).rowcount


def next_replay(transaction: Transaction, key: WebhookKey) -> tuple[int, str] | None:
    """Find the oldest dead letter of a webhook that is to be sent again: number and events. Reader thread."""
    row = transaction.execute(
        f"SELECT no, events FROM dead_letter WHERE webhook_no = {_THIS_WEBHOOK} AND replay_at IS NOT NULL"
        " ORDER BY no LIMIT 1",
        key,
    ).fetchone()
    return None if row is None else (row[0], row[1])


_THIS_REPLAY = f"no = ? AND webhook_no = {_THIS_WEBHOOK} AND replay_at IS NOT NULL"


def remove_replayed(transaction: Transaction, key: WebhookKey, number: int) -> None:
    """Remove a dead letter that was sent again and taken. Writer thread."""
    transaction.execute(f"DELETE FROM dead_letter WHERE {_THIS_REPLAY}", (number, *key))


def note_replay_failed(transaction: Transaction, key: WebhookKey, number: int, error: str) -> None:
    """Note that a dead letter was sent again and not taken. Writer thread."""
    transaction.execute(
        f"UPDATE dead_letter SET replay_at = NULL, attempts = attempts + 1, error = ? WHERE {_THIS_REPLAY}",
        (error, number, *key),
    )
