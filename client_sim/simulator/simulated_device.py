"""The simulated device, which keeps the device contract on `broker.protocol`: a process holds ten thousand of them.

One slotted protocol object per device, no task, no timer of its own: everything that waits is in the fleet's wheel. It
keeps a persistent session, reconnects with full jitter and the server's retry hint, takes each push once, acknowledges
it, says what its person did with it, and keeps that until the server has acknowledged it.

It watches the server: what the protocol forbids is reported to the fleet as a violation.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol, cast

from broker.protocol.codec import Decoder, encode, encode_publish
from broker.protocol.errors import MqttError
from broker.protocol.packets import (
    V3_1_1,
    V5,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Properties,
    Publish,
    Suback,
    Subscribe,
    SubscriptionRequest,
)
from client_sim.backoff import Backoff
from client_sim.simulator.campaign_parts import ArrivedPart, outcome_of
from client_sim.simulator.human_behaviour import ACTED, DISPLAYED, EVENTS, LEFT, SHOWN, HumanBehaviour
from client_sim.simulator.shaped_link import Network, ShapedLink
from client_sim.simulator.simulated_push import ACTION, BUILD_ERROR, changes_in_transit, result_of
from client_sim.simulator.timing_wheel import TimingWheel

CONNECT_SECONDS = 20.0
"""The time from an attempt to its SUBACK; one that takes longer is given up and repeated."""
INFLIGHT_RECEIPTS = 10
"""Receipts on their way at a time; below every server's receive maximum."""
SESSION_EXPIRY_SECONDS = 0xFFFF_FFFF
"""Session expiry interval: never [MQTT 3.1.2.11.2]."""
DUP = 0x08
SUBSCRIBE_ID = 0xFFFF
"""Packet identifier of the one SUBSCRIBE; receipts count from 1 and stay below."""
GONE, DIALLING, OPENING, ONLINE = range(4)
_PINGREQ = encode(Pingreq(), V3_1_1)
NO_PUSH = -1
"""Stands for the number of a push that the simulation has not sent itself."""
REFUSED = 0x83
"""Reason code: implementation specific error."""
_REFUSAL = struct.Struct("!BBHB").pack
_PUBACK = struct.Struct("!BBH").pack
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER that makes close() a reset."""


class DeviceHost(Protocol):
    """The fleet as a device uses it."""

    wheel: TimingWheel
    behaviour: HumanBehaviour
    backoff: Backoff
    keep_alive: int
    network: Network | None
    week_seconds: float
    """Seconds of ours that seven days of the server's clock take."""
    clock_slack: float
    """Seconds of the server's clock that may pass between two of its readings for one packet."""

    def dial(self, device: SimulatedDevice) -> None:
        """Connect it, soon; then its `connection_made` is called, or `not_reached`."""

    def online(self, device: SimulatedDevice, now: float, seconds: float) -> None: ...

    def offline(self, device: SimulatedDevice, now: float) -> None: ...

    def effect(self, device: SimulatedDevice, number: int, push_id: str, now: float, expires_in: int) -> bool:
        """Whether it is to be executed: False for a copy of what this device has had."""

    def receipt_acknowledged(self, device: SimulatedDevice, number: int, level: int) -> None:
        """The server has acknowledged a receipt."""

    def left(self, device: SimulatedDevice, now: float, channel: str | None, acknowledged: bool) -> None:
        """A person mutes a channel, or denies consent (None).

        The device is about to say so, or the server has acknowledged that.
        """

    def part(self, device: SimulatedDevice, part: ArrivedPart) -> bool:
        """Whether a part of a campaign is the first copy that the device has of it."""

    def failed(self, what: str) -> None: ...

    def violated(self, device: SimulatedDevice, what: str, number: int = -1) -> None:
        """`number` of the push that it is about, if it is about one."""


