"""Packet identifiers over kills, restores and disks that stall: nothing is lost, taken twice, or taken for another."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import pytest

from tests.end_to_end.conftest import StartServer, Wire
from tests.end_to_end.harness import Api, Device, Server, fleetpush, wait_for
from tests.end_to_end.ledger_access import LEDGER, committed_rows, committed_rows_of, stalled_file, stalled_ledger
from tests.end_to_end.wire_device import PUBCOMP, PUBREC, V4, V5, WireDevice

BROKER = "broker.db"


def locked(server: Server, name: str) -> AbstractContextManager[None]:
    """Nothing is committed to one of the two databases meanwhile."""
    return stalled_ledger(server) if name == LEDGER else stalled_file(server, name)


def committed(server: Server, name: str, query: str) -> list[Any]:
    return committed_rows(server, query) if name == LEDGER else committed_rows_of(server, name, query)


def uplink(api: Api, device: Device) -> list[str]:
    return [item["payload"] for item in api.items(f"/v1/devices/{device.id}/uplink")]


def test_what_a_device_says_with_qos_2_is_stored_once_when_killed_before_pubrec(
    start_server: StartServer, wire: Wire, full: int
) -> None:
    """Its identifier and its content are in two files, and the kill comes when one of them is written."""
    for stalled, version in [(LEDGER, V4), (BROKER, V5)][:full]:
        kill_while_stalled(start_server(), wire, stalled, version)


def kill_while_stalled(server: Server, wire: Wire, stalled: str, version: int) -> None:
    api = server.api
    enrolled = api.enrol("kiosk-1")
    client: WireDevice = wire(server, enrolled, version=version).start()
    push_id = api.push(enrolled.id)
    api.wait_counts(push_id, delivered=1)
    said: list[tuple[str, Any]] = [
        ("receipts", {"push_id": push_id, "event": "acted", "action": "accept", "result": {"table": 7}}),
        ("uplink/door", "open"),
        ("settings", {"channels": {"offers": False}}),
        ("report", {"battery": 81}),
    ]
    with locked(server, stalled):
        identifiers = [client.send_publish(client.leaf(leaf), content, qos=2) for leaf, content in said]
        other, table = (BROKER, "received") if stalled == LEDGER else (LEDGER, "received_message")
        wait_for(
            lambda: committed(server, other, f"SELECT count(*) FROM {table}") == [(4,)], what="the other file's commit"
        )
        assert not client._answers, "no PUBREC before both have it"
        server.kill9()
    server.start()
    assert client.connect().session_present
    for packet_id, (leaf, content) in 2 * list(zip(identifiers, said, strict=True)):
        client.send_publish(client.leaf(leaf), content, qos=2, again=packet_id)
        assert client.wait_answer(PUBREC, packet_id) == 0
    assert api.only(push_id) == {"acted": 1}
    assert api.delivery(push_id)["result"] == {"table": 7}
    assert uplink(api, enrolled) == ["open"]
    assert api.device(enrolled.id)["attributes"]["battery"] == 81
    assert api.call("GET", f"/v1/devices/{enrolled.id}/preferences", 200)["channels"][0]["muted"] is True

    # Released, an identifier means a new message; also when the kill comes between the two files.
    with locked(server, stalled):
        client.send(bytes([0x62, 2, 0, identifiers[1]]))
        wait_for(
            lambda: committed(server, other, f"SELECT count(*) FROM {table}") == [(3,)], what="the other file's commit"
        )
        server.kill9()
    server.start()
    assert client.connect().session_present
    client.send(bytes([0x62, 2, 0, identifiers[1]]))
    client.wait_answer(PUBCOMP, identifiers[1])
    client.send_publish(client.leaf("uplink/door"), "shut", qos=2, again=identifiers[1])
    assert client.wait_answer(PUBREC, identifiers[1]) == 0
    assert uplink(api, enrolled) == ["shut", "open"]
    for packet_id in identifiers:
        client.release(packet_id)
    assert committed(server, LEDGER, "SELECT count(*) FROM received_message") == [(0,)]


def test_a_repetition_is_not_acknowledged_before_its_content_is_stored(start_server: StartServer, wire: Wire) -> None:
    """The connection was lost while the ledger could not be written, and the device repeats its message."""
    server = start_server()
    api = server.api
    enrolled = api.enrol("kiosk-1")
    client: WireDevice = wire(server, enrolled).start()
    packet_id = 0
    with locked(server, LEDGER):
        packet_id = client.send_publish(client.leaf("uplink/door"), "open", qos=2)
        wait_for(lambda: committed(server, BROKER, "SELECT packet_id FROM received"), what="the identifier on disk")
        for _ in range(3):
            client.drop()
            assert client.connect().session_present
            client.send_publish(client.leaf("uplink/door"), "open", qos=2, again=packet_id)
            client.ping()
            assert (PUBREC, packet_id) not in client._answers
    assert client.wait_answer(PUBREC, packet_id) == 0
    client.release(packet_id)
    assert uplink(api, enrolled) == ["open"]


def test_a_will_is_stored_once_when_the_server_is_killed(start_server: StartServer, wire: Wire, full: int) -> None:
    """Nobody repeats it: the session has lost it in one file, before the other had it."""
    for stalled, qos in [(LEDGER, 2), (BROKER, 1)][:full]:
        kill_with_a_will(start_server(), wire, stalled, qos)


def kill_with_a_will(server: Server, wire: Wire, stalled: str, qos: int) -> None:
    api = server.api
    enrolled = api.enrol("kiosk-1")
    topic = f"default/devices/{enrolled.id}/uplink/gone"
    client: WireDevice = wire(server, enrolled, will=(topic, b"lost", qos, False)).start()
    with locked(server, stalled):
        client.drop()
        other, query = (BROKER, "SELECT topic FROM published_will")
        if stalled == BROKER:
            other, query = LEDGER, "SELECT payload FROM uplink_message"
        wait_for(lambda: committed(server, other, query), what="the other file's commit")
        server.kill9()
    server.start()
    wait_for(lambda: uplink(api, enrolled) == ["lost"], what="the will")
    wait_for(lambda: not committed(server, BROKER, "SELECT number FROM published_will"), what="it to be done with")
    assert client.connect().session_present
    assert client.publish(client.leaf("uplink/here"), b"") == 0
    assert uplink(api, enrolled) == ["", "lost"]


def test_a_late_acknowledgement_of_an_earlier_run_acknowledges_nothing_else(
    start_server: StartServer, wire: Wire, full: int
) -> None:
    """Clients that acknowledge by hand do so after a reconnect, in their own time, and servers are killed in a row."""
    server = start_server()
    api = server.api
    enrolled = api.enrol("kiosk-1")
    client: WireDevice = wire(server, enrolled).start()
    client.answer = lambda publish: None
    pushed = [api.push(enrolled.id) for _ in range(3)]
    client.wait_received(3)
    for run in range(2, 3 + min(full, 2)):
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
    for publish in [publish for publish in client.received if publish.connection == run]:
        client.acknowledge(publish)
    for push_id in pushed:
        api.wait_counts(push_id, delivered=1)


@pytest.mark.sqlite("backup and restore")
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
