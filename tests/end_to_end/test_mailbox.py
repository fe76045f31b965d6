"""What waits for a device: limits with a named loser, lateness, order, collapse keys, recall, and what is in flight."""

from __future__ import annotations

import socket
import time

import pytest

from tests import wire as wire_bytes
from tests.end_to_end.conftest import Name, StartServer, Wire
from tests.end_to_end.harness import Api, Server, expect_problem, wait_for
from tests.end_to_end.wire_device import V4, V5, WireDevice
from tests.websocket_stream import WebSocketStream
from tests.wire import RawClient

ROOMY = {"FLEETPUSH_MAILBOX_DELIVERIES": "10000", "FLEETPUSH_MAILBOX_BYTES": "67108864"}


def test_a_full_mailbox_loses_the_oldest_by_name(start_server: StartServer, wire: Wire) -> None:
    """1,500 pushes and the default limit of 1,000."""
    server = start_server()
    api = server.api
    device = api.enrol("kiosk-1")
    pushed = api.push_batch([{"target": {"device": device.id}, "data": number} for number in range(1500)])
    assert api.mailbox(device.id) == pushed[500:]
    waiting = sum(api.counts(push_id)["waiting"] for push_id in pushed[450:550])
    overflowed = sum(api.counts(push_id)["overflowed"] for push_id in pushed[450:550])
    assert (waiting, overflowed) == (50, 50)
    assert api.delivery(pushed[0])["state"] == "overflowed"
    assert api.delivery(pushed[0])["reason"]

    totals: dict[str, int] = {}
    for item in api.items("/v1/pushes"):
        for state, number in item["counts"].items():
            totals[state] = totals.get(state, 0) + number
    assert {state: number for state, number in totals.items() if number} == {
        "targeted": 1500,
        "waiting": 1000,
        "overflowed": 500,
    }

    # The loser is the oldest of the lowest priority, and possibly the new one at once.
    low = api.push(device.id, priority="low")
    assert api.only(low) == {"overflowed": 1}
    critical = api.push(device.id, priority="critical")
    assert api.only(critical) == {"waiting": 1}
    assert api.only(pushed[500]) == {"overflowed": 1}
    client: WireDevice = wire(server, device).start()
    client.wait_received(1000)
    assert client.push_ids() == [critical, *pushed[501:]]
    api.wait_counts(pushed[-1], delivered=1)


@pytest.mark.parametrize("version", [V4, V5], ids=["3.1.1", "5.0"])
def test_a_backlog_over_websocket_comes_with_a_frame_for_each_push(
    server: Server, api: Api, name: Name, version: int
) -> None:
    """Paho for C handles the first packet of a frame only, until more bytes come."""
    device = api.enrol(name())
    pushed = [api.push(device.id, data=number) for number in range(20)]
    streams: list[WebSocketStream] = []

    def wrap(connected: socket.socket) -> WebSocketStream:
        streams.append(WebSocketStream(connected))
        return streams[0]

    with RawClient(server.http_port, wrap=wrap) as client:
        connect = wire_bytes.connect(device.client_id, version, clean=False, username=device.client_id,
                                     password=device.token, properties=wire_bytes.FOR_EVER)  # fmt: skip
        client.enter(connect)
        client.send(wire_bytes.subscribe(1, (device.topics["push"], 1), version=version))
        client.expect(wire_bytes.suback(1, 1, version=version))
        before = len(streams[0].frames)
        packets = [client.read() for _ in pushed]
        assert streams[0].frames[before:] == packets
        for number in range(1, len(pushed) + 1):
            client.send(wire_bytes.puback(number))
        api.wait_counts(pushed[-1], delivered=1)


def test_what_is_over_when_the_device_returns_is_not_delivered(
    start_server: StartServer, wire: Wire, full: int
) -> None:
    """5,000 pushes to an offline device (the limit raised), half of them expired when it returns."""
    server = start_server(env=ROOMY)
    api = server.api
    device = api.enrol("kiosk-1")
    client: WireDevice = wire(server, device).start()
    client.drop()
    api.wait_online(device.id, online=False)
    pushes = [
        {"target": {"device": device.id}, "data": number, "ttl": 1 if number % 2 else 3600} for number in range(5000)
    ]
    pushed = api.push_batch(pushes)
    lasting, over = pushed[::2], pushed[1::2]
    time.sleep(1.1)  # the ttl of the newest of them; nothing announces it
    assert client.connect().session_present
    received = client.wait_received(2500, timeout=30)
    api.wait_counts(lasting[-1], delivered=1)
    client.ping()
    assert len(client.received) == 2500
    assert [publish.push_id for publish in received] == lasting
    assert not any(publish.retain or publish.dup for publish in received)
    for push_id in over[::100]:
        api.wait_counts(push_id, expired=1)
    for push_id in lasting[::100]:
        api.wait_counts(push_id, delivered=1)
    assert api.mailbox(device.id) == []


