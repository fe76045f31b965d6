"""What the observer of events keeps, and what it complains about. It works in whole simulations: `test_simulation`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from standardwebhooks import Webhook

from client_sim.simulator.event_observer import (
    BITS,
    FEW_DEVICES,
    TYPES,
    Complaint,
    _EventLog,
    _is_signed,
    webhook_types,
)
from client_sim.simulator.simulated_push import result_of

SECRET = "whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQtMDEyMzQ1Njc="


def event(number: str, kind: str = "delivery.delivered", device_id: str = "sim-x-00007") -> dict[str, Any]:
    data = {"push_id": "p", "device_id": device_id, "result": result_of("p", device_id)}
    return {"id": number, "type": kind, "data": data}


def test_what_was_told_is_kept_by_push_and_device() -> None:
    complaints: list[Complaint] = []
    book = _EventLog("the webhook", "sim-x-", complaints)
    book.record(event("1.0"))
    book.record(event("1.0"))  # at least once
    book.record(event("2.0", "delivery.acted"))
    for other in (event("3.0", device_id="kiosk-1"), event("4.0", "device.settings"), event("5.0", device_id="sim-x-")):
        book.record(other)
    assert book.bits == {("p", 7): BITS["delivery.delivered"] | BITS["delivery.acted"]}
    assert complaints == []


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (event("2.0"), "told twice, as 1.0 and 2.0"),
        ({"id": "9", "type": "events.lost", "data": {}}, "were removed"),
        (event("0.9", "delivery.displayed"), "told behind a later one"),
        ({**event("2.0", "delivery.acted"), "data": {"push_id": "p", "device_id": "sim-x-00007"}}, "the result None"),
    ],
)
def test_what_must_not_be_is_a_complaint(second: dict[str, Any], said: str) -> None:
    complaints: list[Complaint] = []
    book = _EventLog("the event stream", "sim-x-", complaints)
    book.record(event("1.0"))
    book.record(second)
    (complaint,) = complaints
    assert complaint.what.startswith("the event stream: ")
    assert said in complaint.what
    assert second["type"] == "events.lost" or complaint[1:] == ("p", 7)


def test_the_stages_of_a_delivery_come_in_order() -> None:
    complaints: list[Complaint] = []
    book = _EventLog("the webhook", "sim-x-", complaints)
    book.record(event("1.0", "delivery.opened"))
    book.record(event("2.0", "delivery.delivered"))
    assert [complaint.what for complaint in complaints] == [
        "the webhook: delivery.delivered was told behind delivery.opened"
    ]


def test_the_last_word_on_a_connection_is_kept() -> None:
    book = _EventLog("the event stream", "sim-x-", [])
    for number, kind in enumerate(("device.connected", "device.disconnected", "device.settings")):
        book.record({"id": f"{number}.0", "type": kind, "data": {"device_id": "sim-x-00007"}})
    assert book.presence == {7: "device.disconnected"}


def test_a_signature_is_judged_as_its_standard_says() -> None:
    at, body = datetime.fromtimestamp(1_796_113_800, UTC), b'{"type":"events"}'
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": "1796113800",
        "webhook-signature": f"v1,AAAA {Webhook(SECRET).sign('msg_1', at, body.decode())}",
    }
    assert _is_signed(SECRET, headers, body)
    assert not _is_signed(SECRET, headers, body + b" ")
    assert not _is_signed(SECRET, {**headers, "webhook-id": "msg_2"}, body)
    assert not _is_signed(SECRET, {}, body)


def test_a_large_fleet_asks_its_webhook_for_less() -> None:
    assert webhook_types(FEW_DEVICES) == TYPES
    assert "delivery.delivered" not in webhook_types(FEW_DEVICES + 1)
