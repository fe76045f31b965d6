"""Examples of answers about what has happened: the figures of an overview, and the history of a device and of a push.

They belong to those of `examples`: the same device, and the same push.
"""

from __future__ import annotations

from typing import Any, Final

from gateway.minute_counts import COUNTS, LEVELS

_AT: Final = "2026-12-01T11:00:00.000Z"
_PUSH_ID: Final = "Zk3vQm9xT2yLs8RbW4nA"
_PUSH: Final = {"kind": "alert", "title": "Lunch is served", "body": "Today: soup", "sent_at": _AT}
ANSWERS: Final[dict[str, Any]] = {
    "Connection": {
        "online": True,
        "connected_at": "2026-12-01T10:41:15.310Z",
        "address": "192.0.2.7:51324",
        "listener": "tls",
        "protocol": "5.0",
        "keep_alive": 60,
        "subscribed_qos": 1,
        "in_flight": 0,
        "since": "2026-12-01T08:00:00.000Z",
        "disconnects": [
            {
                "at": "2026-12-01T10:41:12.070Z",
                "reason": "keep_alive",
                "text": "nothing was heard of the device for one and a half times its keep alive",
                "detail": None,
                "duration": 5028.4,
            }
        ],
    },
    "DeviceDeliveries": {
        "items": [
            {
                **_PUSH,
                "push_id": _PUSH_ID,
                "channel": "offers",
                "priority": "normal",
                "collapse_key": None,
                "expires_at": "2026-12-01T12:00:00.000Z",
                "state": "displayed",
                "reason": None,
                "qos": 1,
                "delivered_at": "2026-12-01T11:00:00.412Z",
                "displayed_at": "2026-12-01T11:00:01.006Z",
                "dismissed_at": None,
                "opened_at": None,
                "acted_at": None,
                "ended_at": None,
                "replaced_by": None,
                "attempts": 0,
                "not_before": None,
                "action": None,
                "result": None,
            }
        ],
        "next_cursor": None,
        "searched_to": None,
    },
    "DeviceEvents": {
        "items": [
            {
                "id": "4711.0",
                "type": "delivery.displayed",
                "timestamp": "2026-12-01T11:00:01.006Z",
                "data": {"push_id": _PUSH_ID, "device_id": "kiosk-1", "channel": "offers"},
                "push": _PUSH,
            },
            {
                "id": "4690.3",
                "type": "device.disconnected",
                "timestamp": "2026-12-01T10:41:12.070Z",
                "data": {"device_id": "kiosk-1", "reason": "keep_alive", "duration": 5028.4},
            },
        ],
        "next_cursor": "4690",
        "searched_to": "2026-12-01T10:41:12.200Z",
    },
    "Reasons": {
        "push_id": _PUSH_ID,
        "targeted": 2,
        "items": [
            {"state": "displayed", "reason": None, "count": 1},
            {"state": "suppressed", "reason": "channel_muted", "count": 1},
        ],
    },
    "Stats": {
        "since": "2026-12-01T10:58:12.000Z",
        "at": "2026-12-01T11:00:07.250Z",
        "devices": 2,
        "online": 1,
        "waiting": 1,
        "waiting_counted_at": "2026-12-01T11:00:04.000Z",
        "curves": {
            "from": "2026-12-01T10:59:00.000Z",
            "step_seconds": 60,
            **{name: [0, 0] for name in (*COUNTS, *LEVELS)},
            "pushes": [0, 1],
            "targeted": [0, 2],
            "delivered": [0, 1],
            "online": [1, 1],
            "waiting": [0, 1],
        },
        "webhooks": {
            "enabled": 1,
            "disabled": 0,
            "failing": [
                {
                    "id": "wh_8f14e45f",
                    "url": "https://example.org/hooks",
                    "since": "2026-12-01T10:31:00.000Z",
                    "last_error": "the receiver answered 500",
                }
            ],
        },
        "heartbeats_silent": 0,
        "senders_silent": 0,
        "server": {
            "version": "0.9.0",
            "started_at": "2026-12-01T10:58:12.000Z",
            "ready": True,
            "devices_online": 1,
            "disk_left_bytes": 912_680_550,
            "disk_free_bytes": 1_181_116_006,
            "database_bytes": 5_242_880,
            "webhooks_failing": 1,
            "certificates": [{"name": "server", "ends_at": "2027-02-01T00:00:00.000Z", "days_left": 61.54}],
            "alerts": [
                {
                    "name": "FleetpushDiskFilling",
                    "severity": "warning",
                    "value": 912_680_550,
                    "summary": "The disk fills: free some space, or shorten retention_days.",
                }
            ],
        },
    },
}
