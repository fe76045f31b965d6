"""Examples of requests and answers about schedules: a part of `examples`, with its promises."""

from __future__ import annotations

from typing import Any, Final

from gateway.api.responses import CountsResponse

_SCHEDULE: Final = {
    "name": "Lunch",
    "push": {
        "target": {"tag": "lobby"},
        "notification": {"title": "Lunch is served", "body": "Today: soup"},
        "repeat": {"cron": "45 11 * * 1-5", "zone": "Europe/Vienna"},
        "spread": 60,
    },
}

BODIES: Final[dict[tuple[str, str], Any]] = {
    ("post", "/v1/schedules"): _SCHEDULE,
    ("post", "/v1/schedules/preview"): _SCHEDULE,
    ("patch", "/v1/schedules/{schedule_id}"): {"name": "Lunch on weekdays"},
}

_AT: Final = "2026-12-01T11:00:00.000Z"
_ID: Final = "sQm9xT2yLs8RbW4nA"
_NEXT: Final = [f"2026-12-0{day}T10:45:00.000Z" for day in (1, 2, 3, 4, 7)]
_RUN: Final = {
    "run": 17,
    "due": "2026-11-30T10:45:00.000Z",
    "state": "done",
    "reason": None,
    "problem": None,
    "asked": False,
    "targeted": 2,
    "left_out": 0,
    "skipped_dates": 0,
    "started_at": "2026-11-30T10:45:00.212Z",
    "ended_at": "2026-11-30T10:45:00.230Z",
    "push_ids": ["Zk3vQm9xT2yLs8RbW4nA"],
    "counts": dict.fromkeys(CountsResponse.model_fields, 0) | {"targeted": 2, "waiting": 1, "displayed": 1},
}
_LISTED: Final = {
    "schedule_id": _ID,
    "name": "Lunch",
    "state": "active",
    "missed": "catch_up",
    "push": _SCHEDULE["push"],
    "next": _NEXT[:1],
    "failures": 0,
    "created_at": _AT,
    "updated_at": _AT,
    "ended_at": None,
}

ANSWERS: Final[dict[str, Any]] = {
    "AcceptedSchedule": {"schedule_id": _ID, "next": _NEXT},
    "CancelledSchedule": {"schedule_id": _ID, "stopped": 0},
    "Schedule": {**_LISTED, "next": _NEXT, "last_run": _RUN},
    "SchedulePreview": {"next": _NEXT},
    "ScheduleRuns": {"items": [_RUN], "next_cursor": None},
    "Schedules": {"items": [_LISTED], "next_cursor": None},
}
