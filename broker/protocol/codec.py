"""Bytes to packets and packets to bytes, for MQTT 3.1.1 and 5.0, as a server or as a client.

Laws
1. The result of decoding a stream does not depend on how the stream was cut. Everything before the first error is
   handed on; then one `MqttError` is raised, and the decoder is stopped for good.
2. Nothing is believed before it is checked: the first byte, then the size against `maximum_packet_size`, and both as
   soon as those bytes are there. A claim to be large costs the peer its connection, not us a buffer.
3. A sink gets packets that are right in themselves: flags, UTF-8, lengths, properties and reason codes that belong to
   that packet, in that direction. What depends on state (may this packet come now, is that alias known) is not ours.
4. What is malformed and what is a protocol error follows MQTT 5.0; 3.1.1 knows only that the connection is closed.

Cost: feeding a packet that arrives whole copies nothing but its payload; one that comes in pieces is collected in a
growing buffer and copied once. PUBACK makes no object. The decoder of an idle connection is about 150 bytes.

Read in this order: `Decoder.feed` (the loop and PUBACK), `Decoder._publish`, `encode_publish`; these are hot. Below
them each packet has a `_decode_…` and an `_encode_…` in the order of the specification, and properties are a table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct
from typing import Any, Protocol

from broker.protocol.errors import (
    MalformedPacket,
    MqttError,
    PacketTooLarge,
    ProtocolError,
    QuotaExceeded,
    TopicAliasInvalid,
    UnsupportedProtocolVersion,
)
from broker.protocol.packets import (
    DISCONNECT_FROM_CLIENT_ONLY,
    DISCONNECT_FROM_SERVER_ONLY,
    REASON_CODES,
    SPOKEN_AS,
    V3_1,
    V3_1_1,
    V5,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    PacketType,
    Pingreq,
    Pingresp,
    Properties,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    SubscriptionRequest,
    Unsuback,
    Unsubscribe,
    Will,
)
from broker.protocol.topic_filters import SHARE, valid_topic_filter, valid_topic_name

MAX_PACKET_BYTES = 5 + 268_435_455
"""First byte, remaining length, and the most that its four bytes of seven bits can say (MQTT 5.0, 1.5.5)."""

MAX_USER_PROPERTIES = 100
"""Limit for one packet from a client, and for its will: ten times what we have seen. A packet of 1 MiB could have
200,000, which take a second."""
MAX_USER_PROPERTY_BYTES = 16 * 1024
"""Limit for the user properties of a packet together, lengths included."""
MAX_TOPIC_FILTERS = 1_000
"""Limit for one SUBSCRIBE or UNSUBSCRIBE: the subscriptions that a session may have, by default."""

_PUBACK = 0x40
_PUBACK_CODES = REASON_CODES[PacketType.PUBACK]
_BYTE = tuple(bytes((value,)) for value in range(256))
_put_byte = _BYTE.__getitem__
_U16 = Struct(">H").pack
_U32 = Struct(">I").pack
_SHORT_HEAD = Struct(">BBH").pack
"""First byte, remaining length below 128, topic length."""
_MEDIUM_HEAD = Struct(">BBBH").pack
"""First byte, remaining length below 16,384 (all messages up to 4 KiB among them), topic length."""


class PacketSink(Protocol):
    """Receiver of decoded packets. Either method may raise an `MqttError`, which ends the decoder and leaves `feed`."""

    def puback(self, packet_id: int, reason_code: int) -> None:
        """Process a PUBACK of either version; its reason string and user properties are checked and dropped."""

    def packet(self, packet: Packet) -> None:
        """Process any other packet."""


class _NoSink:
    """The sink of a decoder that was stopped."""

    def puback(self, packet_id: int, reason_code: int) -> None: ...

    def packet(self, packet: Packet) -> None: ...


_NO_SINK = _NoSink()
_RUNNING, _PAUSED, _STOPPED = range(3)


# ------------------------------------------------------------------------------------------------------------ decoding


class Decoder:
    """Decoder of one direction of one connection: bytes in, packets out to the sink."""

    __slots__ = ("_from_server", "_needed", "_pending", "_sink", "_state", "maximum_packet_size", "puback", "version")

    def __init__(
        self, sink: PacketSink, maximum_packet_size: int = MAX_PACKET_BYTES, *, from_server: bool = False
    ) -> None:
        self.version = V3_1_1
        """Set by a CONNECT as soon as its level is read; a client sets it to what it has asked for."""
        self.maximum_packet_size = maximum_packet_size
        self.puback: Callable[[int, int], None] = sink.puback
        """Receiver of PUBACKs: the sink's method, or one that it puts in its place."""
        self._sink: PacketSink = sink
        self._from_server = from_server
        self._pending = bytearray()
        self._needed = 0
        """Bytes that must be pending before decoding is worth a try."""
        self._state = _RUNNING

    @property
    def buffered(self) -> int:
        """Number of bytes that were fed and are not decoded yet."""
        return len(self._pending)

    def stop(self) -> None:
        """Stop for good: `feed` returns after the current packet, and ignores all bytes from now on."""
        self._state = _STOPPED
        self._pending.clear()
        # The sink has us and we have it: such a circle would stay in memory until the collector comes, which is seldom.
        self._sink = _NO_SINK
        self.puback = _NO_SINK.puback

    def pause(self) -> None:
        """Pause: `feed` returns after the current packet and keeps the rest, without bound: check `buffered`."""
        if self._state == _RUNNING:
            self._state = _PAUSED

    def resume(self) -> None:
        """Go on after `pause`, with what is pending first. Raises as `feed` does."""
        if self._state == _PAUSED:
            self._state = _RUNNING
            self._needed = 0
            if self._pending:
                self.feed(b"")

    def feed(self, data: bytes) -> None:  # Hot path.
        """Decode complete packets, keep the rest. Raises MqttError; all bytes after it are ignored."""
        pending = self._pending
        state = self._state
        if pending or state:
            if state == _STOPPED:
                return
            pending += data
            if state or len(pending) < self._needed:
                return
            data = bytes(pending)
            pending.clear()
        position = 0
        end = len(data)
        needed = 0
        kinds = _FROM_SERVER if self._from_server else _FROM_CLIENT
        try:
            while position < end:
                first = data[position]
                if first == _PUBACK and end - position > 3 and data[position + 1] == 2:
                    packet_id = data[position + 2] << 8 | data[position + 3]
                    if not packet_id:
                        # [3.1.1: MQTT-2.3.1-1]
                        raise ProtocolError("packet identifier 0")  # [MQTT-2.2.1-3]
                    position += 4
                    self.puback(packet_id, 0)
                    if self._state:
                        break
                    continue
                kind = kinds[first]
                if not kind:
                    raise _refusal(first, kinds)
                body = position + 2
                if body > end:
                    needed = 2
                    break
                length = data[body - 1]
                if length > 0x7F:
                    second = data[body] if body < end else 0
                    if 0 < second < 0x80:
                        body += 1
                        length += (second - 1) << 7
                    else:
                        body, length = _long_remaining_length(data, position, end, self.version)
                        if not body:
                            needed = end - position + 1
                            break
                stop = body + length
                if stop - position > self.maximum_packet_size:
                    raise PacketTooLarge(f"{stop - position} bytes claimed")
                if stop > end:
                    needed = stop - position
                    break
                position = stop
                if kind == 3:
                    self._sink.packet(self._publish(first, data, body, stop))
                elif kind == 4:
                    self._long_puback(data, body, stop)
                else:
                    self._decode_any(kind, data, body, stop)
                if self._state:
                    break
        except MqttError:
            self.stop()
            raise
        if position < end and self._state != _STOPPED:
            pending += data[position:]
            self._needed = needed

    def _publish(self, first: int, data: bytes, position: int, end: int) -> Publish:  # Hot path.
        if end - position < 2:
            raise MalformedPacket("PUBLISH without topic")
        start = position + 2
        position = start + (data[position] << 8 | data[position + 1])
        qos = first >> 1 & 3
        packet_id = 0
        if qos:
            position += 2
            if position > end:
                raise MalformedPacket("PUBLISH ends early")
            packet_id = data[position - 2] << 8 | data[position - 1]
            if not packet_id:
                raise ProtocolError("packet identifier 0")  # [MQTT-2.2.1-3]
            topic_bytes = data[start : position - 2]
        else:
            if position > end:
                raise MalformedPacket("PUBLISH ends early")
            # [MQTT-2.2.1-2] [3.1.1: MQTT-2.3.1-5]: no identifier at QoS 0.
            topic_bytes = data[start:position]
        try:
            # [MQTT-3.3.2-1] [MQTT-1.5.4-3] [3.1.1: MQTT-3.3.2-1] [3.1.1: MQTT-1.5.3-3]: what is decoded is kept as it
            # is, U+FEFF too.
            topic = topic_bytes.decode()
        except UnicodeDecodeError:
            raise MalformedPacket("topic is not UTF-8") from None  # [MQTT-3.3.2-1]
        if "+" in topic or "#" in topic or "\0" in topic:
            # [MQTT-4.7.0-1] [MQTT-4.7.3-2] [3.1.1: MQTT-3.3.2-2] [3.1.1: MQTT-4.7.1-1] [3.1.1: MQTT-4.7.3-2]
            raise MalformedPacket("topic with a wildcard or U+0000")  # [MQTT-3.3.2-2]
        properties = None
        if self.version == V5:
            if position < end and not data[position]:
                position += 1
            else:
                reader = _Reader(data, position, end, V5, self._from_server)
                properties = reader.properties(PacketType.PUBLISH)
                position = reader.position
        if not topic and (properties is None or properties.topic_alias is None):
            # [3.1.1: MQTT-4.7.3-1]
            raise ProtocolError("empty topic")  # [MQTT-4.7.3-1]; 5.0 allows it with an alias (3.3.2.1)
        return Publish(topic, data[position:end], qos, first & 1 == 1, first & 8 == 8, packet_id, properties)

    def _long_puback(self, data: bytes, position: int, end: int) -> None:  # Hot path.
        """Decode a PUBACK of 5.0 with a reason code, and maybe a property length of 0: some clients spell both out."""
        if self.version == V5 and (end - position == 3 or (end - position == 4 and not data[end - 1])):
            packet_id = data[position] << 8 | data[position + 1]
            reason_code = data[position + 2]
            if packet_id and reason_code in _PUBACK_CODES:
                self.puback(packet_id, reason_code)
                return
        self._decode_any(PacketType.PUBACK, data, position, end)

    def _decode_any(self, kind: int, data: bytes, position: int, end: int) -> None:
        """Decode a packet that has no path of its own above."""
        connect = _plain_connect(data, position, end) if kind == PacketType.CONNECT else None
        if connect is not None:
            self.version = V3_1_1
            self._sink.packet(connect)
            return
        reader = _Reader(data, position, end, self.version, self._from_server)
        try:
            packet = _DECODERS[kind](reader)
        finally:
            # CONNECT sets it, and its errors are answered in the version that it names.
            self.version = reader.version
        if kind == PacketType.CONNECT and reader.version == V5 and not data[position - 1]:
            raise MalformedPacket("remaining length is not in its shortest form")  # [MQTT-1.5.5-1]
        if reader.position != end:
            # [MQTT-3.1.4-1] [3.1.1: MQTT-3.1.4-1]
            raise MalformedPacket("bytes after the end of the packet")
        if isinstance(packet, Puback):
            self.puback(packet.packet_id, packet.reason_code)
        else:
            self._sink.packet(packet)


