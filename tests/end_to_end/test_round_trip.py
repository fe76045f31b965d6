"""The main job for devices that never saw our library: Mosquitto's clients, paho-mqtt, amqtt's client, a bare socket.

Each gets its pushes online, after an absence, and from before its first connection; in order, never retained, never
above the QoS asked for; and its receipts count.
"""

from __future__ import annotations

import asyncio
import json
import queue
import re
import socket
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.end_to_end import mosquitto
from tests.end_to_end.conftest import Name, StartServer, Wire
from tests.end_to_end.harness import Api, Device, Server, wait_for
from tests.end_to_end.wire_device import CONTENT_TYPE, MESSAGE_EXPIRY, USER_PROPERTY, V4, V5, WireDevice

VERSIONS = pytest.mark.parametrize("version", [V4, V5], ids=["3.1.1", "5.0"])


# Mosquitto


@pytest.mark.parametrize("version", ["mqttv311", "mqttv5"])
def test_mosquitto_sub_gets_pushes_online_and_after_an_absence(
    server: Server, api: Api, name: Name, version: str
) -> None:
    device = api.enrol(name())
    with mosquitto.Subscriber(server.mqtt_port, device, version=version) as subscriber:
        api.wait_online(device.id)
        online = [api.push(device.id, data=number) for number in range(3)]
        printed = subscriber.wait_received(3)
        for push_id in online:
            api.wait_counts(push_id, delivered=1)
    assert [line.push["push_id"] for line in printed] == online
    assert all(line.topic == device.topics["push"] and line.qos == 1 and not line.retain for line in printed)

    api.wait_online(device.id, online=False)
    offline = [api.push(device.id, data=number) for number in range(3)]
    assert api.mailbox(device.id) == offline
    assert api.only(offline[0]) == {"waiting": 1}
    with mosquitto.Subscriber(server.mqtt_port, device, version=version) as subscriber:
        printed = subscriber.wait_received(3)
        for push_id in offline:
            api.wait_counts(push_id, delivered=1)
        assert subscriber.push_ids() == offline, "what was acknowledged before must not come again"
    assert all(line.qos == 1 and not line.retain for line in printed)
    assert api.mailbox(device.id) == []


def test_mosquitto_sub_gets_a_push_from_before_its_first_connection(server: Server, api: Api, name: Name) -> None:
    device = api.enrol(name())
    assert api.device(device.id)["online"] is False
    push_id = api.push(device.id, notification={"title": "Welcome"})
    with mosquitto.Subscriber(server.mqtt_port, device) as subscriber:
        (line,) = subscriber.wait_received(1)
        api.wait_counts(push_id, delivered=1)
    assert line.push["push_id"] == push_id
    assert not line.retain


def test_mosquitto_pub_beside_mosquitto_sub_sends_receipts(server: Server, api: Api, name: Name) -> None:
    device = api.enrol(name())
    with mosquitto.Subscriber(server.mqtt_port, device) as subscriber:
        push_id = api.push(
            device.id, notification={"title": "Film", "actions": [{"id": "play", "title": "Play"}]}, kind="alert"
        )
        subscriber.wait_received(1)
        receipts = device.topics["receipts"]
        mosquitto.publish(server.mqtt_port, device, receipts, {"push_id": push_id, "event": "displayed"})
        api.wait_counts(push_id, displayed=1)
        acted = {"push_id": push_id, "event": "acted", "action": "play", "result": {"ok": True}}
        mosquitto.publish(server.mqtt_port, device, receipts, acted)
        api.wait_counts(push_id, acted=1)
        assert api.reached(push_id) == {"delivered": 1, "displayed": 1, "opened": 1, "acted": 1}
        delivery = api.delivery(push_id)
        assert delivery["action"] == "play"
        assert delivery["result"] == {"ok": True}

        # The side connections came and went; the device's own session did not notice.
        after = api.push(device.id)
        subscriber.wait_received(2)
        api.wait_counts(after, delivered=1)


def test_a_recall_clears_the_screens_that_show_it(server: Server, api: Api, name: Name) -> None:
    """Who has it is told, who has done with it or never got it is not."""
    shows, done, away = api.enrol_many([name(), name(), name()])
    notices = [("-t", device.topics["notices"]) for device in (shows, done)]
    port = server.mqtt_port
    with (
        mosquitto.Subscriber(port, shows, *notices[0]) as first,
        mosquitto.Subscriber(port, done, *notices[1]) as second,
    ):
        api.wait_online(shows.id)
        api.wait_online(done.id)
        push_id = api.push({"devices": [shows.id, done.id, away.id]}, notification={"title": "Fire drill"})
        data_only = api.push({"devices": [shows.id, done.id]})
        api.wait_counts(push_id, delivered=2, waiting=1)
        dismissed = {"push_id": push_id, "event": "dismissed"}
        mosquitto.publish(port, done, done.topics["receipts"], dismissed)
        api.wait_counts(push_id, delivered=1, dismissed=1, waiting=1)
        api.call("DELETE", f"/v1/pushes/{data_only}", 200)
        assert api.call("DELETE", f"/v1/pushes/{push_id}", 200) == {"cancelled": 1, "in_flight": 0, "too_late": 2}
        notice = first.wait_received(3)[2]
        assert notice.topic == shows.topics["notices"]
        assert notice.push == {"v": 1, "type": "clear", "push_ids": [push_id]}
        last = api.push({"devices": [shows.id, done.id]})
        assert first.wait_received(4)[3].push["push_id"] == last
        assert second.wait_received(3)[2].push["push_id"] == last


