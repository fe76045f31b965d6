"""One device and several nodes: it moves, and is never at two of them, and nothing is lost on the way."""

from __future__ import annotations

import json
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import wire
from tests.end_to_end.harness import Device, wait_for
from tests.end_to_end.wire_device import WireDevice
from tests.nodes import NodeProcess, start_nodes
from tests.wire import V5, RawClient

MOVES, MOVES_IN_FULL = 15, 1_000
MOST_WAITING = 300
EXIT_WITHOUT_LEASE = 69
COMPANIONS = 8
"""Devices that go to and fro beside the one that is looked at."""


Open = Callable[[NodeProcess, Device], WireDevice]


@pytest.fixture
def at() -> Iterator[Open]:
    """Makes a device that talks to a node, which is closed after the test."""
    opened: list[WireDevice] = []

    def open_at(node: NodeProcess, device: Device) -> WireDevice:
        opened.append(WireDevice(node.mqtt_port, device.client_id, device.token, version=V5))
        return opened[-1]

    yield open_at
    for one in opened:
        one.drop()


class Traveller:
    """A device that connects to another node while it is connected to one, and acknowledges what it reads."""

    def __init__(self, device: Device, *, stays: bool = True) -> None:
        """`stays`: its session outlives its connections."""
        self._device = device
        self._stays = stays
        self._client: RawClient | None = None
        self.node: NodeProcess | None = None
        """Where it has connected last."""
        self.push_ids: list[str] = []
        """Each push as often as it was received."""

    def move(self, node: NodeProcess) -> bool:
        """Connect to a node: once it is accepted, the connection it had is closed. Session present."""
        client = RawClient(node.mqtt_port)
        client.send(
            wire.connect(
                self._device.client_id, V5, clean=not self._stays, username=self._device.client_id,
                password=self._device.token, properties=wire.FOR_EVER if self._stays else b"",
            )
        )  # fmt: skip
        connack = client.read()
        assert connack[:1] == b"\x20", connack.hex(" ")
        assert connack[3] == 0, f"refused with {connack[3]:#04x}"
        if self._client is not None:
            goodbye = _rest(self._client)
            self._client.close()
            assert goodbye is not None, "it has two connections after CONNACK"
            assert b"session taken over" in goodbye
        self._client, self.node = client, node
        return bool(connack[2])

    def subscribe(self) -> None:
        assert self._client is not None, "connected"
        self._client.send(wire.subscribe(1, (self._device.topics["push"], 1), version=V5))
        assert self._client.read()[:1] == b"\x90"

    def read_until_silent(self, most: int = 1_000) -> int:
        """Read and acknowledge what has come until the node has nothing more to say; how many pushes."""
        client = self._client
        assert client is not None, "connected"
        client.send(wire.PINGREQ)
        count = 0
        while count < most:
            packet = client.read()
            assert packet, "it is connected"
            if packet == wire.PINGRESP:
                break
            if packet[0] >> 4 == 3:
                count += 1
                self._acknowledge(client, packet)
        return count

    def _acknowledge(self, client: RawClient, packet: bytes) -> None:
        start = 1
        while packet[start] & 0x80:
            start += 1
        start += 1
        (topic_bytes,) = struct.unpack_from(">H", packet, start)
        at = start + 2 + topic_bytes
        (packet_id,) = struct.unpack_from(">H", packet, at)
        payload = packet[packet.index(b'{"v":1', at) :]
        self.push_ids.append(json.loads(payload)["push_id"])
        client.send(wire.puback(packet_id))

    def forget(self) -> None:
        """Let go of a connection to a node that does not answer any more."""
        self.close()
        self._client = None

    def close(self) -> None:
        if self._client is not None:
            self._client.close()


def _rest(client: RawClient) -> bytes | None:
    """What is left to read of a connection that has ended; None if it has not."""
    raw = client._socket
    assert isinstance(raw, socket.socket), "without TLS"
    raw.setblocking(False)
    rest = b""
    try:
        while part := raw.recv(65_536):
            rest += part
    except BlockingIOError:
        return None
    except ConnectionResetError:
        pass
    return rest


@contextmanager
def pushing(nodes: list[NodeProcess], device_id: str, received: list[str]) -> Iterator[list[str]]:
    """Push to a device, at a node and another in turn, but not more than its mailbox takes; the push ids."""
    accepted: list[str] = []
    ending = threading.Event()

    def push() -> None:
        while not ending.is_set():
            if len(accepted) < len(set(received)) + MOST_WAITING:
                accepted.append(nodes[len(accepted) % len(nodes)].api.push(device_id, data={"n": len(accepted)}))
            ending.wait(0.01)

    thread = threading.Thread(target=push)
    thread.start()
    yield accepted
    ending.set()
    thread.join()


@contextmanager
def companions(nodes: list[NodeProcess], devices: list[Device]) -> Iterator[None]:
    """Other devices that go from node to node meanwhile."""
    ending = threading.Event()

    def travel(device: Device) -> None:
        chance = random.Random(device.id)
        while not ending.is_set():
            one = WireDevice(chance.choice(nodes).mqtt_port, device.client_id, device.token, version=V5)
            try:
                one.start()
                ending.wait(chance.random() / 5)
            except Exception:  # taken over while it subscribes
                pass
            finally:
                one.drop()

    threads = [threading.Thread(target=travel, args=(device,)) for device in devices]
    for thread in threads:
        thread.start()
    yield
    ending.set()
    for thread in threads:
        thread.join()


