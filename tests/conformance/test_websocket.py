"""Section 6 of both standards: MQTT over WebSocket. Frames are written by hand (`tests/websocket_stream.py`)."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable, Iterator

import paho.mqtt.client as paho
import pytest

from tests import websocket_stream as ws
from tests import wire
from tests.conformance.foreign import PahoClient
from tests.conformance.party import Party
from tests.conformance.standalone import BrokerProcess
from tests.conformance.transports import TCP, Ways
from tests.websocket_stream import WebSocketStream
from tests.wire import SECONDS, RawClient

Name = Callable[[], str]


class WebSocketClient(RawClient):
    def __init__(self, port: int) -> None:
        super().__init__(port, wrap=self._upgrade)

    def _upgrade(self, connected: socket.socket) -> WebSocketStream:
        self.stream = WebSocketStream(connected)
        return self.stream


@pytest.fixture
def browser(broker: BrokerProcess) -> Iterator[Callable[[], WebSocketClient]]:
    """Open WebSockets to the shared broker; closed after the test."""
    clients: list[WebSocketClient] = []

    def open_websocket() -> WebSocketClient:
        clients.append(WebSocketClient(broker.ws_port))
        return clients[-1]

    yield open_websocket
    for client in clients:
        client.close()


def asked(port: int, request: bytes) -> tuple[bytes, str]:
    """The response to an opening handshake: its first line, and all of it."""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connected:
        connected.sendall(request)
        response = b""
        while not response.endswith(b"\r\n\r\n"):
            part = connected.recv(4_096)
            if not part:
                break
            response += part
    return response.split(b"\r\n", 1)[0], response.decode()


def test_packets_are_sent_in_binary_frames(browser: Callable[[], WebSocketClient], name: Name, version: int) -> None:
    """[MQTT-6.0.0-1] [3.1.1: MQTT-6.0.0-1]: ours are, small and large (the stream takes no other); and theirs."""
    party = Party(browser, name, version)
    topic = name()
    reader = party.reader(topic, 1)
    for number, payload in enumerate((b"x", bytes(200), bytes(70_000)), 1):
        party.say(topic, payload)
        reader.expect(party.publish(topic, payload, 1, number))
        reader.send(wire.puback(number))


@pytest.mark.parametrize("final", [True, False], ids=["message", "fragment"])
def test_a_text_frame_ends_the_connection(
    browser: Callable[[], WebSocketClient], name: Name, version: int, final: bool
) -> None:
    """[MQTT-6.0.0-1] [3.1.1: MQTT-6.0.0-1]: also if it holds a packet, and the bystander stays."""
    bystander = browser()
    bystander.enter(wire.connect(name(), version))
    client = browser()
    client.enter(wire.connect(name(), version))
    client.stream.send_frames(ws.frame(wire.PINGREQ, ws.TEXT, final=final))
    client.expect_goodbye(0x82, version)
    assert client.stream.close_code == 1003
    bystander.expect_silence()


def test_frames_and_packets_need_not_begin_and_end_together(
    browser: Callable[[], WebSocketClient], name: Name, version: int
) -> None:
    """[MQTT-6.0.0-2] [3.1.1: MQTT-6.0.0-2]: several packets in a frame, and a packet in several, and in fragments."""
    party = Party(browser, name, version)
    topic = name()
    client = browser()
    connect = wire.connect(name(), version)
    subscribe = wire.subscribe(1, (topic, 0), version=version)
    said = connect + subscribe + wire.PINGREQ + party.publish(topic, b"hello") + wire.PINGREQ
    cuts = [0, 1, 5, len(connect) - 1, len(connect) + 3, len(said) - 7, len(said) - 1, len(said)]
    parts = [said[start:end] for start, end in itertools.pairwise(cuts)]
    client.stream.send_frames(
        ws.frame(parts[0]),
        ws.frame(parts[1], final=False),
        ws.frame(b"", ws.CONTINUATION, final=False),
        ws.frame(parts[2], ws.CONTINUATION),
        *map(ws.frame, parts[3:]),
    )
    assert client.read()[:1] == b"\x20"
    client.expect(
        wire.suback(1, 0, version=version), wire.PINGRESP, party.publish(topic, b"hello", packet_id=0), wire.PINGRESP
    )


@pytest.mark.parametrize("offered", [None, "mqttv3.1", "chat, graphql-ws"])
def test_who_does_not_offer_mqtt_is_refused(broker: BrokerProcess, offered: str | None) -> None:
    """[MQTT-6.0.0-3] [3.1.1: MQTT-6.0.0-3]: and told so."""
    first, response = asked(broker.ws_port, ws.request(protocol=offered))
    assert first == b"HTTP/1.1 400 Bad Request"
    assert "does not offer the subprotocol mqtt" in response


@pytest.mark.parametrize("offered", ["mqtt", "mqttv3.1, mqtt", "mqtt, mqttv3.1"])
def test_mqtt_is_what_the_server_selects(broker: BrokerProcess, offered: str) -> None:
    """[MQTT-6.0.0-4] [3.1.1: MQTT-6.0.0-4]"""
    first, response = asked(broker.ws_port, ws.request(protocol=offered))
    assert first == b"HTTP/1.1 101 Switching Protocols"
    assert response.count("\r\nSec-WebSocket-Protocol: mqtt\r\n") == 1
    assert response.lower().count("sec-websocket-protocol") == 1


def test_the_same_session_over_both_transports(
    browser: Callable[[], WebSocketClient], ways: Ways, name: Name, version: int
) -> None:
    """Both transports have the same sessions: one started over one is taken over and resumed over the other."""
    client_id, topic = name(), name()
    first = browser()
    first.join(client_id, version)
    first.send(wire.subscribe(1, (topic, 1), version=version))
    first.expect(wire.suback(1, 1, version=version))
    with ways.open(TCP) as second:
        second.join(client_id, version, present=True)
        first.expect_goodbye(0x8E, version)
        assert first.stream.close_code == 1000
    Party(browser, name, version).say(topic, b"while away")
    third = browser()
    third.join(client_id, version, present=True)
    assert third.read().endswith(b"while away")


@pytest.mark.parametrize("paho_version", [paho.MQTTv311, paho.MQTTv5])
def test_paho_over_websocket_gets_each_qos(broker: BrokerProcess, name: Name, paho_version: int) -> None:
    topic = name()
    with PahoClient(broker.ws_port, name(), paho_version, websocket=True) as client:
        client.subscribe(f"{topic}/#", 2)
        for qos in (0, 1, 2):
            payload = f"hello {qos} " * 20_000
            client.publish(f"{topic}/{qos}", payload, qos)
            assert client.next() == (f"{topic}/{qos}", qos, False, payload.encode())
