"""Topics of devices, as rows and as sets.

Membership is in `device_topic`, and as a set in `device_set` under the name of `topic_set`, so a push to a topic costs
what one to a tag does. Whatever changes one changes the other in the same operation.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from gateway.store.audience.device_sets import BEHIND_TOPICS, TOPIC_PREFIX, add_to_sets, remove_from_sets, topic_set
from gateway.store.rows import insert_rows
from gateway.store.transaction import Transaction

_COLUMNS: Final = "app_no, topic, device_no, joined_at"


class TopicMember(NamedTuple):
    """A device that is in a topic."""

    device_no: int
    device_id: str
    joined_at: int
    """Server time in milliseconds."""


def topics_of(transaction: Transaction, device_nos: Iterable[int]) -> dict[int, list[str]]:
    """The topics of each of these devices that is in any, in alphabetical order. Writer or reader thread."""
    found: dict[int, list[str]] = {}
    for device_no, topic in transaction.execute(
        "SELECT device_no, topic FROM device_topic WHERE device_no IN (SELECT value FROM json_each(?)) ORDER BY topic",
        (json.dumps(list(device_nos)),),
    ):
        found.setdefault(device_no, []).append(topic)
    return found


def remove_from_topics(transaction: Transaction, app_no: int, device_no: int) -> None:
    """Take a device that is removed out of its topics. Writer thread."""
    topics = transaction.execute(
        "DELETE FROM device_topic WHERE device_no = ? RETURNING topic", (device_no,)
    ).fetchall()
    remove_from_sets(transaction, app_no, {topic_set(topic): [device_no] for (topic,) in topics})


def add_members(
    transaction: Transaction, app_no: int, topics: Sequence[str], device_nos: Sequence[int], now_ms: int
) -> None:
    """Add devices to topics, of which each of them is in none. Writer thread."""
    rows = [(app_no, topic, device_no, now_ms) for topic in topics for device_no in device_nos]
    insert_rows(transaction, "device_topic", _COLUMNS, rows)
    add_to_sets(transaction, app_no, {topic_set(topic): device_nos for topic in topics})


def remove_members(transaction: Transaction, app_no: int, topics: Sequence[str], device_nos: Sequence[int]) -> None:
    """Remove devices from topics. Writer thread."""
    if topics:
        transaction.execute(
            "DELETE FROM device_topic WHERE app_no = ? AND topic IN (SELECT value FROM json_each(?))"
            " AND device_no IN (SELECT value FROM json_each(?))",
            (app_no, json.dumps(list(topics)), json.dumps(list(device_nos))),
        )
        remove_from_sets(transaction, app_no, {topic_set(topic): device_nos for topic in topics})


def topics_in_use(transaction: Transaction, app_no: int, topics: Sequence[str]) -> set[str]:
    """Return those of these topics that some device of the app is in."""
    return {
        name
        for (name,) in transaction.execute(
            # CROSS: in this order. Left alone, SQLite may walk all sets of the app.
            "SELECT wanted.value FROM json_each(?) AS wanted CROSS JOIN device_set AS s"
            " ON s.app_no = ? AND s.tag = ? || wanted.value",
            (json.dumps(list(topics)), app_no, TOPIC_PREFIX),
        )
    }


def count_topics(transaction: Transaction, app_no: int, most: int) -> int:
    """Count the topics of an app that some device is in, up to `most`."""
    (count,) = transaction.execute(
        "SELECT count(*) FROM (SELECT DISTINCT tag FROM device_set WHERE app_no = ? AND tag >= ? AND tag < ? LIMIT ?)",
        (app_no, TOPIC_PREFIX, BEHIND_TOPICS, most),
    ).fetchone()
    return int(count)


def devices_with_topics(transaction: Transaction, device_nos: Sequence[int], count: int) -> set[int]:
    """Return those of these devices that are in so many topics, or more."""
    return {
        device_no
        for (device_no,) in transaction.execute(
            "SELECT device_no FROM device_topic WHERE device_no IN (SELECT value FROM json_each(?))"
            " GROUP BY device_no HAVING count(*) >= ?",
            (json.dumps(device_nos), count),
        )
    }


def members_behind(transaction: Transaction, app_no: int, topic: str, after: int, limit: int) -> Iterator[TopicMember]:
    """Yield the devices of a topic behind a number, in the order of their enrolment."""
    rows = transaction.execute(
        "SELECT t.device_no, d.id, t.joined_at FROM device_topic AS t CROSS JOIN device AS d"
        " ON d.no = t.device_no WHERE t.app_no = ? AND t.topic = ? AND t.device_no > ?"
        " ORDER BY t.device_no LIMIT ?",
        (app_no, topic, after, limit),
    )
    return map(TopicMember._make, rows)