@pytest.mark.parametrize("version", [V4, V5], ids=["3.1.1", "5.0"])
def test_what_was_in_flight_is_sent_again_in_order_with_dup(
    server: Server, api: Api, wire: Wire, name: Name, version: int
) -> None:
    """300 in flight to a device that never acknowledges, and its return on the same server run."""
    device = api.enrol(name())
    client: WireDevice = wire(server, device, version=version).start()
    client.answer = lambda publish: None
    pushed = api.push_batch([{"target": {"device": device.id}, "data": number} for number in range(300)])
    first = client.wait_received(300)
    assert [publish.push_id for publish in first] == pushed
    assert api.only(pushed[0]) == {"sent": 1}
    client.drop()
    api.wait_counts(pushed[0], waiting=1)

    client.answer = lambda publish: 0
    assert client.connect().session_present
    again = client.wait_received(600)[300:]
    assert [publish.push_id for publish in again] == pushed
    assert all(publish.dup and not publish.retain for publish in again)
    assert [publish.packet_id for publish in again] == [publish.packet_id for publish in first]
    for push_id in (*pushed[::50], pushed[-1]):
        api.wait_counts(push_id, delivered=1)
    client.ping()
    assert len(client.received) == 600


def test_a_device_that_takes_one_at_a_time_is_given_one_at_a_time(
    server: Server, api: Api, wire: Wire, name: Name
) -> None:
    device = api.enrol(name())
    pushed = api.push_batch([{"target": {"device": device.id}} for _ in range(20)])
    client: WireDevice = wire(server, device, version=V5, receive_maximum=1)
    client.answer = lambda publish: None
    client.start()
    for count in range(1, 21):
        received = client.wait_received(count)
        client.ping()
        assert len(client.received) == count, "never more unacknowledged than the receive maximum [MQTT-3.3.4-9]"
        client.acknowledge(received[-1])
    assert client.push_ids() == pushed
    api.wait_counts(pushed[-1], delivered=1)


def test_mailboxes_drain_by_priority_oldest_first(server: Server, api: Api, wire: Wire, name: Name) -> None:
    device = api.enrol(name())
    order = ["low", "normal", "critical", "high", "low", "critical", "normal", "high"]
    pushed = [(priority, api.push(device.id, priority=priority)) for priority in order]
    rank = ["critical", "high", "normal", "low"]
    drain = [push_id for priority in rank for of, push_id in pushed if of == priority]
    assert api.mailbox(device.id) == drain
    client: WireDevice = wire(server, device).start()
    client.wait_received(len(order))
    assert client.push_ids() == drain


@pytest.mark.parametrize("online", [True, False], ids=["online", "offline"])
def test_the_order_holds_across_qos(server: Server, api: Api, wire: Wire, name: Name, online: bool) -> None:
    """A QoS 2 push waits for the disk before it leaves; those behind it wait with it (promise 2)."""
    device = api.enrol(name())
    client: WireDevice = wire(server, device).start(qos=2)
    if not online:
        client.drop()
        api.wait_online(device.id, online=False)
    pushed = api.push_batch([{"target": {"device": device.id}, "qos": number % 3} for number in range(30)])
    if not online:
        client.connect()
    client.wait_received(30)
    assert client.push_ids() == pushed


def test_a_newer_push_supersedes_the_waiting_one_with_its_collapse_key(
    server: Server, api: Api, wire: Wire, name: Name
) -> None:
    device = api.enrol(name())
    old = api.push(device.id, collapse_key="prices", data=1)
    other = api.push(device.id, collapse_key="weather")
    new = api.push(device.id, collapse_key="prices", data=2)
    assert api.only(old) == {"superseded": 1}
    assert api.mailbox(device.id) == [other, new]
    client: WireDevice = wire(server, device)
    client.answer = lambda publish: None
    client.start()
    client.wait_received(2)
    assert client.push_ids() == [other, new]

    # In flight it is judged when it comes back: the newer one was accepted meanwhile.
    newest = api.push(device.id, collapse_key="prices", data=3)
    client.wait_received(3)
    client.drop()
    api.wait_counts(new, superseded=1)
    client.answer = lambda publish: 0
    assert client.connect().session_present
    client.wait_push(newest)
    api.wait_counts(newest, delivered=1)
    api.wait_counts(other, delivered=1)
    assert client.push_ids(connection=2) == [other, newest]