def _first_bytes(from_server: bool) -> bytes:
    """Return the packet type by first byte, 0 for those that must not come: flags are fixed (MQTT 5.0, table 2-2)."""
    table = bytearray(256)
    one_way = _ONLY_FROM_CLIENT if from_server else _ONLY_FROM_SERVER
    for kind in PacketType:
        if kind in one_way:
            continue
        if kind == PacketType.PUBLISH:
            for flags in range(16):
                qos = flags >> 1 & 3
                # [3.1.1: MQTT-3.3.1-2] [3.1.1: MQTT-3.3.1-4]
                if qos < 3 and (qos or not flags & 8):  # [MQTT-3.3.1-2] [MQTT-3.3.1-4]
                    table[kind << 4 | flags] = kind
        else:
            table[kind << 4 | _flags(kind)] = kind
    return bytes(table)


def _flags(kind: PacketType) -> int:
    # [MQTT-3.6.1-1] [MQTT-3.8.1-1] [MQTT-3.10.1-1] [MQTT-3.14.1-1] [MQTT-3.15.1-1] [3.1.1: MQTT-3.6.1-1]
    # [3.1.1: MQTT-3.8.1-1] [3.1.1: MQTT-3.10.1-1] [3.1.1: MQTT-3.14.1-1]
    return 2 if kind in (PacketType.PUBREL, PacketType.SUBSCRIBE, PacketType.UNSUBSCRIBE) else 0


