"""A push that its device cannot take ends with a reason, also when neither the device nor the server stays up."""

from __future__ import annotations

import pytest

from tests.end_to_end.conftest import StartServer, Wire
from tests.end_to_end.harness import wait_for
from tests.end_to_end.wire_device import V4, V5, WireDevice

BUFFER = 256
"""Of PubSubClient: what is larger is skipped without a word."""


@pytest.mark.parametrize("version", [V4, V5], ids=["3.1.1", "5.0"])
def test_a_push_larger_than_the_devices_buffer_is_given_up(start_server: StartServer, wire: Wire, version: int) -> None:
    server = start_server(env={"FLEETPUSH_ACK_TIMEOUT": "0.5", "FLEETPUSH_MAX_ATTEMPTS": "3"})
    api = server.api
    device = api.enrol("esp-1")
    client: WireDevice = wire(server, device, version=version).start()
    client.answer = lambda publish: 0 if len(publish.payload) < BUFFER else None
    large = api.push(device.id, data="x" * BUFFER)
    small = [api.push(device.id, data=number) for number in range(3)]

    def come_back() -> bool:
        if not client.connected:
            client.connect()
        return "refused" in api.only(large)

    wait_for(lambda: client.connected or come_back(), what="the device")
    wait_for(come_back, timeout=30, what="the end of the push")
    assert (api.delivery(large)["reason"], api.delivery(large)["attempts"]) == ("not_acknowledged", 3)
    for push_id in small:
        api.wait_counts(push_id, delivered=1)
    assert "not_acknowledged" in api.wait_last_error(device.id)


def test_a_push_that_crashes_its_device_is_given_up_across_kills_of_the_server(
    start_server: StartServer, wire: Wire
) -> None:
    server = start_server(env={"FLEETPUSH_MAX_ATTEMPTS": "4"})
    api = server.api
    device = api.enrol("kiosk-1")
    client: WireDevice = wire(server, device).start()
    client.answer = lambda publish: None
    deadly = api.push(device.id, data="deadly")
    harmless = api.push(device.id, data="harmless")
    for attempt in range(4):
        if attempt:
            client.connect()
        client.wait_received(2 * (attempt + 1))
        client.drop()
        wait_for(lambda: api.delivery(deadly)["attempts"] == attempt + 1, what="the attempt")  # noqa: B023  at once
        if attempt == 1:
            server.kill9()
            server.start()
            api = server.api
            client.port = server.mqtt_port
    assert (api.delivery(deadly)["state"], api.delivery(deadly)["reason"]) == ("refused", "not_acknowledged")
    assert api.delivery(harmless)["attempts"] == 0
    client.answer = lambda publish: 0
    client.connect()
    api.wait_counts(harmless, delivered=1)
    assert client.push_ids().count(deadly) == 4
    assert client.receipt(deadly, "displayed") == 0
    assert api.delivery(deadly)["reason"] == "after_refused"
