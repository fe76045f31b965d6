"""The only place that spells a per-device topic or an MQTT client identifier (the device contract).

A device id is `[A-Za-z0-9_-]{1,64}` and an app id `[a-z0-9-]{1,32}`: neither can hold `/`, `+`, `#` or `:`, so no id
can alter a topic, reach another device's, or pass for a side connection.
"""

from __future__ import annotations

DEFAULT_APP = "default"
LEAVES = ("push", "receipts", "settings", "report", "uplink", "presence", "notices")


def device_topic(app_id: str, device_id: str, leaf: str) -> str:
    return f"{app_id}/devices/{device_id}/{leaf}"


def device_topics(app_id: str, device_id: str) -> dict[str, str]:
    """All topics of a device by name; `uplink` is the prefix below which it may publish anything."""
    return {leaf: device_topic(app_id, device_id, leaf) for leaf in LEAVES}


def client_id(app_id: str, device_id: str) -> str:
    """Return the MQTT client id of a device, which is its user name too. Devices of the app `default` go without a
    prefix."""
    return device_id if app_id == DEFAULT_APP else f"{app_id}/{device_id}"


def split_client_id(client_id: str) -> tuple[str, str]:
    """(app id, device id) of a device's own connection."""
    app_id, slash, device_id = client_id.rpartition("/")
    return (app_id if slash else DEFAULT_APP), device_id


def split_topic(topic: str) -> tuple[str, str, str] | None:
    """Split `APP/devices/ID/LEAF[/..]` into app id, device id, and leaf with all below it. None for any other topic."""
    parts = topic.split("/", 3)
    if len(parts) != 4 or parts[1] != "devices":
        return None
    return parts[0], parts[2], parts[3]