_ONLY_FROM_CLIENT = (PacketType.CONNECT, PacketType.SUBSCRIBE, PacketType.UNSUBSCRIBE, PacketType.PINGREQ)
_ONLY_FROM_SERVER = (PacketType.CONNACK, PacketType.SUBACK, PacketType.UNSUBACK, PacketType.PINGRESP)
_FROM_CLIENT = _first_bytes(from_server=False)
_FROM_SERVER = _first_bytes(from_server=True)


def _refusal(first: int, kinds: bytes) -> MqttError:
    other = _FROM_CLIENT if kinds is _FROM_SERVER else _FROM_SERVER
    if other[first]:
        return ProtocolError(f"{PacketType(first >> 4).name} in the wrong direction")
    # [3.1.1: MQTT-2.2.2-1] [3.1.1: MQTT-2.2.2-2]
    return MalformedPacket(f"first byte {first:#04x}")  # [MQTT-2.1.3-1]


def _long_remaining_length(data: bytes, position: int, end: int, version: int) -> tuple[int, int]:
    """Decode a length of more than one byte: start and length of the body; (0, 0) if it is incomplete.

    5.0 demands the shortest form [MQTT-1.5.5-1]. 3.1.1 does not, and there are devices that reserve four bytes; of a
    CONNECT the version is not known yet.
    """
    length = data[position + 1] & 0x7F
    for index in (1, 2, 3):
        at = position + 1 + index
        if at >= end:
            return 0, 0
        byte = data[at]
        length |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            if not byte and version == V5:
                raise MalformedPacket("remaining length is not in its shortest form")
            return at + 1, length
    raise MalformedPacket("remaining length of more than four bytes")


class _Reader:
    """A position in the body of one packet. Every method checks that the bytes it reads are there."""

    __slots__ = ("data", "end", "from_server", "position", "version")

    def __init__(self, data: bytes, position: int, end: int, version: int, from_server: bool) -> None:
        self.data = data
        self.position = position
        self.end = end
        self.version = version
        self.from_server = from_server

    def _advance(self, count: int) -> int:
        """Move on by `count` bytes; return the old position."""
        start = self.position
        self.position = start + count
        if self.position > self.end:
            raise MalformedPacket("packet ends early")
        return start

    def more(self) -> bool:
        return self.position < self.end

    def byte(self) -> int:
        return self.data[self._advance(1)]

    def flag(self) -> int:
        value = self.byte()
        if value > 1:
            raise ProtocolError("a flag of more than 1")
        return value

    def u16(self) -> int:
        start = self._advance(2)
        return self.data[start] << 8 | self.data[start + 1]

    def u32(self) -> int:
        start = self._advance(4)
        return int.from_bytes(self.data[start : start + 4], "big")

    def variable(self) -> int:
        """Read a variable byte integer (MQTT 5.0, 1.5.5)."""
        value = 0
        for index in range(4):
            byte = self.byte()
            value |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                if index and not byte:
                    raise MalformedPacket("variable byte integer is not in its shortest form")  # [MQTT-1.5.5-1]
                return value
        raise MalformedPacket("variable byte integer of more than four bytes")

    def binary(self) -> bytes:
        length = self.u16()
        start = self._advance(length)
        return self.data[start : start + length]

    def string(self) -> str:
        try:
            text = self.binary().decode()
        except UnicodeDecodeError:
            raise MalformedPacket("text is not UTF-8") from None  # [MQTT-1.5.4-1] [3.1.1: MQTT-1.5.3-1]; surrogates too
        if "\0" in text:
            raise MalformedPacket("text with U+0000")  # [MQTT-1.5.4-2] [3.1.1: MQTT-1.5.3-2]
        return text

    def pair(self) -> tuple[str, str]:
        # [MQTT-1.5.7-1]
        return self.string(), self.string()

    def packet_id(self) -> int:
        packet_id = self.u16()
        if not packet_id:
            raise ProtocolError("packet identifier 0")  # [MQTT-2.2.1-3]
        return packet_id

    def reason_code(self, kind: PacketType) -> int:
        code = self.byte()
        if code not in REASON_CODES[kind]:
            # [MQTT-3.14.2-1]
            raise ProtocolError(f"{kind.name} with reason code {code:#04x}")
        return code

    def properties(self, kind: int) -> Properties | None:
        """Read the properties of a packet, or of a will; None if there are none, as always in 3.1.1."""
        if self.version != V5:
            return None
        length = self.variable()
        if not length:
            return None
        packet_end = self.end
        if self.position + length > packet_end:
            raise MalformedPacket("properties are longer than the packet")
        self.end = self.position + length
        allowed = _PROPERTIES_FROM_SERVER[kind] if self.from_server else _PROPERTIES_FROM_CLIENT[kind]
        properties = Properties()
        left = MAX_USER_PROPERTY_BYTES
        while self.more():
            begin = self.position
            row = allowed.get(self.byte())
            if row is None:
                raise MalformedPacket("a property that does not belong to its packet")  # MQTT 5.0, 2.2.2.2
            value = row.take(self)
            if row.check is not None:
                row.check(value)
            if row.repeats:
                values = getattr(properties, row.name)
                values.append(value)
                left -= self.position - begin
                if not self.from_server and (len(values) > MAX_USER_PROPERTIES or left < 0):
                    raise QuotaExceeded(
                        f"more than {MAX_USER_PROPERTIES} user properties, or {MAX_USER_PROPERTY_BYTES} bytes of them"
                    )
            elif getattr(properties, row.name) is not None:
                raise ProtocolError(f"{row.name} more than once")
            else:
                setattr(properties, row.name, value)
        self.end = packet_end
        if len(properties.subscription_identifiers) > 1 and kind == PacketType.SUBSCRIBE:
            raise ProtocolError("subscription identifier more than once")  # MQTT 5.0, 3.8.2.1.2
        if properties.authentication_data is not None and properties.authentication_method is None:
            raise ProtocolError("authentication data without a method")  # MQTT 5.0, 3.1.2.11.10
        return properties


