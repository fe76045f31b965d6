"""The index of device attributes: SQL that keeps the table `device_attribute` like the JSON in `device.attributes`.

Attributes come by enrolment, by changes over HTTP and by what devices report, so triggers keep the index: whatever
changes a device changes it in the same operation, and writes the rows that differ.

What is indexed, and in which form, is said here once (`entries`), for the triggers and for whoever reads attributes of
the JSON itself:

- Texts, numbers and booleans at the top level. Booleans are the blobs TRUE and FALSE, so that each type sorts by
  itself: numbers, then texts, then booleans.
- Of a text the first `PREFIX_CHARACTERS` characters. What it is compared with has one character less at most, so the
  order is that of the whole text, and no text is equal that should not be.
- Names of up to `NAME_CHARACTERS` characters.
- Attributes of devices that have at most `INDEXED_ATTRIBUTES`. A device has room for two thousand in its 16 KiB, and a
  report could change them all: 20 ms of the writer, which is others' time, too. A device with more is *crowded*: it has
  one row, under the name `CROWDED`, and its JSON is read when an expression asks for attributes.
"""

from __future__ import annotations

TEXT_CHARACTERS = 128
"""Characters of a text that an attribute is compared with: as much as a name for people has."""
PREFIX_CHARACTERS = TEXT_CHARACTERS + 1
"""Characters of an attribute's text in the index."""
NAME_CHARACTERS = 64
"""Characters of an indexed attribute's name, as of a tag's."""
INDEXED_ATTRIBUTES = 64
"""Attributes of a device that are indexed, as many as it may have tags: a report that changes all of them takes under a
millisecond of the writer."""
CROWDED = ""
"""Name of the row of a device with more attributes. No attribute is indexed under it."""
TRUE, FALSE = b"\1", b"\0"
"""Booleans, as the index has them."""

_FEWEST_CHARACTERS = INDEXED_ATTRIBUTES * len('"a":0,')
"""Length of the JSON up to which there cannot be more than INDEXED_ATTRIBUTES, so that nobody counts them."""


def entries(entry: str) -> tuple[str, str]:
    """SQL over a row of `json_each(attributes)` of this alias: the indexed value, and the condition to be indexed."""
    value = (
        f"CASE {entry}.type WHEN 'text' THEN substr({entry}.value, 1, {PREFIX_CHARACTERS:d})"
        f" WHEN 'true' THEN x'{TRUE.hex()}' WHEN 'false' THEN x'{FALSE.hex()}' ELSE {entry}.value END"
    )
    condition = (
        f"{entry}.type IN ('text', 'integer', 'real', 'true', 'false')"
        f" AND length({entry}.key) BETWEEN 1 AND {NAME_CHARACTERS:d}"
    )
    return value, condition


def _few(attributes: str) -> str:
    """The condition that a device with these attributes is not crowded."""
    counted = f"(SELECT count(*) FROM json_each({attributes}))"
    return f"(length({attributes}) < {_FEWEST_CHARACTERS:d} OR {counted} <= {INDEXED_ATTRIBUTES:d})"


_VALUE, _IS_INDEXED = entries("j")
_ROWS = f"SELECT j.key, {_VALUE} FROM json_each(NEW.attributes) AS j WHERE {_IS_INDEXED}"
_INTO = "INSERT OR IGNORE INTO device_attribute (app_no, name, value, device_no)"
"""What is there already stays."""
_ADD = f"{_INTO} SELECT NEW.app_no, j.key, {_VALUE}, NEW.no FROM json_each(NEW.attributes) AS j WHERE {_IS_INDEXED};"
_MARK = f"{_INTO} VALUES (NEW.app_no, '{CROWDED}', 0, NEW.no);"
_ENROLLED = "AFTER INSERT ON device WHEN NEW.attributes <> '{}' AND"
_CHANGED = "AFTER UPDATE OF attributes ON device WHEN NEW.attributes <> OLD.attributes AND"
_FEW = _few("NEW.attributes")
ATTRIBUTE_TRIGGERS = (
    f"CREATE TRIGGER device_attributes_enrolled {_ENROLLED} {_FEW} BEGIN {_ADD} END",
    f"CREATE TRIGGER device_attributes_enrolled_crowded {_ENROLLED} NOT {_FEW} BEGIN {_MARK} END",
    f"CREATE TRIGGER device_attributes_changed {_CHANGED} {_FEW} BEGIN"
    f" DELETE FROM device_attribute WHERE device_no = NEW.no AND (name, value) NOT IN ({_ROWS}); {_ADD} END",
    f"CREATE TRIGGER device_attributes_changed_crowded {_CHANGED} NOT {_FEW} BEGIN"
    f" DELETE FROM device_attribute WHERE device_no = NEW.no AND name <> '{CROWDED}'; {_MARK} END",
)
"""A device is removed by a change, too: it has no attributes afterwards."""
