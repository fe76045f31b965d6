"""Devices behind a balancer that write down what arrives, and when: on bare sockets, and on paho-mqtt.

Each keeps a journal of every PUBLISH, each connection that it tried (by its local port, so that the balancer's log says
at which node that was), and each time in which nobody served it. Both kinds acknowledge at once, keep their session,
and come back by the same address whenever a connection has ended or is silent.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from tests.end_to_end.harness import Device
from tests.wire import DISCONNECT, PINGREQ, connect, puback, subscribe

HOST = "127.0.0.1"
PING_SECONDS = 3.0
"""Between two signs of life: a connection that is silent for twice as long is given up."""
CONNECT_SECONDS = 5.0
SELECTABLE = 1_024
"""Descriptors, of `select`."""
RETURN_SECONDS = 0.05, 0.5
"""How long a device waits before it connects again."""


@dataclass(frozen=True, slots=True)
class Arrival:
    push_id: str
    at: float
    dup: bool
    connection: int
    """Its place among the device's connections."""


@dataclass(frozen=True, slots=True)
class Connection:
    """Tried; a node may have had it before it was answered."""

    port: int
    """Ours."""
    at: float


@dataclass(slots=True)
class JournallingDevice:
    """A device of the contract, with QoS 1, and what it has seen."""

    enrolled: Device
    journal: list[Arrival] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)
    absences: list[tuple[float, float]] = field(default_factory=list)
    """From the last packet of a connection to the first of the next."""
    heard_at: float = field(default_factory=time.monotonic)
    connected: bool = False

    @property
    def id(self) -> str:
        return self.enrolled.id

    def begin(self, port: int) -> None:
        """A connection is open."""
        self.connections.append(Connection(port, time.monotonic()))

    def enter(self) -> None:
        """A node has accepted its connection."""
        now = time.monotonic()
        self.absences.append((self.heard_at, now))
        self.heard_at = now
        self.connected = True

    def receive(self, payload: bytes, dup: bool) -> None:
        self.heard_at = time.monotonic()
        push_id = json.loads(payload)["push_id"]
        self.journal.append(Arrival(push_id, self.heard_at, dup, len(self.connections) - 1))

    def repeats(self) -> Iterator[tuple[Arrival, Arrival]]:
        """What arrived again: the arrival before it, and this one."""
        last: dict[str, Arrival] = {}
        for arrival in self.journal:
            if arrival.push_id in last:
                yield last[arrival.push_id], arrival
            last[arrival.push_id] = arrival


class SocketDevices:
    """Thousands of them in a loop of a thread of its own, with packets that are written by hand (`tests.wire`)."""

    def __init__(self, devices: Sequence[JournallingDevice], port: int, faults: list[str]) -> None:
        """`faults` gets what fails, which is the run's failure."""
        self._devices = devices
        self._port = port
        self._faults = faults
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live_all()), daemon=True)

    def start(self) -> None:
        self._thread.start()

    def leave(self) -> None:
        self._leaving.set()
        self._thread.join(30)

    async def _live_all(self) -> None:
        async with asyncio.TaskGroup() as lives:
            for device in self._devices:
                lives.create_task(self._live(device))

    async def _live(self, device: JournallingDevice) -> None:
        while not self._leaving.is_set():
            try:
                await self._connection(device)
            except (OSError, asyncio.IncompleteReadError, TimeoutError):
                pass
            except Exception as error:  # a device's failure is the run's failure
                self._faults.append(f"{device.id}: {error!r}")
                return
            device.connected = False
            await asyncio.sleep(random.uniform(*RETURN_SECONDS))

    async def _connection(self, device: JournallingDevice) -> None:
        """Connect, subscribe if there is no session, and acknowledge until the connection ends."""
        opened = socket_with_high_number()
        async with asyncio.timeout(CONNECT_SECONDS):
            try:
                await asyncio.get_running_loop().sock_connect(opened, (HOST, self._port))
                reader, writer = await asyncio.open_connection(sock=opened)
            except BaseException:
                opened.close()
                raise
        try:
            device.begin(writer.get_extra_info("sockname")[1])
            name = device.enrolled.client_id
            writer.write(connect(name, clean=False, username=name, password=device.enrolled.token))
            async with asyncio.timeout(CONNECT_SECONDS):
                first, body = await _read_packet(reader)
                if first != 0x20 or body[1] == 3:  # nobody can be looked up at the moment
                    return
                assert body[1] == 0, f"refused with {body[1]}"
                if not body[0]:
                    writer.write(subscribe(1, (device.enrolled.topics["push"], 1)))
            device.enter()
            await self._acknowledge_all(device, reader, writer)
        finally:
            writer.close()

    async def _acknowledge_all(
        self, device: JournallingDevice, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        silent = 0
        reading = asyncio.ensure_future(_read_packet(reader))
        try:
            while not self._leaving.is_set():
                done, _ = await asyncio.wait([reading], timeout=PING_SECONDS)
                if not done:
                    silent += 1
                    if silent > 2:
                        return
                    writer.write(PINGREQ)
                    continue
                silent = 0
                first, body = reading.result()
                device.heard_at = time.monotonic()
                reading = asyncio.ensure_future(_read_packet(reader))
                if first >> 4 == 3:
                    (topic_bytes,) = struct.unpack_from(">H", body)
                    device.receive(body[2 + topic_bytes + (2 if first & 6 else 0) :], bool(first & 8))
                    (packet_id,) = struct.unpack_from(">H", body, 2 + topic_bytes)
                    writer.write(puback(packet_id))
            writer.write(DISCONNECT)
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError, OSError, asyncio.IncompleteReadError):
                await reading