def _plain_connect(data: bytes, position: int, end: int) -> Connect | None:
    """Decode a CONNECT of 3.1.1 with user name, password and no will: a returning fleet sends ten thousands of them.
    None if it is another, or a wrong one, whose error `_decode_connect` finds."""
    if end - position < 16 or data[position : position + 7] != b"\0\x04MQTT\x04" or data[position + 7] & 0xFD != 0xC0:
        return None
    try:
        stop = position + 12 + (data[position + 10] << 8 | data[position + 11])
        name_stop = stop + 2 + (data[stop] << 8 | data[stop + 1])
        if name_stop + 2 + (data[name_stop] << 8 | data[name_stop + 1]) != end:
            return None  # otherwise each of the three ends before the next begins, and none beyond the packet
        client_id, username = data[position + 12 : stop].decode(), data[stop + 2 : name_stop].decode()
    except (IndexError, UnicodeDecodeError):
        return None
    if "\0" in client_id or "\0" in username:
        return None
    keep_alive = data[position + 8] << 8 | data[position + 9]
    return Connect(client_id, V3_1_1, data[position + 7] == 0xC2, keep_alive, username, data[name_stop + 2 : end])


def _decode_connect(reader: _Reader) -> Connect:
    name = reader.binary()
    level = reader.byte()
    spoken = SPOKEN_AS.get((name, level))
    if spoken is None:
        # Later ones understand 5.0 rather than 3.1.1. The highest bit is that of mosquitto's bridges.
        if name == b"MQTT" and level & 0x7F >= V5:
            reader.version = V5
        # [MQTT-3.1.2-1] [MQTT-3.1.2-2] [3.1.1: MQTT-3.1.2-1] [3.1.1: MQTT-3.1.2-2]
        raise UnsupportedProtocolVersion(f"protocol level {level}")
    reader.version = spoken
    flags = reader.byte()
    if flags & 0x01:
        raise MalformedPacket("reserved connect flag")  # [MQTT-3.1.2-3] [3.1.1: MQTT-3.1.2-3]
    has_will = bool(flags & 0x04)
    will_qos = flags >> 3 & 3
    # [MQTT-3.1.2-12] [MQTT-3.1.2-13] [3.1.1: MQTT-3.1.2-11] [3.1.1: MQTT-3.1.2-13] [3.1.1: MQTT-3.1.2-14]
    # [3.1.1: MQTT-3.1.2-15]
    if will_qos == 3 or (not has_will and flags & 0x38):
        raise MalformedPacket("will flags")  # [MQTT-3.1.2-11] ff.
    if spoken == V3_1_1 and flags & 0xC0 == 0x40:
        raise MalformedPacket("password without user name")  # [3.1.1: MQTT-3.1.2-22]
    # [MQTT-3.1.3-1] [MQTT-3.1.3-3] [MQTT-3.1.3-4] [3.1.1: MQTT-3.1.3-1] [3.1.1: MQTT-3.1.3-3] [3.1.1: MQTT-3.1.3-4] :
    # in this order, the client identifier first.
    keep_alive = reader.u16()
    properties = reader.properties(PacketType.CONNECT)
    client_id = reader.string()
    will = None
    # [MQTT-3.1.2-9] [MQTT-3.1.3-11] [3.1.1: MQTT-3.1.2-9] [3.1.1: MQTT-3.1.3-10]
    if has_will:
        will_properties = reader.properties(_WILL)
        topic = reader.string()
        if not valid_topic_name(topic):
            raise MalformedPacket("will topic")
        will = Will(topic, reader.binary(), will_qos, bool(flags & 0x20), will_properties)
    # [MQTT-3.1.2-16] [MQTT-3.1.2-17] [MQTT-3.1.2-18] [MQTT-3.1.2-19] [MQTT-3.1.3-12] [3.1.1: MQTT-3.1.2-18]
    # [3.1.1: MQTT-3.1.2-19] [3.1.1: MQTT-3.1.2-20] [3.1.1: MQTT-3.1.2-21] [3.1.1: MQTT-3.1.3-11]: a field that has no
    # flag is left over, which is malformed.
    # In 3.1 a field may be missing in spite of its flag (3.1, chapter 3.1).
    username = reader.string() if flags & 0x80 and (level > V3_1 or reader.position < reader.end) else None
    password = reader.binary() if flags & 0x40 and (level > V3_1 or reader.position < reader.end) else None
    return Connect(client_id, level, bool(flags & 0x02), keep_alive, username, password, will, properties)


