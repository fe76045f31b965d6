"""The register of devices, as rows: enrolled, shown, changed, removed, and the tags that they have.

Whatever changes devices or their tags changes the sets of both in the same operation (`device_sets`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from gateway.store.audience.device_sets import ALL_TAG, add_to_sets, remove_from_sets
from gateway.store.audience.topics import topics_of
from gateway.store.rows import insert_rows
from gateway.store.transaction import Transaction

_COLUMNS: Final = (
    "no, id, name, attributes, locale, timezone, created_at, updated_at, connected_at, last_seen,"
    " last_error, last_error_at, consent, channels, token_expires_at"
)
_NEW_COLUMNS: Final = (
    "no, app_no, id, name, attributes, locale, timezone, token_hash, token_days, token_expires_at, created_at,"
    " updated_at"
)
_TAG_COLUMNS: Final = "app_no, tag, device_no"


class NewDeviceRow(NamedTuple):
    """A device that is to be enrolled, its fields in the order of the columns."""

    no: int
    app_no: int
    device_id: str
    name: str | None
    attributes: str
    """An object as JSON."""
    locale: str | None
    timezone: str | None
    token_hash: bytes
    token_days: int | None
    token_expires_at: int | None
    created_at: int
    updated_at: int


class StoredDevice(NamedTuple):
    """A live device with its tags and topics. Times are server time in milliseconds."""

    no: int
    device_id: str
    name: str | None
    attributes: str
    """An object as JSON."""
    locale: str | None
    timezone: str | None
    created_at: int
    updated_at: int
    connected_at: int | None
    """Start of the last connection."""
    last_seen: int | None
    last_error: str | None
    last_error_at: int | None
    consent: str
    channels: str
    """Choices by channel, as JSON."""
    token_expires_at: int | None
    tags: list[str]
    """In alphabetical order."""
    topics: list[str]
    """In alphabetical order."""


def device_of_id(transaction: Transaction, app_no: int, device_id: str) -> StoredDevice | None:
    """Return the live device of an id; None if the app has none."""
    found = _devices(transaction, "app_no = ? AND id = ? AND removed_at IS NULL", (app_no, device_id))
    return found[0] if found else None


def devices_of_numbers(transaction: Transaction, device_nos: Sequence[int]) -> list[StoredDevice]:
    """Return devices by their numbers, in the order of their ids."""
    return _devices(transaction, "no IN (SELECT value FROM json_each(?)) ORDER BY id", (json.dumps(device_nos),))


def _devices(transaction: Transaction, where: str, parameters: tuple[Any, ...]) -> list[StoredDevice]:
    rows = transaction.execute(f"SELECT {_COLUMNS} FROM device WHERE {where}", parameters).fetchall()
    numbers = [row[0] for row in rows]
    tags, topics = tags_of(transaction, numbers), topics_of(transaction, numbers)
    return [StoredDevice._make((*row, sorted(tags[row[0]]), topics.get(row[0], []))) for row in rows]


def tags_of(transaction: Transaction, device_nos: Sequence[int]) -> dict[int, set[str]]:
    """The tags of each of these devices."""
    found: dict[int, set[str]] = {no: set() for no in device_nos}
    for device_no, tag in transaction.execute(
        "SELECT device_no, tag FROM device_tag WHERE device_no IN (SELECT value FROM json_each(?))",
        (json.dumps(device_nos),),
    ):
        found[device_no].add(tag)
    return found


def add_devices(
    transaction: Transaction, app_no: int, rows: Sequence[NewDeviceRow], tagged: Mapping[str, Sequence[int]]
) -> None:
    """Add devices to an app, with the tags that they have: the numbers of the devices by tag. Writer thread.

    Numbers were drawn (`numbers`); ids are nobody's.
    """
    insert_rows(transaction, "device", _NEW_COLUMNS, rows)
    insert_rows(transaction, "device_tag", _TAG_COLUMNS, [(app_no, tag, no) for tag in tagged for no in tagged[tag]])
    add_to_sets(transaction, app_no, {ALL_TAG: [row.no for row in rows], **tagged})


def change_facts(
    transaction: Transaction,
    device_no: int,
    name: str | None,
    attributes: str,
    locale: str | None,
    timezone: str | None,
    now_ms: int,
) -> None:
    """Replace what is known of a device besides its tags and topics. Writer thread."""
    transaction.execute(
        "UPDATE device SET name = ?, attributes = ?, locale = ?, timezone = ?, updated_at = ? WHERE no = ?",
        (name, attributes, locale, timezone, now_ms, device_no),
    )


def write_tags(
    transaction: Transaction, app_no: int, given: Mapping[str, list[int]], taken: Mapping[str, list[int]]
) -> None:
    """Write the tags that devices are given and that are taken from them: the numbers of the devices by tag.

    Those of `given` lack the tag, those of `taken` have it. Writer thread.
    """
    transaction.executemany(
        "DELETE FROM device_tag WHERE app_no = ? AND tag = ? AND device_no IN (SELECT value FROM json_each(?))",
        [(app_no, tag, json.dumps(numbers)) for tag, numbers in taken.items()],
    )
    remove_from_sets(transaction, app_no, taken)
    rows = [(app_no, tag, device_no) for tag, numbers in given.items() for device_no in numbers]
    insert_rows(transaction, "device_tag", _TAG_COLUMNS, rows)
    add_to_sets(transaction, app_no, given)


def note_changes(transaction: Transaction, device_nos: Sequence[int], now_ms: int) -> None:
    """Note that these devices have been changed. Writer thread."""
    transaction.execute(
        "UPDATE device SET updated_at = ? WHERE no IN (SELECT value FROM json_each(?))",
        (now_ms, json.dumps(device_nos)),
    )


def remove_from_tags(transaction: Transaction, app_no: int, device_no: int) -> None:
    """Take a device that is removed out of its tags, and out of the set of all. Writer thread."""
    tags = transaction.execute("DELETE FROM device_tag WHERE device_no = ? RETURNING tag", (device_no,)).fetchall()
    remove_from_sets(transaction, app_no, {tag: [device_no] for (tag,) in [(ALL_TAG,), *tags]})


def mark_removed(transaction: Transaction, device_no: int, now_ms: int) -> int:
    """Leave of a device the row that its deliveries refer to; how many were removed, 0 if it was before. Writer
    thread."""
    return transaction.execute(
        "UPDATE device SET removed_at = ?, token_hash = x'', token_expires_at = NULL,"
        " previous_token_hash = NULL, name = NULL, attributes = '{}', channels = '{}'"
        " WHERE no = ? AND removed_at IS NULL",
        (now_ms, device_no),
    ).rowcount
