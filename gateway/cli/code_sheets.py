"""Enrolment codes on paper and as files: a table, a sheet of labels to cut or peel, a picture for each code.

A label has the QR code of the address, and beside it what a person needs who types: the code, what it is for, until
when. The QR code is drawn as rectangles, so it is as sharp as the printer.

What is written here lets somebody in: files are new, and their owner's alone.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from gateway.enrolment.qr_codes import QUIET_MODULES, qr_code
from gateway.printable import printable

if TYPE_CHECKING:
    import pydyf

POINTS_PER_MM: Final = 72 / 25.4
PAGE_MM: Final = (210.0, 297.0)
"""A4, width and height."""
COLUMNS_OF_PAGE, ROWS_OF_PAGE = 3, 8
LABEL_MM: Final = (70.0, 37.0)
"""Width and height of a label: sheets of 24 are sold everywhere."""
TOP_MARGIN_MILLIMETRES: Final = 0.5
"""Margin above the first row, and below the last."""
CODE_SIDE_MILLIMETRES: Final = 31.0
"""Side of the square that holds a QR code with its quiet zone."""
TEXT_WIDTH_MILLIMETRES: Final = 34.0
"""Width of the text beside it."""
PIXELS_PER_MODULE: Final = 8
BIG_POINTS, SMALL_POINTS = 10.0, 7.5
HELVETICA_EMS: Final = 0.6
"""Width of a character of Helvetica, at most as an average over a name. Courier's is exact."""
CSV_COLUMNS: Final = ("device_id", "name", "code", "url", "expires_at", "id")
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_-]+")


class CodeLabel(NamedTuple):
    """A code with what is said beside it."""

    invitation_id: str
    code: str
    url: str
    device_id: str | None
    name: str | None
    expires_at: str
    """RFC 3339."""

    @property
    def lines(self) -> list[str]:
        """Text for people: the name, the id, or that it is for any device."""
        return [text for text in (self.name, self.device_id) if text] or ["any device"]


def table_of(labels: Iterable[CodeLabel]) -> bytes:
    """All codes as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for label in labels:
        writer.writerow(
            (label.device_id or "", label.name or "", label.code, label.url, label.expires_at, label.invitation_id)
        )
    return text.getvalue().encode()


def sheets_of(labels: Sequence[CodeLabel]) -> bytes:
    """All codes as sheets of labels, PDF."""
    import pydyf

    pdf = pydyf.PDF()
    fonts = {
        name: pydyf.Dictionary(
            {"Type": "/Font", "Subtype": "/Type1", "BaseFont": f"/{face}", "Encoding": "/WinAnsiEncoding"}
        )
        for name, face in (("code", "Courier-Bold"), ("text", "Helvetica"))
    }
    for font in fonts.values():
        pdf.add_object(font)
    resources = pydyf.Dictionary({"Font": pydyf.Dictionary({name: font.reference for name, font in fonts.items()})})
    box = pydyf.Array([0, 0, *(side * POINTS_PER_MM for side in PAGE_MM)])
    for page in _pages(labels):
        drawing = pydyf.Stream(compress=True)
        for place, label in enumerate(page):
            row, column = divmod(place, COLUMNS_OF_PAGE)
            _draw(drawing, label, column * LABEL_MM[0], PAGE_MM[1] - TOP_MARGIN_MILLIMETRES - row * LABEL_MM[1])
        pdf.add_object(drawing)
        pdf.add_page(
            pydyf.Dictionary(
                {
                    "Type": "/Page",
                    "Parent": pdf.pages.reference,
                    "MediaBox": box,
                    "Contents": drawing.reference,
                    "Resources": resources,
                }
            )
        )
    output = io.BytesIO()
    pdf.write(output)
    return output.getvalue()


def picture_of(label: CodeLabel) -> bytes:
    """A code as a picture, PNG."""
    output = io.BytesIO()
    qr_code(label.url).save(output, kind="png", scale=PIXELS_PER_MODULE, border=QUIET_MODULES)
    return output.getvalue()


def picture_name(label: CodeLabel) -> str:
    """Return the name of a label's picture: that of its device, if that is known."""
    said = _UNSAFE.sub("-", label.device_id or label.name or "").strip("-")
    return f"{said[:80]}-{label.invitation_id}.png" if said else f"{label.invitation_id}.png"


def write_new(path: Path, content: bytes) -> None:
    """Write a file that was not there before, which only its owner can read. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _pages(labels: Sequence[CodeLabel]) -> Iterator[Sequence[CodeLabel]]:
    each = COLUMNS_OF_PAGE * ROWS_OF_PAGE
    for start in range(0, len(labels), each):
        yield labels[start : start + each]


def _draw(drawing: pydyf.Stream, label: CodeLabel, left_mm: float, top_mm: float) -> None:
    """Draw a label whose upper left corner is there."""
    rows = [list(row) for row in qr_code(label.url).matrix_iter(scale=1, border=QUIET_MODULES)]
    module = CODE_SIDE_MILLIMETRES / len(rows) * POINTS_PER_MM
    left = (left_mm + 2.0) * POINTS_PER_MM
    top = (top_mm - (LABEL_MM[1] - CODE_SIDE_MILLIMETRES) / 2) * POINTS_PER_MM
    for number, row in enumerate(rows):
        for start, width in _dark(row):
            drawing.rectangle(left + start * module, top - (number + 1) * module, width * module, module)
    drawing.fill()
    text_left = (left_mm + CODE_SIDE_MILLIMETRES + 3.0) * POINTS_PER_MM
    height = (top_mm - 8.0) * POINTS_PER_MM
    half = len(label.code) // 2
    lines = [("code", BIG_POINTS, part) for part in (label.code[:half], label.code[half + 1 :])]
    lines += [("text", SMALL_POINTS, text) for text in (*label.lines, f"until {label.expires_at[:10]}")]
    drawing.begin_text()
    for font, size, text in lines:
        room = int(TEXT_WIDTH_MILLIMETRES * POINTS_PER_MM / (size * HELVETICA_EMS))
        shown = printable(text) if len(text) <= room else f"{printable(text[: room - 1])}…"
        drawing.set_font_size(font, size)
        drawing.set_text_matrix(1, 0, 0, 1, text_left, height)
        # The fonts that every reader has know the characters of western Europe; the table has all of them.
        drawing.show_text_string(shown.encode("cp1252", "replace"))
        height -= size * 1.5
    drawing.end_text()


def _dark(row: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield (start, width) of the dark runs of a row."""
    start = None
    for at, dark in enumerate([*row, 0]):
        if dark and start is None:
            start = at
        elif not dark and start is not None:
            yield start, at - start
            start = None
