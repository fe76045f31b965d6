"""The devices that are bridged, as the server has them now.

Nothing is kept that can be asked for. An event says that a device has changed, and not what it is now: an old one may
be read after a restart. So the device is read again, and all of them every `refresh_seconds`, since a report or a new
name makes no event. Many changes at once cost one list.

What a device says of itself is its own word: a battery is a number from 0 to 100, a version has VERSION_CHARACTERS, and
commands are the first MAX_COMMANDS that the options allow.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from gateway.cli.bridge.bridge_options import BridgeOptions
from gateway.cli.bridge.home_assistant import BridgedDevice
from gateway.cli.bridge.topics import COMMAND
from gateway.cli.server_client import RequestRefused, ServerClient, segment
from gateway.printable import UNPRINTABLE

MAX_DEVICES = 1_000
"""Devices that are bridged; of more, those whose ids come first."""
MAX_COMMANDS = 16
"""Buttons of a device."""
VERSION_CHARACTERS = 64
FEW_CHANGES = 20
"""Changed devices that are read one by one; for more the list is."""


class BridgedDevices:
    """Reads from the server what is bridged."""

    def __init__(self, client: ServerClient, options: BridgeOptions) -> None:
        self._client = client
        self._options = options
        self.left_out = False
        """Whether there were more than MAX_DEVICES."""

    def read(self) -> dict[str, BridgedDevice]:
        """Read all that are bridged, by device id. Raises Failure."""
        found: dict[str, BridgedDevice] = {}
        self.left_out = False
        for device in self._read_all():
            if device["device_id"] in found:
                continue
            if len(found) == MAX_DEVICES:
                self.left_out = True
                break
            found[device["device_id"]] = self._bridged(device)
        return found

    def read_one(self, device_id: str) -> BridgedDevice | None:
        """Read one device; None if there is none, or it is not bridged any more. Raises Failure."""
        found = self._show(device_id)
        return self._bridged(found) if found is not None and self._is_wanted(found) else None

    def read_delivery(self, push_id: str) -> dict[str, Any] | None:
        """Read the delivery of a push to one device; None if nothing is known of it any more. Raises Failure."""
        try:
            return next(self._client.items(f"/v1/pushes/{segment(push_id)}/deliveries", 1), None)
        except RequestRefused as refused:
            if refused.code not in ("push_not_found", "gone"):
                raise
            return None

    def may_be_wanted(self, device_id: str) -> bool:
        """Tell whether a device of which only the id is known may be one to bridge."""
        return device_id in self._options.devices or self._options.every_device or bool(self._options.tags)

    def _read_all(self) -> Iterator[dict[str, Any]]:
        if self._options.every_device:
            yield from self._client.items("/v1/devices", MAX_DEVICES + 1)
        for device_id in self._options.devices:
            if (device := self._show(device_id)) is not None:
                yield device
        for tag in self._options.tags:
            yield from self._client.items("/v1/devices", MAX_DEVICES + 1, tag=tag)

    def _show(self, device_id: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self._client.call("GET", f"/v1/devices/{segment(device_id)}")
            return found
        except RequestRefused as refused:
            if refused.code != "device_not_found":
                raise
            return None

    def _is_wanted(self, device: dict[str, Any]) -> bool:
        by_name = self._options.every_device or device["device_id"] in self._options.devices
        return by_name or bool({*self._options.tags} & {*device["tags"]})

    def _bridged(self, device: dict[str, Any]) -> BridgedDevice:
        attributes = device["attributes"]
        return BridgedDevice(
            device["device_id"],
            device["name"] or device["device_id"],
            device["online"],
            battery_of(attributes.get("battery")),
            version_of(attributes.get("version")),
            self._commands(attributes.get("commands")),
            self._options.notify,
        )

    def _commands(self, declared: Any) -> tuple[str, ...]:
        """The commands that a device declares, in its order, as far as they are allowed."""
        named = (name for name in declared if isinstance(name, str)) if isinstance(declared, list) else ()
        allowed = (name for name in named if COMMAND.fullmatch(name) and self._options.allows(name))
        return tuple(islice(dict.fromkeys(allowed), MAX_COMMANDS))


def battery_of(value: Any) -> float | None:
    """Percent, or None for what is none."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and 0 <= value <= 100 else None


def version_of(value: Any) -> str | None:
    """A version as text; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return UNPRINTABLE.sub("", str(value))[:VERSION_CHARACTERS] or None
