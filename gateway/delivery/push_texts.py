"""The texts of a push whose devices get different ones: how they are stored, and which of them a device gets.

A push has one content, in its row, and most have no other: those pay nothing for this. A push that was rendered to
several texts says so in the place of its content, and each text is stored once, with the devices that it is for as sets
in segments (`store/deliveries/push_texts`). While something of it is on its way, the texts of those devices are in
memory to which it is: all of them may be 4 MiB, and hundreds of such pushes wait for the same device.

Nothing here changes after the push is stored; it leaves with the push's deliveries (`retention`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from pyroaring import BitMap

from gateway.delivery.engine import Body
from gateway.pages import ListPage, fill_page
from gateway.store.deliveries.push_texts import content_for, template_of, texts_behind, texts_for
from gateway.store.transaction import Transaction

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


def load_texts(transaction: Transaction, push_no: int, devices: BitMap) -> tuple[PushTexts, int]:
    """Load the texts of a push that these devices get, and say how many sets were looked through for that."""
    texts, looked = texts_for(transaction, push_no, devices)
    return PushTexts(texts), looked


def shown_text(transaction: Transaction, push_no: int, content: str, device_no: int) -> dict[str, str | None]:
    """The title and the beginning of the body of a push, as a device gets them; `content` is that of its row."""
    shown = json.loads(content_for(transaction, push_no, content, device_no)).get("notification") or {}
    body = shown.get("body")
    if body is not None and len(body) > SHOWN_BODY_CHARACTERS:
        body = body[: SHOWN_BODY_CHARACTERS - 1] + "…"
    return {"title": shown.get("title"), "body": body}


def page_of_texts(transaction: Transaction, push_no: int, limit: int, after: int, text_no: int | None) -> ListPage:
    """A page of the texts of a push behind a number: all of them, or one. Empty for a push that has one content."""
    found = texts_behind(transaction, push_no, after, text_no, limit)
    return fill_page(found, limit, lambda text: described_text(*text), lambda text: text.text_no)


def described_text(text_no: int, content: str, size: int, devices: int) -> dict[str, Any]:
    """A text as the API shows it."""
    return {"text": text_no, "devices": devices, "size": size, **json.loads(content)}


def described_template(transaction: Transaction, push_no: int) -> dict[str, Any] | None:
    """The saved template that a push was made with, as the API shows it."""
    found = template_of(transaction, push_no)
    return None if found is None else {"name": found[0], "version": found[1]}
