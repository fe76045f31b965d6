"""`kill -9` at the moments that hurt: after a 2xx, after SUBACK and PUBACK, inside a QoS 2 exchange, and at random.

What the server answered must be true for the process that starts after it: every accepted push reaches every device or
ends with its reason, the counts conserve (`Api.counts` checks that on every call), nothing acknowledged to a device is
forgotten, and no device is given a push again once its acknowledgement was in the ledger.
"""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.end_to_end.conftest import StartServer, Wire
from tests.end_to_end.fleet_under_kills import FleetUnderKills
from tests.end_to_end.harness import Device, Server
from tests.end_to_end.wire_device import PUBREC, V4, V5, WireDevice


@pytest.mark.long
@pytest.mark.timeout(240)
def test_a_kill_right_after_a_2xx_loses_nothing(start_server: StartServer, wire: Wire, full: int) -> None:
    """4 kills, 200 with --full, on two servers side by side because most of it is their starting."""
    servers = [start_server() for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        kills = 2 if full == 1 else 100
        for strand in [pool.submit(kill_after_2xx, server, wire, n * kills, kills) for n, server in enumerate(servers)]:
            strand.result()


def kill_after_2xx(server: Server, wire: Wire, first_kill: int, kills: int) -> None:
    """After a push, a batch, a push with an idempotency key, an enrolment, in turn, from `first_kill` on."""
    api = server.api
    present, absent = api.enrol("present"), api.enrol("absent")
    both = {"devices": [present.id, absent.id]}
    device: WireDevice = wire(server, present).start(qos=2)
    accepted: list[str] = []
    recorded: set[str] = set()
    for number in range(first_kill, first_kill + kills):
        qos = 1 + number % 2
        step = number % 4
        enrolled: Device | None = None
        first: dict[str, Any] = {}
        if step == 0:
            new = [api.push(both, qos=qos)]
        elif step == 1:
            new = api.push_batch([{"target": both, "qos": qos, "data": n} for n in range(3)])
        elif step == 2:
            first = api.accept(both, key=f"round-{number}", qos=qos)
            new = [first["push_id"]]
        else:
            enrolled, new = api.enrol(f"device-{number}"), []
        server.kill9()
        accepted += new

        seen_before = len(device.received)
        server.start()
        # Nobody is connected now: what the ledger says is what it had recorded before the kill.
        for push_id in new:
            counts = api.counts(push_id)
            assert counts["targeted"] == 2
            recorded |= {push_id} if counts["delivered"] else set()
            # `sent`: of QoS 2, past PUBREC, which cannot be taken back.
            assert counts["waiting"] + counts["sent"] == 2 - counts["delivered"], counts
        if enrolled is not None:
            assert api.device(enrolled.id)["online"] is False
            assert not wire(server, enrolled).connect().session_present
        if first:
            assert api.accept(both, key=f"round-{number}", qos=qos) == first, "the twin of a push before the kill"
        assert device.connect().session_present
        for push_id in new:
            api.wait_counts(push_id, delivered=1, waiting=1)
        again = {publish.push_id for publish in device.received[seen_before:] if publish.fresh}
        assert not again & recorded, "given again after its acknowledgement was recorded"

    assert api.mailbox(absent.id) == accepted
    late: WireDevice = wire(server, absent).start(qos=2)
    late.wait_received(len(accepted))
    for push_id in accepted:
        api.wait_counts(push_id, delivered=2)
    assert sorted(late.push_ids()) == sorted(accepted), "each once"
    for qos in (1, 2):
        arrived = [publish.push_id for publish in late.received if publish.qos == qos]
        assert arrived == [push_id for push_id in accepted if push_id in set(arrived)]
    assert not any(publish.retain for publish in late.received + device.received)
    fresh = [publish.push_id for publish in device.received if publish.qos == 2 and publish.fresh]
    assert len(fresh) == len(set(fresh)), "QoS 2 is exactly once, across kills"
    assert set(device.push_ids()) == set(accepted)


def test_what_a_device_was_told_survives_a_kill_right_after(start_server: StartServer, wire: Wire, full: int) -> None:
    """A kill after each SUBACK, and after each PUBACK, PUBREC or PUBCOMP for what a device says."""
    server = start_server()
    api = server.api
    for number in range(full):
        version = (V4, V5)[number % 2]
        device = api.enrol(f"device-{number}")
        client: WireDevice = wire(server, device, version=version)
        assert not client.connect().session_present
        assert client.subscribe(qos=1) == 1
        server.restart()
        push_id = api.push(device.id)
        assert client.connect().session_present, "SUBACK promised this session"
        client.wait_push(push_id)
        api.wait_counts(push_id, delivered=1)

        assert client.receipt(push_id, "opened") == 0
        server.restart()
        assert api.only(push_id) == {"opened": 1}

        assert client.connect().session_present
        assert client.publish(client.leaf("uplink/door"), b"open") == 0
        server.restart()
        (uplink,) = api.items(f"/v1/devices/{device.id}/uplink")
        assert uplink["topic"].endswith("door")

        assert client.connect().session_present
        assert client.publish(client.leaf("report"), {"battery": 81}) == 0
        assert client.publish(client.leaf("settings"), {"consent": "granted", "channels": {"offers": False}}) == 0
        server.restart()
        assert api.device(device.id)["attributes"]["battery"] == 81

        # QoS 2 from the device: PUBREC means it is here, once, however often it is said again [MQTT-4.3.3-10].
        assert client.connect().session_present
        packet_id = client.send_publish(client.leaf("uplink/door"), b"shut", qos=2)
        assert client.wait_answer(PUBREC, packet_id) == 0
        server.restart()
        assert client.connect().session_present
        client.send_publish(client.leaf("uplink/door"), b"shut", qos=2, again=packet_id)
        assert client.wait_answer(PUBREC, packet_id) == 0
        client.release(packet_id)
        assert [item["topic"] for item in api.items(f"/v1/devices/{device.id}/uplink")] == [uplink["topic"]] * 2


def test_qos_2_is_exactly_once_when_killed_between_any_two_packets(start_server: StartServer, wire: Wire) -> None:
    server = start_server()
    api = server.api
    enrolled = api.enrol_many(["old", "new"])
    clients: list[WireDevice] = [
        wire(server, device, version=version).start(qos=2) for device, version in zip(enrolled, (V4, V5), strict=True)
    ]
    everybody = {"all": True}

    # PUBLISH arrived, PUBREC never left: the same identifier comes again, with DUP.
    for client in clients:
        client.answer = lambda publish: None
    first = api.push(everybody, qos=2)
    for client in clients:
        client.wait_push(first)
    server.restart()
    assert api.only(first) == {"waiting": 2}
    for client in clients:
        client.answer = lambda publish: 0
        assert client.connect().session_present
    api.wait_counts(first, delivered=2)
    for client in clients:
        one, two = client.received
        assert (one.packet_id, one.dup, one.fresh) == (two.packet_id, False, True)
        assert (two.dup, two.fresh) == (True, False)
        client.completing = False

    # PUBREC was taken (PUBREL came), PUBCOMP never left: PUBREL comes again, PUBLISH never.
    second = api.push(everybody, qos=2)
    for client in clients:
        client.wait_push(second)
        client.wait_released(2)
    server.restart()
    recall = api.call("DELETE", f"/v1/pushes/{second}", 200)
    assert recall["cancelled"] == 0, "past PUBREC it cannot be taken back"
    for client in clients:
        client.completing = True
        assert client.connect().session_present
        client.wait_released(3)
    api.wait_counts(second, delivered=2)
    assert all(client.push_ids().count(second) == 1 for client in clients)

    # PUBCOMP was sent: whether the server had read it or not, the device is given nothing again.
    third = api.push(everybody, qos=2)
    for client in clients:
        client.wait_push(third)
        client.wait_released(4)
    server.restart()
    assert all(client.connect().session_present for client in clients)
    api.wait_counts(third, delivered=2)
    last = api.push(everybody, qos=2)
    api.wait_counts(last, delivered=2)
    for client in clients:
        assert [publish.push_id for publish in client.received if publish.fresh] == [first, second, third, last]


def test_what_was_in_flight_is_judged_again_after_a_kill(start_server: StartServer, wire: Wire) -> None:
    """A connection that ends with the server ends like any other: recalled, over and superseded pushes end."""
    server = start_server()
    api = server.api
    enrolled = api.enrol("kiosk-1")
    client: WireDevice = wire(server, enrolled).start()
    client.answer = lambda publish: None
    recalled = api.push(enrolled.id)
    superseded = api.push(enrolled.id, collapse_key="prices")
    over = api.push(enrolled.id, ttl=1)
    alive = api.push(enrolled.id)
    newer = api.push(enrolled.id, collapse_key="prices")
    client.wait_received(5)
    assert api.call("DELETE", f"/v1/pushes/{recalled}", 200) == {"cancelled": 0, "in_flight": 1, "too_late": 0}
    server.kill9()
    client.answer = lambda publish: 0
    server.start()
    api.wait_counts(over, expired=1)
    assert client.connect().session_present
    api.wait_counts(newer, delivered=1)
    api.wait_counts(alive, delivered=1)
    api.wait_counts(recalled, cancelled=1)
    api.wait_counts(superseded, superseded=1)
    assert client.push_ids(connection=2) == [alive, newer]


def test_the_order_holds_across_qos_after_a_kill(start_server: StartServer, wire: Wire) -> None:
    """What had been handed over with QoS 2 is repeated under its identifier, after what went before it with QoS 1."""
    server = start_server()
    api = server.api
    device = api.enrol("d1")
    client: WireDevice = wire(server, device)
    client.answer = lambda publish: None
    client.start(qos=2)
    pushed = [api.push(device.id, qos=qos) for qos in (1, 2, 1, 2, 1, 2)]
    client.wait_received(6)
    server.kill9()
    server.start()
    client.answer = lambda publish: 0
    assert client.connect().session_present
    client.wait_received(12)
    again = client.received[6:]
    assert [publish.push_id for publish in again] == pushed
    assert [publish.dup for publish in again] == [False, True] * 3
    twice = [publish.packet_id for publish in client.received if publish.qos == 2]
    assert twice[:3] == twice[3:]
    for push_id in pushed:
        api.wait_counts(push_id, delivered=1)


@pytest.mark.parametrize("killed", [False, True], ids=["same run", "killed"])
def test_an_identifier_that_a_device_still_holds_is_given_to_no_other_push(
    start_server: StartServer, wire: Wire, killed: bool
) -> None:
    """The device received a QoS 2 push, its PUBREC was lost, and the push is over when it returns. Until PUBREL comes,
    whatever arrives under that identifier is the old message to the device [MQTT-4.3.3-10], that is lost."""
    server = start_server()
    api = server.api
    enrolled = api.enrol("kiosk-1")
    client: WireDevice = wire(server, enrolled).start(qos=2)
    client.answer = lambda publish: None
    over = api.push(enrolled.id, qos=2, ttl=1)
    client.wait_push(over)
    client.drop()
    api.wait_counts(over, expired=1)
    client.answer = lambda publish: 0
    assert client.connect().session_present
    if killed:
        client.publish(client.leaf("uplink/here"), b"")  # its PUBACK says that everything before is stored as well
        server.restart()
        assert client.connect().session_present
    pushed = api.push_batch([{"target": {"device": enrolled.id}, "qos": 2} for _ in range(20)])
    for push_id in pushed:
        api.wait_counts(push_id, delivered=1)
    assert [publish.push_id for publish in client.received if publish.fresh and publish.push_id != over] == pushed


@pytest.mark.parametrize("killed", [False, True], ids=["same run", "killed"])
def test_a_limited_alert_of_qos_2_is_sent_again_under_its_identifier(
    start_server: StartServer, wire: Wire, killed: bool
) -> None:
    """Its connection was lost before PUBREC: under another identifier the device would take it for another message."""
    server = start_server()
    api = server.api
    enrolled = api.enrol("kiosk-1")
    client: WireDevice = wire(server, enrolled).start(qos=2)
    assert client.publish(client.leaf("settings"), {"channels": {"news": False}}) == 0
    client.answer = lambda publish: None
    pushed = [api.push(enrolled.id, qos=2, notification={"title": str(number)}) for number in range(3)]
    client.wait_received(3)
    assert client.publish(client.leaf("settings"), {"channels": {"others": False}}) == 0, "judged again, all of them"
    client.drop()
    if killed:
        server.restart()
    client.answer = lambda publish: 0
    assert client.connect().session_present
    for push_id in pushed:
        api.wait_counts(push_id, delivered=1)
    before, after = client.received[:3], client.received[3:]
    assert [(publish.push_id, publish.packet_id) for publish in after] == [
        (publish.push_id, publish.packet_id) for publish in before
    ]
    assert all(publish.dup for publish in after)


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize("strand", range(3))
def test_kills_at_random_moments_under_load(start_server: StartServer, wire: Wire, full: int, strand: int) -> None:
    """2 kills in each of 3 strands, 100 with --full: see `fleet_under_kills`."""
    seed = random.randrange(1 << 32)
    print(f"strand {strand}, seed {seed}")
    dice = random.Random(seed)
    fleet = FleetUnderKills(start_server(env={"FLEETPUSH_UPLINK_KEEP": "10000"}), wire, dice)
    fleet.start()
    for _ in range(2 if full == 1 else 100):
        time.sleep(dice.uniform(0.2, 1.5))  # the moment of the kill is the experiment
        fleet.kill_and_restart()
    fleet.finish()
    fleet.judge()