def _decode_connack(reader: _Reader) -> Connack:
    flags = reader.byte()
    if flags > 1:
        raise MalformedPacket("connack flags")  # [MQTT-3.2.2-1]
    if reader.version == V5:
        code = reader.reason_code(PacketType.CONNACK)
    else:
        code = reader.byte()
        if code > 5:
            raise ProtocolError(f"return code {code}")
    if flags and code:
        raise ProtocolError("session present, but refused")  # [MQTT-3.2.2-6]
    return Connack(bool(flags), code, reader.properties(PacketType.CONNACK))


def _acknowledgement(reader: _Reader, kind: PacketType) -> tuple[int, int, Properties | None]:
    packet_id = reader.packet_id()
    # 5.0 may leave out the reason code, and the properties after it (3.4.2.1).
    if reader.version != V5 or not reader.more():
        return packet_id, 0, None
    code = reader.reason_code(kind)
    return packet_id, code, reader.properties(kind) if reader.more() else None


def _topic_filter(reader: _Reader) -> str:
    # [MQTT-3.8.3-1] [MQTT-3.10.3-1] [3.1.1: MQTT-3.8.3-1] [3.1.1: MQTT-3.10.3-1]
    topic_filter = reader.string()
    if not valid_topic_filter(topic_filter):
        # [MQTT-4.7.1-2] [MQTT-4.8.2-2] [MQTT-4.7.3-1] [3.1.1: MQTT-4.7.1-2] [3.1.1: MQTT-4.7.1-3] [3.1.1: MQTT-4.7.3-1]
        raise MalformedPacket("topic filter")  # [MQTT-4.7.1-1] ff., [MQTT-4.8.2-1] ff.
    return topic_filter


def _decode_subscribe(reader: _Reader) -> Subscribe:
    packet_id = reader.packet_id()
    properties = reader.properties(PacketType.SUBSCRIBE)
    subscriptions = []
    while reader.more():
        topic_filter = _topic_filter(reader)
        options = reader.byte()
        if options & 0x03 == 3 or options & (0xC0 if reader.version == V5 else 0xFC):
            raise MalformedPacket("subscription options")  # [MQTT-3.8.3-5] [3.1.1: MQTT-3-8.3-4]
        retain_handling = options >> 4
        if retain_handling == 3:
            raise ProtocolError("retain handling 3")  # MQTT 5.0, 3.8.3.1
        no_local = bool(options & 0x04)
        if no_local and topic_filter.startswith(SHARE):
            raise ProtocolError("no local on a shared subscription")  # [MQTT-3.8.3-4]
        subscriptions.append(
            SubscriptionRequest(topic_filter, options & 3, no_local, bool(options & 0x08), retain_handling)
        )
        if len(subscriptions) > MAX_TOPIC_FILTERS:
            raise QuotaExceeded(f"SUBSCRIBE with more than {MAX_TOPIC_FILTERS} topic filters")
    if not subscriptions:
        raise ProtocolError("SUBSCRIBE without a topic filter")  # [MQTT-3.8.3-2] [3.1.1: MQTT-3.8.3-3]
    return Subscribe(packet_id, subscriptions, properties)


def _decode_suback(reader: _Reader) -> Suback:
    packet_id = reader.packet_id()
    properties = reader.properties(PacketType.SUBACK)
    codes = []
    while reader.more():
        code = reader.reason_code(PacketType.SUBACK)
        if reader.version != V5 and code not in (0, 1, 2, 0x80):
            raise ProtocolError(f"SUBACK with return code {code:#04x}")  # [3.1.1: MQTT-3.9.3-2]
        codes.append(code)
    if not codes:
        raise ProtocolError("SUBACK without a reason code")
    return Suback(packet_id, codes, properties)


def _decode_unsubscribe(reader: _Reader) -> Unsubscribe:
    packet_id = reader.packet_id()
    properties = reader.properties(PacketType.UNSUBSCRIBE)
    topic_filters = []
    while reader.more():
        topic_filters.append(_topic_filter(reader))
        if len(topic_filters) > MAX_TOPIC_FILTERS:
            raise QuotaExceeded(f"UNSUBSCRIBE with more than {MAX_TOPIC_FILTERS} topic filters")
    if not topic_filters:
        raise ProtocolError("UNSUBSCRIBE without a topic filter")  # [MQTT-3.10.3-2] [3.1.1: MQTT-3.10.3-2]
    return Unsubscribe(packet_id, topic_filters, properties)


def _decode_unsuback(reader: _Reader) -> Unsuback:
    packet_id = reader.packet_id()
    if reader.version != V5:
        return Unsuback(packet_id)
    properties = reader.properties(PacketType.UNSUBACK)
    codes = []
    while reader.more():
        codes.append(reader.reason_code(PacketType.UNSUBACK))
    if not codes:
        raise ProtocolError("UNSUBACK without a reason code")
    return Unsuback(packet_id, codes, properties)


