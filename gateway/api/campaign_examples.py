"""Examples of requests and answers about campaigns: a part of `examples`, with its promises.

The campaign is for the devices of the tag that the example of a device has, and its canary is that device.
"""

from __future__ import annotations

from typing import Any, Final

from gateway.api.responses import CountsResponse

_CAMPAIGN: Final = {
    "name": "New price list",
    "push": {"target": {"tag": "lobby"}, "kind": "command", "data": {"command": "update"}},
    "canary": {"devices": ["kiosk-1"]},
    "rollout": ["10%", "rest"],
    "go_on": ["acted >= 95% in 10m"],
    "stop": ["refused + failed >= 3"],
}

BODIES: Final[dict[tuple[str, str], Any]] = {
    ("post", "/v1/campaigns"): _CAMPAIGN,
    ("post", "/v1/campaigns/forecast"): _CAMPAIGN,
    ("post", "/v1/campaigns/{campaign_id}/pause"): {"reason": "Somebody is on a ladder"},
    ("post", "/v1/campaigns/{campaign_id}/resume"): {"next_group": False},
    ("post", "/v1/campaigns/{campaign_id}/abort"): {},
}

_AT: Final = "2026-12-01T11:00:00.000Z"
_NONE_REACHED: Final = {"delivered": 0, "displayed": 0, "opened": 0, "acted": 0}
_ONE_WAITS: Final = {
    "counts": dict.fromkeys(CountsResponse.model_fields, 0) | {"targeted": 1, "waiting": 1},
    "reached": _NONE_REACHED,
    "failed": 0,
}
_SUMMARY: Final = {
    "campaign_id": "cR7mQ2xT9yLs8",
    "name": "New price list",
    "state": "running",
    "phase": "observing",
    "reason": None,
    "group": 1,
    "groups": 3,
    "targeted": 2,
    "created_by": "k_9f86d081884c",
    "approved_by": None,
    "created_at": _AT,
    "start_at": _AT,
    "started_at": _AT,
    "paused_at": None,
    "ended_at": None,
}
_GROUP: Final = {
    "group": 1,
    "name": "canary",
    "size": 1,
    "state": "observing",
    "conditions": [
        {"kind": "go_on", "condition": "acted >= 95% in 10m (0 of 1: 0%)", "holds": None},
        {"kind": "stop", "condition": "refused + failed >= 3 (0)", "holds": False},
    ],
    **_ONE_WAITS,
    "parts": [
        {"push_id": "Zk3vQm9xT2yLs8RbW4nA", "variant": None, "targeted": 1, "sent_at": _AT, "recalled": False},
    ],
}

ANSWERS: Final[dict[str, Any]] = {
    "Campaign": {
        **_SUMMARY,
        "plan": _CAMPAIGN,
        "holdout": 0,
        "not_planned": 0,
        "blast_radius": 1,
        **_ONE_WAITS,
        "group_results": [_GROUP],
        "variants": None,
        "result": None,
    },
    "CampaignForecast": {
        "targeted": 2,
        "unknown": [],
        "holdout": 0,
        "not_planned": 0,
        "groups": [
            {"group": 1, "name": "canary", "size": 1, "pace_ms": None},
            {"group": 2, "name": "10%", "size": 1, "pace_ms": None},
            {"group": 3, "name": "rest", "size": 0, "pace_ms": None},
        ],
        "variants": None,
        "parts": 2,
        "needs_approval": False,
    },
    "Campaigns": {"items": [_SUMMARY], "next_cursor": None},
    "Holdout": {"items": [{"device_id": "kiosk-2", "removed": False}], "next_cursor": None},
}
