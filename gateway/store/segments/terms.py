"""The typed tree: an expression as conditions over one device, each of which is true or false, and nothing else.

There is no third value. What a device lacks is equal to nothing, before nothing and after nothing; `!=` is `!` of `==`.
The type checker of the language (`audience/segment_language`) makes this tree; the store turns it into statements
(`sql_compiler`) and operations on sets (`set_algebra`).

Constants are of the language: texts, numbers and booleans. Times are milliseconds of the wall clock, or a distance from
now.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from gateway.delivery_states import DeliveryState

Operator = Literal["==", "<", "<=", ">", ">="]
Value: TypeAlias = str | int | float | bool
VERSION_COMPONENTS = 8
"""Numbers of a version at most: semantic versions have three, Windows and Android builds four."""
VERSION_CHARACTERS = 64
"""Characters of a version."""
COMPONENT_DIGITS = 15
"""Digits of one number of a version: a date and time has 14."""


@dataclass(slots=True, frozen=True)
class Place:
    """The part of the text that something was made of: offsets of its first character and of that behind its last."""

    start: int
    end: int


# -- tests of one value ------------------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class Comparison:
    """Whether a value and a constant of the same type compare so: booleans by `==`, texts by code point."""

    operator: Operator
    value: Value


@dataclass(slots=True, frozen=True)
class OneOf:
    """Whether a value is one of these texts and numbers."""

    values: tuple[str | int | float, ...]


@dataclass(slots=True, frozen=True)
class TextMatch:
    """Whether a value is a text that begins with another, ends with it, or contains it."""

    where: Literal["startsWith", "endsWith", "contains"]
    text: str


@dataclass(slots=True, frozen=True)
class VersionComparison:
    """Whether a value is a version, and compares so; `components` has VERSION_COMPONENTS numbers."""

    operator: Operator
    components: tuple[int, ...]


@dataclass(slots=True, frozen=True)
class IsPresent:
    """Whether there is a value at all."""


ValueTest: TypeAlias = Comparison | OneOf | TextMatch | VersionComparison | IsPresent


# -- conditions --------------------------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class Always:
    """Always true, or never."""

    value: bool


@dataclass(slots=True, frozen=True)
class Negation:
    """The opposite of a condition."""

    term: Term


@dataclass(slots=True, frozen=True)
class AllOf:
    """Conditions that are all true."""

    terms: tuple[Term, ...]


@dataclass(slots=True, frozen=True)
class AnyOf:
    """Conditions of which one is true."""

    terms: tuple[Term, ...]


@dataclass(slots=True, frozen=True)
class IsMember:
    """A device has a tag, or is in a topic."""

    of: Literal["tags", "topics"]
    name: str


@dataclass(slots=True, frozen=True)
class MembershipCount:
    """The number of a device's tags, or topics, compares so."""

    of: Literal["tags", "topics"]
    operator: Operator
    number: int | float


@dataclass(slots=True, frozen=True)
class AttributeTest:
    """An attribute of a device has a value of which something is true."""

    name: str
    test: ValueTest


@dataclass(slots=True, frozen=True)
class FieldTest:
    """A text of a device has a value of which something is true."""

    field: Literal["id", "name", "locale", "timezone", "consent"]
    test: ValueTest


@dataclass(slots=True, frozen=True)
class Moment:
    """A time: milliseconds of the wall clock, or from now."""

    ms: int
    from_now: bool


@dataclass(slots=True, frozen=True)
class TimeTest:
    """A time of a device compares so; without a moment: is there."""

    field: Literal["last_seen", "enrolled_at"]
    operator: Operator
    moment: Moment | None


@dataclass(slots=True, frozen=True)
class IsOnline:
    """A device is connected."""


@dataclass(slots=True, frozen=True)
class IsMuted:
    """A person has muted a channel on a device."""

    channel: str


@dataclass(slots=True, frozen=True)
class HasReceipt:
    """A push has come this far on a device."""

    state: DeliveryState
    push_id: str
    place: Place


@dataclass(slots=True, frozen=True)
class HasMissed:
    """A push was for a device, and has ended without reaching it: what the device is told of when it comes back."""

    push_id: str
    place: Place


@dataclass(slots=True, frozen=True)
class HasChannelReceipt:
    """Some push of a channel that was sent within a span has come this far on a device."""

    state: DeliveryState
    channel: str
    span_ms: int


Term: TypeAlias = (
    Always
    | Negation
    | AllOf
    | AnyOf
    | IsMember
    | MembershipCount
    | AttributeTest
    | FieldTest
    | TimeTest
    | IsOnline
    | IsMuted
    | HasReceipt
    | HasMissed
    | HasChannelReceipt
)


def terms_within(term: Term) -> list[Term]:
    """The conditions that are joined in a tree, from left to right."""
    match term:
        case Negation(inner):
            return terms_within(inner)
        case AllOf(terms) | AnyOf(terms):
            return [found for inner in terms for found in terms_within(inner)]
    return [term]