def _decode_disconnect(reader: _Reader) -> Disconnect:
    if reader.version != V5:
        if reader.from_server:
            raise ProtocolError("DISCONNECT in the wrong direction")  # 3.1.1: from the client only
        return Disconnect()
    if not reader.more():
        return Disconnect()  # MQTT 5.0, 3.14.2.1
    code = reader.reason_code(PacketType.DISCONNECT)
    if code in (DISCONNECT_FROM_CLIENT_ONLY if reader.from_server else DISCONNECT_FROM_SERVER_ONLY):
        raise ProtocolError(f"DISCONNECT with reason code {code:#04x}")
    return Disconnect(code, reader.properties(PacketType.DISCONNECT) if reader.more() else None)


def _decode_auth(reader: _Reader) -> Auth:
    if reader.version != V5:
        raise MalformedPacket("packet type 15")  # reserved in 3.1.1 (table 2.1)
    if not reader.more():
        return Auth()  # MQTT 5.0, 3.15.2.1
    return Auth(reader.reason_code(PacketType.AUTH), reader.properties(PacketType.AUTH))


_DECODERS: dict[int, Callable[[_Reader], Packet]] = {
    PacketType.CONNECT: _decode_connect,
    PacketType.CONNACK: _decode_connack,
    PacketType.PUBACK: lambda reader: Puback(*_acknowledgement(reader, PacketType.PUBACK)),
    PacketType.PUBREC: lambda reader: Pubrec(*_acknowledgement(reader, PacketType.PUBREC)),
    PacketType.PUBREL: lambda reader: Pubrel(*_acknowledgement(reader, PacketType.PUBREL)),
    PacketType.PUBCOMP: lambda reader: Pubcomp(*_acknowledgement(reader, PacketType.PUBCOMP)),
    PacketType.SUBSCRIBE: _decode_subscribe,
    PacketType.SUBACK: _decode_suback,
    PacketType.UNSUBSCRIBE: _decode_unsubscribe,
    PacketType.UNSUBACK: _decode_unsuback,
    PacketType.PINGREQ: lambda reader: Pingreq(),
    PacketType.PINGRESP: lambda reader: Pingresp(),
    PacketType.DISCONNECT: _decode_disconnect,
    PacketType.AUTH: _decode_auth,
}


# ---------------------------------------------------------------------------------------------------------- properties


def _put_variable(value: int) -> bytes:
    """A variable byte integer (MQTT 5.0, 1.5.5)."""
    if value < 0x80:
        return _BYTE[value]
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _put_binary(value: bytes) -> bytes:
    return _U16(len(value)) + value


def _put_string(value: str) -> bytes:
    return _put_binary(value.encode())


def _put_pair(value: tuple[str, str]) -> bytes:
    return _put_string(value[0]) + _put_string(value[1])


def _not_zero(value: int) -> None:
    if not value:
        raise ProtocolError("0 where the protocol forbids it")


def _alias_not_zero(value: int) -> None:
    if not value:
        raise TopicAliasInvalid("topic alias 0")  # [MQTT-3.3.2-8]


def _topic_name(value: str) -> None:
    if not valid_topic_name(value):
        raise MalformedPacket("response topic")  # [MQTT-3.3.2-14]


@dataclass(frozen=True, slots=True)
class _Property:
    """A row of table 2-4: which packets may have the property, how it is read and written."""

    identifier: int
    name: str
    kinds: tuple[int, ...]
    take: Callable[[_Reader], Any]
    put: Callable[[Any], bytes]
    check: Callable[[Any], None] | None = None
    repeats: bool = False


_WILL = 0
"""Stands for the will in CONNECT, whose properties are its own; no packet has this type."""
_CONNECT, _CONNACK, _PUBLISH, _SUBSCRIBE = 1, 2, 3, 8
_DISCONNECT, _AUTH = 14, 15
_ANSWERS = (2, 4, 5, 6, 7, 9, 11, 14, 15)
"""Packets with a reason code: CONNACK, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK, DISCONNECT and AUTH."""
_MESSAGE = (_PUBLISH, _WILL)

_FLAG = (_Reader.flag, _put_byte)
_TWO = (_Reader.u16, _U16)
_FOUR = (_Reader.u32, _U32)
_VARIABLE = (_Reader.variable, _put_variable)
_STRING = (_Reader.string, _put_string)
_BINARY = (_Reader.binary, _put_binary)
_PAIR = (_Reader.pair, _put_pair)

_PROPERTIES = (
    _Property(0x01, "payload_format_indicator", _MESSAGE, *_FLAG),
    _Property(0x02, "message_expiry_interval", _MESSAGE, *_FOUR),
    # [MQTT-3.3.2-13] [MQTT-3.3.2-19]: text is checked by `string`.
    _Property(0x03, "content_type", _MESSAGE, *_STRING),
    _Property(0x08, "response_topic", _MESSAGE, *_STRING, _topic_name),
    _Property(0x09, "correlation_data", _MESSAGE, *_BINARY),
    _Property(0x0B, "subscription_identifiers", (_PUBLISH, _SUBSCRIBE), *_VARIABLE, _not_zero, repeats=True),
    _Property(0x11, "session_expiry_interval", (_CONNECT, _CONNACK, _DISCONNECT), *_FOUR),
    _Property(0x12, "assigned_client_identifier", (_CONNACK,), *_STRING),
    _Property(0x13, "server_keep_alive", (_CONNACK,), *_TWO),
    _Property(0x15, "authentication_method", (_CONNECT, _CONNACK, _AUTH), *_STRING),
    _Property(0x16, "authentication_data", (_CONNECT, _CONNACK, _AUTH), *_BINARY),
    _Property(0x17, "request_problem_information", (_CONNECT,), *_FLAG),
    _Property(0x18, "will_delay_interval", (_WILL,), *_FOUR),
    _Property(0x19, "request_response_information", (_CONNECT,), *_FLAG),
    _Property(0x1A, "response_information", (_CONNACK,), *_STRING),
    _Property(0x1C, "server_reference", (_CONNACK, _DISCONNECT), *_STRING),
    _Property(0x1F, "reason_string", _ANSWERS, *_STRING),
    _Property(0x21, "receive_maximum", (_CONNECT, _CONNACK), *_TWO, _not_zero),
    _Property(0x22, "topic_alias_maximum", (_CONNECT, _CONNACK), *_TWO),
    _Property(0x23, "topic_alias", (_PUBLISH,), *_TWO, _alias_not_zero),
    _Property(0x24, "maximum_qos", (_CONNACK,), *_FLAG),
    _Property(0x25, "retain_available", (_CONNACK,), *_FLAG),
    _Property(0x26, "user_properties", (_CONNECT, _PUBLISH, _WILL, 8, 10, *_ANSWERS), *_PAIR, repeats=True),
    _Property(0x27, "maximum_packet_size", (_CONNECT, _CONNACK), *_FOUR, _not_zero),
    _Property(0x28, "wildcard_subscription_available", (_CONNACK,), *_FLAG),
    _Property(0x29, "subscription_identifier_available", (_CONNACK,), *_FLAG),
    _Property(0x2A, "shared_subscription_available", (_CONNACK,), *_FLAG),
)


