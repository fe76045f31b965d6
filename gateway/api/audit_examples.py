"""Examples of answers about the audit log: a part of `examples`."""

from __future__ import annotations

import json
from typing import Any, Final

_ENTRY: Final = {
    "seq": 41,
    "at": "2026-12-01T08:30:00.000Z",
    "actor": "key:k_3f9a1c77d2b0",
    "action": "device.change",
    "object": "device:kiosk-1",
    "address": "192.0.2.7",
    "result": "done",
    "details": {"fields": ["name", "tags"]},
    "hash": "c2e1a4f09b7d6358e1f0a9d8c7b6a5f4e3d2c1b0a9f8e7d6c5b4a39281706f5e",
}
ANSWERS: Final[dict[str, Any]] = {
    "AuditEntries": {"items": [_ENTRY], "next_cursor": None},
    "AuditChain": {
        "app": "default",
        "head": {"seq": 41, "hash": _ENTRY["hash"]},
        "base": {"seq": 0, "hash": "0d4f7a31c8b2e6957f10a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f7"},
        "oldest_at": "2026-11-02T07:00:00.000Z",
        "bytes": 11_234,
    },
}
_EVIDENCE: Final = (
    {
        "type": "evidence",
        "version": 1,
        "app": "default",
        "device_id": "kiosk-1",
        "made_at": "2026-12-01T08:30:00.000Z",
        "since": None,
        "until": None,
    },
    {"type": "delivery", "delivery": {"push_id": "p0Fq3xkD1bA9TgYw2Lr5", "state": "displayed", "sent_by": "k_1"}},
    {"type": "event", "event": {"id": "4711.0", "type": "delivery.displayed"}},
    {"type": "slice", "lines": 3, "sha256": "9b2e7c4d" * 8},
    {"type": "base", "seq": 0, "hash": "0d4f7a31" * 8},
    {"type": "digests", "digests": ["5f1c0b7e" * 8]},
    {"type": "entry", "entry": _ENTRY},
    {"type": "head", "seq": 41, "hash": _ENTRY["hash"]},
)
TEXTS: Final = {
    ("get", "/v1/devices/{device_id}/evidence", "application/x-ndjson"): "".join(
        f"{json.dumps(line)}\n" for line in _EVIDENCE
    )
}
