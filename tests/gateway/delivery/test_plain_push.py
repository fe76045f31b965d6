"""The short way for pushes that are plain: what it lets pass is what the long way makes of the same bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.bodies import parse
from gateway.api.pushes import BatchLine
from gateway.delivery.plain_push import PLAIN_BYTES, plain_push
from gateway.delivery.push import PushRequest
from gateway.delivery.submission import AppRef, PendingPush, Submission, pending_push
from gateway.errors import Problem

APP = AppRef(1, "default")
MAX_PAYLOAD = 600
PLAIN = {"target": {"device": "kiosk-1"}, "data": {"hello": "world"}}
TEXT = st.text(max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
DEVICE = st.sampled_from(["kiosk-1", "a" * 64, "a" * 65, "", "kiösk", "a b", None, 7])
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "target": st.fixed_dictionaries({"device": DEVICE})
    | st.fixed_dictionaries({}, optional={"device": DEVICE, "tag": st.just("shop"), "all": st.booleans()}),
    "kind": st.sampled_from(["alert", "in_app", "silent", "command", "other", None]),
    "notification": st.none()
    | st.fixed_dictionaries(
        {}, optional={"title": TEXT | st.none(), "body": TEXT | st.none(), "url": TEXT, "actions": st.just("media")}
    ),
    "data": JSON,
    "channel": st.sampled_from(["offers", "a.b:c-d_e", "", "x" * 65, "two words", None, 1]),
    "priority": st.sampled_from(["critical", "high", "normal", "low", "urgent", None, 2]),
    "qos": st.sampled_from([0, 1, 2, 3, "1", 1.0, True, None]),
    "ttl": st.sampled_from([0, 1, 86_400, 31_536_000, 31_536_001, -1, 1.0, 1.5, "60", True, None]),
    "collapse_key": TEXT | st.sampled_from(["k" * 64, "k" * 65, "\u202e", None, 3]),
    "deadline": st.sampled_from([60, None]),
    "signed": st.sampled_from(["a.b.c", None]),
    "encrypted": st.sampled_from(["a.b.c.d.e", "a.b", None]),
    "idempotency_key": st.sampled_from(["order-1", "", "k" * 256, "ö", None]),
    "unknown": st.just(1),
}
RIGHT = st.fixed_dictionaries(
    {"target": st.just({"device": "kiosk-1"})},
    optional={
        "notification": st.fixed_dictionaries({"title": TEXT.filter(bool)}, optional={"body": TEXT}),
        "kind": st.sampled_from(["alert", "in_app", "silent", "command"]),
        "data": JSON,
        "channel": st.just("offers"),
        "priority": st.sampled_from(["critical", "high", "normal", "low"]),
        "qos": st.integers(0, 2),
        "ttl": st.integers(0, 31_536_000),
        "collapse_key": TEXT,
    },
)


def facts(pending: PendingPush) -> dict[str, Any]:
    found = {name: getattr(pending, name) for name in PendingPush.__slots__}
    return found | {"target": pending.stored_target()}


def long_way(body: bytes, *, is_line: bool) -> PendingPush | Problem:
    try:
        push = parse(BatchLine if is_line else PushRequest, body, 50_000, is_item=True)
        key = push.idempotency_key if isinstance(push, BatchLine) else None
        return pending_push(APP, Submission(push, key), MAX_PAYLOAD, None)
    except Problem as refusal:
        return refusal


def check(body: bytes, *, is_line: bool) -> bool:
    """Whether it was plain."""
    pending = plain_push(APP, body, MAX_PAYLOAD, is_line=is_line)
    if pending is None:
        return False
    expected = long_way(body, is_line=is_line)
    assert isinstance(expected, PendingPush), f"it would be refused: {expected}"
    assert facts(pending) == facts(expected)
    return True


@pytest.mark.parametrize("name", sorted(FIELDS))
@given(RIGHT, st.data(), st.booleans(), st.booleans())
def test_what_is_let_pass_is_what_the_long_way_makes_of_it(
    name: str, push: dict[str, Any], data: st.DataObject, is_line: bool, is_compact: bool
) -> None:
    """A push that is right, but perhaps for one field."""
    push[name] = data.draw(FIELDS[name])
    separators = (",", ":") if is_compact else None
    check(json.dumps(push, ensure_ascii=is_compact, separators=separators).encode(errors="replace"), is_line=is_line)


@given(st.data())
def test_bytes_that_somebody_has_mangled_pass_no_more_than_the_long_way(data: st.DataObject) -> None:
    body = bytearray(json.dumps(data.draw(RIGHT)).encode(errors="replace"))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body)))
        body[at : at + data.draw(st.integers(0, 2))] = data.draw(
            st.sampled_from([b"", b'"', b"{", b"}", b"\\", b"\xff"])
        )
    check(bytes(body), is_line=True)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"data": None},
        {"data": {"a": [1, 2.5, "ü", None]}},
        {"notification": {"title": "Hello", "body": "Grüezi"}, "channel": "offers", "priority": "critical"},
        {"notification": {"body": "b", "title": None}, "kind": "in_app", "ttl": 0, "qos": 2},
        {"kind": "command", "collapse_key": "k", "qos": 0, "data": 1, "notification": None},
    ],
)
@pytest.mark.parametrize("is_line", [True, False])
def test_plain_pushes_go_the_short_way(fields: dict[str, Any], is_line: bool) -> None:
    push = {"target": {"device": "kiosk-1"}, **fields, **({"idempotency_key": "order-1"} if is_line else {})}
    assert check(json.dumps(push).encode(), is_line=is_line)
    assert check(json.dumps(push, ensure_ascii=False, indent=1).encode(), is_line=is_line)


@pytest.mark.parametrize(
    "body",
    [
        b'{"target": {"device": "kiosk-1"}, "data": NaN}',
        b'{"target": {"device": "kiosk-1"}, "data": 1e999}',
        b'{"target": {"device": "kiosk-1"}, "data": "\\ud800"}',
        b'{"target": {"device": "kiosk-1"}, "target": {"device": "kiosk-2"}}',
        b'{"target": {"device": "kiosk-1", "device": "kiosk-2"}, "ttl": 5, "ttl": 6}',
        b'{"target": {"device": "kiosk-1"}, "data": 123456789012345678901234567890}',
        b'{"target": {"device": "kiosk-1"}, "data": ' + b"[" * 150 + b"]" * 150 + b"}",
        b'{"target": {"device": "kiosk-1"}} {}',
        b'\xef\xbb\xbf{"target": {"device": "kiosk-1"}}',
        b' \t{"target": {"device": "kiosk-1"}}\r',
        b"[]",
        b"",
        b'{"target": {"device": "kiosk-1"}, "data": "' + b"x" * MAX_PAYLOAD + b'"}',
        b'{"target": {"device": "kiosk-1"}, "data": 1' + b" " * PLAIN_BYTES + b"}",
    ],
)
def test_what_is_odd_passes_no_more_than_the_long_way(body: bytes) -> None:
    check(body, is_line=True)
    check(body, is_line=False)


def test_a_single_push_has_its_key_in_a_header() -> None:
    body = json.dumps({**PLAIN, "idempotency_key": "order-1"}).encode()
    assert not check(body, is_line=False)
    pending = plain_push(APP, body, MAX_PAYLOAD, is_line=True)
    assert pending is not None
    assert pending.idempotency_key == "order-1"