def _by_kind(*foreign: tuple[int, int]) -> dict[int, dict[int, _Property]]:
    """Return the properties of each packet type by identifier, less those that do not go in this direction."""
    table: dict[int, dict[int, _Property]] = {kind: {} for kind in range(16)}
    for row in _PROPERTIES:
        for kind in row.kinds:
            if (kind, row.identifier) not in foreign:
                table[kind][row.identifier] = row
    return table


# A client sends no subscription identifier with a message [MQTT-3.3.4-6], and no server reference.
_PROPERTIES_FROM_CLIENT = _by_kind((_PUBLISH, 0x0B), (_DISCONNECT, 0x1C))
# [MQTT-3.14.2-2]
_PROPERTIES_FROM_SERVER = _by_kind((_DISCONNECT, 0x11))


# ------------------------------------------------------------------------------------------------------------ encoding


def encode_publish(  # Hot path.
    topic: bytes, payload: bytes, qos: int, packet_id: int, flags: int, properties: bytes | None
) -> bytes:
    """Encode a PUBLISH from encoded parts: the topic and the properties come without their lengths.

    `flags` are DUP (0x08) and RETAIN (0x01). `properties` None is 3.1.1; `packet_id` does not matter with QoS 0.
    """
    topic_length = len(topic)
    remaining = 2 + topic_length + len(payload)
    if qos:
        remaining += 2
    if properties is not None:
        size = len(properties)
        length = _BYTE[size] if size < 0x80 else _put_variable(size)
        remaining += len(length) + size
    # [MQTT-4.3.1-1] [MQTT-4.3.2-2] [MQTT-4.3.3-2] [3.1.1: MQTT-4.3.1-1]: DUP only if the caller sends again.
    head = _publish_head(0x30 | qos << 1 | flags, remaining, topic_length)
    if properties is None:
        if qos:
            return b"".join((head, topic, _U16(packet_id), payload))
        return b"".join((head, topic, payload))
    if qos:
        return b"".join((head, topic, _U16(packet_id), length, properties, payload))
    return b"".join((head, topic, length, properties, payload))


def _publish_head(first: int, remaining: int, topic_length: int) -> bytes:
    if 0x80 <= remaining < 0x4000:
        return _MEDIUM_HEAD(first, remaining & 0x7F | 0x80, remaining >> 7, topic_length)
    if remaining < 0x80:
        return _SHORT_HEAD(first, remaining, topic_length)
    return _BYTE[first] + _put_variable(remaining) + _U16(topic_length)


def head_at_least_once(topic_length: int, payload_length: int) -> bytes:
    """Encode the first bytes of a PUBLISH of QoS 1 to a 3.1.1 client: they depend on the lengths alone, in bytes.
    Topic, packet identifier and payload follow."""
    return _publish_head(0x32, 4 + topic_length + payload_length, topic_length)


def encode(packet: Packet, version: int) -> bytes:
    """Encode any packet. In 3.1.1 properties and most reason codes are left out, for want of a place."""
    return _ENCODERS[type(packet)](packet, version)


def encode_properties(properties: Properties | None, packet_type: PacketType) -> bytes:
    """Encode the properties of a packet without their length. One that such a packet may not have is our own error."""
    return _property_bytes(properties, packet_type)


def _property_bytes(properties: Properties | None, kind: int) -> bytes:
    if properties is None:
        return b""
    parts = []
    for row in _PROPERTIES:
        value = getattr(properties, row.name)
        if value is None or value == []:
            continue
        if kind not in row.kinds:
            raise ValueError(f"{row.name} does not belong to packet type {kind}")
        for each in value if row.repeats else (value,):
            parts.append(_put_byte(row.identifier))
            parts.append(row.put(each))
    return b"".join(parts)


def _with_length(properties: Properties | None, kind: int, version: int) -> bytes:
    """Encode the properties as they stand in a packet: nothing at all in 3.1.1."""
    if version != V5:
        return b""
    encoded = _property_bytes(properties, kind)
    # [MQTT-2.2.2-1]: a length of zero if there are none.
    return _put_variable(len(encoded)) + encoded


