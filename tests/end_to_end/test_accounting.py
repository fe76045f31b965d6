"""The ledger as a sender sees it: receipts in any order, idempotency, counts under load, removed devices."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.end_to_end.conftest import Name, StartServer, Wire
from tests.end_to_end.harness import Api, Server, expect_problem, wait_for
from tests.end_to_end.wire_device import V4, V5, WireDevice

TIMES = ("delivered_at", "displayed_at", "dismissed_at", "opened_at", "acted_at")


def test_the_furthest_receipt_wins_and_first_times_are_kept(server: Server, api: Api, wire: Wire, name: Name) -> None:
    device = api.enrol(name())
    client: WireDevice = wire(server, device).start()
    push_id = api.push(device.id, notification={"title": "Film"})
    client.wait_push(push_id)
    api.wait_counts(push_id, delivered=1)

    assert client.receipt(push_id, "opened") == 0  # skips `displayed`
    assert api.only(push_id) == {"opened": 1}, "the acknowledgement of a receipt says that it is booked"
    opened = api.delivery(push_id)
    assert opened["opened_at"]
    assert client.receipt(push_id, "displayed") == 0  # late
    assert client.receipt(push_id, "opened") == 0  # twice
    assert client.receipt(push_id, "delivered") == 0
    after = api.delivery(push_id)
    assert after["state"] == "opened"
    assert after["displayed_at"]
    assert after["opened_at"] == opened["opened_at"]
    assert after["delivered_at"] == opened["delivered_at"]

    assert client.receipt(push_id, "acted", action="play", result={"seconds": 3}) == 0
    assert client.receipt(push_id, "dismissed") == 0
    final = api.delivery(push_id)
    assert (final["state"], final["action"], final["result"]) == ("acted", "play", {"seconds": 3})
    assert all(final[when] for when in TIMES)
    assert api.reached(push_id) == {"delivered": 1, "displayed": 1, "opened": 1, "acted": 1}


def test_receipts_come_as_lists_too(server: Server, api: Api, wire: Wire, name: Name) -> None:
    device = api.enrol(name())
    client: WireDevice = wire(server, device).start()
    first, second = api.push(device.id), api.push(device.id)
    client.wait_push(second)
    listed = [{"push_id": first, "event": "displayed"}, {"push_id": second, "event": "dismissed"}]
    assert client.publish(client.leaf("receipts"), listed) == 0
    assert api.only(first) == {"displayed": 1}
    assert api.only(second) == {"dismissed": 1}
    assert api.reached(second) == {"delivered": 1, "displayed": 1, "opened": 0, "acted": 0}


def test_a_receipt_proves_that_an_ended_delivery_arrived_after_all(
    server: Server, api: Api, wire: Wire, name: Name
) -> None:
    device = api.enrol(name())
    client: WireDevice = wire(server, device, version=V5).start()
    client.answer = lambda publish: None

    expired = api.push(device.id, ttl=0)
    superseded = api.push(device.id, collapse_key="k")
    newer = api.push(device.id, collapse_key="k")
    cancelled = api.push(device.id)
    client.wait_received(4)
    api.call("DELETE", f"/v1/pushes/{cancelled}", 200)
    client.drop()
    api.wait_counts(expired, expired=1)
    api.wait_counts(superseded, superseded=1)
    api.wait_counts(cancelled, cancelled=1)

    client.answer = lambda publish: 0x80 if publish.push.get("data") == "refuse" else 0
    client.connect()
    client.wait_push(newer)
    refused = api.push(device.id, data="refuse")
    api.wait_counts(refused, refused=1)
    ends = {"expired": expired, "superseded": superseded, "cancelled": cancelled, "refused": refused}
    for number, (end, push_id) in enumerate(ends.items()):
        event = ("delivered", "displayed", "opened", "acted")[number]
        assert client.receipt(push_id, event) == 0
        assert api.only(push_id) == {event: 1}
        assert api.delivery(push_id)["reason"] == f"after_{end}"


def test_receipts_for_what_a_device_never_got_are_dropped_and_shown(
    server: Server, api: Api, wire: Wire, name: Name
) -> None:
    mine, other = api.enrol(name()), api.enrol(name())
    client: WireDevice = wire(server, mine).start()
    foreign = api.push(other.id)
    assert api.device(mine.id)["last_error"] is None
    assert client.receipt(foreign, "opened") == 0
    assert api.only(foreign) == {"waiting": 1}
    assert foreign in api.wait_last_error(mine.id)
    assert client.receipt("no-such-push", "opened") == 0
    wait_for(lambda: "no-such-push" in api.device(mine.id)["last_error"], what="the newest error")
    assert api.device(other.id)["last_error"] is None


def test_the_same_key_and_body_is_one_push(server: Server, api: Api, name: Name) -> None:
    device = api.enrol(name())
    key = f"order-{device.id}"
    first = api.accept(device.id, key=key, data=1)
    assert api.accept(device.id, key=key, data=1) == first
    body = {"target": {"device": device.id}, "data": 2}
    refusal = api.request("POST", "/v1/pushes", json=body, headers={"Idempotency-Key": key})
    expect_problem(refusal, 422, "idempotency_key_reused")
    assert api.mailbox(device.id) == [first["push_id"]]


def test_concurrent_twins_are_one_push(server: Server, api: Api, name: Name) -> None:
    device = api.enrol(name())

    def send(_: int) -> dict[str, Any]:
        client = Api(server.url, server.admin_key)
        try:
            return client.accept(device.id, key=f"twins-{device.id}", data="twin")
        finally:
            client.close()

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(16)))
    assert all(answer == answers[0] for answer in answers)
    assert api.mailbox(device.id) == [answers[0]["push_id"]]


def test_refusals_are_not_remembered_under_a_key(server: Server, api: Api, name: Name) -> None:
    device_id = name()
    body = {"target": {"device": device_id}}
    headers = {"Idempotency-Key": f"early-{device_id}"}
    expect_problem(api.request("POST", "/v1/pushes", json=body, headers=headers), 404)
    api.enrol(device_id)
    assert api.request("POST", "/v1/pushes", json=body, headers=headers).status_code == 202


def test_keys_work_per_line_of_a_batch(server: Server, api: Api, name: Name) -> None:
    device = api.enrol(name())
    line = {"target": {"device": device.id}, "data": "x", "idempotency_key": f"line-{device.id}"}
    other = {"target": {"device": device.id}, "data": "y"}
    first, second, third = api.push_batch([line, other, line])
    assert first == third != second
    assert api.push_batch([line]) == [first]
    assert api.mailbox(device.id) == [first, second]


def test_counts_conserve_at_every_moment_under_load(start_server: StartServer, wire: Wire, full: int) -> None:
    """`Api.counts` checks each snapshot: here taken as fast as possible while everything moves."""
    server = start_server()
    api = server.api
    enrolled = api.enrol_many([f"kiosk-{n}" for n in range(20)])
    devices: list[WireDevice] = [
        wire(server, device, version=(V4, V5)[n % 2]).start(qos=1 + n % 2) for n, device in enumerate(enrolled[:16])
    ]
    devices[0].answer = lambda publish: None
    stop = threading.Event()
    pushed: list[str] = []
    faults: list[BaseException] = []

    def send() -> None:
        client = Api(server.url, server.admin_key)
        while not stop.is_set():
            key = {"collapse_key": "k"} if len(pushed) % 5 else {}
            pushed.append(client.push({"all": True}, qos=len(pushed) % 3, **key))
        client.close()

    def come_and_go() -> None:
        while not stop.is_set():
            for device in devices[:4]:
                device.drop()
                device.connect()

    def guarded(work: Any) -> None:
        try:
            work()
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in (send, come_and_go)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 2.0 * full
    snapshots = 0
    try:
        while time.monotonic() < until and not faults:
            for push_id in pushed[-3:]:
                assert api.counts(push_id)["targeted"] == 20
                snapshots += 1
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
    assert not faults
    assert snapshots > 20
    devices[0].answer = lambda publish: 0
    for device in devices:
        device.drop()
        device.connect()
    for push_id in pushed:
        wait_for(
            lambda push_id=push_id: api.counts(push_id)["waiting"] <= 4,  # type: ignore[misc]
            what="only the four that never connect to wait",
        )


@pytest.mark.parametrize("version", [V4, V5], ids=["3.1.1", "5.0"])
def test_removing_a_device_ends_everything_of_it(
    server: Server, api: Api, wire: Wire, name: Name, version: int
) -> None:
    device = api.enrol(name())
    client: WireDevice = wire(server, device, version=version).start()
    client.answer = lambda publish: None
    in_flight = api.push(device.id)
    client.wait_push(in_flight)
    side = WireDevice(
        server.mqtt_port, f"{device.client_id}:r", device.token, username=device.client_id, topic=device.topics["push"]
    )
    side.connect()
    api.call("DELETE", f"/v1/devices/{device.id}", 204)
    client.wait_closed(1.0)
    side.wait_closed(1.0)
    side.drop()
    api.wait_counts(in_flight, revoked=1)
    assert api.delivery(in_flight)["reason"]
    expect_problem(api.request("GET", f"/v1/devices/{device.id}"), 404)
    expect_problem(api.request("POST", "/v1/pushes", json={"target": {"device": device.id}}), 404)
    assert client.try_connect().code in (4, 5, 0x86, 0x87)

    again = api.enrol(device.id)
    assert api.mailbox(again.id) == []
    assert client.try_connect().code in (4, 5, 0x86, 0x87), "the old token is not the new device's"
    successor: WireDevice = wire(server, again, version=version)
    assert not successor.connect().session_present
    assert successor.subscribe() == 1
    assert successor.receipt(in_flight, "opened") == 0
    assert api.only(in_flight) == {"revoked": 1}, "revoked never moves"
    push_id = api.push(again.id)
    successor.wait_push(push_id)
    assert successor.push_ids() == [push_id]


def test_what_waits_for_a_removed_device_ends_revoked(server: Server, api: Api, name: Name) -> None:
    device = api.enrol(name())
    waiting = [api.push(device.id) for _ in range(3)]
    api.call("DELETE", f"/v1/devices/{device.id}", 204)
    for push_id in waiting:
        assert api.only(push_id) == {"revoked": 1}


def test_presence_report_settings_and_uplink_are_shown(server: Server, api: Api, wire: Wire, name: Name) -> None:
    device = api.enrol(name(), name="Lobby", tags=["lobby"], attributes={"floor": 2}, timezone="Europe/Berlin")
    shown = api.device(device.id)
    assert (shown["online"], shown["name"], shown["tags"]) == (False, "Lobby", ["lobby"])
    assert (shown["attributes"], shown["timezone"]) == ({"floor": 2}, "Europe/Berlin")
    client: WireDevice = wire(server, device, version=V5).start()
    api.wait_online(device.id)
    assert api.device(device.id)["connected_at"].endswith("Z")
    assert client.publish(client.leaf("report"), {"battery": 81, "version": "2.3"}) == 0
    assert api.device(device.id)["attributes"] == {"floor": 2, "battery": 81, "version": "2.3"}
    assert client.publish(client.leaf("settings"), {"consent": "granted", "seq": 5}) == 0
    assert client.publish(client.leaf("settings"), {"consent": "denied", "seq": 4}) == 0
    assert client.publish(client.leaf("presence"), b"1", retain=True) == 0
    for number in range(105):
        client.send_publish(client.leaf(f"uplink/{number}"), b"hello", qos=0)
    assert client.publish(client.leaf("uplink/last"), b"\xff\x00") == 0
    uplink = list(api.items(f"/v1/devices/{device.id}/uplink"))
    assert len(uplink) == 100, "the last 100 are kept"
    changed = api.call("PATCH", f"/v1/devices/{device.id}", 200, json={"name": None, "attributes": {"floor": None}})
    assert (changed["name"], changed["attributes"]) == (None, {"battery": 81, "version": "2.3"})
    client.disconnect()
    api.wait_online(device.id, online=False)
    wait_for(lambda: api.device(device.id)["last_seen"], what="last_seen")
