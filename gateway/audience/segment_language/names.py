"""The names of the language: fields of a device and functions, each with an example.

A name that is not here is in no expression, and so in no SQL. The messages propose names from here, and a test compares
the tables in `docs/segments.md`.
"""

from __future__ import annotations

from typing import Final

from gateway.delivery_states import RECEIPT_STATES, DeliveryState

SETS: Final = {"tags": "'hall' in tags", "topics": "'news' in topics"}
TEXTS: Final = {
    "id": "id == 'kiosk-1'",
    "name": "name.startsWith('Hall')",
    "locale": "locale == 'de-CH'",
    "timezone": "timezone == 'Europe/Berlin'",
    "consent": "consent == 'granted'",
}
TIMES: Final = {
    "last_seen": "last_seen > now - duration('7d')",
    "enrolled_at": "enrolled_at < timestamp('2026-01-01T00:00:00Z')",
}
FIELDS: Final = {
    **SETS,
    "attributes": "attributes.model == 'K2'",
    **TEXTS,
    **TIMES,
    "online": "online",
    "now": "last_seen > now - duration('7d')",
}
"""Names and how they are used."""
RECEIPTS: Final[dict[str, DeliveryState]] = dict(RECEIPT_STATES)
CHANNEL_RECEIPTS: Final[dict[str, DeliveryState]] = {f"{name}_channel": state for name, state in RECEIPTS.items()}
HAS_MISSED: Final = "missed"
FUNCTIONS: Final = {
    "has": "has(attributes.model)",
    "size": "size(tags) > 2",
    "version": "version(attributes.version) < version('2.3')",
    "timestamp": "enrolled_at < timestamp('2026-01-01T00:00:00Z')",
    "duration": "last_seen > now - duration('7d')",
    "muted": "muted('offers')",
    **{name: f"{name}('PUSH_ID')" for name in RECEIPTS},
    HAS_MISSED: f"{HAS_MISSED}('PUSH_ID')",
    **{name: f"{name}('offers', duration('7d'))" for name in CHANNEL_RECEIPTS},
}
"""Functions and how they are called."""
METHODS: Final = {
    "startsWith": "attributes.model.startsWith('K')",
    "endsWith": "id.endsWith('-test')",
    "contains": "name.contains('Hall')",
}
"""Functions of a text, which are called behind it."""
CONSENTS: Final = ("granted", "denied", "unknown")
ELSEWHERE: Final = {
    "tag": "'hall' in tags",
    "topic": "'news' in topics",
    "attribute": "attributes.model == 'K2'",
    "channel": "!muted('offers')",
    "channels": "!muted('offers')",
    "device": "attributes.model == 'K2', or id == 'kiosk-1'",
    "device_id": "id == 'kiosk-1'",
    "connected": "online",
    "offline": "!online",
    "created_at": "enrolled_at < timestamp('2026-01-01T00:00:00Z')",
    "connected_at": "last_seen > now - duration('7d')",
    "language": "locale.startsWith('de')",
    "zone": "timezone == 'Europe/Berlin'",
    "matches": "attributes.model.startsWith('K')",
    "exists": "'hall' in tags",
    "all": "'hall' in tags && 'fair' in tags",
    "lower": "attributes.model in ['k2', 'K2']",
    "lowerAscii": "attributes.model in ['k2', 'K2']",
    "int": "attributes.age > 5",
    "string": "attributes.age > 5",
    "double": "attributes.age > 5",
    "days": "last_seen > now - duration('7d')",
    "date": "enrolled_at < timestamp('2026-01-01T00:00:00Z')",
}
"""Names that people try, and what they mean."""
