"""A device made of a socket and a thread: it shares no line of code with the server.

The packets are written here by hand from the specifications (3.1.1 and 5.0), because a client that borrowed the
server's codec would share its mistakes. Every PUBLISH is recorded with its DUP, RETAIN and packet identifier, over all
connections of the device; acknowledging is a policy that a test sets (`answer`), so a device can acknowledge at once,
refuse, or stay silent and acknowledge later by hand.

For QoS 2 the device keeps the receiver's half of the session over reconnects: an identifier that was received and not
yet released is the same message again, not a new one (`Publish.fresh` is False then) [MQTT-4.3.3-10].
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

V4, V5 = 4, 5
CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = 2, 3, 4, 5, 6, 7
SUBACK, UNSUBACK, PINGRESP, DISCONNECT = 9, 11, 13, 14
NEVER = 0xFFFF_FFFF
"""Session expiry interval of a session that does not end."""

# Types of the MQTT 5 properties [MQTT 5.0, table 2-4]: B byte, H two bytes, I four bytes, V variable, S string, P pair.
PROPERTY_TYPES = {
    **dict.fromkeys((0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A), "B"),
    **dict.fromkeys((0x13, 0x21, 0x22, 0x23), "H"),
    **dict.fromkeys((0x02, 0x11, 0x18, 0x27), "I"),
    **dict.fromkeys((0x03, 0x08, 0x09, 0x12, 0x15, 0x16, 0x1A, 0x1C, 0x1F), "S"),
    0x0B: "V",
    0x26: "P",
}
MESSAGE_EXPIRY, CONTENT_TYPE, USER_PROPERTY = 0x02, 0x03, 0x26


class Disconnected(Exception):
    """The connection ended while something was waited for."""


@dataclass(frozen=True)
class Connack:
    session_present: bool
    code: int
    properties: dict[int, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Publish:
    """One PUBLISH as it arrived."""

    topic: str
    payload: bytes
    qos: int
    dup: bool
    retain: bool
    packet_id: int
    properties: dict[int, Any]
    connection: int
    """Which connection of the device it arrived on, from 1."""
    at: float
    """`time.monotonic()` when it was read."""
    fresh: bool
    """False for a QoS 2 identifier that was received before and not released yet."""

    @property
    def push(self) -> dict[str, Any]:
        document = json.loads(self.payload)
        assert isinstance(document, dict)
        return document

    @cached_property
    def push_id(self) -> str:
        """Read once: who looks for one push among thousands asks all of them."""
        return str(self.push["push_id"])


class WireDevice:
    """A device of the contract, or anybody who claims to be one."""

    def __init__(
        self,
        port: int,
        client_id: str,
        token: str | None,
        *,
        topic: str | None = None,
        username: str | None = None,
        version: int = V4,
        clean: bool = False,
        session_expiry: int = NEVER,
        receive_maximum: int | None = None,
        maximum_packet_size: int | None = None,
        will: tuple[str, bytes, int, bool] | None = None,
        keep_alive: int = 0,
    ) -> None:
        self.port = port
        self.client_id = client_id
        self.token = token
        self.topic = topic if topic is not None else f"default/devices/{client_id}/push"
        self.username = client_id if username is None else username
        self.version = version
        self.clean = clean
        self.session_expiry = session_expiry
        self.receive_maximum = receive_maximum
        self.maximum_packet_size = maximum_packet_size
        self.will = will
        self.keep_alive = keep_alive
        self.answer: Callable[[Publish], int | None] = lambda publish: 0
        """The reason code to acknowledge with, or None to stay silent."""
        self.completing = True
        """Whether PUBREL is answered with PUBCOMP."""
        self.received: list[Publish] = []
        self.connections = 0
        self.acknowledged: list[Publish] = []
        """Publishes for which PUBACK (QoS 1) or PUBREC (QoS 2) was handed to the socket."""
        self.released: list[int] = []
        """Packet identifiers of PUBREL packets, over all connections."""
        self.disconnect_code: int | None = None
        """Reason code of the server's DISCONNECT on the present connection (5.0)."""
        self.disconnect_properties: dict[int, Any] = {}
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._closed = True
        self._connacks: list[Connack] = []
        self._answers: dict[tuple[int, int], list[int]] = {}
        self._pongs = 0
        self._unreleased: set[int] = set()
        self._packet_id = 0
        self.subscribed = False
        """Whether a session of its own has been promised to it; kept by who uses it."""

    # connection

    def connect(self, timeout: float = 10.0) -> Connack:
        """Connect and be accepted."""
        connack = self.try_connect(timeout)
        assert connack.code == 0, f"{self.client_id} was refused with {connack.code:#x}"
        return connack

    def try_connect(self, timeout: float = 10.0) -> Connack:
        """Connect and hear what the server says. Disconnected or OSError when it says nothing."""
        self.drop()
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._changed:
            self.connections += 1
            self._socket, self._closed = connection, False
            self._connacks.clear()
            self.disconnect_code = None
            self._answers.clear()
        self._thread = threading.Thread(target=self._read, args=(connection, self.connections), daemon=True)
        self._thread.start()
        self.send(self._connect_packet())
        self._wait(lambda: bool(self._connacks), timeout, "CONNACK")
        connack = self._connacks[0]
        if connack.code != 0:
            self.drop()
        elif not connack.session_present:
            self._unreleased.clear()
        return connack

    def start(self, qos: int = 1) -> WireDevice:
        """What a device of the contract does: connect, and subscribe if there is no session yet."""
        if not self.connect().session_present:
            assert self.subscribe(qos=qos) == qos
        return self

    def drop(self) -> None:
        """Vanish: close the socket without DISCONNECT."""
        connection, self._socket = self._socket, None
        if connection is not None:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            connection.close()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
            self._thread = None

    def disconnect(self) -> None:
        try:
            self.send(b"\xe0\x00")
        except OSError:
            pass
        self.drop()

    @property
    def connected(self) -> bool:
        return not self._closed

    def wait_closed(self, timeout: float = 10.0) -> None:
        """Until the server has closed the connection."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._closed, timeout), f"still connected after {timeout:g} s"

    def send(self, data: bytes) -> None:
        with self._sending:
            if self._socket is None:
                raise Disconnected(self.client_id)
            self._socket.sendall(data)

    @property
    def local_port(self) -> int:
        assert self._socket is not None
        port = self._socket.getsockname()[1]
        assert isinstance(port, int)
        return port

    # packets a device sends

    def subscribe(self, topic_filter: str | None = None, qos: int = 1, timeout: float = 10.0) -> int:
        """The reason code of the SUBACK: the granted QoS or a refusal."""
        packet_id = self.next_packet_id()
        properties = b"\x00" if self.version == V5 else b""
        body = struct.pack(">H", packet_id) + properties + _text(topic_filter or self.topic) + bytes([qos])
        self.send(_packet(0x82, body))
        return self.wait_answer(SUBACK, packet_id, timeout)

    def unsubscribe(self, topic_filter: str | None = None, timeout: float = 10.0) -> int:
        packet_id = self.next_packet_id()
        properties = b"\x00" if self.version == V5 else b""
        self.send(_packet(0xA2, struct.pack(">H", packet_id) + properties + _text(topic_filter or self.topic)))
        return self.wait_answer(UNSUBACK, packet_id, timeout)

    def publish(
        self, topic: str, payload: bytes | str | dict[str, Any] | list[Any], *, qos: int = 1, retain: bool = False
    ) -> int:
        """Publish and wait for what the QoS promises; the reason code (0 where the version has none)."""
        packet_id = self.send_publish(topic, payload, qos=qos, retain=retain)
        if qos == 0:
            return 0
        code = self.wait_answer(PUBACK if qos == 1 else PUBREC, packet_id)
        if qos == 2 and code < 0x80:
            self.release(packet_id)
        return code

    def send_publish(
        self,
        topic: str,
        payload: bytes | str | dict[str, Any] | list[Any],
        *,
        qos: int = 1,
        retain: bool = False,
        again: int | None = None,
        under: int | None = None,
        dup: bool = False,
    ) -> int:
        """Publish without waiting; the packet identifier. `again`: with DUP, under the identifier of an earlier try.
        `under`: an identifier of `next_packet_id`, with DUP if `dup`."""
        if again is not None:
            under, dup = again, True
        if isinstance(payload, dict | list):
            payload = json.dumps(payload)
        data = payload.encode() if isinstance(payload, str) else payload
        packet_id = 0
        if qos:
            packet_id = self.next_packet_id() if under is None else under
        identifier = struct.pack(">H", packet_id) if qos else b""
        properties = b"\x00" if self.version == V5 else b""
        flags = qos << 1 | retain | dup << 3
        self.send(_packet(0x30 | flags, _text(topic) + identifier + properties + data))
        return packet_id

    def wait_answer(self, packet_type: int, packet_id: int, timeout: float = 10.0) -> int:
        """The (first) reason code of the packet that answers one of ours."""
        key = packet_type, packet_id
        self._wait(lambda: key in self._answers, timeout, f"answer {key}")
        with self._changed:
            return self._answers.pop(key)[0]

    def release(self, packet_id: int) -> None:
        """PUBREL, and wait for PUBCOMP."""
        self.send(_packet(0x62, struct.pack(">H", packet_id)))
        self.wait_answer(PUBCOMP, packet_id)

    def receipt(self, push_id: str, event: str, **more: Any) -> int:
        return self.publish(self.leaf("receipts"), {"push_id": push_id, "event": event, **more})

    def leaf(self, name: str) -> str:
        """Another topic of this device."""
        return self.topic.rpartition("/")[0] + "/" + name

    def ping(self, timeout: float = 10.0) -> None:
        before = self._pongs
        self.send(b"\xc0\x00")
        self._wait(lambda: self._pongs > before, timeout, "PINGRESP")

    def acknowledge(self, publish: Publish, code: int = 0) -> None:
        """PUBACK or PUBREC by hand."""
        if publish.qos == 0:
            return
        reason = bytes([code]) if code and self.version == V5 else b""
        kind = 0x40 if publish.qos == 1 else 0x50
        if publish.qos == 2 and code < 0x80:
            self._unreleased.add(publish.packet_id)
        self.send(_packet(kind, struct.pack(">H", publish.packet_id) + reason))
        self.acknowledged.append(publish)

    def acknowledge_again(self, publish: Publish) -> None:
        """The acknowledgement of something that was acknowledged before, once more."""
        if publish.qos == 1:
            self.send(_packet(0x40, struct.pack(">H", publish.packet_id)))

    # what arrived

    def wait_received(self, count: int, timeout: float = 15.0) -> list[Publish]:
        """Until this many PUBLISH packets have arrived in all."""
        with self._changed:
            arrived = self._changed.wait_for(lambda: len(self.received) >= count, timeout)
            assert arrived, f"{self.client_id} received {len(self.received)} of {count} within {timeout:g} s"
            return list(self.received)

    def wait_released(self, count: int, timeout: float = 15.0) -> None:
        """Until this many PUBREL packets have arrived in all."""
        with self._changed:
            arrived = self._changed.wait_for(lambda: len(self.released) >= count, timeout)
            assert arrived, f"{len(self.released)} of {count} PUBREL within {timeout:g} s"

    def wait_push(self, push_id: str, timeout: float = 15.0) -> Publish:
        with self._changed:
            arrived = self._changed.wait_for(lambda: push_id in self.push_ids(), timeout)
            assert arrived, f"{self.client_id} did not receive {push_id} within {timeout:g} s"
            return next(publish for publish in self.received if publish.push_id == push_id)

    def push_ids(self, connection: int | None = None) -> list[str]:
        """Push ids in the order of arrival, optionally of one connection only."""
        return [p.push_id for p in self.received if connection is None or p.connection == connection]

    # the rest is private

    def _connect_packet(self) -> bytes:
        flags = (2 if self.clean else 0) | 0x80 | (0x40 if self.token is not None else 0)
        will = b""
        if self.will is not None:
            topic, payload, qos, retain = self.will
            flags |= 0x04 | qos << 3 | (0x20 if retain else 0)
            will = (b"\x00" if self.version == V5 else b"") + _text(topic) + _binary(payload)
        properties = b""
        if self.version == V5:
            listed = b""
            if self.session_expiry:
                listed += b"\x11" + struct.pack(">I", self.session_expiry)
            if self.receive_maximum is not None:
                listed += b"\x21" + struct.pack(">H", self.receive_maximum)
            if self.maximum_packet_size is not None:
                listed += b"\x27" + struct.pack(">I", self.maximum_packet_size)
            properties = _varint(len(listed)) + listed
        body = _text("MQTT") + bytes([self.version, flags]) + struct.pack(">H", self.keep_alive) + properties
        body += _text(self.client_id) + will + _text(self.username)
        if self.token is not None:
            body += _text(self.token)
        return _packet(0x10, body)

    def next_packet_id(self) -> int:
        with self._changed:
            self._packet_id = self._packet_id % 0xFFFF + 1
            return self._packet_id

    def _wait(self, predicate: Callable[[], bool], timeout: float, what: str) -> None:
        with self._changed:
            happened = self._changed.wait_for(lambda: predicate() or self._closed, timeout)
            if not predicate():
                if self._closed:
                    raise Disconnected(f"{self.client_id}: closed before {what}")
                assert happened, f"{self.client_id}: no {what} within {timeout:g} s"

    def _read(self, connection: socket.socket, number: int) -> None:
        buffer = b""
        try:
            while data := connection.recv(65536):
                buffer = self._parse(buffer + data, number)
        except (OSError, Disconnected):
            pass
        finally:
            with self._changed:
                if self.connections == number:
                    self._closed = True
                self._changed.notify_all()

    def _parse(self, buffer: bytes, number: int) -> bytes:
        at = 0
        while len(buffer) - at >= 2:
            length, body = _read_varint(buffer, at + 1)
            if body < 0 or len(buffer) < body + length:
                break
            self._packet(buffer[at], buffer[body : body + length], number)
            at = body + length
        return buffer[at:]

    def _packet(self, first: int, body: bytes, number: int) -> None:
        packet_type = first >> 4
        if packet_type == PUBLISH:
            self._published(first, body, number)
            return
        if packet_type == PUBREL:
            packet_id = struct.unpack_from(">H", body)[0]
            self._unreleased.discard(packet_id)
            with self._changed:
                self.released.append(packet_id)
                self._changed.notify_all()
            if self.completing:
                self.send(_packet(0x70, struct.pack(">H", packet_id)))
            return
        with self._changed:
            if packet_type == CONNACK:
                properties = _read_properties(body, 2)[0] if self.version == V5 and len(body) > 2 else {}
                self._connacks.append(Connack(bool(body[0] & 1), body[1], properties))
            elif packet_type == PINGRESP:
                self._pongs += 1
            elif packet_type == DISCONNECT:
                self.disconnect_code = body[0] if body else 0
                self.disconnect_properties = _read_properties(body, 1)[0] if len(body) > 1 else {}
            elif packet_type in (PUBACK, PUBREC, PUBCOMP):
                self._answers[packet_type, struct.unpack_from(">H", body)[0]] = [body[2] if len(body) > 2 else 0]
            elif packet_type in (SUBACK, UNSUBACK):
                at = 2
                if self.version == V5:
                    at = _read_properties(body, at)[1]
                self._answers[packet_type, struct.unpack_from(">H", body)[0]] = list(body[at:]) or [0]
            self._changed.notify_all()

    def _published(self, first: int, body: bytes, number: int) -> None:
        qos = first >> 1 & 3
        length = struct.unpack_from(">H", body)[0]
        topic, at = body[2 : 2 + length].decode(), 2 + length
        packet_id = 0
        if qos:
            packet_id, at = struct.unpack_from(">H", body, at)[0], at + 2
        properties: dict[int, Any] = {}
        if self.version == V5:
            properties, at = _read_properties(body, at)
        publish = Publish(
            topic=topic,
            payload=body[at:],
            qos=qos,
            dup=bool(first & 8),
            retain=bool(first & 1),
            packet_id=packet_id,
            properties=properties,
            connection=number,
            at=time.monotonic(),
            fresh=not (qos == 2 and packet_id in self._unreleased),
        )
        code = self.answer(publish)
        if qos == 2 and code is None:
            self._unreleased.add(packet_id)
        with self._changed:
            self.received.append(publish)
            self._changed.notify_all()
        if code is not None:
            self.acknowledge(publish, code)


def _varint(number: int) -> bytes:
    data = b""
    while True:
        number, byte = divmod(number, 128)
        data += bytes([byte | (0x80 if number else 0)])
        if not number:
            return data


def _read_varint(buffer: bytes, at: int) -> tuple[int, int]:
    """(number, position behind it); position -1 when it is not complete."""
    number = 0
    for index in range(4):
        if at + index >= len(buffer):
            return 0, -1
        number |= (buffer[at + index] & 0x7F) << 7 * index
        if buffer[at + index] < 0x80:
            return number, at + index + 1
    raise ValueError("a variable byte integer of more than four bytes")


def _binary(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def _text(text: str) -> bytes:
    return _binary(text.encode())


def _packet(first: int, body: bytes) -> bytes:
    return bytes([first]) + _varint(len(body)) + body


def _read_string(body: bytes, at: int) -> tuple[str, int]:
    length = struct.unpack_from(">H", body, at)[0]
    return body[at + 2 : at + 2 + length].decode(errors="replace"), at + 2 + length


def _read_properties(body: bytes, at: int) -> tuple[dict[int, Any], int]:
    """(property identifier -> value, position behind); user properties as a list of pairs."""
    length, at = _read_varint(body, at)
    end = at + length
    found: dict[int, Any] = {}
    while at < end:
        identifier = body[at]
        at += 1
        kind = PROPERTY_TYPES[identifier]
        value: Any
        if kind == "V":
            value, at = _read_varint(body, at)
        elif kind == "S":
            value, at = _read_string(body, at)
        elif kind == "P":
            name, at = _read_string(body, at)
            text, at = _read_string(body, at)
            value = [*found.get(identifier, []), (name, text)]
        else:
            value = struct.unpack_from(">" + kind, body, at)[0]
            at += struct.calcsize(">" + kind)
        found[identifier] = value
    return found, end