def test_a_bare_push_id_is_a_receipt_of_delivery(server: Server, api: Api, name: Name) -> None:
    device = api.enrol(name())
    with mosquitto.Subscriber(server.mqtt_port, device, qos=0) as subscriber:
        api.wait_online(device.id)
        push_id = api.push(device.id)
        subscriber.wait_received(1)
        api.wait_counts(push_id, sent=1)
        mosquitto.publish(server.mqtt_port, device, device.topics["receipts"], push_id)
        api.wait_counts(push_id, delivered=1)


# paho-mqtt


class PahoDevice:
    """The fifteen lines a developer would write."""

    def __init__(self, port: int, device: Device, version: int) -> None:
        self.device = device
        self.messages: queue.Queue[paho.MQTTMessage] = queue.Queue()
        self.session_present: queue.Queue[bool] = queue.Queue()
        options: dict[str, Any] = {"clean_session": False} if version == V4 else {}
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=device.client_id,
            protocol=paho.MQTTv311 if version == V4 else paho.MQTTv5,
            **options,
        )
        self.client.username_pw_set(device.client_id, device.token)
        self.client.on_connect = self._connected
        self.client.on_message = lambda client, _, message: self.messages.put(message)
        arguments: dict[str, Any] = {}
        if version == V5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = 0xFFFF_FFFF
            arguments = {"clean_start": False, "properties": properties}
        self.client.connect("127.0.0.1", port, **arguments)
        self.client.loop_start()

    def _connected(self, client: paho.Client, _: object, flags: Any, reason: Any, properties: object) -> None:
        assert not reason.is_failure
        self.session_present.put(flags.session_present)
        client.subscribe(self.device.topics["push"], qos=1)

    def next_push(self) -> dict[str, Any]:
        message = self.messages.get(timeout=15)
        assert not message.retain
        assert message.qos == 1
        document: dict[str, Any] = json.loads(message.payload)
        return document

    def receipt(self, push_id: str, event: str) -> None:
        body = json.dumps({"push_id": push_id, "event": event})
        self.client.publish(self.device.topics["receipts"], body, qos=1).wait_for_publish(15)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@VERSIONS
def test_paho_gets_pushes_online_offline_and_from_before_its_first_connection(
    server: Server, api: Api, name: Name, version: int
) -> None:
    device = api.enrol(name())
    before = api.push(device.id, data="before")
    client = PahoDevice(server.mqtt_port, device, version)
    try:
        assert client.session_present.get(timeout=15) is False
        assert client.next_push()["push_id"] == before
        online = api.push(device.id, notification={"title": "Hello"})
        assert client.next_push()["push_id"] == online
        client.receipt(online, "displayed")
        api.wait_counts(online, displayed=1)
        api.wait_counts(before, delivered=1)
    finally:
        client.close()
    api.wait_online(device.id, online=False)
    offline = [api.push(device.id, data=number) for number in range(5)]
    client = PahoDevice(server.mqtt_port, device, version)
    try:
        assert client.session_present.get(timeout=15) is True
        assert [client.next_push()["push_id"] for _ in offline] == offline
        for push_id in offline:
            api.wait_counts(push_id, delivered=1)
        assert client.messages.empty()
    finally:
        client.close()


@VERSIONS
def test_paho_that_acknowledges_by_hand_loses_no_connection_by_late_acknowledgements(
    server: Server, api: Api, name: Name, version: int
) -> None:
    """What it had before the network dropped and has again, it acknowledges twice."""
    device = api.enrol(name())
    client = PahoDevice(server.mqtt_port, device, version)
    ended = queue.Queue[object]()
    client.client.on_disconnect = lambda *_: ended.put(None)
    client.client.manual_ack_set(True)
    client.client.reconnect_delay_set(1, 1)
    try:
        client.session_present.get(timeout=15)
        api.wait_online(device.id)
        pushes = [api.push(device.id, data=number) for number in range(20)]
        messages = [client.messages.get(timeout=15) for _ in pushes]
        connection = client.client.socket()
        assert isinstance(connection, socket.socket)
        connection.shutdown(socket.SHUT_RDWR)
        ended.get(timeout=15)
        assert client.session_present.get(timeout=15) is True
        messages += [client.messages.get(timeout=15) for _ in pushes]
        for message in messages:
            client.client.ack(message.mid, message.qos)
        for push_id in pushes:
            api.wait_counts(push_id, delivered=1)
        client.receipt(pushes[-1], "displayed")
        api.wait_counts(pushes[-1], displayed=1)
        assert ended.empty()
        assert client.messages.empty()
    finally:
        client.client.on_disconnect = None
        client.close()


