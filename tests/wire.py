"""MQTT packets written by hand from the specifications: what tests send, and what they expect byte for byte.

No line is shared with `broker.protocol`, and nothing is checked: a test that wants a wrong packet changes the bytes.
`properties` are property bytes without their length; 3.1.1 has none, so builders leave them out for version 4.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Protocol

V4, V5 = 4, 5
VERSIONS = (V4, V5)
SECONDS = 10.0
"""How long a client of the tests waits for anything."""

PINGREQ = b"\xc0\x00"
PINGRESP = b"\xd0\x00"
DISCONNECT = b"\xe0\x00"

SESSION_EXPIRY = 0x11
RECEIVE_MAXIMUM = 0x21
MAXIMUM_PACKET_SIZE = 0x27
FOR_EVER = b"\x11\xff\xff\xff\xff"
"""Session expiry interval of a session that does not end."""


def packet(first: int, body: bytes) -> bytes:
    return bytes([first]) + remaining_length(len(body)) + body


def remaining_length(value: int) -> bytes:
    encoded = bytearray()
    while True:
        value, digit = divmod(value, 128)
        encoded.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(encoded)


def text(value: str | bytes) -> bytes:
    encoded = value.encode() if isinstance(value, str) else value
    return struct.pack(">H", len(encoded)) + encoded


def _properties(version: int, properties: bytes) -> bytes:
    return remaining_length(len(properties)) + properties if version == V5 else b""


def connect(
    client_id: str,
    version: int = V4,
    *,
    clean: bool = True,
    keep_alive: int = 60,
    username: str | None = None,
    password: str | None = None,
    will: tuple[str, bytes, int, bool] | None = None,
    will_properties: bytes = b"",
    properties: bytes = b"",
) -> bytes:
    """`will`: topic, payload, QoS, RETAIN."""
    flags = 0x02 if clean else 0
    payload = text(client_id)
    if will is not None:
        topic, content, qos, retain = will
        flags |= 0x04 | qos << 3 | (0x20 if retain else 0)
        payload += _properties(version, will_properties) + text(topic) + text(content)
    if username is not None:
        flags |= 0x80
        payload += text(username)
    if password is not None:
        flags |= 0x40
        payload += text(password)
    head = text("MQTT") + bytes([version, flags]) + struct.pack(">H", keep_alive)
    return packet(0x10, head + _properties(version, properties) + payload)


def connack_4(present: bool = False, code: int = 0) -> bytes:
    return bytes([0x20, 0x02, int(present), code])


def publish(
    topic: str,
    payload: bytes,
    qos: int = 0,
    packet_id: int = 0,
    version: int = V4,
    *,
    retain: bool = False,
    dup: bool = False,
    properties: bytes = b"",
) -> bytes:
    first = 0x30 | (0x08 if dup else 0) | qos << 1 | int(retain)
    identifier = struct.pack(">H", packet_id) if qos else b""
    return packet(first, text(topic) + identifier + _properties(version, properties) + payload)


def _acknowledgement(first: int, packet_id: int, code: int) -> bytes:
    """Code 0 is left out, as both versions allow."""
    return packet(first, struct.pack(">H", packet_id) + (bytes([code]) if code else b""))


def puback(packet_id: int, code: int = 0) -> bytes:
    return _acknowledgement(0x40, packet_id, code)


def pubrec(packet_id: int, code: int = 0) -> bytes:
    return _acknowledgement(0x50, packet_id, code)


def pubrel(packet_id: int, code: int = 0) -> bytes:
    return _acknowledgement(0x62, packet_id, code)


def pubcomp(packet_id: int, code: int = 0) -> bytes:
    return _acknowledgement(0x70, packet_id, code)


def subscribe(packet_id: int, *filters: tuple[str, int], version: int = V4, properties: bytes = b"") -> bytes:
    """Each filter with its QoS (5.0: its options byte)."""
    requests = b"".join(text(topic_filter) + bytes([options]) for topic_filter, options in filters)
    return packet(0x82, struct.pack(">H", packet_id) + _properties(version, properties) + requests)


def suback(packet_id: int, *codes: int, version: int = V4) -> bytes:
    return packet(0x90, struct.pack(">H", packet_id) + _properties(version, b"") + bytes(codes))


def unsubscribe(packet_id: int, *filters: str, version: int = V4) -> bytes:
    requests = b"".join(map(text, filters))
    return packet(0xA2, struct.pack(">H", packet_id) + _properties(version, b"") + requests)


def unsuback(packet_id: int, *codes: int, version: int = V4) -> bytes:
    """3.1.1 has no codes."""
    body = _properties(version, b"") + bytes(codes) if version == V5 else b""
    return packet(0xB0, struct.pack(">H", packet_id) + body)


class Stream(Protocol):
    """What a client needs of a socket, or of something around one."""

    def sendall(self, data: bytes, /) -> None: ...

    def recv(self, size: int, /) -> bytes: ...

    def close(self) -> None: ...


def _bare(connected: socket.socket) -> Stream:
    return connected


class RawClient:
    """A blocking stream that sends bytes and expects bytes."""

    def __init__(
        self,
        port: int,
        host: str = "127.0.0.1",
        wrap: Callable[[socket.socket], Stream] | None = None,
        source: str = "",
    ) -> None:
        """`wrap`: what goes around the socket. `source`: the address to come from."""
        connected = socket.create_connection((host, port), SECONDS, (source, 0))
        self.local_port: int = connected.getsockname()[1]
        self._socket: Stream = connected if wrap is None else wrap(connected)

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, *packets: bytes) -> None:
        """In one segment, if it fits."""
        self._socket.sendall(b"".join(packets))

    def close(self) -> None:
        """Hang up without DISCONNECT."""
        self._socket.close()

    def read(self) -> bytes:
        """The next packet; b"" when the server has closed the connection."""
        head = self.receive(1)
        if not head:
            return b""
        length = shift = 0
        while True:
            digit = self.receive(1)
            head += digit
            length |= (digit[0] & 0x7F) << shift
            shift += 7
            if digit[0] < 0x80:
                return head + self.receive(length)

    def expect(self, *packets: bytes) -> None:
        for expected in packets:
            got = self.read()
            assert got == expected, f"expected {expected.hex(' ')}, got {got.hex(' ') or 'the end'}"

    def expect_end(self) -> None:
        """The server closes the connection, and says nothing before."""
        got = self.read()
        assert got == b"", f"expected the end, got {got.hex(' ')}"

    def expect_goodbye(self, code: int, version: int) -> bytes:
        """The server closes the connection; in 5.0 it says why. The DISCONNECT, if any."""
        goodbye = b""
        if version == V5:
            goodbye = self.read()
            assert goodbye[:1] == b"\xe0", f"expected DISCONNECT, got {goodbye.hex(' ') or 'the end'}"
            assert goodbye[2] == code, f"expected {code:#04x}, got {goodbye[2]:#04x}"
        self.expect_end()
        return goodbye

    def expect_silence(self) -> None:
        """Nothing was on its way to us: the answer to a PINGREQ comes first. Needs an accepted connection."""
        self.send(PINGREQ)
        self.expect(PINGRESP)

    def join(self, client_id: str, version: int = V4, *, present: bool = False, properties: bytes = b"") -> None:
        """Be accepted, with a session that stays."""
        self.enter(connect(client_id, version, clean=False, properties=properties or (FOR_EVER)), present=present)

    def enter(self, connect_packet: bytes, *, present: bool = False) -> bytes:
        """Send CONNECT, be accepted; the CONNACK."""
        self.send(connect_packet)
        connack = self.read()
        assert connack[:1] == b"\x20", f"expected CONNACK, got {connack.hex(' ')}"
        assert connack[3] == 0, f"refused with {connack[3]:#04x}"
        assert connack[2] == int(present), "session present"
        return connack

    def receive(self, length: int) -> bytes:
        """So many bytes; b"" if the server has closed the connection."""
        data = b""
        while len(data) < length:
            try:
                part = self._socket.recv(length - len(data))
            except ConnectionResetError:
                part = b""
            if not part:
                assert not data, "the connection ended within a packet"
                return b""
            data += part
        return data
