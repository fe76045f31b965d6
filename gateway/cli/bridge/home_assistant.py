"""Discovery messages: a device as Home Assistant is told of it, one message for all its entities.

The format is the device discovery of Home Assistant 2024.11 and later: `PREFIX/device/NAME_ID/config`, retained. Its
`cmps` are the entities. An empty message removes the device. An entity that is to go is named once more with its
platform alone, and left out of the message after that.

Names and versions are what others wrote: they are text in JSON here, and never part of a template.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from gateway.cli.bridge.topics import BridgeTopics
from gateway.program import installed_version

ONLINE, OFFLINE = b"online", b"offline"
PRESS = b"PRESS"
"""What a button of Home Assistant publishes."""
CONNECTION = {"payload_on": ONLINE.decode(), "payload_off": OFFLINE.decode()}

Platforms = dict[str, str]
"""Key of an entity -> its platform."""


@dataclass(frozen=True)
class BridgedDevice:
    """A device as the bridge publishes it. `battery` is in percent; what it has not reported is None."""

    device_id: str
    name: str
    online: bool
    battery: float | None
    version: str | None
    commands: tuple[str, ...]
    """Commands that it declares and the bridge allows."""
    notify: bool

    @property
    def attributes(self) -> dict[str, Any]:
        facts = {"battery": self.battery, "version": self.version}
        return {name: value for name, value in facts.items() if value is not None}


def discovery_topic(prefix: str, topics: BridgeTopics, device_id: str) -> str:
    return f"{prefix}/device/{topics.name}_{device_id}/config"


def platforms(device: BridgedDevice) -> Platforms:
    """Return the entities of a device."""
    return {key: entity["p"] for key, entity in _entities(BridgeTopics("x"), device).items()}


def discovery_message(topics: BridgeTopics, device: BridgedDevice, announced: Mapping[str, str]) -> bytes:
    """Make the message that announces a device. `announced` are the entities of the last message: those that the device
    has no longer are removed by this one."""
    identifier = f"{topics.name}_{device.device_id}"
    facts: dict[str, Any] = {"ids": [identifier], "name": device.name, "mf": "Fleetpush", "sn": device.device_id}
    if device.version is not None:
        facts["sw"] = device.version
    entities = _entities(topics, device)
    message = {
        "dev": facts,
        "o": {"name": "Fleetpush bridge", "sw": _version()},
        "availability": [{"topic": topics.status}],
        "qos": 1,
        "cmps": {key: {"unique_id": f"{identifier}_{key}", **entity} for key, entity in entities.items()}
        | {key: {"p": platform} for key, platform in announced.items() if key not in entities},
    }
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()


@cache
def _version() -> str:
    """The installed version, which takes a while to find out."""
    return installed_version()


def _entities(topics: BridgeTopics, device: BridgedDevice) -> dict[str, dict[str, Any]]:
    """The entities by key, each with its platform `p`."""

    def topic(leaf: str) -> str:
        return topics.of_device(device.device_id, leaf)

    connected = {"topic": topic("connectivity")}
    reachable = {"availability": [{"topic": topics.status}, connected], "availability_mode": "all"}
    entities: dict[str, dict[str, Any]] = {
        "connectivity": {
            "p": "binary_sensor",
            "name": "Connectivity",
            "device_class": "connectivity",
            "entity_category": "diagnostic",
            "state_topic": topic("connectivity"),
            **CONNECTION,
        }
    }
    if device.battery is not None:
        entities["battery"] = {
            "p": "sensor",
            "name": "Battery",
            "device_class": "battery",
            "state_class": "measurement",
            "unit_of_measurement": "%",
            "entity_category": "diagnostic",
            "state_topic": topic("attributes"),
            "value_template": "{{ value_json.battery }}",
        }
    if device.version is not None:
        entities["version"] = {
            "p": "sensor",
            "name": "Version",
            "icon": "mdi:tag-outline",
            "entity_category": "diagnostic",
            "state_topic": topic("attributes"),
            "value_template": "{{ value_json.version }}",
        }
    if device.notify or device.commands:
        entities["result"] = {
            "p": "sensor",
            "name": "Last push",
            "icon": "mdi:message-badge-outline",
            "entity_category": "diagnostic",
            "state_topic": topic("result"),
            "value_template": "{{ value_json.state }}",
            "json_attributes_topic": topic("result"),
        }
    if device.notify:  # to a device that is away, too: its mailbox keeps the push
        entities["notify"] = {"p": "notify", "name": "Notification", "command_topic": topic("notify"), "retain": False}
    for command in device.commands:
        entities[f"command_{command}"] = {
            "p": "button",
            "name": command.replace("_", " ").replace("-", " ").capitalize(),
            "command_topic": topic(f"command/{command}"),
            "payload_press": PRESS.decode(),
            "retain": False,
            **reachable,
        }
    return entities
