"""The texts of a push whose devices get different ones: how they are stored, and which of them a device gets.

A push has one content, in its row, and most have no other: those pay nothing for this. A push that was rendered to
several texts says so in the place of its content (`MARK`), and each text is stored once, with the devices that it is
for as sets in segments (as `delivery_sets`). While something of it is on its way, the texts of those devices are in
memory to which it is: all of them may be 4 MiB, and hundreds of such pushes wait for the same device.

Nothing here changes after the push is stored; it leaves with the push's deliveries (`retention`).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from pyroaring import BitMap

from gateway.delivery.engine import Body
from gateway.pages import ListPage, fill_page
from gateway.store.audience.device_sets import SEGMENT_BITS, pack, segments_of, unpack
from gateway.store.rows import insert_rows

MARK = '{"texts":'
"""The beginning of what stands for a content; no content begins so."""
SHOWN_BODY_CHARACTERS = 200
"""Characters of a body where a push is one among many."""
SET_BYTES = 64
"""Bytes of a set of devices in memory besides its numbers, about; each number takes two at most."""


class PreparedText(NamedTuple):
    """A text of a push that was rendered and checked, and is about to be stored."""

    content: str
    size: int
    """Bytes of the wire payload at its largest."""
    is_fetched: bool
    """Devices will come for what belongs to it."""
    devices: BitMap


class PushForm(Protocol):
    """A push with one of its texts."""

    def body(self, now_ms: int, device_no: int = 0) -> Body:
        """The wire body at server time `now_ms`."""


class PushTexts:
    """The texts of a push in memory, of some of its devices. Loop, but for `covered`."""

    __slots__ = ("contents", "covered", "devices", "forms", "size")

    def __init__(self, texts: Iterable[tuple[str, BitMap]]) -> None:
        self.contents: list[str] = []
        self.devices: list[BitMap] = []
        self.covered = BitMap()
        """Devices whose texts are here."""
        self.forms: dict[int, PushForm] = {}
        """The push with each of its texts, made when the first device is handed it."""
        self.size = 0
        """Bytes in memory, about."""
        for content, devices in texts:
            self._append(content, devices)

    def _append(self, content: str, devices: BitMap) -> None:
        self.contents.append(content)
        self.devices.append(devices)
        self.covered |= devices
        self.size += len(content) + SET_BYTES + 2 * len(devices)

    def add(self, others: PushTexts) -> None:
        """Add the texts of more devices of the same push."""
        numbers = {content: number for number, content in enumerate(self.contents)}
        for content, devices in zip(others.contents, others.devices, strict=True):
            number = numbers.get(content)
            if number is None:
                self._append(content, devices - self.covered)
            else:
                before = len(self.devices[number])
                self.devices[number] = self.devices[number] | devices
                self.covered |= devices
                self.size += 2 * (len(self.devices[number]) - before)

    def number_of(self, device_no: int) -> int:
        """The number of the text that a device gets."""
        for number, devices in enumerate(self.devices):
            if device_no in devices:
                return number
        raise AssertionError("a delivery has a text, which was loaded: others ended `suppressed`")

    def divided(self, device_nos: Sequence[int]) -> Iterator[list[int]]:
        """Divide devices by what they get; a call for each text, and none for each device."""
        left = BitMap(device_nos)
        for devices in self.devices:
            here = left & devices
            if here:
                yield list(here)
                left -= here
                if not left:
                    return


def has_texts(content: str) -> bool:
    """Whether this stands in the place of a push's content for several texts."""
    return content.startswith(MARK)


def mark(count: int) -> str:
    """The text that is stored in the place of a content."""
    return f"{MARK}{count}}}"


# -- writer thread -----------------------------------------------------------------------------------------------------


def insert_texts(connection: sqlite3.Connection, push_no: int, texts: Sequence[PreparedText]) -> None:
    """Store the texts of a new push."""
    rows = [(push_no, number, text.content, text.size, len(text.devices)) for number, text in enumerate(texts, start=1)]
    sets = [
        (push_no, segment, number, pack(here))
        for number, text in enumerate(texts, start=1)
        for segment, here in segments_of(text.devices)
    ]
    insert_rows(connection, "push_text", "push_no, text_no, content, size, devices", rows)
    insert_rows(connection, "push_text_set", "push_no, segment, text_no, devices", sets)


