"""A whole server but for its sockets: what would come from them is given to its connections, byte for byte.

The HTTP and MQTT connections are the server's own, with a transport that keeps what is written.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from broker.network.listeners import TICK_SECONDS, BrokerServer
from broker.network.transport import TcpTransport
from gateway.api.server import HttpServer
from gateway.periodic import repeat
from tests import wire
from tests.costs.turns import TurnsLoop
from tests.gateway.in_process import START, InProcessGateway

SETTLE_SECONDS = 1.0
"""Time after which nothing is gathered any more: what gathers does so for half a second at most."""


class KeptSocket(asyncio.Transport):
    """The transport of a connection: keeps what is written."""

    def __init__(self, host: str) -> None:
        super().__init__({"peername": (host, 40_000), "sockname": ("127.0.0.1", 1_883)})
        self.written = bytearray()
        self._is_closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def taken(self) -> bytes:
        """Everything that was written since this was last called."""
        written = bytes(self.written)
        self.written.clear()
        return written

    def close(self) -> None:
        self._is_closed = True

    abort = close

    def is_closing(self) -> bool:
        return self._is_closed

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0


class Device:
    """A device of MQTT 3.1.1 with a token, at an address of its own."""

    def __init__(self, mqtt: BrokerServer, number: int, enrolled: dict[str, Any]) -> None:
        self.device_id: str = enrolled["device_id"]
        self._mqtt = mqtt
        self._host = f"10.0.{number // 250}.{number % 250 + 1}"
        credentials = enrolled["mqtt"]
        self._connect = wire.connect(
            credentials["client_id"],
            clean=False,
            keep_alive=0,
            username=credentials["username"],
            password=credentials["password"],
        )
        self._subscribe = wire.subscribe(1, (credentials["topics"]["push"], 1))
        self._socket: KeptSocket
        self._connection: TcpTransport | None = None

    def connect(self) -> None:
        self._socket = KeptSocket(self._host)
        self._connection = TcpTransport(self._mqtt, asyncio.get_running_loop())
        self._connection.connection_made(self._socket)
        self._connection.data_received(self._connect)

    def subscribe(self) -> None:
        self._send(self._subscribe)

    def acknowledge(self) -> int:
        """Answer every PUBLISH that has come; return how many."""
        packet_ids = published(self._socket.taken())
        if packet_ids:
            self._send(b"".join(map(wire.puback, packet_ids)))
        return len(packet_ids)

    def hang_up(self) -> None:
        """Vanish. Harmless when it is not connected."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.connection_lost(None)

    def _send(self, data: bytes) -> None:
        assert self._connection is not None, "it is connected"
        self._connection.data_received(data)


class HttpClient:
    """One kept connection to the HTTP port."""

    def __init__(self, http: HttpServer, key: str) -> None:
        self._socket = KeptSocket("10.1.0.1")
        self._authorization = f"Authorization: Bearer {key}"
        self._connection: Any = http.protocol()
        self._connection.connection_made(self._socket)

    def post(self, path: str, body: Any, content_type: str = "application/json") -> None:
        """Send a request: `body` as it is, or as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [
            f"POST {path} HTTP/1.1",
            "Host: test",
            self._authorization,
            f"Content-Type: {content_type}",
            f"Content-Length: {len(content)}",
        ]
        unread = "".join(f"{line}\r\n" for line in [*lines, ""]).encode() + content
        while unread:
            buffer = self._connection.get_buffer(-1)
            part, unread = unread[: len(buffer)], unread[len(buffer) :]
            buffer[: len(part)] = part
            self._connection.buffer_updated(len(part))

    def hang_up(self) -> None:
        self._connection.connection_lost(None)

    def answer(self, expect: int) -> bytes:
        """The body of the answer, which has come."""
        head, _, body = self._socket.taken().partition(b"\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {expect} ".encode()), head + body
        return body


class TicklessBrokerServer(BrokerServer):
    """A server of MQTT whose ticks are counted apart, not with whatever is done beside them."""

    def _tick(self) -> None: ...


class MeasuredServer:
    """The server, its devices and its senders."""

    def __init__(self, gateway: InProcessGateway, loop: TurnsLoop) -> None:
        components = gateway.components
        self._gateway = gateway
        self._loop = loop
        self._mqtt = TicklessBrokerServer(components.broker)
        self._http = HttpServer(
            app=gateway.api,
            websocket=self._mqtt.websocket,
            limiter=components.connections,
            trusted_proxies=(),
            turns=components.turns,
            share_of_holder=components.share_of_holder,
        )

    @classmethod
    async def start(cls, folder: Path, loop: TurnsLoop) -> Self:
        gateway = await InProcessGateway.build(folder, loop)
        server = cls(gateway, loop)

        def move_clock(seconds: float) -> None:
            gateway.clock.milliseconds = START + round(seconds * 1_000)

        loop.clocks.append(move_clock)
        await gateway.components.recover()
        await server._http.start(None)
        return server

    def client(self) -> HttpClient:
        return HttpClient(self._http, self._gateway.key)

    async def enrol(self, count: int, locales: Sequence[str]) -> list[Device]:
        client = self.client()
        devices = [
            {"device_id": f"kiosk-{number}", "locale": locales[number % len(locales)]} for number in range(count)
        ]
        client.post("/v1/devices/bulk", {"devices": devices})
        await self.settle()
        enrolled = json.loads(client.answer(201))["devices"]
        client.hang_up()
        return [Device(self._mqtt, number, device) for number, device in enumerate(enrolled)]

    async def turn(self) -> None:
        """Wait until neither the loop nor a thread has anything to do."""
        # This timer is the next, but its time comes only when everybody else waits.
        await asyncio.sleep(1e-9)

    async def settle(self) -> None:
        """Wait until what gathers for a moment has been stored, too."""
        await asyncio.sleep(SETTLE_SECONDS)

    async def do_periodic_work(self, seconds: float) -> None:
        """Do for so long what a server does several times a second."""
        components = self._gateway.components
        works = (
            components.sweep(),
            components.delivery.analytics.count_large(),
            repeat(TICK_SECONDS, lambda: self._mqtt.broker.tick(self._gateway.clock())),
        )
        tasks = [asyncio.ensure_future(work) for work in works]
        await asyncio.sleep(seconds)
        for task in tasks:
            task.cancel()


def published(data: bytes) -> list[int]:
    """Packet identifiers of the PUBLISH packets of QoS 1 among these bytes."""
    packet_ids = []
    at = 0
    while at < len(data):
        first = data[at]
        length = shift = 0
        while True:
            at += 1
            length |= (data[at] & 0x7F) << shift
            shift += 7
            if data[at] < 0x80:
                break
        at += 1
        if first & 0xF6 == 0x32:
            identifier = at + 2 + int.from_bytes(data[at : at + 2])
            packet_ids.append(int.from_bytes(data[identifier : identifier + 2]))
        at += length
    return packet_ids
