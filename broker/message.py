"""Messages, as the broker carries them: a `Message` is a topic and a QoS over a shared `Body`.

A body is made once and referenced by every session that has the message queued or inflight, so a fan-out costs a
reference per device and not a copy. A `Message` is only the argument of a call: sessions keep the body and the encoded
topic, never the message itself, so a caller may reuse one message object for a whole fan-out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from broker.protocol.packets import Properties


@dataclass(slots=True, eq=False)
class Body:
    """Payload and forwardable MQTT 5 properties of a message. Immutable by convention once handed to the broker."""

    payload: bytes
    properties: Properties | None = None
    """Properties that a server forwards unaltered: payload format, content type, response topic, correlation data, user
    properties [MQTT-3.3.2-4 ff.]. The message expiry interval is derived from `expires_at` when a packet is written."""
    expires_at: float | None = None
    """Server time in seconds; None: never expires."""
    encoded_properties: bytes | None = field(default=None, repr=False)
    """The encoder's cache of `properties` on the wire, without expiry, alias and subscription identifiers."""
    heads: dict[int, bytes] = field(default_factory=dict, repr=False)
    """The encoder's cache of the first bytes of packets with this payload, by topic length (`head_at_least_once`)."""

    def has_valid_payload_format(self) -> bool:
        """Whether the payload is UTF-8, if its format says so (MQTT 5.0, 3.3.2.3.2)."""
        if self.properties is None or not self.properties.payload_format_indicator:
            return True
        try:
            self.payload.decode()
        except UnicodeDecodeError:
            return False
        return True

    def has_expired(self, now: float) -> bool:
        return self.expires_at is not None and self.expires_at <= now


@dataclass(slots=True, eq=False)
class Message:
    """One message on one topic; the argument of a call, see above."""

    topic: str
    body: Body
    qos: int = 0
    retain: bool = False
