"""A broker that does only what a test tells it, by hand-written bytes: it can forget, repeat and vanish at will."""

from __future__ import annotations

import json
import queue
import socket
import threading
from dataclasses import dataclass
from typing import Any

TIMEOUT = 10.0

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK, DISCONNECT = 0x10, 0x20, 0x30, 0x40, 0x82, 0x90, 0xE0


@dataclass(frozen=True)
class Sent:
    """A packet of the device."""

    kind: int
    flags: int
    body: bytes

    @property
    def packet_id(self) -> int:
        return int.from_bytes(self.body[:2], "big")

    def said(self) -> tuple[str, int, bytes]:
        """(topic, packet id, payload) of a QoS 1 PUBLISH."""
        length = int.from_bytes(self.body[:2], "big")
        topic = self.body[2 : 2 + length].decode()
        packet_id = int.from_bytes(self.body[2 + length : 4 + length], "big")
        return topic, packet_id, self.body[4 + length :]

    def publish(self) -> tuple[str, int, Any]:
        """The same of one with JSON."""
        topic, packet_id, payload = self.said()
        return topic, packet_id, json.loads(payload)


class Connection:
    def __init__(self, accepted: socket.socket) -> None:
        self.socket = accepted
        self.socket.settimeout(TIMEOUT)
        self.packets: queue.SimpleQueue[Sent | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            while first := self.socket.recv(1):
                length, shift = 0, 0
                while True:
                    byte = self._exactly(1)[0]
                    length |= (byte & 0x7F) << shift
                    shift += 7
                    if byte < 0x80:
                        break
                self.packets.put(Sent(first[0] & 0xF0, first[0] & 0x0F, self._exactly(length)))
        except (OSError, EOFError):
            pass
        self.packets.put(None)

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def expect(self, kind: int) -> Sent:
        packet = self.packets.get(timeout=TIMEOUT)
        assert packet is not None, f"the device closed instead of sending {kind:#x}"
        assert packet.kind == kind & 0xF0, f"{packet} instead of {kind:#x}"
        return packet

    def expect_end(self) -> None:
        assert self.packets.get(timeout=TIMEOUT) is None

    def nothing_more(self) -> bool:
        return self.packets.empty()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def push(
        self, packet_id: int, payload: bytes, *, dup: bool = False, topic: str = "default/devices/d1/push"
    ) -> None:
        name = topic.encode()
        body = len(name).to_bytes(2, "big") + name + packet_id.to_bytes(2, "big") + payload
        assert len(body) < 16384, "two length bytes are enough here"
        length = bytes([len(body)]) if len(body) < 128 else bytes([len(body) % 128 | 0x80, len(body) // 128])
        self.send(bytes([PUBLISH | 0x02 | (0x08 if dup else 0)]) + length + body)

    def goodbye(self, reason_code: int, properties: bytes) -> None:
        self.send(bytes([DISCONNECT, 2 + len(properties), reason_code, len(properties)]) + properties)

    def acknowledge(self, packet_id: int) -> None:
        self.send(bytes([PUBACK, 2]) + packet_id.to_bytes(2, "big"))

    def vanish(self) -> None:
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.socket.close()


class ScriptedBroker:
    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(TIMEOUT)
        self.port: int = self._listener.getsockname()[1]
        self._connections: list[Connection] = []
        self.connect_body = b""

    def accept(
        self, *, session_present: bool = False, return_code: int = 0, mqtt5: bool = False, properties: bytes = b""
    ) -> Connection:
        """Take a connection as far as its answered subscription (or its refusal). `properties`: of CONNACK."""
        connection = Connection(self._listener.accept()[0])
        self._connections.append(connection)
        self.connect_body = connection.expect(CONNECT).body
        extra = b"\x00" if mqtt5 else b""
        told = bytes([len(properties)]) + properties if mqtt5 else b""
        connection.send(bytes([CONNACK, 2 + len(told), session_present, return_code]) + told)
        if return_code == 0:
            subscribe = connection.expect(SUBSCRIBE)
            connection.send(bytes([SUBACK, 3 + len(extra)]) + subscribe.body[:2] + extra + b"\x01")
        return connection

    def close(self) -> None:
        for connection in self._connections:
            connection.vanish()
        self._listener.close()


def user_property(name: str, value: str) -> bytes:
    return b"\x26" + b"".join(len(text).to_bytes(2, "big") + text.encode() for text in (name, value))


def push_json(push_id: str, **fields: Any) -> bytes:
    push = {"v": 1, "push_id": push_id, "kind": "alert", "expires_in": 60, "notification": {"title": "Hi"}} | fields
    return json.dumps(push).encode()
