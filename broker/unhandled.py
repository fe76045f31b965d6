"""Inflight messages that a client has shown not to handle, found when its connection ends.

A client with a small buffer skips what is larger and never acknowledges it; another crashes over a message, returns, is
sent it first, and crashes again. Neither says so. All that can be seen is that a connection ended

    because the message was not acknowledged within `ack_timeout`: the oldest one, and every other that is as late and
    was overtaken by the acknowledgement of a later one; or
    right after a message was sent, as the oldest one that the client had not acknowledged.

Ends that are not the client's doing (the server stops, its token is void, silence on a dead network) show nothing, nor
does a take-over at once: two clients with one identifier throw each other out before they can answer. Whether it
happens again and again is for the embedder to count.
"""

from __future__ import annotations

from typing import Protocol

from broker.inflight import FORGET_DUE, PUBACK_DUE, PUBREC_DUE, Inflight
from broker.message import Message
from broker.shared_state import SharedState

RIGHT_AFTER_SECONDS = 60.0
"""Longest time from the message to the end: a small device that restarts is back in less."""
TAKE_OVER_SECONDS = 1.0
"""Shortest time from the message to a take-over by a restart: none restarts faster, and fights are faster."""
ACK_TIMEOUT = "ack timeout"
TAKEN_OVER = "session taken over"
ENDED_BY_CLIENT = frozenset(
    (
        "connection lost",
        "connection reset",
        "connection timed out",
        "disconnected",
        "malformed packet",
        "protocol error",
    )
)
"""Reasons for the end of a connection, as `Connection` gives them."""


class SentMessages(Protocol):
    """The part of `Outbound` that is needed here: `outbound` imports this module, not the other way round."""

    shared_state: SharedState
    inflight: dict[int, Inflight]
    """Messages on the wire, by packet identifier, in the order of sending."""
    resend: list[tuple[Inflight, Message | None]] | None
    """Messages that are not sent yet on this connection, last first."""
    next_packet_id: int


def unhandled(outbound: SentMessages, reason: str) -> list[Inflight]:
    """Return the unhandled messages of a connection that ends for `reason`, in the order of sending."""
    shared_state = outbound.shared_state
    now = shared_state.now
    unsent = {entry.packet_id for entry, _ in outbound.resend or ()}
    sent = [e for e in outbound.inflight.values() if e.phase < FORGET_DUE and e.packet_id not in unsent]
    oldest = sent[0] if sent else None
    if oldest is None or oldest.phase not in (PUBACK_DUE, PUBREC_DUE):
        return []
    age = now - oldest.sent_at
    if reason == ACK_TIMEOUT:
        return [
            entry
            for place, entry in enumerate(sent)
            if entry.phase in (PUBACK_DUE, PUBREC_DUE)
            and now - entry.sent_at >= shared_state.settings.ack_timeout
            and (entry is oldest or _sent_since(entry, outbound.next_packet_id) > len(sent) - 1 - place)
        ]
    taken_over = reason == TAKEN_OVER and age >= TAKE_OVER_SECONDS
    if (reason in ENDED_BY_CLIENT or taken_over) and age <= RIGHT_AFTER_SECONDS:
        return [oldest]
    return []


def _sent_since(entry: Inflight, next_packet_id: int) -> int:
    """Return the number of messages that were sent after this one, by their identifiers."""
    return (next_packet_id - 1 - entry.packet_id) % 65_535
