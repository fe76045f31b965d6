"""The language again, in plain Python and without its parser: expressions as text, each with what it means.

A strategy draws both together, so that nothing of the compiler is needed to know what an expression should select.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from hypothesis import strategies as st

from gateway.delivery_states import DeliveryState
from tests.gateway.audience.segment_language.fleet import (
    AGE_MS,
    CHANNEL_OF,
    CHANNELS,
    DAY_MS,
    LOCALES,
    NAMES,
    NOW_MS,
    NUMBERS,
    PUSHES,
    SHARED,
    TAGS,
    TEXTS,
    TOPICS,
    VERSIONS,
    ZONES,
    ModelDevice,
)

Meaning = Callable[[ModelDevice], bool]
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
MIRRORED = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
operators = st.sampled_from(list(COMPARE))


class Expression(NamedTuple):
    """An expression and its meaning."""

    text: str
    meaning: Meaning


def quoted(text: str) -> str:
    """A text as a literal: JSON's escapes are CEL's."""
    return json.dumps(text, ensure_ascii=False)


def kind_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else "nothing"


def stored(value: Any) -> Any:
    """SQLite has integers of 64 bits, and floats beyond."""
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
        return float(value)
    return value


def compared(sign: str, value: Any, constant: Any) -> bool:
    """Two-valued: other types and what is missing compare false, and != is the opposite of ==."""
    if sign == "!=":
        return not compared("==", value, constant)
    value = stored(value)
    return kind_of(value) == kind_of(constant) != "nothing" and COMPARE[sign](value, constant)


def version(text: Any) -> list[int] | None:
    if not isinstance(text, str) or len(text) > 64:
        return None
    found = re.fullmatch(r"[vV]?([0-9]{1,15}(?:\.[0-9]{1,15}){0,7})", text)
    if found is None:
        return None
    numbers = [int(number) for number in found[1].split(".")]
    return numbers + [0] * (8 - len(numbers))


def _attribute(name: str) -> str:
    return f"attributes.{name}" if name.isidentifier() and name.isascii() else f"attributes[{quoted(name)}]"


short_texts = st.sampled_from([text for text in TEXTS if len(text) <= 128])
literal_numbers = st.sampled_from([number for number in NUMBERS if abs(number) < 2**63])
ordered_texts = short_texts.filter(lambda text: version(text) is None)
"""Texts that are compared by < or >: those like versions are refused, because nobody means that."""
names = st.sampled_from(NAMES)


def number_literal(number: float) -> str:
    text = repr(number)
    return text if text != "1e+300" else "1e300"


@st.composite
def attribute_comparisons(draw: st.DrawFn) -> Expression:
    name, sign = draw(names), draw(operators)
    if sign in ("==", "!="):
        constant = draw(st.one_of(short_texts, literal_numbers, st.booleans()))
    else:
        constant = draw(st.one_of(ordered_texts, literal_numbers))
    literal = {"boolean": str(constant).lower(), "text": None, "number": None}[kind_of(constant)]
    if literal is None:
        literal = quoted(constant) if isinstance(constant, str) else number_literal(constant)
    text = f"{_attribute(name)} {sign} {literal}"
    if draw(st.booleans()):
        text = f"{literal} {MIRRORED[sign]} {_attribute(name)}"
    return Expression(text, lambda device: compared(sign, device.attributes.get(name), constant))


@st.composite
def attribute_lists(draw: st.DrawFn) -> Expression:
    name, values = draw(names), draw(st.lists(st.one_of(short_texts, literal_numbers), min_size=1, max_size=4))
    listed = ", ".join(quoted(value) if isinstance(value, str) else number_literal(value) for value in values)
    return Expression(
        f"{_attribute(name)} in [{listed}]",
        lambda device: any(compared("==", device.attributes.get(name), value) for value in values),
    )


MATCHES: dict[str, Callable[[str, str], bool]] = {
    "startsWith": str.startswith,
    "endsWith": str.endswith,
    "contains": str.__contains__,
}


PARTS = ("xy", "yz", "K2", "zK1", "alls", "Hall", "de", "kiosk-1")
TEXT_FIELDS = ("id", "name", "locale", "timezone")


def text_match(field: str, method: str, part: str) -> Expression:
    def meaning(device: ModelDevice) -> bool:
        value = device.attributes.get(field) if field in NAMES else getattr(device, field)
        return isinstance(value, str) and MATCHES[method](value, part)

    return Expression(f"{_attribute(field) if field in NAMES else field}.{method}({quoted(part)})", meaning)


text_matches = st.builds(
    text_match,
    st.sampled_from([*NAMES, *TEXT_FIELDS]),
    st.sampled_from(list(MATCHES)),
    st.one_of(short_texts, st.sampled_from(PARTS)),
)


@st.composite
def present_values(draw: st.DrawFn) -> Expression:
    field = draw(st.one_of(names, st.sampled_from(["name", "locale", "timezone", "last_seen", "id"])))
    if field in NAMES:
        return Expression(
            f"has({_attribute(field)})", lambda device: kind_of(device.attributes.get(field)) != "nothing"
        )
    if field == "last_seen":
        return Expression("has(last_seen)", lambda device: device.online or device.last_seen is not None)
    return Expression(f"has({field})", lambda device: getattr(device, field) is not None)


@st.composite
def true_attributes(draw: st.DrawFn) -> Expression:
    name = draw(names)
    return Expression(_attribute(name), lambda device: device.attributes.get(name) is True)


@st.composite
def version_comparisons(draw: st.DrawFn) -> Expression:
    name, sign = draw(st.sampled_from(["version", "a"])), draw(operators)
    constant = draw(st.sampled_from([text for text in VERSIONS if version(text) is not None]))
    text = f"version({_attribute(name)}) {sign} version({quoted(constant)})"
    if draw(st.booleans()):
        text = f"version({quoted(constant)}) {MIRRORED[sign]} version({_attribute(name)})"

    def meaning(device: ModelDevice) -> bool:
        found = version(device.attributes.get(name))
        if found is None:
            return sign == "!="
        return COMPARE[sign](found, version(constant))

    return Expression(text, meaning)


@st.composite
def fields(draw: st.DrawFn) -> Expression:
    field, pool = draw(
        st.sampled_from(
            [
                ("id", ("kiosk-1", "kiosk-10", "KIOSK-1", "")),
                ("name", ("Hall 1", "Hall", "Ä b", "")),
                ("locale", LOCALES),
                ("timezone", ZONES),
                ("consent", ("granted", "denied", "unknown")),
            ]
        )
    )
    if draw(st.booleans()):
        values = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=3))
        return Expression(
            f"{field} in [{', '.join(map(quoted, values))}]", lambda device: getattr(device, field) in values
        )
    sign = draw(st.sampled_from(["==", "!="]) if field == "consent" else operators)
    constant = draw(st.sampled_from(pool))
    return Expression(
        f"{field} {sign} {quoted(constant)}", lambda device: compared(sign, getattr(device, field), constant)
    )


MOMENTS = (
    ("now", NOW_MS),
    ("now - duration('1d')", NOW_MS - DAY_MS),
    ("now - duration('1.5d')", NOW_MS - DAY_MS * 3 // 2),
    ("now - duration('1w3d')", NOW_MS - 10 * DAY_MS),
    ("duration('5ms') + now", NOW_MS + 5),
    ("timestamp('2027-01-15T08:00:00Z')", NOW_MS),
    ("timestamp('2027-01-15T09:00:00.000+01:00') - duration('24h')", NOW_MS - DAY_MS),
    ("now - (duration('1d') + duration('9d'))", NOW_MS - 10 * DAY_MS),
)


def time_test(field: str, sign: str, moment: tuple[str, int], mirrored: bool = False) -> Expression:
    text, at = moment

    def meaning(device: ModelDevice) -> bool:
        value = NOW_MS if field == "last_seen" and device.online else getattr(device, field)
        return compared(sign, value, at)

    return Expression(f"{text} {MIRRORED[sign]} {field}" if mirrored else f"{field} {sign} {text}", meaning)


times = st.builds(
    time_test, st.sampled_from(["last_seen", "enrolled_at"]), operators, st.sampled_from(MOMENTS), st.booleans()
)


REACHED = {
    "delivered": {DeliveryState.DELIVERED, DeliveryState.DISPLAYED, DeliveryState.DISMISSED, DeliveryState.OPENED},
    "displayed": {DeliveryState.DISPLAYED, DeliveryState.DISMISSED, DeliveryState.OPENED},
    "opened": {DeliveryState.OPENED},
    "acted": set[DeliveryState](),
}


def has_come_to(device: ModelDevice, push_id: str, event: str) -> bool:
    if event == "dismissed":
        return push_id in device.dismissed
    return device.states.get(push_id) in REACHED[event] | {DeliveryState.ACTED}


MISSED = {DeliveryState.EXPIRED, DeliveryState.CANCELLED, DeliveryState.OVERFLOWED}
EVENTS = (*REACHED, "dismissed")
SPANS = (("1h", DAY_MS // 24), ("1d", DAY_MS), ("36h", DAY_MS * 3 // 2), ("2d", 2 * DAY_MS))


def receipt(event: str, push_id: str) -> Expression:
    return Expression(f"{event}({quoted(push_id)})", lambda device: has_come_to(device, push_id, event))


def missed(push_id: str) -> Expression:
    return Expression(f"missed({quoted(push_id)})", lambda device: device.states.get(push_id) in MISSED)


def channel_receipt(event: str, channel: str, span: tuple[str, int]) -> Expression:
    text, span_ms = span
    within = [push_id for push_id in PUSHES if CHANNEL_OF[push_id] == channel and AGE_MS[push_id] <= span_ms]
    return Expression(
        f"{event}_channel('{channel}', duration('{text}'))",
        lambda device: any(has_come_to(device, push_id, event) for push_id in within),
    )


receipts = st.one_of(
    st.builds(receipt, st.sampled_from(EVENTS), st.sampled_from(PUSHES)),
    st.builds(missed, st.sampled_from(PUSHES)),
    st.builds(channel_receipt, st.sampled_from(EVENTS), st.sampled_from([*CHANNELS, "other"]), st.sampled_from(SPANS)),
)


@st.composite
def memberships(draw: st.DrawFn) -> Expression:
    of, name = draw(st.sampled_from([("tags", tag) for tag in (*TAGS, "z")] + [("topics", name) for name in TOPICS]))
    return Expression(f"'{name}' in {of}", lambda device: name in getattr(device, of))


@st.composite
def sizes(draw: st.DrawFn) -> Expression:
    of, sign, number = draw(st.sampled_from(["tags", "topics"])), draw(operators), draw(st.integers(0, 4))
    return Expression(f"size({of}) {sign} {number}", lambda device: COMPARE[sign](len(getattr(device, of)), number))


ATOMS = st.one_of(
    attribute_comparisons(),
    attribute_comparisons(),
    attribute_lists(),
    text_matches,
    present_values(),
    true_attributes(),
    version_comparisons(),
    fields(),
    times,
    receipts,
    memberships(),
    memberships(),
    sizes(),
    st.just(Expression("online", lambda device: device.online)),
    st.just(Expression("online == false", lambda device: not device.online)),
    st.just(Expression("true", lambda _: True)),
    st.just(Expression("false", lambda _: False)),
    st.sampled_from(CHANNELS).map(
        lambda channel: Expression(f"muted('{channel}')", lambda device: device.channels.get(channel) is False)
    ),
)


def joined(sign: str, parts: list[Expression]) -> Expression:
    every = all if sign == "&&" else any
    return Expression(
        f" {sign} ".join(f"({part.text})" for part in parts),
        lambda device: every(part.meaning(device) for part in parts),
    )


def negated(part: Expression) -> Expression:
    return Expression(f"!({part.text})", lambda device: not part.meaning(device))


EXPRESSIONS: st.SearchStrategy[Expression] = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: joined("&&", parts)),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: joined("||", parts)),
        inner.map(negated),
    ),
    max_leaves=6,
)
assert len(SHARED) == 127, "so that texts differ before, at and behind the end of what is indexed"