def test_a_session_is_present_at_another_node(tmp_path: Path, at: Open) -> None:
    with start_nodes(tmp_path, 2) as (first, second):
        device = first.api.enrol("kiosk-1")
        away = at(first, device)
        assert not away.connect().session_present
        assert away.subscribe() == 1
        away.answer = lambda publish: None
        push_id = second.api.push("kiosk-1")
        away.drop()
        there = at(second, device)
        assert there.connect().session_present
        wait_for(lambda: [publish.push_id for publish in there.received] == [push_id], what="the push")
        second.api.wait_counts(push_id, delivered=1)
        there.drop()
        assert away.connect().session_present


def test_what_is_in_flight_keeps_its_identifiers(tmp_path: Path, at: Open) -> None:
    with start_nodes(tmp_path, 2) as (first, second):
        device = first.api.enrol("kiosk-1")
        here = at(first, device)
        here.answer = lambda publish: None
        here.start(qos=2)
        pushes = [first.api.push("kiosk-1", qos=qos) for qos in (1, 2, 1)]
        wait_for(lambda: len(here.received) == 3, what="three pushes")
        there = at(second, device)
        assert there.connect().session_present
        wait_for(lambda: here.disconnect_code == 0x8E, what="the goodbye of the first node")
        wait_for(lambda: len(there.received) == 3, what="the same pushes")
        assert [publish.push_id for publish in there.received] == pushes
        assert [publish.packet_id for publish in there.received] == [publish.packet_id for publish in here.received]
        assert all(publish.dup for publish in there.received)
        for push_id in pushes:
            second.api.wait_counts(push_id, delivered=1)


def test_a_device_without_a_session_is_at_one_node_as_well(tmp_path: Path, full: int) -> None:
    with start_nodes(tmp_path, 2) as nodes:
        traveller = Traveller(nodes[0].api.enrol("kiosk-1"), stays=False)
        for number in range(20 * full):
            assert not traveller.move(nodes[number % 2])
        traveller.close()


def test_what_was_acknowledged_does_not_come_again(tmp_path: Path, full: int) -> None:
    """Nothing of it is left with the node that it leaves, above all no acknowledgement that is not stored."""
    with start_nodes(tmp_path, 2) as nodes:
        device = nodes[0].api.enrol("kiosk-1")
        traveller = Traveller(device)
        traveller.move(nodes[0])
        traveller.subscribe()
        accepted = []
        for number in range(8 if full == 1 else 200):
            accepted.append(nodes[number % 2].api.push("kiosk-1"))
            wait_for(lambda: traveller.read_until_silent() and set(traveller.push_ids) >= set(accepted), what="it")
            traveller.read_until_silent()  # it has heard the acknowledgement
            assert traveller.move(nodes[(number + 1) % 2])
        traveller.read_until_silent()
        assert traveller.push_ids == accepted
        traveller.close()


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_device_is_at_one_node_however_often_it_moves(tmp_path: Path, full: int) -> None:
    with start_nodes(tmp_path, 2) as nodes:
        device, *others = nodes[0].api.enrol_many(f"kiosk-{number}" for number in range(1 + COMPANIONS))
        traveller = Traveller(device)
        assert not traveller.move(nodes[0])
        traveller.subscribe()
        with companions(nodes, others), pushing(nodes, device.id, traveller.push_ids) as accepted:
            for number in range(MOVES if full == 1 else MOVES_IN_FULL):
                assert traveller.move(nodes[(number + 1) % 2]), "session present"
                if number % 3:
                    traveller.read_until_silent(number % 7)
        wait_for(lambda: traveller.read_until_silent() >= 0 and set(traveller.push_ids) >= set(accepted), what="all")
        for push_id in accepted:
            nodes[0].api.wait_counts(push_id, delivered=1)
        traveller.close()


def test_a_device_comes_to_another_node_when_its_own_has_died(tmp_path: Path, at: Open) -> None:
    with start_nodes(tmp_path, 2) as (first, second):
        device = first.api.enrol("kiosk-1")
        here = at(first, device)
        here.answer = lambda publish: None
        here.start(qos=2)
        pushes = [first.api.push("kiosk-1", qos=qos) for qos in (2, 1)]
        wait_for(lambda: len(here.received) == 2, what="two pushes")
        first.kill()
        there = at(second, device)
        assert there.connect(timeout=15.0).session_present
        wait_for(lambda: len(there.received) == 2, what="both again")
        assert {publish.push_id for publish in there.received} == set(pushes)
        for push_id in pushes:
            second.api.wait_counts(push_id, delivered=1)


@pytest.mark.long
@pytest.mark.timeout(180)
def test_nothing_is_lost_however_its_nodes_end(tmp_path: Path, full: int) -> None:
    """A node is frozen under a device that moves, with `--full` others are killed; each push that was accepted is
    delivered."""
    chance = random.Random(7)
    with start_nodes(tmp_path, 3) as nodes:
        device = nodes[0].api.enrol("kiosk-1")
        traveller = Traveller(device)
        assert not traveller.move(nodes[0])
        traveller.subscribe()
        accepted = []
        for number in range(1 if full == 1 else 20):
            for _ in range(10):
                accepted.append(chance.choice(nodes).api.push("kiosk-1"))
                assert traveller.move(chance.choice([node for node in nodes if node is not traveller.node]))
                traveller.read_until_silent(chance.randrange(5))
            served = traveller.node
            assert served is not None, "it has moved"
            accepted.append(served.api.push("kiosk-1"))
            served.kill() if number % 2 else served.freeze()
            traveller.forget()
            assert traveller.move(next(node for node in nodes if node is not served)), "after its lease has ended"
            if number % 2 == 0:
                served.resume()
                assert served.wait() == EXIT_WITHOUT_LEASE
            served.start()
        wait_for(lambda: traveller.read_until_silent() >= 0 and set(traveller.push_ids) >= set(accepted), what="all")
        for push_id in accepted:
            nodes[0].api.wait_counts(push_id, delivered=1)
        traveller.close()
