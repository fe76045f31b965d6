"""Uplink messages of devices: stored as they are, the last ones of each, and an event.

Runs on the writer thread, but for `uplink_content`. What an app may have of them is `uplink_quota`'s.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

from gateway.store.deliveries.event_log import log_of_device
from gateway.store.deliveries.uplink_messages import insert_uplink, remove_uplinks_behind, remove_uplinks_beyond
from gateway.store.transaction import Transaction

LONG_TEXT_BYTES = 1_024
"""Bytes of an uplink message from which on it is looked at what it would be as JSON."""
CONTROL_CHARACTERS = bytes(set(range(32)) - set(b"\b\t\n\f\r"))
"""JSON writes each as `\\u00..`."""
UPLINK_BYTES = 8 * 1024 * 1024
"""Bytes of uplink payloads that are kept of one device, the newest aside: the others of its app have the rest of their
share (`uplink_quota`)."""


@dataclass(slots=True, frozen=True)
class UplinkLimits:
    """Limits of the uplink messages that are kept."""

    keep: int
    """Messages kept per device."""


def uplink_content(topic: str, payload: bytes) -> dict[str, str]:
    """An uplink message as JSON shows it: text as `payload`, anything else as `payload_base64`. Any thread.

    So too what is text in form only: a kilobyte and more of which every fifth character is one that JSON writes with
    six.
    """
    if len(payload) > LONG_TEXT_BYTES:
        escaped = len(payload) - len(payload.translate(None, CONTROL_CHARACTERS))
        if escaped * 5 > len(payload):
            return {"topic": topic, "payload_base64": base64.b64encode(payload).decode()}
    try:
        return {"topic": topic, "payload": payload.decode()}
    except UnicodeDecodeError:
        return {"topic": topic, "payload_base64": base64.b64encode(payload).decode()}


def store_uplink(
    transaction: Transaction, device_no: int, topic: str, payload: bytes, limits: UplinkLimits, now_ms: int
) -> None:
    """Store a message of a device, and remove what it may not have kept besides. Writer thread."""
    number = insert_uplink(transaction, device_no, topic, payload, now_ms)
    log_of_device(transaction, "device.uplink", now_ms, device_no, uplink_content(topic, payload))
    remove_uplinks_behind(transaction, device_no, limits.keep)
    if len(payload) > UPLINK_BYTES // limits.keep:  # as many as are kept of what is smaller are no more
        remove_uplinks_beyond(transaction, device_no, UPLINK_BYTES, number)
