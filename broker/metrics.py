"""Counters of the broker: plain integers, added to where things happen and read by whoever shows them.

Law: a counter is incremented in the one place that decides what it counts. No locks: the broker runs on one thread.
`bytes_out` is counted by `outbound` for messages, and by the transport for everything else.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class BrokerMetrics:
    """Counters and gauges of one broker. Written on the *loop*."""

    connections: int = 0
    """Connections past CONNECT, now."""
    handshakes: int = 0
    """CONNECTs whose CONNACK has not left, now."""
    sessions: int = 0
    """Sessions, connected or not, now."""
    retained: int = 0
    """Retained messages, now; `$SYS` included."""
    subscriptions: int = 0
    """Subscriptions of all sessions, now."""
    queued_messages: int = 0
    """Messages that wait in session queues, now: one for each session that waits for it."""
    queued_bytes: int = 0
    """Payload bytes of what is queued, now: once, however many sessions wait for it."""
    most_connections: int = 0
    """The highest that `connections` has been."""

    connects: int = 0
    """CONNECTs accepted."""
    refused: dict[str, int] = field(default_factory=dict)
    """Connections refused or closed by us, by label: `not_authorized`, `malformed_packet`, `keep_alive_timeout` ..."""
    taken_over: int = 0
    slow_consumers: int = 0
    """Times a socket stopped taking bytes (its buffer rose above the high-water mark)."""

    late_refusals: int = 0
    """Wrong credentials from an address that had tried many, answered late."""
    held_publishers: int = 0
    """Times a socket was not read because its client sent more than can be stored."""
    limited_senders: int = 0
    """Times a client was not read because its user was over `max_message_rate` or `max_byte_rate`."""

    publishes_in: int = 0
    publishes_out: int = 0
    acknowledged: int = 0
    """QoS 1 and 2 handshakes to clients that were completed."""
    unsolicited_acknowledgements: int = 0
    """PUBACK, PUBREC, PUBREL and PUBCOMP that came twice or for nothing: they change nothing."""
    worn_out_sessions: int = 0
    """Sessions that ended because their clients had left too many QoS 2 handshakes unfinished."""
    out_of_packet_ids: int = 0
    """Times a client was sent nothing because its unfinished QoS 2 handshakes had every identifier of this run."""
    bytes_in: int = 0
    bytes_out: int = 0

    dropped_expired: int = 0
    """Messages whose expiry interval passed while they waited."""
    dropped_queue_full: int = 0
    """Messages lost by a session queue at its limit, or by the limit of all queues together."""
    dropped_offline: int = 0
    """QoS 0 messages to a session without a connection."""
    dropped_too_large: int = 0
    """Messages above a client's maximum packet size [MQTT-3.1.2-25]."""
    dropped_not_permitted: int = 0
    """Messages from clients that may not publish to that topic."""
    dropped_invalid: int = 0
    """Messages from clients that said their payload was UTF-8 when it is not."""
    dropped_not_retained: int = 0
    """Messages delivered but not retained, for want of room."""

    def refuse(self, label: str) -> None:
        """Count a refused connection under its label."""
        self.refused[label] = self.refused.get(label, 0) + 1