def _frame(kind: PacketType, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return b"".join((_put_byte(kind << 4 | _flags(kind)), _put_variable(len(body)), body))


def _encode_connect(packet: Connect, version: int) -> bytes:
    will = packet.will
    flags = packet.clean_start << 1 | (packet.username is not None) << 7 | (packet.password is not None) << 6
    parts = [_put_string(packet.client_id)]
    if will is not None:
        flags |= 0x04 | will.qos << 3 | will.retain << 5
        parts.append(_with_length(will.properties, _WILL, version))
        parts.append(_put_string(will.topic))
        parts.append(_put_binary(will.payload))
    if packet.username is not None:
        parts.append(_put_string(packet.username))
    if packet.password is not None:
        parts.append(_put_binary(packet.password))
    protocol = b"\0\6MQIsdp\3" if packet.protocol_version == V3_1 else b"\0\4MQTT" + _put_byte(version)
    head = protocol + _put_byte(flags) + _U16(packet.keep_alive)
    return _frame(PacketType.CONNECT, head, _with_length(packet.properties, _CONNECT, version), *parts)


def _encode_connack(packet: Connack, version: int) -> bytes:
    # [MQTT-3.2.2-1]
    head = bytes((packet.session_present, packet.reason_code))
    return _frame(PacketType.CONNACK, head, _with_length(packet.properties, _CONNACK, version))


def _encode_publish(packet: Publish, version: int) -> bytes:
    properties = _property_bytes(packet.properties, _PUBLISH) if version == V5 else None
    flags = packet.dup << 3 | packet.retain
    return encode_publish(packet.topic.encode(), packet.payload, packet.qos, packet.packet_id, flags, properties)


def _acknowledgement_encoder(kind: PacketType) -> Callable[[Puback | Pubrec | Pubrel | Pubcomp, int], bytes]:
    short = _put_byte(kind << 4 | _flags(kind)) + b"\x02"

    def encode_acknowledgement(packet: Puback | Pubrec | Pubrel | Pubcomp, version: int) -> bytes:
        code = packet.reason_code
        if version != V5 or (not code and packet.properties is None):
            return short + _U16(packet.packet_id)  # without a reason code 0x00 is meant (3.4.2.1)
        # [MQTT-3.1.2-29]: the server gives its acknowledgements no properties.
        properties = b"" if packet.properties is None else _with_length(packet.properties, kind, version)
        return _frame(kind, _U16(packet.packet_id), _put_byte(code), properties)

    return encode_acknowledgement


def _encode_subscribe(packet: Subscribe, version: int) -> bytes:
    parts = [_U16(packet.packet_id), _with_length(packet.properties, _SUBSCRIBE, version)]
    for request in packet.subscriptions:
        options = request.qos
        if version == V5:
            options |= request.no_local << 2 | request.retain_as_published << 3 | request.retain_handling << 4
        parts.append(_put_string(request.topic_filter))
        parts.append(_put_byte(options))
    return _frame(PacketType.SUBSCRIBE, *parts)


def _encode_suback(packet: Suback, version: int) -> bytes:
    codes = packet.reason_codes
    if version != V5:
        # [3.1.1: MQTT-3.9.3-2]
        codes = [min(code, 0x80) for code in codes]  # the one failure that 3.1.1 knows [MQTT-3.9.3-2]
    # [MQTT-3.8.4-6] [MQTT-3.9.3-1] [3.1.1: MQTT-3.8.4-5] [3.1.1: MQTT-3.9.3-1]: a code for each filter, in their
    # order.
    properties = _with_length(packet.properties, PacketType.SUBACK, version)
    return _frame(PacketType.SUBACK, _U16(packet.packet_id), properties, bytes(codes))


def _encode_unsubscribe(packet: Unsubscribe, version: int) -> bytes:
    properties = _with_length(packet.properties, PacketType.UNSUBSCRIBE, version)
    filters = [_put_string(topic_filter) for topic_filter in packet.topic_filters]
    return _frame(PacketType.UNSUBSCRIBE, _U16(packet.packet_id), properties, *filters)


def _encode_unsuback(packet: Unsuback, version: int) -> bytes:
    if version != V5:
        return _frame(PacketType.UNSUBACK, _U16(packet.packet_id))
    # [MQTT-3.11.3-1]
    properties = _with_length(packet.properties, PacketType.UNSUBACK, version)
    return _frame(PacketType.UNSUBACK, _U16(packet.packet_id), properties, bytes(packet.reason_codes))


def _encode_disconnect(packet: Disconnect, version: int) -> bytes:
    if version != V5 or (not packet.reason_code and packet.properties is None):
        return b"\xe0\0"
    properties = b"" if packet.properties is None else _with_length(packet.properties, _DISCONNECT, version)
    return _frame(PacketType.DISCONNECT, _put_byte(packet.reason_code), properties)


def _encode_auth(packet: Auth, version: int) -> bytes:
    assert version == V5, "3.1.1 has no AUTH"
    if not packet.reason_code and packet.properties is None:
        return b"\xf0\0"
    return _frame(PacketType.AUTH, _put_byte(packet.reason_code), _with_length(packet.properties, _AUTH, version))


_ENCODERS: dict[type[Packet], Callable[[Any, int], bytes]] = {
    Connect: _encode_connect,
    Connack: _encode_connack,
    Publish: _encode_publish,
    Puback: _acknowledgement_encoder(PacketType.PUBACK),
    Pubrec: _acknowledgement_encoder(PacketType.PUBREC),
    Pubrel: _acknowledgement_encoder(PacketType.PUBREL),
    Pubcomp: _acknowledgement_encoder(PacketType.PUBCOMP),
    Subscribe: _encode_subscribe,
    Suback: _encode_suback,
    Unsubscribe: _encode_unsubscribe,
    Unsuback: _encode_unsuback,
    Pingreq: lambda packet, version: b"\xc0\0",
    Pingresp: lambda packet, version: b"\xd0\0",
    Disconnect: _encode_disconnect,
    Auth: _encode_auth,
}
