"""Uplink messages of devices: stored as they are, the last ones of each, and an event.

Runs on the writer thread, but for `uplink_content`. What an app may have of them is `uplink_quota`'s.
"""

from __future__ import annotations

import base64
import sqlite3
from dataclasses import dataclass

from gateway.store.deliveries.event_log import log_of_device

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
    connection: sqlite3.Connection, device_no: int, topic: str, payload: bytes, limits: UplinkLimits, now_ms: int
) -> None:
    """Store a message of a device, and remove what it may not have kept besides. Writer thread."""
    stored = connection.execute(
        "INSERT INTO uplink_message (device_no, topic, payload, received_at) VALUES (?, ?, ?, ?)",
        (device_no, topic, payload, now_ms),
    )
    log_of_device(connection, "device.uplink", now_ms, device_no, uplink_content(topic, payload))
    connection.execute(
        "DELETE FROM uplink_message WHERE device_no = ?1 AND no <= (SELECT no FROM uplink_message"
        " WHERE device_no = ?1 ORDER BY no DESC LIMIT 1 OFFSET ?2)",
        (device_no, limits.keep),
    )
    if len(payload) > UPLINK_BYTES // limits.keep:  # as many as are kept of what is smaller are no more
        connection.execute(
            "DELETE FROM uplink_message WHERE no IN (SELECT no FROM (SELECT no,"
            " sum(length(payload)) OVER (ORDER BY no DESC) AS total FROM uplink_message WHERE device_no = ?1)"
            " WHERE total > ?2 AND no < ?3)",
            (device_no, UPLINK_BYTES, stored.lastrowid),
        )
