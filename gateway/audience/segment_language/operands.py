"""Operands: what an expression can be besides a condition, and how the texts of times and versions are read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeAlias

from gateway.audience.segment_language.syntax_tree import Node
from gateway.store.segments.terms import (
    COMPONENT_DIGITS,
    VERSION_CHARACTERS,
    VERSION_COMPONENTS,
    Moment,
    Term,
    Value,
)

_UNITS_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_DURATION = re.compile(r"(?:[0-9]{1,12}(?:\.[0-9]{1,6})?(?:ms|[smhdw]))+")
_DURATION_PART = re.compile(r"([0-9.]+)(ms|[smhdw])")
_TIMESTAMP = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})"
)


@dataclass(slots=True, frozen=True)
class Fixed:
    """A text, a number or a boolean that was written."""

    value: Value


@dataclass(slots=True, frozen=True)
class NullValue:
    """The word null."""


@dataclass(slots=True, frozen=True)
class ListValue:
    """A list, with the place of each item."""

    items: tuple[tuple[Node, Operand], ...]


@dataclass(slots=True, frozen=True)
class AttributeValue:
    """An attribute of a device, whatever it is."""

    name: str


@dataclass(slots=True, frozen=True)
class TextField:
    """A text of a device."""

    field: str


@dataclass(slots=True, frozen=True)
class TimeField:
    """A time of a device."""

    field: str


@dataclass(slots=True, frozen=True)
class NameSet:
    """The tags of a device, or its topics."""

    of: str


@dataclass(slots=True, frozen=True)
class SetSize:
    """The number of its tags, or topics."""

    of: str


@dataclass(slots=True, frozen=True)
class Span:
    """A distance in time, in milliseconds."""

    ms: int


@dataclass(slots=True, frozen=True)
class AttributeVersion:
    """An attribute that is read as a version."""

    name: str


@dataclass(slots=True, frozen=True)
class FixedVersion:
    """A version that was written."""

    components: tuple[int, ...]


NoCondition: TypeAlias = (
    Fixed
    | NullValue
    | ListValue
    | AttributeValue
    | TextField
    | TimeField
    | NameSet
    | SetSize
    | Span
    | Moment
    | AttributeVersion
    | FixedVersion
)
Operand: TypeAlias = Term | NoCondition
"""What an expression can be: a condition, or one of the others."""
FIXED_OPERANDS = (Fixed, NullValue, Span, Moment, FixedVersion)
"""Operands that are the same for every device."""


def duration_ms(text: str) -> int | None:
    """Read a duration such as `1h30m`; None if the text is none."""
    if not _DURATION.fullmatch(text):
        return None
    return round(sum(float(number) * _UNITS_MS[unit] for number, unit in _DURATION_PART.findall(text)))


def timestamp_ms(text: str) -> int | None:
    """Read a time of RFC 3339 with its offset; None if the text is none. Raises ValueError: there is no such time."""
    if not _TIMESTAMP.fullmatch(text):
        return None
    try:
        return round(datetime.fromisoformat(text).timestamp() * 1000)
    except OverflowError:
        raise ValueError("out of range") from None


def version_components(text: str) -> tuple[int, ...] | None:
    """The numbers of a version, filled up with zeros; None if the text is none."""
    digits = text[1:] if text[:1] in ("v", "V") else text
    if len(text) > VERSION_CHARACTERS or not re.fullmatch(
        rf"[0-9]{{1,{COMPONENT_DIGITS}}}(\.[0-9]{{1,{COMPONENT_DIGITS}}}){{0,{VERSION_COMPONENTS - 1}}}", digits
    ):
        return None
    numbers = [int(part) for part in digits.split(".")]
    return (*numbers, *([0] * (VERSION_COMPONENTS - len(numbers))))
