"""The user property `retry-after` of CONNACK and DISCONNECT: the time at which a refused client should return.

MQTT 5.0 has no property for it, and 3.1.1 has no properties at all. A client that does not know the hint, or is not
given one, spreads its return by itself: full jitter.

Whole seconds, drawn for each client: a fleet that is told to come back returns at `RETURNS_PER_SECOND`, not at once.
The client adds up to a second of its own, so that nobody returns on the tick.
"""

from __future__ import annotations

from secrets import randbelow
from typing import Final

from broker.protocol.packets import ReasonCode

RETRY_AFTER: Final = "retry-after"
RETURNS_PER_SECOND: Final = 2_000
"""Clients a second that are asked to come back: fewer than one core lets in, so that what they come back for has room
beside them."""
TEMPORARY_REASONS: Final = frozenset(
    (ReasonCode.SERVER_UNAVAILABLE, ReasonCode.SERVER_BUSY, ReasonCode.SERVER_SHUTTING_DOWN)
)
"""Reasons that pass by themselves; a client refused for another one would come back to the same answer."""


def retry_hint(reason_code: int, clients: int) -> list[tuple[str, str]]:
    """User properties that tell one of `clients` clients when to come back; empty where that would not help."""
    if reason_code not in TEMPORARY_REASONS:
        return []
    return [(RETRY_AFTER, str(1 + randbelow(1 + clients // RETURNS_PER_SECOND)))]
