"""The topics of a bridge on the operator's broker.

    NAME/status                         online | offline, retained; the bridge's will is offline
    NAME/devices/ID/connectivity        online | offline, retained
    NAME/devices/ID/attributes          {"battery": 81, "version": "2.3"}, retained
    NAME/devices/ID/result              what became of the last message, retained
    NAME/devices/ID/notify              to the bridge: text, or a notification as JSON
    NAME/devices/ID/command/COMMAND     to the bridge: PRESS, or the command's data as JSON

A bridge's name has no underscore and a device's id no slash: neither can alter a topic, and `NAME_ID`, by which Home
Assistant knows a device, can be read in one way only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

NAME = re.compile(r"[a-z0-9-]{1,32}")
DEVICE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
COMMAND = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
"""A command's name, as a call of the HTTP interface takes it."""
STATE_LEAVES = ("result", "attributes", "connectivity")
"""The retained topics of a device, in the order in which they are cleared: a device whose connectivity is gone has left
nothing behind."""


@dataclass(frozen=True)
class BridgeTopics:
    """Names the topics of the bridge `name`, and reads them."""

    name: str

    @property
    def status(self) -> str:
        return f"{self.name}/status"

    def of_device(self, device_id: str, leaf: str) -> str:
        return f"{self.name}/devices/{device_id}/{leaf}"

    def of_all_devices(self, leaf: str) -> str:
        """Return the topic filter for a leaf of every device."""
        return self.of_device("+", leaf)

    def split(self, topic: str) -> tuple[str, str] | None:
        """Split `NAME/devices/ID/LEAF[/..]` into the device's id and the rest. None for any other topic."""
        prefix = f"{self.name}/devices/"
        device_id, _, leaf = topic.removeprefix(prefix).partition("/")
        if not topic.startswith(prefix) or not leaf or DEVICE_ID.fullmatch(device_id) is None:
            return None
        return device_id, leaf
