"""A body for each call that the form at `/docs` is filled in with: sent as it stands, it does what it says and no harm.

They belong together: the device that one enrols is the one that the others change, and the push is for its tag.
"""

from __future__ import annotations

import json
from typing import Any, Final

_PUSH: Final = {
    "target": {"tag": "lobby"},
    "notification": {"title": "Lunch is served", "body": "Today: soup"},
    "channel": "offers",
    "ttl": 3600,
}
_DEVICE: Final = {"device_id": "kiosk-1", "name": "Entrance", "tags": ["lobby"], "timezone": "Europe/Berlin"}

BODIES: Final[dict[tuple[str, str], Any]] = {
    ("post", "/v1/pushes"): _PUSH,
    ("post", "/v1/pushes/batch"): f"{json.dumps(_PUSH)}\n{json.dumps({**_PUSH, 'idempotency_key': 'lunch-1'})}\n",
    ("post", "/v1/pushes/forecast"): _PUSH,
    ("post", "/v1/devices"): _DEVICE,
    ("post", "/v1/devices/bulk"): {"devices": [{"device_id": "kiosk-2", "tags": ["lobby"]}, {"name": "Any id"}]},
    ("patch", "/v1/devices/{device_id}"): {"name": "Entrance, left", "attributes": {"floor": 1}},
    ("patch", "/v1/devices/{device_id}/preferences"): {"channels": {"offers": True}},
    ("post", "/v1/devices/{device_id}/call"): {"command": "status", "wait": 2},
    ("post", "/v1/channels"): {"id": "offers", "name": "Offers"},
    ("patch", "/v1/channels/{channel_id}"): {"description": "What is cheap today"},
    ("put", "/v1/policy"): {"timezone": "Europe/Berlin"},
    ("post", "/v1/webhooks"): {"url": "https://receiver.example/fleetpush", "types": ["delivery.*"]},
    ("patch", "/v1/webhooks/{webhook_id}"): {"description": "An example"},
    ("post", "/v1/webhooks/{webhook_id}/dead-letters/replay"): {},
    ("post", "/v1/apps"): {"id": "canteen"},
    ("post", "/v1/keys"): {"name": "A sender", "scopes": ["send"]},
}
PARAMETERS: Final = {"device_id": "kiosk-1", "channel_id": "offers"}
"""In paths; other ids are made by the server."""
