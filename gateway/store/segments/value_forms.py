"""Forms in which values are stored that conditions compare: what of a statement depends on them.

In both forms all numbers lie before all texts, and these before the booleans, so that a test of one type is a range.

- *Plain*: values of SQLite, which sorts them so by itself, and columns of texts, wherever they are.
- *Keyed*: the attributes in PostgreSQL, whose columns have one type: as bytes that sort so (`attribute_entries` in
  `postgresql/functions.sql`, where the functions are that are called here). A byte for the type, then a number's order
  in ten bytes, a text in UTF-8, or a boolean.

What keeps the rows has the form of its attributes as `attribute_form` of its connections; without it they are plain.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Protocol

from gateway.store.attribute_index import CROWDED, FALSE, TRUE, entries
from gateway.store.segments.terms import COMPONENT_DIGITS, VERSION_CHARACTERS, VERSION_COMPONENTS, Operator, Value
from gateway.store.transaction import Transaction

NUMBER, TEXT, BOOLEAN = b"\1", b"\2", b"\3"
"""First bytes of keys."""
_EXACT = 2**53
"""Up to here floats have every whole number; of greater ones a key has a multiple of _STEP and the rest."""
_STEP = 1_024
_INTEGERS = 2**63


class ValueForm(Protocol):
    """The form in which values are stored, as the SQL that depends on it.

    SQL that is given and answered is over one row; its parameters are named in their order.
    """

    texts: str
    """SQL: the lower bound of all texts, behind all numbers."""
    booleans: str
    """SQL: the lower bound of all booleans, behind all texts."""
    crowded: str
    """SQL: the attributes of crowded devices (device_no, name, value) by the marks `m` that these have in the index, a
    joined table with its condition. A parameter: the app's number."""

    def key(self, value: Value) -> str | int | float | bytes:
        """The parameter that is compared with stored values."""

    def one_of(self, value: str) -> str:
        """The condition that a value is one of several. A parameter: `listed`."""

    def listed(self, values: tuple[str | int | float, ...]) -> str:
        """The parameter of `one_of`."""

    def text(self, value: str) -> str:
        """A text, of a value that is one."""

    def whole(self, attribute_tested: Callable[[str], str]) -> str:
        """A condition on the whole text of an attribute of the device `a.device_no`. Parameters: those of the
        condition, and the attribute's name."""

    def version_compares(self, value: str, operator: Operator) -> str:
        """Whether a value is a version, and compares so. Parameters: VERSION_COMPONENTS numbers."""


class PlainValues:
    """Values as they are: booleans are blobs."""

    texts = "''"
    booleans = "x''"
    _VALUE, _CONDITION = entries("j")
    crowded = (
        f"SELECT m.device_no, j.key, {_VALUE} FROM device_attribute AS m"
        " CROSS JOIN device AS c ON c.no = m.device_no CROSS JOIN json_each(c.attributes) AS j"
        f" WHERE m.app_no = ? AND m.name = '{CROWDED}' AND {_CONDITION}"
    )

    def key(self, value: Value) -> str | int | float | bytes:
        return (TRUE if value else FALSE) if isinstance(value, bool) else value

    def one_of(self, value: str) -> str:
        return f"{value} IN (SELECT value FROM json_each(?))"

    def listed(self, values: tuple[str | int | float, ...]) -> str:
        return json.dumps(values)

    def text(self, value: str) -> str:
        return value

    def whole(self, attribute_tested: Callable[[str], str]) -> str:
        return (
            f"(SELECT {attribute_tested('j.value')} FROM device AS w CROSS JOIN json_each(w.attributes) AS j"
            " WHERE w.no = a.device_no AND j.key = ?)"
        )

    def version_compares(self, value: str, operator: Operator) -> str:
        """The numbers of a version become the elements of a JSON array."""
        is_version = (
            f"typeof({value}) = 'text' AND length({value}) <= {VERSION_CHARACTERS:d} AND t NOT GLOB '*[^0-9.]*'"
            " AND '.' || t || '.' NOT GLOB '*..*'"
            f" AND t NOT GLOB '*{'[0-9]' * (COMPONENT_DIGITS + 1)}*'"
            f" AND length(t) - length(replace(t, '.', '')) < {VERSION_COMPONENTS:d}"
        )
        places = range(VERSION_COMPONENTS)
        numbers = ", ".join(f"CAST(ifnull(json_extract(n, '$[{place}]'), 0) AS INTEGER)" for place in places)
        array = """'["' || replace(t, '.', '","') || '"]'"""
        compared = f"(SELECT ({numbers}) {operator} ({', '.join('?' * VERSION_COMPONENTS)}) FROM (SELECT {array} AS n))"
        return (
            f"(SELECT CASE WHEN {is_version} THEN {compared} ELSE 0 END"
            f" FROM (SELECT ltrim(substr({value}, 1, 1), 'vV') || substr({value}, 2) AS t))"
        )


class KeyedValues:
    """Values as bytes that sort as they do."""

    texts = f"x'{TEXT.hex()}'"
    booleans = f"x'{BOOLEAN.hex()}'"
    crowded = (
        "SELECT m.device_no, j.name, j.value FROM device_attribute AS m"
        " CROSS JOIN device AS c ON c.no = m.device_no CROSS JOIN attribute_entries(c.attributes) AS j"
        f" WHERE m.app_no = ? AND m.name = '{CROWDED}'"
    )

    def key(self, value: Value) -> bytes:
        if isinstance(value, bool):
            return BOOLEAN + (TRUE if value else FALSE)
        if isinstance(value, str):
            return TEXT + value.encode()
        rest = 0
        if _EXACT <= abs(value) < _INTEGERS or value == -_INTEGERS:
            whole = int(value)
            rest = whole % _STEP
            value = whole - rest
        (bits,) = struct.unpack(">Q", struct.pack(">d", value + 0.0))  # -0.0 becomes 0.0
        ordered = bits ^ (2**64 - 1) if bits >> 63 else bits | 1 << 63
        return NUMBER + struct.pack(">QH", ordered, rest)

    def one_of(self, value: str) -> str:
        return f"{value} = ANY(attribute_keys(?))"

    def listed(self, values: tuple[str | int | float, ...]) -> str:
        return json.dumps([self.key(value).hex() for value in values])

    def text(self, value: str) -> str:
        return f"attribute_text({value})"

    def whole(self, attribute_tested: Callable[[str], str]) -> str:
        return (
            f"(SELECT {attribute_tested('whole.value')} FROM device AS w"
            " CROSS JOIN attribute_text_of(w.attributes, ?) AS whole(value) WHERE w.no = a.device_no)"
        )

    def version_compares(self, value: str, operator: Operator) -> str:
        return f"attribute_version({value}) {operator} ARRAY[{', '.join('?' * VERSION_COMPONENTS)}]::bigint[]"


PLAIN = PlainValues()
KEYED = KeyedValues()


def attribute_form(transaction: Transaction) -> ValueForm:
    """The form of attributes where this transaction is."""
    form: ValueForm = getattr(transaction, "attribute_form", PLAIN)
    return form
