"""The whole fleet at once: it is sent away in order, and what it had in hand is booked."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from tests.end_to_end.conftest import StartServer, Wire
from tests.end_to_end.harness import Api, wait_for
from tests.end_to_end.wire_device import USER_PROPERTY, V4, V5, Publish, WireDevice

DEVICES = 300
PUSHES = 40
SLOW = 0.05
"""Seconds a slow device takes for each: it is still busy when the server has been told to end."""


@pytest.mark.timeout(120)
def test_sigterm_under_load_books_what_was_acknowledged_and_sends_the_fleet_away(
    start_server: StartServer, wire: Wire
) -> None:
    """Every third device speaks 3.1.1, one acknowledges nothing, and two take their time."""
    server = start_server()
    enrolled = server.api.enrol_many(f"device-{number}" for number in range(DEVICES))
    fleet: list[WireDevice] = [
        wire(server, device, version=V5 if number % 3 else V4) for number, device in enumerate(enrolled)
    ]
    deaf, *slow = fleet[:3]
    deaf.answer = lambda publish: None

    def after_a_while(_: Publish) -> int:
        time.sleep(SLOW)
        return 0

    for device in slow:
        device.answer = after_a_while
    with ThreadPoolExecutor(20) as pool:
        for started in [pool.submit(device.start) for device in fleet]:
            started.result()
    accepted: list[str] = []

    def load() -> None:
        sender = Api(server.url, server.admin_key)
        try:
            for _ in range(PUSHES):
                push_id = sender.push({"all": True})
                accepted.append(push_id)
        except (httpx2.TransportError, AssertionError):
            pass  # the server is ending; what it has accepted it answered before
        finally:
            sender.close()

    sender = threading.Thread(target=load)
    sender.start()
    wait_for(lambda: len(accepted) >= 10, what="ten pushes to everybody")
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 10.0
    sender.join()

    for device in fleet:
        device.wait_closed()
        if device.version == V5:
            assert device.disconnect_code == 0x8B, "server shutting down"
            ((name, seconds),) = device.disconnect_properties[USER_PROPERTY]
            assert name == "retry-after"
            assert int(seconds) == 1, "few devices need no more"
    server.start()
    assert deaf.received
    for push_id in accepted:
        states = {name: delivery["state"] for name, delivery in server.api.deliveries(push_id).items()}
        acknowledged = {d.client_id for d in fleet if any(p.push_id == push_id for p in d.acknowledged)}
        assert {name for name, state in states.items() if state == "delivered"} == acknowledged
        assert {state for name, state in states.items() if name not in acknowledged} == {"waiting"}