# amqtt


@pytest.mark.filterwarnings("default")
async def test_amqtts_client_gets_pushes_online_offline_and_sends_receipts(
    server: Server, api: Api, name: Name
) -> None:
    from amqtt.client import MQTTClient  # type: ignore[import-untyped]

    device = await asyncio.to_thread(api.enrol, name())
    address = f"mqtt://{device.client_id}:{device.token}@127.0.0.1:{server.mqtt_port}"
    options = {"auto_reconnect": False, "keep_alive": 30}

    async def next_push(client: Any) -> dict[str, Any]:
        message = await client.deliver_message(timeout_duration=15)
        assert message.topic == device.topics["push"]
        assert message.publish_packet.retain_flag is False
        document: dict[str, Any] = json.loads(message.data)
        return document

    before = await asyncio.to_thread(api.push, device.id)
    client = MQTTClient(client_id=device.client_id, config=options)
    await client.connect(address, cleansession=False)
    assert await client.subscribe([(device.topics["push"], 1)]) == [1]
    assert (await next_push(client))["push_id"] == before
    online = await asyncio.to_thread(api.push, device.id)
    assert (await next_push(client))["push_id"] == online
    await client.publish(device.topics["receipts"], json.dumps({"push_id": online, "event": "opened"}).encode(), qos=1)
    await asyncio.to_thread(api.wait_counts, online, opened=1)
    await client.disconnect()

    await asyncio.to_thread(api.wait_online, device.id, False)
    offline = [await asyncio.to_thread(api.push, device.id, data=number) for number in range(3)]
    client = MQTTClient(client_id=device.client_id, config=options)
    await client.connect(address, cleansession=False)
    assert [(await next_push(client))["push_id"] for _ in offline] == offline
    for push_id in offline:
        await asyncio.to_thread(api.wait_counts, push_id, delivered=1)
    await client.disconnect()


# The wire


@VERSIONS
@pytest.mark.parametrize("granted", [0, 1, 2])
def test_effective_qos_is_the_smaller_of_asked_and_granted(
    server: Server, api: Api, wire: Wire, name: Name, version: int, granted: int
) -> None:
    device = api.enrol(name())
    client: WireDevice = wire(server, device, version=version).start(qos=granted)
    for asked in (0, 1, 2):
        push_id = api.push(device.id, qos=asked)
        publish = client.wait_push(push_id)
        effective = min(asked, granted)
        assert publish.qos == effective
        assert not publish.retain
        assert not publish.dup
        api.wait_counts(push_id, **{"delivered" if effective else "sent": 1})
        wait_for(lambda push_id=push_id: api.delivery(push_id)["qos"] is not None, what="the effective QoS on disk")  # type: ignore[misc]
        assert api.delivery(push_id)["qos"] == effective
        if effective == 0:
            assert client.receipt(push_id, "delivered") == 0
            api.wait_counts(push_id, delivered=1)


def test_the_wire_payload_says_what_the_contract_lists_and_nothing_else(
    server: Server, api: Api, wire: Wire, name: Name
) -> None:
    device = api.enrol(name())
    client: WireDevice = wire(server, device).start()
    notification = {
        "title": "Grüße",
        "body": "Neu im Kino ☂",
        "image": "https://example.org/i.png",
        "url": "https://example.org/",
        "sound": "bell",
        "actions": [{"id": "play", "title": "Play"}],
    }
    full = api.push(
        device.id,
        kind="in_app",
        notification=notification,
        data={"list": [1, 2.5, None, "x"]},
        channel="offers",
        priority="high",
        ttl=100,
        collapse_key="price-list",
    )
    document = client.wait_push(full).push
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", document.pop("sent_at"))
    assert 99 <= document.pop("expires_in") <= 100
    assert document == {
        "v": 1,
        "push_id": full,
        "kind": "in_app",
        "priority": "high",
        "notification": notification,
        "data": {"list": [1, 2.5, None, "x"]},
        "channel": "offers",
        "collapse_key": "price-list",
    }
    bare = client.wait_push(api.push(device.id)).push
    assert set(bare) == {"v", "push_id", "kind", "sent_at", "expires_in", "priority"}
    assert bare["kind"] == "silent"
    assert 86_399 <= bare["expires_in"] <= 86_400
    spoken = client.wait_push(api.push(device.id, notification={"title": "Hi"})).push
    assert spoken["kind"] == "alert"