def remove_texts(connection: sqlite3.Connection, push_no: int, count: int) -> int:
    """Remove up to `count` sets of devices of a push's texts, and with the last of them the texts; how many."""
    removed: int = connection.execute(
        "DELETE FROM push_text_set WHERE rowid IN (SELECT rowid FROM push_text_set WHERE push_no = ? LIMIT ?)",
        (push_no, count),
    ).rowcount
    if removed < count:
        connection.execute("DELETE FROM push_text WHERE push_no = ?", (push_no,))
    return removed


# -- any thread --------------------------------------------------------------------------------------------------------


def load_texts(connection: sqlite3.Connection, push_no: int, devices: BitMap) -> tuple[PushTexts, int]:
    """Load the texts of a push that these devices get, and say how many sets were looked through for that."""
    found: dict[int, BitMap] = {}
    looked = 0
    for segment, left in segments_of(devices):
        for text_no, blob in connection.execute(
            "SELECT text_no, devices FROM push_text_set WHERE push_no = ? AND segment = ?", (push_no, segment)
        ).fetchall():
            looked += 1
            here = unpack(blob) & left
            if here:
                found.setdefault(text_no, BitMap()).update(here)
                left = left - here
                if not left:
                    break
    rows = connection.execute(
        "SELECT content, text_no FROM push_text WHERE push_no = ? AND text_no IN (SELECT value FROM json_each(?))",
        (push_no, json.dumps(list(found))),
    ).fetchall()
    return PushTexts([(content, found[text_no]) for content, text_no in rows]), looked


def text_of_device(connection: sqlite3.Connection, push_no: int, device_no: int) -> int | None:
    """The number of the text that a device gets; None if it gets none, or there are no others."""
    for text_no, blob in connection.execute(
        "SELECT text_no, devices FROM push_text_set WHERE push_no = ? AND segment = ?",
        (push_no, device_no >> SEGMENT_BITS),
    ):
        if device_no in unpack(blob):
            return int(text_no)
    return None


def content_for(connection: sqlite3.Connection, push_no: int, content: str, device_no: int) -> str:
    """The content of a push as a device gets it; `content` is that of its row."""
    if not has_texts(content):
        return content
    row = connection.execute(
        "SELECT content FROM push_text WHERE push_no = ? AND text_no = ?",
        (push_no, text_of_device(connection, push_no, device_no)),
    ).fetchone()
    return "{}" if row is None else str(row[0])


def shown_text(connection: sqlite3.Connection, push_no: int, content: str, device_no: int) -> dict[str, str | None]:
    """The title and the beginning of the body of a push, as a device gets them; `content` is that of its row."""
    shown = json.loads(content_for(connection, push_no, content, device_no)).get("notification") or {}
    body = shown.get("body")
    if body is not None and len(body) > SHOWN_BODY_CHARACTERS:
        body = body[: SHOWN_BODY_CHARACTERS - 1] + "…"
    return {"title": shown.get("title"), "body": body}


def page_of_texts(
    connection: sqlite3.Connection, push_no: int, limit: int, after: int, text_no: int | None
) -> ListPage:
    """A page of the texts of a push behind a number: all of them, or one. Empty for a push that has one content."""
    rows = connection.execute(
        "SELECT text_no, content, size, devices FROM push_text WHERE push_no = ?1 AND text_no > ?2"
        " AND (?3 IS NULL OR text_no = ?3) ORDER BY text_no LIMIT ?4",
        (push_no, after, text_no, limit + 1),
    )
    return fill_page(rows, limit, lambda row: described_text(*row), lambda row: row[0])


def described_text(text_no: int, content: str, size: int, devices: int) -> dict[str, Any]:
    """A text as the API shows it."""
    return {"text": text_no, "devices": devices, "size": size, **json.loads(content)}


def template_of(connection: sqlite3.Connection, push_no: int) -> dict[str, Any] | None:
    """The saved template that a push was made with, as the API shows it."""
    row = connection.execute("SELECT name, version FROM push_template WHERE push_no = ?", (push_no,)).fetchone()
    return None if row is None else {"name": row[0], "version": row[1]}


def forget_templates(connection: sqlite3.Connection, push_nos: Sequence[int]) -> None:
    """Forget which templates pushes were made with. Writer thread."""
    connection.execute(
        "DELETE FROM push_template WHERE push_no IN (SELECT value FROM json_each(?))", (json.dumps(list(push_nos)),)
    )