class PahoDevices:
    """Some on paho-mqtt, with a thread each. It tells of no PINGRESP: absences begin when it gives a connection up."""

    def __init__(self, devices: Sequence[JournallingDevice], port: int) -> None:
        self._port = port
        self._clients = [self._client(device) for device in devices]

    def start(self) -> None:
        for client in self._clients:
            client.connect_async(HOST, self._port, keepalive=round(PING_SECONDS))
            client.loop_start()

    def leave(self) -> None:
        for client in self._clients:
            client.disconnect()
        for client in self._clients:
            client.loop_stop()

    @staticmethod
    def _client(device: JournallingDevice) -> paho.Client:
        name = device.enrolled.client_id
        client = paho.Client(
            CallbackAPIVersion.VERSION2, name, clean_session=False, protocol=MQTTProtocolVersion.MQTTv311
        )
        client.username_pw_set(name, device.enrolled.token)
        client.reconnect_delay_set(0.25, 0.5)  # type: ignore[arg-type]  # it says whole seconds, and computes with any
        client.connect_timeout = CONNECT_SECONDS

        def on_socket_open(_client: paho.Client, _data: Any, opened: Any) -> None:
            if isinstance(opened, socket.socket):
                device.begin(opened.getsockname()[1])

        def on_connect(_client: paho.Client, _data: Any, flags: Any, reason: Any, _properties: Any) -> None:
            if reason.is_failure:
                return
            if not flags.session_present:
                client.subscribe(device.enrolled.topics["push"], 1)
            device.enter()

        def on_disconnect(_client: paho.Client, _data: Any, _flags: Any, _reason: Any, _properties: Any) -> None:
            if device.connected:
                device.heard_at = time.monotonic()
            device.connected = False

        def on_message(_client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
            device.receive(bytes(message.payload), message.dup)

        client.on_socket_open, client.on_connect = on_socket_open, on_connect
        client.on_disconnect, client.on_message = on_disconnect, on_message
        return client


def socket_with_high_number() -> socket.socket:
    """A TCP socket that leaves the low descriptors to paho: it selects, which takes numbers below 1,024 only."""
    with socket.socket() as low:
        high = socket.socket(fileno=fcntl.fcntl(low.fileno(), fcntl.F_DUPFD_CLOEXEC, SELECTABLE))
    high.setblocking(False)
    return high


async def _read_packet(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The first byte of a packet, and what follows its length."""
    first = (await reader.readexactly(1))[0]
    length = shift = 0
    while True:
        digit = (await reader.readexactly(1))[0]
        length |= (digit & 0x7F) << shift
        shift += 7
        if digit < 0x80:
            return first, await reader.readexactly(length)