class SimulatedDevice(asyncio.Protocol):
    """One device of a simulated fleet. The fleet calls it in its loop, and is told of everything through
    `DeviceHost`."""

    __slots__ = (
        "_alerts",
        "_away_since",
        "_begun",
        "_decoder",
        "_failures",
        "_fleet",
        "_id",
        "_left",
        "_link",
        "_next_id",
        "_owed",
        "_received",
        "_retry_after",
        "_subscribed",
        "_token",
        "_topics",
        "_transport",
        "_unanswered",
        "_version",
        "_waiting",
        "connection",
        "deaf",
        "index",
        "mute",
        "state",
        "wanted",
    )

    def __init__(self, fleet: DeviceHost, index: int, client_id: str, token: str, topics: str, version: int) -> None:
        """`topics`: what its topics begin with, `APP/devices/ID/`."""
        self._fleet = fleet
        self.index = index
        self._id = client_id
        self._token = token
        self._topics = topics
        self._version = version
        self.state = GONE
        self.connection = 0
        """Counts them."""
        self.wanted = False
        """True: the device is to be connected, and comes back by itself."""
        self.deaf = False
        self.mute = False
        self._transport: asyncio.Transport | None = None
        self._decoder: Decoder | None = None
        self._link: ShapedLink | None = None
        self._failures = 0
        self._retry_after: int | None = None
        self._subscribed = False
        """A SUBACK came: from then on its session is there whenever it returns."""
        self._begun = 0.0
        self._away_since = 0.0
        self._received = False
        self._next_id = 0
        # Most devices have none of these most of the time.
        self._unanswered: dict[int, tuple[bytes, int, int]] | None = None
        """Packet identifier -> payload, push number, level."""
        self._waiting: deque[tuple[bytes, int, int]] | None = None
        self._alerts: deque[float] | None = None
        """The times of the alerts of the last seven days; None: there were none, or nobody ever leaves."""
        self._left: tuple[str | None] | None = None
        """The channel that its person has muted, or (None,) if they have denied consent; None: neither."""
        self._owed: list[int] | None = None
        """Pushes that it has not acknowledged, because it is mute."""

    @property
    def idle(self) -> bool:
        """True when the server has acknowledged all receipts, and the device all pushes."""
        return not (self._unanswered or self._waiting or self._owed)

    def unanswered(self) -> list[int]:
        """The pushes of which a receipt was sent on this connection and not acknowledged."""
        if self.state != ONLINE:
            return []
        return [number for _, number, _ in (self._unanswered or {}).values()]

    # What the scenario does to it

    def connect(self, delay: float = 0.0) -> None:
        """Connect after `delay` seconds, and come back by itself from then on."""
        if not self.wanted:
            self.wanted = True
            self._away_since = time.monotonic()
            # Otherwise an attempt is under way, or a connection on its way down, at whose end it comes back.
            if self.state == GONE:
                self._reconnect_after(delay)

    def disconnect(self) -> None:
        """Send a DISCONNECT; the session stays on the server."""
        self.wanted = False
        if self._transport is not None:
            self._write(encode(Disconnect(), self._version))
            self._transport.close()

    def cut(self) -> None:
        """The connection is gone, and the other side gets a reset."""
        transport = self._transport
        if transport is not None:
            connected = transport.get_extra_info("socket")
            if connected is not None:
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            transport.abort()

    def take_over(self) -> None:
        """Connect anew beside the old connection, as after a change of the network: the server ends the old one."""
        transport = self._transport
        if transport is not None and self.state == ONLINE:
            transport.set_protocol(_Abandoned(transport))
            self.connection_lost(None)

    def set_deaf(self, deaf: bool) -> None:
        """Stop reading from the socket, or read again."""
        if deaf != self.deaf:
            self.deaf = deaf
            if self._transport is not None and not self._transport.is_closing():
                if deaf:
                    self._transport.pause_reading()
                else:
                    self._received = True
                    self._transport.resume_reading()

    def set_mute(self, mute: bool) -> None:
        """Stop acknowledging pushes, or acknowledge those that wait for it."""
        self.mute = mute
        owed, self._owed = self._owed, None
        if owed and not mute and self._transport is not None:
            self._write(b"".join(_PUBACK(0x40, 2, packet_id) for packet_id in owed))

    def stall(self) -> None:
        if self._link is not None:
            self._link.stall()

    def half_open(self) -> None:
        if self._link is not None:
            self._link.half_open()

    # The connection

    def _reconnect_after(self, delay: float) -> None:
        self.state = DIALLING
        if delay > 0:
            self._fleet.wheel.after(delay, self._dial, self.connection)
        else:
            self._dial(self.connection)

    def _dial(self, connection: int) -> None:
        if not self.wanted:
            self.state = GONE
        elif connection == self.connection and self.state == DIALLING:
            self._begun = time.monotonic()
            self._fleet.dial(self)

    def _come_back(self, retry_after: int | None = None) -> None:
        away_seconds = time.monotonic() - self._away_since
        self._reconnect_after(self._fleet.backoff.delay(self._failures, retry_after, away_seconds))

    def not_reached(self, why: str) -> None:
        self._fleet.failed(why)
        self._failures += 1
        self._come_back()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.connection += 1
        # Not asserted: uvloop's transports are none of asyncio's classes.
        self._transport = transport = cast(asyncio.Transport, transport)
        if not self.wanted:
            transport.abort()
            return
        self.state = OPENING
        self._decoder = decoder = Decoder(self, from_server=True)
        decoder.version = self._version
        fleet = self._fleet
        self._link = None if fleet.network is None else ShapedLink(fleet.network, fleet.wheel)
        properties = Properties(session_expiry_interval=SESSION_EXPIRY_SECONDS) if self._version == V5 else None
        hello = Connect(
            client_id=self._id,
            protocol_version=self._version,
            clean_start=False,
            keep_alive=fleet.keep_alive,
            username=self._id,
            password=self._token.encode(),
            properties=properties,
        )
        self._write(encode(hello, self._version))
        fleet.wheel.after(CONNECT_SECONDS, self._expect_online, self.connection)

    def _expect_online(self, connection: int) -> None:
        if connection == self.connection and self.state == OPENING and self._transport is not None:
            self._fleet.failed("no answer to CONNECT in time")
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        was = self.state
        self._transport = None
        if self._decoder is not None:
            self._decoder.stop()
            self._decoder = None
        if self._link is not None:
            self._link.close()
            self._link = None
        self._owed = None  # the server sends them again
        if was == ONLINE:
            self._away_since = time.monotonic()
            self._fleet.offline(self, self._away_since)
            self._failures = 0
        else:
            self._failures += 1
        retry_after, self._retry_after = self._retry_after, None
        if self.wanted:
            self._come_back(retry_after)
        else:
            self.state = GONE

    def data_received(self, data: bytes) -> None:
        if self._link is None:
            self._read(data)
        else:
            self._link.pass_on(data, self._read, outward=False)

    def _read(self, data: bytes) -> None:
        self._received = True
        decoder = self._decoder
        if decoder is None:
            return
        try:
            decoder.feed(data)
        except MqttError as error:
            self._fleet.violated(self, f"{error.label}: {error}")
            if self._transport is not None:
                self._transport.abort()

    def _write(self, data: bytes) -> None:
        transport = self._transport
        if transport is None:
            return
        if self._link is None:
            transport.write(data)
        else:
            self._link.pass_on(data, transport.write, outward=True)

    def _keep_alive(self, connection: int) -> None:
        transport = self._transport
        if connection != self.connection or transport is None:
            return
        if not self._received and not self.deaf:
            self._fleet.failed("connection without an answer to PINGREQ")
            transport.abort()
            return
        self._received = False
        self._write(_PINGREQ)
        self._fleet.wheel.after(self._fleet.keep_alive, self._keep_alive, connection)

    # What the server says

    def puback(self, packet_id: int, reason_code: int) -> None:
        entry = None if self._unanswered is None else self._unanswered.pop(packet_id, None)
        if entry is None:
            self._fleet.violated(self, f"PUBACK for packet identifier {packet_id}, which is not in flight")
        elif reason_code >= 0x80:
            self._fleet.violated(self, f"a receipt was refused with reason code {reason_code:#04x}", entry[1])
        else:
            _, number, level = entry
            if number == NO_PUSH:
                pass  # of a campaign, which is judged by itself
            elif level == LEFT:
                assert self._left is not None, "it has said so"
                self._fleet.left(self, time.monotonic(), self._left[0], True)
            else:
                self._fleet.receipt_acknowledged(self, number, level)
        if not self._unanswered:
            self._unanswered = None
        self._send_waiting()

    def packet(self, packet: Packet) -> None:
        if isinstance(packet, Publish):
            self._arrived(packet)
        elif isinstance(packet, Connack):
            self._connack(packet)
        elif isinstance(packet, Suback):
            self._suback(packet)
        elif isinstance(packet, Disconnect):
            self._fleet.failed(f"DISCONNECT with reason code {packet.reason_code:#04x}")
            self._retry_after = _retry_after(packet.properties)
        elif not isinstance(packet, Pingresp):
            self._fleet.violated(self, f"{type(packet).__name__.upper()} that nothing asked for")

    def _connack(self, packet: Connack) -> None:
        if self.state != OPENING:
            self._fleet.violated(self, "CONNACK that nothing asked for")  # [MQTT-3.2.0-2]
            return
        if packet.reason_code:
            self._fleet.failed(f"CONNECT refused with code {packet.reason_code}")
            self._retry_after = _retry_after(packet.properties)
            if self._transport is not None:
                self._transport.close()
            return
        if self._subscribed and not packet.session_present:
            self._fleet.violated(self, "the session was lost: CONNACK says it is a new one")  # [MQTT-3.2.2-2]
        subscription = SubscriptionRequest(f"{self._topics}push", qos=1)
        self._write(encode(Subscribe(SUBSCRIBE_ID, [subscription]), self._version))

    def _suback(self, packet: Suback) -> None:
        if self.state != OPENING or packet.packet_id != SUBSCRIBE_ID or packet.reason_codes != [1]:
            self._fleet.violated(self, f"SUBACK that says {packet.reason_codes} to a subscription with QoS 1")
            return
        now = time.monotonic()
        self.state = ONLINE
        self._subscribed = True
        self._failures = 0
        fleet = self._fleet
        fleet.online(self, now, now - self._begun)
        fleet.wheel.after(fleet.keep_alive, self._keep_alive, self.connection)
        if self._unanswered:
            # [MQTT-4.4.0-1]: unanswered ones again, in order, with their identifiers.
            for packet_id, (payload, _, level) in self._unanswered.items():
                self._write(self._packet(packet_id, payload, level, DUP))
        self._send_waiting()
        if self.deaf and self._transport is not None:
            self._transport.pause_reading()

    def _arrived(self, packet: Publish) -> None:
        now = time.monotonic()
        try:
            message: dict[str, Any] = json.loads(packet.payload)
            push_id = message["push_id"]
            if "campaign" in message["data"]:
                self._build_arrived(packet, push_id, message["data"])
                return
            number = message["data"]["sim"]
            kind = message["kind"]
        except (ValueError, KeyError, TypeError):
            self._fleet.violated(self, "a message that is no push of this simulation")
            return
        topic, slack = f"{self._topics}push", self._fleet.clock_slack
        if changed := changes_in_transit(packet, message, number, topic, self._version, slack):
            self._fleet.violated(self, f"push {push_id} came with {changed}", number)
        new = self._fleet.effect(self, number, push_id, now, message.get("expires_in", 0))
        answer = b""
        if packet.qos == 1:
            if self.mute:
                if self._owed is None:
                    self._owed = []
                self._owed.append(packet.packet_id)
            else:
                answer = _PUBACK(0x40, 2, packet.packet_id)
        elif packet.qos == 2:
            self._fleet.violated(self, "QoS 2 for a subscription with QoS 1", number)
        if new and kind == "command":
            answer += self._receipt(number, push_id, ACTED, ACTED)
        elif new and kind in SHOWN:
            behaviour = self._fleet.behaviour
            level = behaviour.level(number, self.index)
            if level:
                answer += self._receipt(number, push_id, DISPLAYED, DISPLAYED)
            if level > DISPLAYED:
                pause = behaviour.pause(number, self.index)
                self._fleet.wheel.after(pause, self._decide, (number, push_id, level))
            if behaviour.leave and kind == "alert" and self._had_enough(number, now):
                pause = behaviour.pause(number, self.index)
                self._fleet.wheel.after(pause, self._opt_out, (number, message.get("channel")))
        if answer:
            self._write(answer)

    def _build_arrived(self, packet: Publish, push_id: str, build: Mapping[str, Any]) -> None:
        """Carry out the build of a campaign, or fail it. Raises KeyError."""
        fleet, campaign = self._fleet, int(build["campaign"])
        outcome = outcome_of(fleet.behaviour.seed, campaign, self.index, build["failing"])
        if outcome == "refused" and self._version != V5:
            outcome = "error"
        if outcome == "refused":
            answer = _REFUSAL(0x40, 3, packet.packet_id, REFUSED)
        else:
            answer = _PUBACK(0x40, 2, packet.packet_id)
        if fleet.part(self, ArrivedPart(campaign, self.index, push_id, build["variant"], outcome)):
            result = BUILD_ERROR if outcome == "error" else result_of(push_id, self._topics.split("/")[2])
            if outcome in ("done", "error"):
                said = {"push_id": push_id, "event": "acted", "action": ACTION, "result": result}
                answer += self._send_in_turn(json.dumps(said).encode(), NO_PUSH, ACTED)
        self._write(answer)

    # What the device says

    def _decide(self, decision: tuple[int, str, int]) -> None:
        number, push_id, level = decision
        if receipt := self._receipt(number, push_id, DISPLAYED + 1, level):
            self._write(receipt)

    def _had_enough(self, number: int, now: float) -> bool:
        """Count an alert, and whether it is too much."""
        if self._alerts is None:
            self._alerts = deque()
        while self._alerts and self._alerts[0] <= now - self._fleet.week_seconds:
            self._alerts.popleft()
        before = len(self._alerts)
        self._alerts.append(now)
        return self._left is None and self._fleet.behaviour.leaves(number, self.index, before)

    def _opt_out(self, decision: tuple[int, str | None]) -> None:
        """Say that its person mutes a channel, or denies consent; once."""
        number, channel = decision
        if self._left is not None:
            return
        if channel is not None and not self._fleet.behaviour.mutes(number, self.index):
            channel = None
        self._left = (channel,)
        self._fleet.left(self, time.monotonic(), channel, False)
        said = {"consent": "denied", "seq": 1} if channel is None else {"channels": {channel: False}, "seq": 1}
        if packet := self._send_in_turn(json.dumps(said).encode(), number, LEFT):
            self._write(packet)

    def _receipt(self, number: int, push_id: str, first: int, last: int) -> bytes:
        """The packet, if it may leave now; otherwise it waits for its turn."""
        said = []
        for level in range(first, last + 1):
            receipt: dict[str, Any] = {"push_id": push_id, "event": EVENTS[level]}
            if level == ACTED:
                receipt |= {"action": ACTION, "result": result_of(push_id, self._topics.split("/")[2])}
            said.append(receipt)
        return self._send_in_turn(json.dumps(said[0] if len(said) == 1 else said).encode(), number, last)

    def _send_in_turn(self, payload: bytes, number: int, level: int) -> bytes:
        """The packet, if it may leave now; otherwise it waits for its turn."""
        if self._unanswered is None:
            self._unanswered = {}
        if self.state != ONLINE or len(self._unanswered) >= INFLIGHT_RECEIPTS or self._waiting:
            if self._waiting is None:
                self._waiting = deque()
            self._waiting.append((payload, number, level))
            return b""
        return self._send(payload, number, level)

    def _send(self, payload: bytes, number: int, level: int) -> bytes:
        assert self._unanswered is not None, "there is room"
        packet_id = self._next_id = self._next_id % (SUBSCRIBE_ID - 1) + 1
        self._unanswered[packet_id] = (payload, number, level)
        return self._packet(packet_id, payload, level, 0)

    def _packet(self, packet_id: int, payload: bytes, level: int, flags: int) -> bytes:
        topic = f"{self._topics}{'settings' if level == LEFT else 'receipts'}".encode()
        return encode_publish(topic, payload, 1, packet_id, flags, b"" if self._version == V5 else None)

    def _send_waiting(self) -> None:
        if not self._waiting or self.state != ONLINE:
            return
        if self._unanswered is None:
            self._unanswered = {}
        while self._waiting and len(self._unanswered) < INFLIGHT_RECEIPTS:
            self._write(self._send(*self._waiting.popleft()))
        if not self._waiting:
            self._waiting = None


class _Abandoned(asyncio.Protocol):
    """An old connection whose device has gone on to a new one: reads, says nothing, ends when the server ends it."""

    def __init__(self, transport: asyncio.Transport) -> None:
        if not transport.is_closing():
            transport.resume_reading()


def _retry_after(properties: Properties | None) -> int | None:
    """The seconds that the server names in a CONNACK or DISCONNECT of 5.0."""
    for name, value in () if properties is None else properties.user_properties:
        if name == "retry-after" and value.isdecimal() and len(value) < 10:
            return int(value)
    return None
