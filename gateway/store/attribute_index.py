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
    counted = f"(SELECT count(*) FROM json_each({attributes}))"
    return f"(length({attributes}) < {_FEWEST_CHARACTERS:d} OR {counted} <= {INDEXED_ATTRIBUTES:d})"


def _rows(attributes: str) -> str:
    """SELECT of the (name, value) that a device with these attributes has in the index."""
    value, condition = entries("j")
    few = _few(attributes)
    return (
        f"SELECT j.key AS name, {value} AS value FROM json_each({attributes}) AS j WHERE {condition} AND {few}"
        f" UNION ALL SELECT '{CROWDED}', 0 WHERE NOT {few}"
    )


_INSERT = (
    "INSERT OR IGNORE INTO device_attribute (app_no, name, value, device_no)"  # there already: it stays
    f" SELECT NEW.app_no, r.name, r.value, NEW.no FROM ({_rows('NEW.attributes')}) AS r;"
)
ATTRIBUTE_TRIGGERS = (
    "CREATE TRIGGER device_attributes_enrolled AFTER INSERT ON device"
    f" WHEN NEW.attributes <> '{{}}' BEGIN {_INSERT} END",
    "CREATE TRIGGER device_attributes_changed AFTER UPDATE OF attributes ON device"
    " WHEN NEW.attributes <> OLD.attributes BEGIN"
    " DELETE FROM device_attribute WHERE device_no = NEW.no"
    f" AND (name, value) NOT IN (SELECT r.name, r.value FROM ({_rows('NEW.attributes')}) AS r);"
    f" {_INSERT} END",
)
"""A device is removed by a change, too: it has no attributes afterwards."""