def test_mqtt_5_carries_the_same_facts_as_properties(server: Server, api: Api, wire: Wire, name: Name) -> None:
    device = api.enrol(name())
    client: WireDevice = wire(server, device, version=V5).start()
    push_id = api.push(device.id, kind="command", data={"reboot": True}, priority="high", ttl=60)
    publish = client.wait_push(push_id)
    assert 59 <= publish.properties[MESSAGE_EXPIRY] <= 60
    assert publish.properties[MESSAGE_EXPIRY] == publish.push["expires_in"]
    assert publish.properties[CONTENT_TYPE] == "application/json"
    facts = dict(publish.properties[USER_PROPERTY])
    assert facts["push_id"] == push_id
    assert facts["kind"] == "command"
    assert facts["priority"] == "high"


def test_expires_in_is_what_is_left_when_the_push_is_handed_over(start_server: StartServer, wire: Wire) -> None:
    """On a clock twenty times as fast, so that a minute passes while the test takes three seconds."""
    server = start_server("--clock-speed", "20")
    api = server.api
    device = api.enrol("kiosk-1")
    early = api.push(device.id, ttl=600)
    short = api.push(device.id, ttl=30)
    wait_for(lambda: api.only(short) == {"expired": 1}, what="a ttl of 30 s to end in 1.5 s")
    client: WireDevice = wire(server, device).start()
    late = client.wait_push(early).push["expires_in"]
    assert 1 <= late <= 600 - 30
    assert client.push_ids() == [early]
    now = api.push(device.id, ttl=600)
    assert late < client.wait_push(now).push["expires_in"] <= 600
    assert api.delivery(short)["state"] == "expired"


def test_a_faster_clock_makes_no_device_slow(start_server: StartServer, wire: Wire) -> None:
    """The keep alive of a minute, an acknowledgement for which there are five: on this clock they pass in 60 and in
    300 ms, and a device needs its time nevertheless."""
    server = start_server("--clock-speed", "1000")
    api = server.api
    device, away = api.enrol("kiosk-1"), api.enrol("kiosk-2")
    client: WireDevice = wire(server, device, keep_alive=60).start()
    client.answer = lambda publish: None
    held = client.wait_push(api.push(device.id, ttl=86_400))
    marker = api.push(away.id, ttl=600)
    wait_for(lambda: api.only(marker) == {"expired": 1}, what="ten of the server's minutes to pass")
    client.ping()
    client.acknowledge(held)
    api.wait_counts(held.push_id, delivered=1)
    assert client.connections == 1


def test_a_burst_arrives_in_order_once_and_never_retained(server: Server, api: Api, wire: Wire, name: Name) -> None:
    device = api.enrol(name())
    client: WireDevice = wire(server, device).start()
    pushed = api.push_batch([{"target": {"device": device.id}, "data": number} for number in range(500)])
    received = client.wait_received(500)
    assert [publish.push_id for publish in received] == pushed
    assert [publish.push["data"] for publish in received] == list(range(500))
    assert not any(publish.retain or publish.dup for publish in received)
    for push_id in pushed[::50]:
        api.wait_counts(push_id, delivered=1)
    assert len(client.received) == 500


@pytest.fixture
def fleet(start_server: StartServer, wire: Wire) -> tuple[Server, list[WireDevice]]:
    server = start_server()
    devices = server.api.enrol_many([f"kiosk-{n}" for n in range(10)], tags=["hall"])
    return server, [wire(server, device).start() for device in devices]


def test_targets_reach_whom_they_name(fleet: tuple[Server, list[WireDevice]]) -> None:
    server, devices = fleet
    api = server.api
    answer = api.accept({"all": True})
    assert answer["targeted"] == 10
    assert answer["suppressed"] == 0
    api.wait_counts(answer["push_id"], delivered=10)
    assert all(device.push_ids() == [answer["push_id"]] for device in devices)

    some = api.accept({"devices": ["kiosk-1", "kiosk-2", "kiosk-1", "nobody"]})
    assert (some["targeted"], some["unknown"]) == (2, ["nobody"])
    api.wait_counts(some["push_id"], delivered=2)

    tagged = api.accept({"tag": "hall"})
    assert tagged["targeted"] == 10
    nobody = api.accept({"tag": "cellar"})
    assert nobody["targeted"] == 0
    assert api.only(nobody["push_id"]) == {}

    forecast = api.call("POST", "/v1/pushes/forecast", 200, json={"target": {"all": True}})
    assert (forecast["targeted"], forecast["online"], forecast["suppressed"], forecast["unknown"]) == (10, 10, {}, [])
    api.wait_counts(tagged["push_id"], delivered=10)
    assert all(len(device.received) <= 3 for device in devices), "a forecast sends nothing"
