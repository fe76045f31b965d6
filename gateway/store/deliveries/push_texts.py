"""The texts of pushes whose devices get different ones, in the database.

Each text is a row, and the devices that it is for are sets in segments. In the row of the push stands a mark in the
place of its content. Nothing of this changes after the push is stored; it leaves with the push's deliveries.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pyroaring import BitMap

from gateway.store.audience.device_sets import SEGMENT_BITS, pack, segments_of, unpack
from gateway.store.rows import insert_rows
from gateway.store.transaction import Transaction

MARK = '{"texts":'
"""The beginning of what stands for a content; no content begins so."""


class StoredText(NamedTuple):
    """A text of a push."""

    text_no: int
    """From 1 on."""
    content: str
    size: int
    """Bytes of the wire payload at its largest."""
    devices: int
    """Devices that it is for."""


def has_texts(content: str) -> bool:
    """Whether this stands in the place of a push's content for several texts."""
    return content.startswith(MARK)


def mark(count: int) -> str:
    """The text that is stored in the place of a content."""
    return f"{MARK}{count}}}"


# -- writer thread -----------------------------------------------------------------------------------------------------


def insert_texts(transaction: Transaction, push_no: int, texts: Sequence[tuple[str, int, BitMap]]) -> None:
    """Store the texts of a new push: content, bytes of the wire payload at its largest, and devices each."""
    rows = [(push_no, number, content, size, len(devices)) for number, (content, size, devices) in enumerate(texts, 1)]
    sets = [
        (push_no, segment, number, pack(here))
        for number, (_, _, devices) in enumerate(texts, 1)
        for segment, here in segments_of(devices)
    ]
    insert_rows(transaction, "push_text", "push_no, text_no, content, size, devices", rows)
    insert_rows(transaction, "push_text_set", "push_no, segment, text_no, devices", sets)


def remove_texts(transaction: Transaction, push_no: int, count: int) -> int:
    """Remove up to `count` sets of devices of a push's texts, and with the last of them the texts; how many."""
    removed: int = transaction.execute(
        "DELETE FROM push_text_set WHERE rowid IN (SELECT rowid FROM push_text_set WHERE push_no = ? LIMIT ?)",
        (push_no, count),
    ).rowcount
    if removed < count:
        transaction.execute("DELETE FROM push_text WHERE push_no = ?", (push_no,))
    return removed


def insert_template(transaction: Transaction, push_no: int, name: str, version: int) -> None:
    """Store which saved template a new push was made with. Writer thread."""
    transaction.execute("INSERT INTO push_template VALUES (?, ?, ?)", (push_no, name, version))


def forget_templates(transaction: Transaction, push_nos: Sequence[int]) -> None:
    """Forget which templates pushes were made with. Writer thread."""
    transaction.execute(
        "DELETE FROM push_template WHERE push_no IN (SELECT value FROM json_each(?))", (json.dumps(list(push_nos)),)
    )


# -- any thread --------------------------------------------------------------------------------------------------------


def texts_for(transaction: Transaction, push_no: int, devices: BitMap) -> tuple[list[tuple[str, BitMap]], int]:
    """Find the texts of a push that these devices get: content and devices each.

    With it the number of sets that were looked through.
    """
    found: dict[int, BitMap] = {}
    looked = 0
    for segment, left in segments_of(devices):
        for text_no, blob in transaction.execute(
            "SELECT text_no, devices FROM push_text_set WHERE push_no = ? AND segment = ?", (push_no, segment)
        ).fetchall():
            looked += 1
            here = unpack(blob) & left
            if here:
                found.setdefault(text_no, BitMap()).update(here)
                left = left - here
                if not left:
                    break
    rows = transaction.execute(
        "SELECT content, text_no FROM push_text WHERE push_no = ? AND text_no IN (SELECT value FROM json_each(?))",
        (push_no, json.dumps(list(found))),
    ).fetchall()
    return [(content, found[text_no]) for content, text_no in rows], looked


def text_of_device(transaction: Transaction, push_no: int, device_no: int) -> int | None:
    """The number of the text that a device gets; None if it gets none, or there are no others."""
    for text_no, blob in transaction.execute(
        "SELECT text_no, devices FROM push_text_set WHERE push_no = ? AND segment = ?",
        (push_no, device_no >> SEGMENT_BITS),
    ):
        if device_no in unpack(blob):
            return int(text_no)
    return None


def content_for(transaction: Transaction, push_no: int, content: str, device_no: int) -> str:
    """The content of a push as a device gets it; `content` is that of its row."""
    if not has_texts(content):
        return content
    row = transaction.execute(
        "SELECT content FROM push_text WHERE push_no = ? AND text_no = ?",
        (push_no, text_of_device(transaction, push_no, device_no)),
    ).fetchone()
    return "{}" if row is None else str(row[0])


def texts_behind(
    transaction: Transaction, push_no: int, after: int, text_no: int | None, limit: int
) -> Iterator[StoredText]:
    """Read the texts of a push behind a number, all of them or one, `limit` and one more.

    There are none of a push that has one content.
    """
    rows = transaction.execute(
        "SELECT text_no, content, size, devices FROM push_text WHERE push_no = ?1 AND text_no > ?2"
        " AND (?3 IS NULL OR text_no = ?3) ORDER BY text_no LIMIT ?4",
        (push_no, after, text_no, limit + 1),
    )
    return map(StoredText._make, rows)


def template_of(transaction: Transaction, push_no: int) -> tuple[str, int] | None:
    """The saved template that a push was made with: name and version."""
    row = transaction.execute("SELECT name, version FROM push_template WHERE push_no = ?", (push_no,)).fetchone()
    return None if row is None else (row[0], row[1])
