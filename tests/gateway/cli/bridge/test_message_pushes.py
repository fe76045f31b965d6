"""Messages of the operator's broker: which become pushes, and what is said of the others."""

from __future__ import annotations

import queue
import time
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.bridge import message_pushes
from gateway.cli.bridge.broker_connection import BrokerMessage
from gateway.cli.bridge.message_pushes import (
    BURST_MESSAGES,
    MESSAGE_SECONDS,
    STALE_SECONDS,
    MessageRates,
    MessageRefused,
    PushAnswered,
    PushSender,
    Sign,
    UnsentPush,
    push_of,
)
from gateway.cli.terminal import Failure
from tests.gateway.cli.bridge.fakes import device
from tests.gateway.cli.fake_server import FakeServer, Request, problem


def read(leaf: str, payload: bytes | None, *, retained: bool = False, **facts: Any) -> UnsentPush:
    return push_of(BrokerMessage(f"fleetpush/devices/kiosk-1/{leaf}", payload, retained, 7.0), leaf, device(**facts))


def test_a_button_is_a_command() -> None:
    for payload in (b"PRESS", b"{}"):
        push = read("command/reboot", payload)
        assert push.body == {
            "target": {"device": "kiosk-1"},
            "kind": "command",
            "data": {"command": "reboot"},
            "priority": "high",
            "ttl": 10,
        }
        assert (push.command, push.arrived) == ("reboot", 7.0)
    told = read("command/reboot", b'{"delay": 3, "command": "wipe"}')
    assert told.body["data"] == {"delay": 3, "command": "reboot"}, "the topic counts"


def test_a_notification_is_text_or_an_object() -> None:
    assert read("notify", "Fresh bread é".encode()).body == {
        "target": {"device": "kiosk-1"},
        "kind": "alert",
        "notification": {"body": "Fresh bread é"},
    }
    told = read("notify", b' {"title": "Door", "actions": [{"id": "open", "title": "Open"}]}')
    assert told.body["notification"]["title"] == "Door"
    assert told.command is None
    assert read("notify", b"[1]").body["notification"] == {"body": "[1]"}


@pytest.mark.parametrize(
    ("leaf", "payload", "reason"),
    [
        ("command/wipe", b"PRESS", "not_allowed"),
        ("command/", b"PRESS", "not_allowed"),
        ("command/reboot/now", b"PRESS", "not_allowed"),
        ("result", b"PRESS", "not_allowed"),
        ("notify/x", b"PRESS", "not_allowed"),
        ("command/reboot", b"ON", "unusable"),
        ("command/reboot", b"", "unusable"),
        ("command/reboot", b"[1]", "unusable"),
        ("command/reboot", b'{"a": NaN}', "unusable"),
        ("command/reboot", b'{"a": ' + b"[" * 2000, "unusable"),
        ("command/reboot", None, "too_large"),
        ("notify", b"\xff", "unusable"),
        ("notify", b"{", "unusable"),
        ("notify", b" ", "unusable"),
    ],
)
def test_a_message_is_refused_by_name(leaf: str, payload: bytes | None, reason: str) -> None:
    with pytest.raises(MessageRefused, match=f"^{reason}$"):
        read(leaf, payload)


def test_a_retained_message_is_none() -> None:
    with pytest.raises(MessageRefused, match="retained"):
        read("command/reboot", b"PRESS", retained=True)
    with pytest.raises(MessageRefused, match="not_allowed"):
        read("notify", b"Hi", notify=False)


@given(st.text(max_size=80), st.binary(max_size=80))
def test_no_message_stops_the_bridge(leaf: str, payload: bytes) -> None:
    try:
        push = read(leaf, payload)
    except MessageRefused:
        return
    assert push.body["target"] == {"device": "kiosk-1"}


def test_rates_are_those_of_a_device() -> None:
    rates = MessageRates()
    for _ in range(BURST_MESSAGES):
        rates.admit("kiosk-1", 100.0)
    with pytest.raises(MessageRefused, match="too_many"):
        rates.admit("kiosk-1", 100.0)
    rates.admit("kiosk-2", 100.0)
    rates.admit("kiosk-1", 100.0 + MESSAGE_SECONDS)
    with pytest.raises(MessageRefused):
        rates.admit("kiosk-1", 100.0 + MESSAGE_SECONDS)
    rates.forget("kiosk-1")
    rates.admit("kiosk-1", 100.0 + MESSAGE_SECONDS)


def answers(fake: FakeServer, *pushes: UnsentPush, sign: Sign | None = None) -> list[PushAnswered]:
    found: queue.Queue[PushAnswered] = queue.Queue()
    sender = PushSender(fake.client(), found.put, sign)
    for push in pushes:
        sender.send(push)
    sender.start()
    return [found.get(timeout=15) for _ in pushes]


def unsent(age: float = 0.0) -> UnsentPush:
    return UnsentPush("kiosk-1", "reboot", {"target": {"device": "kiosk-1"}}, time.monotonic() - age)


def test_what_the_server_says_is_told() -> None:
    fake = FakeServer()
    said: list[Any] = [
        {"push_id": "p1"},
        problem(422, "invalid_request", "notification: x" * 100),
        {"nothing": 1},
        httpx2.Response(200, content=b"<html>"),
    ]
    fake.answer = lambda request: said.pop(0)
    accepted, refused, strange, foreign = answers(fake, *[unsent()] * 4)
    assert (accepted.push_id, accepted.reason) == ("p1", None)
    assert refused.push_id is None
    assert len(refused.reason or "") == message_pushes.REASON_CHARACTERS
    assert strange.push_id is foreign.push_id is None
    keys = [request.headers["idempotency-key"] for request in fake.requests]
    assert len({*keys}) == 4, "each message is a push of its own"


def test_a_push_is_sent_once_over_a_broken_connection() -> None:
    fake = FakeServer()

    def answer(request: Request) -> Any:
        if len(fake.requests) == 1:
            raise httpx2.ReadError("gone")
        return {"push_id": "p1"}

    fake.answer = answer
    assert answers(fake, unsent())[0].push_id == "p1"
    first, second = fake.requests
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]


def test_commands_are_signed_and_nothing_else_is() -> None:
    fake = FakeServer()
    fake.answer = lambda request: {"push_id": "p1"}
    notify = UnsentPush("kiosk-1", None, {"kind": "alert"}, time.monotonic())
    answers(fake, unsent(), notify, sign=lambda body: body | {"signed": "a.b.c"})
    assert ["signed" in request.json for request in fake.requests] == [True, False]

    def fail(body: dict[str, Any]) -> dict[str, Any]:
        raise Failure("the key has gone")

    assert answers(fake, unsent(), sign=fail)[0].reason == "the key has gone"


def test_what_is_stale_is_not_sent() -> None:
    fake = FakeServer()
    fake.answer = lambda request: {"push_id": "p1"}
    late, fresh = answers(fake, unsent(STALE_SECONDS + 1), unsent())
    assert (late.push_id, late.reason, fresh.push_id) == (None, "stale", "p1")
    assert len(fake.requests) == 1


def test_what_waits_for_a_slow_server_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_pushes, "MAX_UNSENT_PUSHES", 2)
    sender = PushSender(FakeServer().client(), lambda answered: None, None)
    sender.send(unsent())
    sender.send(unsent())
    with pytest.raises(MessageRefused, match="too_many"):
        sender.send(unsent())
