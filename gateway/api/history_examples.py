"""Examples of answers about what has happened: the figures of an overview, and the history of a device and of a push.

They belong to those of `examples`: the same device, and the same push.
"""

from __future__ import annotations

from typing import Any, Final

from gateway.minute_counts import COUNTS, LEVELS

ANSWERS: Final[dict[str, Any]] = {
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
