"""One device that says as much as it can, in every way there is, while the canary sings: nobody else is late.

Without `--full` all kinds share one canary, one after the other; with it each has its own.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from pathlib import Path

import pytest

from tests import websocket_stream as ws
from tests import wire
from tests.end_to_end.harness import Device, Server
from tests.hostile.canary import Canary
from tests.wire import V4, V5

SIDE_CONNECTIONS = 8
SECONDS = 0.5
HEAP = 1_000_000
"""Bytes that are sent at a time."""
PAIR = b"\x26" + wire.text("") + wire.text("")
"""The smallest user property."""


class Flood:
    """One packet that a device sends again and again, over a connection that is made anew when the server ends it."""

    def __init__(
        self, what: bytes, *, web: bool = False, version: int = V4, side: bool = True, behind_connect: bool = False
    ) -> None:
        """`web`: `what` is made of frames. `behind_connect`: sent with CONNECT, each time anew."""
        self.web = web
        self.version = version
        self.side = side
        self.behind_connect = behind_connect
        self.what = what * max(1, HEAP // len(what)) if not behind_connect else what

    def run(self, server: Server, device: Device, names: str, until: float) -> None:
        while time.monotonic() < until:
            for number in range(4):
                name = f"{device.client_id}:{names}{number}" if self.side else device.client_id
                port = server.http_port if self.web else server.mqtt_port
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as raw:
                    self._speak(raw, wire.connect(
                        name, self.version, username=device.client_id, password=device.token), until)  # fmt: skip
                if time.monotonic() > until:
                    return

    def _speak(self, raw: socket.socket, connect: bytes, until: float) -> None:
        raw.settimeout(2)
        if self.web:
            raw.sendall(ws.request("127.0.0.1"))
            assert raw.recv(4_096)
            connect = ws.frame(connect)
        if self.behind_connect:
            raw.sendall(connect + self.what)
            raw.recv(4)
            return
        raw.sendall(connect)
        raw.recv(4)  # CONNACK: who is no stranger may say more
        raw.setblocking(False)
        waiting = memoryview(self.what)
        while (left := until - time.monotonic()) > 0:
            readable, writable, _ = select.select([raw], [raw], [], left)
            if readable and not raw.recv(65_536):
                return
            if writable:
                waiting = waiting[raw.send(waiting) :] or memoryview(self.what)


def fragments(payload: bytes) -> bytes:
    """A message in frames of one byte."""
    first = ws.frame(payload[:1], final=False)
    middle = [ws.frame(payload[at : at + 1], ws.CONTINUATION, final=False) for at in range(1, len(payload) - 1)]
    return b"".join([first, *middle, ws.frame(payload[-1:], ws.CONTINUATION)])


FLOODS = {
    "denied messages": Flood(wire.publish("x", b"x")),
    "uplink, QoS 0": Flood(wire.publish("default/devices/ID/uplink", b"x")),
    "uplink, QoS 1": Flood(b"".join(wire.publish("default/devices/ID/uplink", b"x", 1, n) for n in range(1, 5_000))),
    "uplink, 1 MB each": Flood(wire.publish("default/devices/ID/uplink", b"x" * 1_000_000, 1, 1)),
    "receipts for nothing": Flood(wire.publish("default/devices/ID/receipts", b'{"push_id":"x","event":"opened"}')),
    "PINGREQ": Flood(wire.PINGREQ),
    "user properties": Flood(wire.publish("x", b"", version=V5, properties=PAIR * 200_000), version=V5),
    "a hundred user properties each": Flood(wire.publish("x", b"", version=V5, properties=PAIR * 100), version=V5),
    "an alias": Flood(wire.publish("x", b"", version=V5, properties=b"\x23\x00\x01"), version=V5),
    "SUBSCRIBE": Flood(wire.subscribe(1, ("default/devices/ID/push", 1)) * 1_000, side=False),
    "SUBSCRIBE with filters": Flood(wire.subscribe(1, *[("x", 1)] * 1_000)),
    "SUBSCRIBE with too many filters": Flood(wire.subscribe(1, *[("x", 1)] * 200_000)),
    "UNSUBSCRIBE with filters": Flood(wire.unsubscribe(1, *["x"] * 1_000)),
    "PUBREL": Flood(wire.pubrel(7)),
    "WebSocket fragments": Flood(fragments(wire.publish("x", b"x" * 20)), web=True),
    "empty frames": Flood(ws.frame(b"", final=False) + ws.frame(b"", ws.CONTINUATION), web=True),
    "pings": Flood(ws.frame(b"", ws.PING), web=True),
    "frames of one packet": Flood(ws.frame(wire.publish("x", b"")), web=True),
    "behind CONNECT": Flood(wire.publish("x", b"") * 10_000, behind_connect=True),
}


def attack(server: Server, kinds: list[str], seconds: float) -> None:
    device = server.api.enrol("ID")
    for kind in kinds:
        until = time.monotonic() + seconds
        # What holds for one socket has to hold for all of a device's.
        floods = [threading.Thread(target=FLOODS[kind].run, args=(server, device, names, until)) for names in "ab"]
        for flood in floods:
            flood.start()
        for flood in floods:
            flood.join()


@pytest.mark.long
@pytest.mark.timeout(90)
def test_nobody_is_late_while_a_device_floods(tmp_path: Path, full: int) -> None:
    with Server(tmp_path / "data") as server:
        with Canary(server):
            attack(server, list(FLOODS), SECONDS * (1 if full == 1 else 6))
        assert "says more than its rate" in server.errors
        metrics = server.api.request("GET", "/metrics").text
    limited = next(line for line in metrics.splitlines() if line.startswith("fleetpush_broker_limited_senders_total"))
    assert float(limited.split()[1]) > 0


@pytest.mark.full_only
def test_the_side_connections_of_a_device_take_no_descriptors_of_others(tmp_path: Path) -> None:
    with Server(tmp_path / "data", open_files=256) as server, contextlib.ExitStack() as held:
        device = server.api.enrol("ID")
        codes = []
        with Canary(server) as canary:
            for number in range(300):
                raw = held.enter_context(socket.create_connection(("127.0.0.1", server.mqtt_port), timeout=5))
                raw.sendall(wire.connect(f"ID:{number}", username="ID", password=device.token))
                codes.append(raw.recv(4)[3])
                if codes[-1]:
                    raw.close()
        assert codes.count(0) == SIDE_CONNECTIONS
        assert set(codes) == {0, 3}
        assert canary.report.descriptors_most < canary.report.descriptors_before + 64
        with socket.create_connection(("127.0.0.1", server.mqtt_port), timeout=5) as own:
            own.sendall(wire.connect("ID", username="ID", password=device.token))
            assert own.recv(4) == wire.connack_4()
