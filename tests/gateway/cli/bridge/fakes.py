"""Both ends of a bridge: a broker that acknowledges when the test says so, and a server of some devices."""

from __future__ import annotations

import json
import queue
import threading
from pathlib import Path
from typing import Any

from gateway.cli.bridge.bridge import Bridge, EventHappened
from gateway.cli.bridge.bridge_options import BridgeOptions
from gateway.cli.bridge.bridge_state import StateFile
from gateway.cli.bridge.broker_connection import BrokerConnected, BrokerHasIt, BrokerMessage, OwnTopicFound
from gateway.cli.bridge.home_assistant import BridgedDevice
from gateway.cli.bridge.message_pushes import PushAnswered, UnsentPush
from gateway.cli.bridge.topics import BridgeTopics
from gateway.cli.terminal import Failure

OPTIONS = BridgeOptions(
    topics=BridgeTopics("fleetpush"),
    devices=(),
    tags=("lobby",),
    every_device=False,
    commands=("reboot", "identify"),
    notify=True,
    discovery="homeassistant",
    refresh_seconds=30,
)
CONFIG = "homeassistant/device/fleetpush_kiosk-1/config"


def device(device_id: str = "kiosk-1", **facts: Any) -> BridgedDevice:
    known: dict[str, Any] = {
        "name": "Lobby", "online": True, "battery": 81, "version": "2.3", "commands": ("reboot",), "notify": True,
    }  # fmt: skip
    return BridgedDevice(device_id, **(known | facts))


class FakeBroker:
    """Retains what is published while it is `connected`. Acknowledgements wait in `unacknowledged`."""

    def __init__(self) -> None:
        self.connected = True
        self.dropped = 0
        self.published: list[tuple[str, bytes]] = []
        self.retained: dict[str, bytes] = {}
        self.unacknowledged: list[int] = []

    def publish(self, topic: str, payload: bytes) -> int | None:
        if not self.connected:
            return None
        self.published.append((topic, payload))
        if payload:
            self.retained[topic] = payload
        else:
            self.retained.pop(topic, None)
        self.unacknowledged.append(len(self.published))
        return len(self.published)

    def handled(self) -> None:
        pass

    def json(self, topic: str) -> Any:
        return json.loads(self.retained[topic])


class FakeSource:
    """The server's devices; with a `failure` it does not answer."""

    def __init__(self, *devices: BridgedDevice) -> None:
        self.devices = {device.device_id: device for device in devices}
        self.deliveries: dict[str, dict[str, Any]] = {}
        self.failure: Failure | None = None
        self.left_out = False
        self.lists = 0
        self.shown: list[str] = []

    def read(self) -> dict[str, BridgedDevice]:
        self.lists += 1
        if self.failure is not None:
            raise self.failure
        return dict(self.devices)

    def read_one(self, device_id: str) -> BridgedDevice | None:
        self.shown.append(device_id)
        return self.devices.get(device_id)

    def read_delivery(self, push_id: str) -> dict[str, Any] | None:
        if self.failure is not None:
            raise self.failure
        return self.deliveries.get(push_id)

    def may_be_wanted(self, device_id: str) -> bool:
        return device_id.startswith("kiosk")


class FakeSender:
    def __init__(self) -> None:
        self.sent: list[UnsentPush] = []

    def send(self, push: UnsentPush) -> None:
        self.sent.append(push)


class BridgeWorld:
    """A bridge without threads, sockets and files of others: the test moves everything."""

    def __init__(self, folder: Path, *devices: BridgedDevice, options: BridgeOptions = OPTIONS) -> None:
        self.broker = FakeBroker()
        self.source = FakeSource(*devices)
        self.sender = FakeSender()
        self.state_file = StateFile(folder / "bridge.json")
        self.room = threading.Semaphore(0)
        self.bridge = Bridge(
            options, self.source, self.broker, self.sender, self.state_file, queue.SimpleQueue(), self.room
        )

    def connect(self) -> None:
        """The broker is there, the devices are read, and everything is acknowledged."""
        self.bridge.handle(BrokerConnected())
        self.acknowledge()

    def acknowledge(self) -> None:
        while self.broker.unacknowledged:
            self.bridge.handle(BrokerHasIt(self.broker.unacknowledged.pop(0)))

    def refresh(self) -> None:
        self.bridge._refresh_at = 0.0
        self.bridge.wait(0)
        self.acknowledge()

    def message(self, topic: str, payload: bytes | None = b"PRESS", *, retained: bool = False) -> None:
        self.bridge.handle(BrokerMessage(f"fleetpush/devices/{topic}", payload, retained, 0.0))
        self.acknowledge()

    def find(self, device_id: str) -> None:
        """The broker retains a device's connectivity."""
        self.bridge.handle(OwnTopicFound(f"fleetpush/devices/{device_id}/connectivity"))
        self.acknowledge()

    def event(self, number: int, event_type: str, **data: Any) -> None:
        event = {"id": f"{number}.0", "type": event_type, "timestamp": "2026-12-01T08:00:00.000Z", "data": data}
        self.bridge.handle(EventHappened(event))
        self.acknowledge()

    def accept(self, push_id: str) -> None:
        """The server accepts the last push."""
        self.bridge.handle(PushAnswered(self.sender.sent[-1], push_id, None))
        self.acknowledge()

    def result(self, device_id: str = "kiosk-1") -> dict[str, Any]:
        found: dict[str, Any] = self.broker.json(f"fleetpush/devices/{device_id}/result")
        found.pop("at")
        return found
