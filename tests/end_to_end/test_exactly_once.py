"""Packet identifiers over kills, restores and disks that stall: nothing is lost, taken twice, or taken for another."""

from __future__ import annotations

from tests.end_to_end.conftest import StartServer, Wire
from tests.end_to_end.harness import fleetpush
from tests.end_to_end.wire_device import PUBREC, WireDevice


def test_a_late_acknowledgement_of_an_earlier_run_acknowledges_nothing_else(
    start_server: StartServer, wire: Wire
) -> None:
    """Clients that acknowledge by hand do so after a reconnect, in their own time, and servers are killed in a row."""
    server = start_server()
    api = server.api
    enrolled = api.enrol("kiosk-1")
    client: WireDevice = wire(server, enrolled).start()
    client.answer = lambda publish: None
    pushed = [api.push(enrolled.id) for _ in range(3)]
    client.wait_received(3)
    for run in range(2, 5):
        server.restart()
        assert client.connect().session_present
        pushed.append(api.push(enrolled.id, priority="critical"))
        for push_id in pushed:
            while push_id not in client.push_ids(connection=run):
                client.wait_received(len(client.received) + 1)
        for publish in [publish for publish in client.received if publish.connection < run]:
            client.acknowledge(publish)
        client.ping()  # they have been read
        assert [api.only(push_id) for push_id in pushed] == [{"sent": 1}] * len(pushed)
    for publish in [publish for publish in client.received if publish.connection == 4]:
        client.acknowledge(publish)
    for push_id in pushed:
        api.wait_counts(push_id, delivered=1)


def test_a_restored_server_sends_nothing_under_an_identifier_that_a_device_still_holds(
    start_server: StartServer, wire: Wire
) -> None:
    """What came under an identifier that was not released would be a repetition to the device [MQTT-4.3.3-10]: lost,
    and acknowledged all the same."""
    server = start_server()
    api = server.api
    enrolled = api.enrol("kiosk-1")
    client: WireDevice = wire(server, enrolled).start(qos=2)
    archive = server.data_dir.parent / "fleet.tar"
    done = fleetpush("backup", str(archive), "--data-dir", str(server.data_dir))
    assert done.returncode == 0, done.stderr

    client.answer = lambda publish: None
    for _ in range(5):
        api.push(enrolled.id, qos=2)
    for publish in client.wait_received(5):
        client._unreleased.add(publish.packet_id)  # it has them, and its PUBRECs never arrive
    uplink = client.send_publish(client.leaf("uplink/door"), b"open", qos=2)
    client.wait_answer(PUBREC, uplink)
    server.kill9()
    done = fleetpush("restore", str(archive), "--data-dir", str(server.data_dir), "--force")
    assert done.returncode == 0, done.stderr
    server.start()

    client.answer = lambda publish: 0
    assert not client.connect().session_present, "a restored server knows of no session"
    assert client.subscribe(qos=2) == 2
    pushed = [api.push(enrolled.id, qos=2) for _ in range(5)]
    for push_id in pushed:
        api.wait_counts(push_id, delivered=1)
    fresh = [publish for publish in client.received if publish.fresh and publish.connection == 2]
    assert [publish.push_id for publish in fresh] == pushed
    assert {publish.packet_id for publish in fresh}.isdisjoint(range(1, 6)), "nor would it if the device had kept them"