def test_ttl_0_is_now_or_never(server: Server, api: Api, wire: Wire, name: Name) -> None:
    device = api.enrol(name())
    never = api.push(device.id, ttl=0)
    api.wait_counts(never, expired=1)
    client: WireDevice = wire(server, device).start()
    now = api.push(device.id, ttl=0)
    assert client.wait_push(now).push["expires_in"] == 0
    api.wait_counts(now, delivered=1)
    client.answer = lambda publish: None
    lost = api.push(device.id, ttl=0)
    client.wait_push(lost)
    client.drop()
    api.wait_counts(lost, expired=1)
    client.answer = lambda publish: 0
    client.connect()
    last = api.push(device.id)
    client.wait_push(last)
    assert client.push_ids() == [now, lost, last]


def test_a_recall_takes_back_what_was_not_handed_over(server: Server, api: Api, wire: Wire, name: Name) -> None:
    present, absent, done = (api.enrol(name()) for _ in range(3))
    client: WireDevice = wire(server, present).start()
    client.answer = lambda publish: None
    prompt: WireDevice = wire(server, done).start()
    push_id = api.push({"devices": [present.id, absent.id, done.id]})
    client.wait_push(push_id)
    prompt.wait_push(push_id)
    api.wait_counts(push_id, waiting=1, sent=1, delivered=1)
    assert api.call("DELETE", f"/v1/pushes/{push_id}", 200) == {"cancelled": 1, "in_flight": 1, "too_late": 1}
    assert api.only(push_id) == {"cancelled": 1, "sent": 1, "delivered": 1}
    client.drop()
    api.wait_counts(push_id, cancelled=2, delivered=1)
    client.answer = lambda publish: 0
    assert client.connect().session_present
    after = api.push(present.id)
    client.wait_push(after)
    assert client.push_ids(connection=2) == [after], "recalled while it was away: not sent again"
    late: WireDevice = wire(server, absent).start()
    late.ping()
    assert late.received == []
    assert api.deliveries(push_id)[absent.id]["reason"]
    repeated = api.call("DELETE", f"/v1/pushes/{push_id}", 200)
    assert repeated["cancelled"] == repeated["in_flight"] == 0
    expect_problem(api.request("DELETE", "/v1/pushes/nothing"), 404)


def test_emptying_a_mailbox_cancels_what_waits(server: Server, api: Api, wire: Wire, name: Name) -> None:
    device = api.enrol(name())
    pushed = [api.push(device.id) for _ in range(3)]
    api.call("DELETE", f"/v1/devices/{device.id}/mailbox", 200)
    assert api.mailbox(device.id) == []
    for push_id in pushed:
        assert api.only(push_id) == {"cancelled": 1}
        assert api.delivery(push_id)["reason"] == "mailbox_emptied"
    client: WireDevice = wire(server, device).start()
    client.ping()
    assert client.received == []


def test_a_push_larger_than_the_device_takes_is_refused_with_a_reason(
    server: Server, api: Api, wire: Wire, name: Name
) -> None:
    device = api.enrol(name())
    client: WireDevice = wire(server, device, version=V5, maximum_packet_size=512).start()
    large = api.push(device.id, data="x" * 600)
    small = api.push(device.id)
    client.wait_push(small)
    api.wait_counts(large, refused=1)
    api.wait_counts(small, delivered=1)
    assert api.delivery(large)["reason"]
    assert client.push_ids() == [small]


@pytest.mark.parametrize("qos", [1, 2])
def test_a_device_may_refuse_with_a_reason_code(server: Server, api: Api, wire: Wire, name: Name, qos: int) -> None:
    device = api.enrol(name())
    client: WireDevice = wire(server, device, version=V5).start(qos=qos)
    client.answer = lambda publish: 0x97
    refused = api.push(device.id, qos=qos)
    api.wait_counts(refused, refused=1)
    assert "97" in api.delivery(refused)["reason"]
    client.answer = lambda publish: 0x10  # no matching subscribers: below 0x80, an acknowledgement
    taken = api.push(device.id, qos=qos)
    api.wait_counts(taken, delivered=1)


def test_mailboxes_survive_a_restart_in_order(start_server: StartServer, wire: Wire) -> None:
    server = start_server()
    api = server.api
    device = api.enrol("kiosk-1")
    client: WireDevice = wire(server, device).start()
    client.answer = lambda publish: None
    in_flight = [api.push(device.id, data=number) for number in range(3)]
    client.wait_received(3)
    client.drop()
    waiting = [api.push(device.id, data=number) for number in range(3)]
    high = api.push(device.id, priority="high")
    assert server.stop() == 0
    server.start()
    drain = [high, *in_flight, *waiting]
    assert api.mailbox(device.id) == drain
    client.answer = lambda publish: 0
    assert client.connect().session_present
    client.wait_received(10)
    assert client.push_ids(connection=2) == drain
    for push_id in drain:
        api.wait_counts(push_id, delivered=1)
    wait_for(lambda: api.mailbox(device.id) == [], what="an empty mailbox")
