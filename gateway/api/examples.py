"""An example of each request body and of each answer, for the OpenAPI document and the form at `/docs`.

Sent as they stand, the requests do what they say and no harm. They belong together: the device that one enrols is the
one that the others change, and the push is for its tag. A test sends them, and compares the answers with what is given
here by their fields.
"""

from __future__ import annotations

import json
from typing import Any, Final

from gateway.api import access_examples, audit_examples, campaign_examples, history_examples, schedule_examples
from gateway.api.responses import CountsResponse

_PUSH: Final = {
    "target": {"tag": "lobby"},
    "notification": {"title": "Lunch is served", "body": "Today: soup"},
    "channel": "offers",
    "ttl": 3600,
}
_DUTY: Final = {
    "steps": [{"device": "kiosk-1", "wait_s": 60}, {"tag": "lobby", "wait_s": 120}],
    "acts": ["take"],
}
_TEMPLATE: Final = {
    "notification": {"title": "Lunch is served", "body": "Today: {{ values.dish }}"},
    "texts": {"de": {"title": "Mittagessen", "body": "Heute: {{ values.dish }}"}},
    "channel": "offers",
}
_DEVICE: Final = {"device_id": "kiosk-1", "name": "Entrance", "tags": ["lobby"], "timezone": "Europe/Berlin"}

BODIES: Final[dict[tuple[str, str], Any]] = {
    ("post", "/v1/pushes"): _PUSH,
    ("post", "/v1/pushes/batch"): f"{json.dumps(_PUSH)}\n{json.dumps({**_PUSH, 'idempotency_key': 'lunch-1'})}\n",
    ("post", "/v1/pushes/forecast"): _PUSH,
    ("post", "/v1/pushes/preview"): {"push": _PUSH, "device": "kiosk-1"},
    **access_examples.BODIES,
    **campaign_examples.BODIES,
    **schedule_examples.BODIES,
    ("post", "/v1/devices"): _DEVICE,
    ("post", "/v1/devices/bulk"): {"devices": [{"device_id": "kiosk-2", "tags": ["lobby"]}, {"name": "Any id"}]},
    ("post", "/v1/devices/tags"): {"devices": ["kiosk-1"], "add": ["ground-floor"]},
    ("post", "/v1/devices/removal"): {"devices": ["kiosk-2"]},
    ("post", "/v1/invitations"): {"count": 2, "tags": ["lobby"], "expires_in": 86_400},
    ("post", "/v1/invitations/bulk"): {"invitations": [{"device_id": "kiosk-3", "tags": ["lobby"]}, {"name": "Any"}]},
    ("post", "/v1/enrol"): {
        "code": "K7QF-2M9T-4XWA-0HZ6",
        "nonce": "dGhpcyBpcyBub3QgYSByZWFsIG5vbmNl",
        "attributes": {"serial": "007"},
    },
    ("post", "/v1/enrol/again"): {
        "device_id": "kiosk-1",
        "secret": "dGhpcyBpcyBub3QgYSByZWFsIHNlY3JldCwgc29ycnkhIQ",
        "note": "after a new disk",
    },
    ("patch", "/v1/devices/{device_id}"): {"name": "Entrance, left", "attributes": {"floor": 1}},
    ("patch", "/v1/devices/{device_id}/preferences"): {"channels": {"offers": True}},
    ("post", "/v1/devices/{device_id}/call"): {"command": "status", "wait": 2},
    ("post", "/v1/attachments"): "Today: soup",
    ("post", "/v1/channels"): {"id": "offers", "name": "Offers"},
    ("patch", "/v1/channels/{channel_id}"): {"description": "What is cheap today"},
    ("put", "/v1/segments/{segment_name}"): {"expression": "'lobby' in tags && attributes.floor == 1"},
    ("post", "/v1/segments/preview"): {"expression": "last_seen < now - duration('7d')"},
    ("put", "/v1/topics/{topic_name}/devices"): {"devices": ["kiosk-1"]},
    ("delete", "/v1/topics/{topic_name}/devices"): {"devices": ["kiosk-1"]},
    ("put", "/v1/policy"): {"timezone": "Europe/Berlin"},
    ("put", "/v1/duties/{duty_name}"): _DUTY,
    ("put", "/v1/templates/{template_name}"): _TEMPLATE,
    ("post", "/v1/templates/{template_name}/preview"): {"device": "kiosk-1", "values": {"dish": "soup"}},
    ("put", "/v1/heartbeats/{heartbeat_name}"): {"device": "kiosk-1"},
    ("put", "/v1/watches/{watch_name}"): {"channel": "offers", "every_s": 86_400},
    ("post", "/v1/webhooks"): {"url": "https://receiver.example/fleetpush", "types": ["delivery.*"]},
    ("patch", "/v1/webhooks/{webhook_id}"): {"description": "An example"},
    ("post", "/v1/webhooks/{webhook_id}/dead-letters/replay"): {},
}
PARAMETERS: Final = {
    "device_id": "kiosk-1",
    "channel_id": "offers",
    "topic_name": "news",
    "segment_name": "ground-floor",
    "duty_name": "control-room",
    "template_name": "lunch",
    "version": 1,
    "heartbeat_name": "store-7",
    "watch_name": "price-list",
    "by": "channel",
}
"""Parameters that a call cannot do without; other ids are made by the server."""

_UPLOADED: Final = "text/plain"
"""The only one of the content types of an upload that can be written here."""
_PUSH_ID: Final = "Zk3vQm9xT2yLs8RbW4nA"
_ACCEPTED: Final = {"push_id": _PUSH_ID, "targeted": 2, "suppressed": 0, "unknown": []}
_EXPECTED: Final = {"likely": 2, "will_expire": 0, "unknown_presence": 0, "sampled": False}
_HELD: Final = {rule: {"dropped": 0, "deferred": 0} for rule in ("capped", "quiet_hours")}
_AT: Final = "2026-12-01T11:00:00.000Z"
_SOON: Final = "2026-12-01T11:00:00.412Z"
_LATER: Final = "2026-12-01T12:00:00.000Z"
_COUNTS: Final = dict.fromkeys(CountsResponse.model_fields, 0) | {"targeted": 2, "waiting": 1, "displayed": 1}
_SENT: Final = {
    "push_id": _PUSH_ID,
    "target": {"tag": "lobby"},
    "kind": "alert",
    "priority": "normal",
    "qos": 1,
    "ttl": 3600,
    "channel": "offers",
    "notification": _PUSH["notification"],
    "sent_at": _AT,
    "expires_at": _LATER,
    "recalled_at": None,
    "sent_by": "k_3f9a1c77d2b0",
    "targeted": 2,
    "suppressed": 0,
    "counts": _COUNTS,
    "reached": {"delivered": 1, "displayed": 1, "opened": 0, "acted": 0},
}
_DELIVERY: Final = {
    "device_id": "kiosk-1",
    "state": "displayed",
    "reason": None,
    "qos": 1,
    "delivered_at": _SOON,
    "displayed_at": "2026-12-01T11:00:00.530Z",
    "dismissed_at": None,
    "opened_at": None,
    "acted_at": None,
    "ended_at": None,
    "not_before": None,
    "replaced_by": None,
    "attempts": 0,
    "action": None,
    "result": None,
}
_TOKEN: Final = "dGhpcyBpcyBub3QgYSByZWFsIHRva2VuLCBzb3JyeSE"
_CREDENTIAL: Final = {
    "device_id": "kiosk-1",
    "token": _TOKEN,
    "token_expires_at": None,
    "token_expires_in": None,
    "mqtt": {
        "host": "push.example",
        "port": 1883,
        "tls": False,
        "websocket": "ws://push.example:8080/mqtt",
        "client_id": "kiosk-1",
        "username": "kiosk-1",
        "password": _TOKEN,
        "topics": {
            "push": "default/devices/kiosk-1/push",
            "receipts": "default/devices/kiosk-1/receipts",
            "settings": "default/devices/kiosk-1/settings",
            "report": "default/devices/kiosk-1/report",
            "uplink": "default/devices/kiosk-1/uplink",
            "presence": "default/devices/kiosk-1/presence",
            "notices": "default/devices/kiosk-1/notices",
        },
    },
}
_KNOWN_DEVICE: Final = {
    "device_id": "kiosk-1",
    "name": "Entrance",
    "tags": ["lobby"],
    "topics": ["news"],
    "attributes": {"floor": 1, "battery": 81},
    "locale": None,
    "timezone": "Europe/Berlin",
    "created_at": _AT,
    "updated_at": _AT,
    "online": True,
    "address": "10.0.0.17:51312",
    "connected_at": _AT,
    "last_seen": _SOON,
    "last_error": None,
    "last_error_at": None,
    "consent": "granted",
    "channels": {"offers": True},
    "token_expires_at": None,
}
_SEGMENT: Final = {
    "name": "ground-floor",
    "expression": "'lobby' in tags && attributes.floor == 1",
    "created_at": _AT,
    "updated_at": _AT,
}
_INVITED: Final = {
    "id": "i_9f86d081884c7d65",
    "batch": "b_4fd0a3b2c1e5",
    "code": "K7QF-2M9T-4XWA-0HZ6",
    "url": "https://push.example/enrol#K7QF-2M9T-4XWA-0HZ6",
    "device_id": None,
    "name": None,
    "expires_at": "2026-12-02T11:00:00.000Z",
}
_INVITATION: Final[dict[str, Any]] = {
    "id": "i_9f86d081884c7d65",
    "batch": "b_4fd0a3b2c1e5",
    "state": "used",
    "device_id": "kiosk-3",
    "name": None,
    "tags": ["lobby"],
    "attributes": {},
    "locale": None,
    "timezone": None,
    "token_days": None,
    "created_at": _AT,
    "created_by": "k_9f86d081884c",
    "expires_at": "2026-12-02T11:00:00.000Z",
    "used_at": _LATER,
}
_ASKED: Final[dict[str, Any]] = {
    "id": "q_9f86d081884c7d65",
    "device_id": "kiosk-1",
    "state": "pending",
    "confirmation": "4T7-QK2",
    "address": "10.0.0.17",
    "note": "after a new disk",
    "asked_at": _AT,
    "polled_at": _SOON,
    "answered_at": None,
    "expires_at": _LATER,
}
_CHANNEL: Final = {
    "id": "offers",
    "name": "Offers",
    "description": "What is cheap today",
    "importance": "default",
    "sound": None,
    "may_mute": True,
    "caps": None,
    "quiet_hours": None,
}
_ADAPTED: Final = {
    "per_day": 4,
    "since": _AT,
    "decision": {
        "from_per_day": 8,
        "to_per_day": 4,
        "reason": "more_opted_out",
        "present": {
            "bucket": "29+",
            "device_days": 5200,
            "alerts": 23400,
            "rates": {"opened": 0.061, "opted_out": 0.0094, "dismissed": 0.31},
        },
        "below": {
            "bucket": "15-28",
            "device_days": 8100,
            "alerts": 22700,
            "rates": {"opened": 0.083, "opted_out": 0.0031, "dismissed": 0.29},
        },
    },
}
_CAPS: Final = {"limits": [], "groups": [{"tag": "vip", "segment": None, "limits": []}], "excess": "drop"}
_STORED_CHANNEL: Final = {
    **_CHANNEL,
    "caps": {**_CAPS, "adaptive": {"floor_per_day": 1, "ceiling_per_day": 8, "start_per_day": None}},
    "effective_caps": {**_CAPS, "limits": [{"count": 4, "per": "day"}]},
    "adapted": _ADAPTED,
    "created_at": _AT,
    "updated_at": _AT,
}


def _bucket(name: str, device_days: int, *counts: int, compared: dict[str, Any] | None = None) -> dict[str, Any]:
    share = {"rate": 0.01, "low": 0.0072, "high": 0.0139}
    return {
        "bucket": name,
        "device_days": device_days,
        **dict(zip(("alerts", "opened", "dismissed", "opted_out"), counts, strict=True)),
        "rates": dict.fromkeys(("opened", "opted_out", "dismissed"), share if device_days else None),
        "time_to_open_ms": {"p50": 48_000, "p90": 620_000, "p99": 3_100_000} if device_days else None,
        "compared": compared,
    }


_NOT_ENOUGH: Final = {name: {"verdict": "not_enough", "z": None} for name in ("opted_out", "dismissed")}
_FATIGUE: Final = {
    "channel": "offers",
    "tag": None,
    "since": "2026-11-03T00:00:00.000Z",
    "until": "2026-12-01T00:00:00.000Z",
    "counted_to": "2026-12-01T00:00:00.000Z",
    "base": "0-1",
    "buckets": [
        _bucket("0-1", 12_000, 4_000, 40, 40, 120),
        _bucket("2-3", 0, 0, 0, 0, 0, compared=_NOT_ENOUGH),
        _bucket("4-7", 0, 0, 0, 0, 0, compared=_NOT_ENOUGH),
        _bucket("8-14", 0, 0, 0, 0, 0, compared=_NOT_ENOUGH),
        _bucket(
            "15-28",
            9_000,
            21_000,
            210,
            210,
            270,
            compared={"opted_out": {"verdict": "higher", "z": 11.0}, "dismissed": {"verdict": "not_higher", "z": 0.0}},
        ),
        _bucket("29+", 0, 0, 0, 0, 0, compared=_NOT_ENOUGH),
    ],
    "leave_from": {"opted_out": "15-28", "dismissed": None},
    "verdict": "people_leave",
}
_STAGES: Final = {
    "targeted": 2,
    "eligible": 2,
    "delivered": 1,
    "displayed": 1,
    "dismissed": 0,
    "opened": 0,
    "acted": 0,
    "opted_out": 0,
    "rates": {"delivered": 0.5, "displayed": 1.0, "opened": 0.0, "acted": None, "opted_out": 0.0},
    "time_to_deliver_ms": {"p50": 412, "p90": 412, "p99": 412},
    "time_to_open_ms": None,
}
_FUNNEL: Final = {"channel": "offers", **_STAGES}
_STORED_DUTY: Final = {
    "name": "control-room",
    "description": None,
    **_DUTY,
    "repeat": 0,
    "opened": False,
    "running": 0,
    "created_at": _AT,
    "updated_at": _AT,
}
_STORED_TEMPLATE: Final = {"name": "lunch", "version": 1, "content": _TEMPLATE, "created_at": _AT}
_HEARTBEAT: Final = {
    "name": "store-7",
    "device": "kiosk-1",
    "every_s": 60,
    "within_s": 10,
    "misses": 2,
    "beat_at": _AT,
    "next_at": _LATER,
    "states": [
        {
            "device_id": "kiosk-1",
            "state": "answering",
            "since": _AT,
            "missed": 0,
            "answered_at": _SOON,
            "took_ms": 412,
        }
    ],
    "created_at": _AT,
    "updated_at": _AT,
}
_WATCH: Final = {
    "name": "price-list",
    "channel": "offers",
    "key_id": None,
    "every_s": 86_400,
    "silent": False,
    "heard_at": _AT,
    "due_at": "2026-12-02T11:00:00.000Z",
    "silent_at": None,
    "created_at": _AT,
    "updated_at": _AT,
}
_WEBHOOK: Final = {
    "id": "wh_3v9QmxT2yLs8RbW4",
    "url": "https://receiver.example/fleetpush",
    "types": ["delivery.*"],
    "description": "An example",
    "enabled": True,
    "disabled_at": None,
    "disabled_reason": None,
    "succeeded_at": None,
    "failed_at": None,
    "last_error": None,
    "dead_letters_dropped": 0,
    "created_at": _AT,
    "updated_at": _AT,
}
_EVENT: Final = {
    "id": "4711.0",
    "type": "delivery.displayed",
    "timestamp": "2026-12-01T11:00:00.530Z",
    "data": {"push_id": _PUSH_ID, "device_id": "kiosk-1", "channel": "offers"},
}
_CALLED: Final = {"push_id": _PUSH_ID, "reason": None}


def _page(item: Any) -> dict[str, Any]:
    return {"items": [item], "next_cursor": None}


ANSWERS: Final[dict[str, Any]] = {
    **audit_examples.ANSWERS,
    **access_examples.ANSWERS,
    **campaign_examples.ANSWERS,
    **history_examples.ANSWERS,
    **schedule_examples.ANSWERS,
    "AcceptedPush": _ACCEPTED,
    "Attachment": {
        "id": "76e8d0a8cf1a24d2c4b9e5b2bb2a1d2c6d8f0f37e0a6f5c1b0a9d8c7b6a5f4e3",
        "url": "http://push.example:8080/v1/attachments/76e8d0a8cf1a24d2c4b9e5b2bb2a1d2c6d8f0f37e0a6f5c1b0a9d8c7b6a5f4e3",
        "content_type": "text/plain",
        "size": 11,
        "created_at": _AT,
        "expires_at": "2026-12-08T11:00:00.000Z",
    },
    "AwaitedPush": {**_ACCEPTED, "targeted": 1, "delivery": _DELIVERY},
    "CallAnswer": {**_CALLED, "status": "answered", "state": "acted", "result": {"volume": 3}},
    "Channel": _STORED_CHANNEL,
    "Channels": _page(_STORED_CHANNEL),
    "ConsentRecords": {
        "items": [
            {
                "consent": "granted",
                "text_version": "v2",
                "client": "kiosk 2.1",
                "source": "mqtt",
                "seq": 7,
                "recorded_at": _AT,
            }
        ]
    },
    "CriticalUses": _page({"device_id": "kiosk-1", "push_id": _PUSH_ID, "passed": "quiet_hours", "at": _AT}),
    "DeadLetters": _page(
        {
            "id": "12",
            "events": [_EVENT],
            "attempts": 31,
            "error": "the receiver answered 500",
            "at": "2026-12-02T11:00:00.000Z",
            "replaying": False,
        }
    ),
    "ChangedDevices": {
        "selected": None,
        "devices": [{"device_id": "kiosk-1", "result": "changed"}],
        "next_cursor": None,
    },
    "Deliveries": _page(_DELIVERY),
    "Device": _KNOWN_DEVICE,
    "Devices": _page(_KNOWN_DEVICE),
    "Duties": _page(_STORED_DUTY),
    "Duty": _STORED_DUTY,
    "EmptiedMailbox": {"cancelled": 1},
    "EnrolledDevice": _CREDENTIAL,
    "EnrolledDevices": {"devices": [_CREDENTIAL]},
    "Escalations": _page(
        {
            "push_id": _PUSH_ID,
            "sent_at": _AT,
            "duty": "control-room",
            "state": "running",
            "step": 1,
            "round": 1,
            "next_at": "2026-12-01T11:01:00.000Z",
            "ended_at": None,
            "reason": None,
            "acted": None,
        }
    ),
    "Forecast": {"targeted": 2, "online": 1, "suppressed": {}, "unknown": [], **_EXPECTED, **_HELD},
    "Funnels": {"items": [_FUNNEL], "limited": False, "counted_from": None, "uncounted": 0},
    "Health": {"status": "ok"},
    "Heartbeat": _HEARTBEAT,
    "Heartbeats": _page(_HEARTBEAT),
    "Invitations": _page(_INVITATION),
    "Mailbox": _page(
        {
            "push_id": _PUSH_ID,
            "state": "waiting",
            "priority": "normal",
            "kind": "alert",
            "collapse_key": None,
            "sent_at": _AT,
            "expires_at": _LATER,
            "size": 231,
            "not_before": None,
            "attempts": 0,
        }
    ),
    "NewInvitations": {"invitations": [_INVITED]},
    "TestedWebhook": {
        "delivered": True,
        "status": 200,
        "error": None,
        "milliseconds": 31,
        "event": {"id": "test_5c1e", "type": "webhook.test", "timestamp": _AT, "data": {"webhook_id": "wh_1"}},
    },
    "NewWebhook": {**_WEBHOOK, "secret": "whsec_dGhpcyBpcyBub3QgYSByZWFsIHNlY3JldCE="},
    "PendingToken": {"status": "pending", "confirmation": "4T7-QK2"},
    "Policy": {
        "consent": {"unknown": "allow", "denied": {"in_app": "allow", "silent": "allow", "command": "allow"}},
        "caps": None,
        "quiet_hours": {"start": "22:00", "end": "07:00", "excess": "defer"},
        "timezone": "Europe/Berlin",
        "critical": {"per_day": 10},
        "joinable_topics": ["news"],
        "approve_above": None,
    },
    "Preferences": {
        "consent": "granted",
        "channels": [{**_CHANNEL, "muted": False}],
        "topics": ["news"],
        "joinable_topics": ["news"],
        "quiet_hours": None,
        "timezone": "Europe/Berlin",
        "seq": 7,
        "changed_at": _AT,
    },
    "Push": _SENT,
    "Fatigue": _FATIGUE,
    "PushFunnel": {"push_id": _PUSH_ID, **_STAGES, "counted_at": _LATER},
    "Pushes": _page(_SENT),
    "Recall": {"cancelled": 1, "in_flight": 0, "too_late": 1},
    "Replayed": {"replaying": 1},
    "RevokedInvitations": {"revoked": 1},
    "Preview": {
        "device_id": "kiosk-1",
        "template": {"name": "lunch", "version": 1},
        "push": {
            "kind": "alert",
            "channel": "offers",
            "priority": "normal",
            "qos": 1,
            "ttl": 86_400,
            "notification": {"title": "Lunch is served", "body": "Today: soup"},
        },
        "size": 193,
        "missing": [],
    },
    "Template": _STORED_TEMPLATE,
    "TemplateWithVersions": {**_STORED_TEMPLATE, "versions": [{"version": 1, "created_at": _AT}]},
    "Templates": _page({"name": "lunch", "version": 1, "size": 187, "created_at": _AT, "updated_at": _AT}),
    "Texts": _page({"text": 1, "devices": 2, "size": 201, "notification": _PUSH["notification"]}),
    "TokenRequest": _ASKED,
    "TokenRequests": _page(_ASKED),
    "Memberships": {"topic": "news", "devices": [{"device_id": "kiosk-1", "result": "joined"}]},
    "RemovedFromMailbox": {"cancelled": 1, "in_flight": 0, "too_late": 0},
    "RemovedTopic": {"left": 1},
    "Segment": {**_SEGMENT, "devices": 1, "examples": ["kiosk-1"]},
    "Segments": _page(_SEGMENT),
    "Selected": {"devices": 1, "examples": ["kiosk-1"]},
    "Tags": _page({"tag": "lobby", "devices": 2}),
    "Topic": {"topic": "news", "devices": 1},
    "TopicMembers": _page({"device_id": "kiosk-1", "joined_at": _AT}),
    "Topics": _page({"topic": "news", "devices": 1}),
    "Uplink": _page({"topic": "door", "payload": "open", "received_at": _AT}),
    "Watch": _WATCH,
    "Watches": _page(_WATCH),
    "Webhook": _WEBHOOK,
    "Webhooks": _page(_WEBHOOK),
}
"""Answers, by their model."""
_SPECIAL: Final[dict[tuple[str, str, str], Any]] = {
    ("post", "/v1/devices/{device_id}/call", "202"): {**_CALLED, "status": "queued", "state": "sent", "result": None},
    ("get", "/readyz", "200"): {"status": "ready"},
}
"""Answers of operations and statuses that answer something else than their model's usual."""
TEXTS: Final[dict[tuple[str, str, str], str]] = {
    ("post", "/v1/pushes/batch", "application/x-ndjson"): f"{json.dumps({'status': 202, **_ACCEPTED})}\n" * 2,
    ("get", "/v1/analytics", "application/x-ndjson"): f"{json.dumps(_FUNNEL)}\n",
    ("get", "/v1/analytics", "text/csv"): (
        "channel,targeted,eligible,delivered,displayed,dismissed,opened,acted,opted_out,rates_delivered,"
        "rates_displayed,rates_opened,rates_acted,rates_opted_out,time_to_deliver_ms_p50,time_to_deliver_ms_p90,"
        "time_to_deliver_ms_p99,time_to_open_ms_p50,time_to_open_ms_p90,time_to_open_ms_p99\r\n"
        "offers,2,2,1,1,0,0,0,0,0.5,1.0,0.0,,0.0,412,412,412,,,\r\n"
    ),
    **audit_examples.TEXTS,
    ("get", "/v1/attachments/{attachment_id}", "*/*"): "Today: soup",
    (
        "get",
        "/v1/enrol/ca",
        "application/x-pem-file",
    ): "-----BEGIN CERTIFICATE-----\nMIIB..\n-----END CERTIFICATE-----\n",
    (
        "get",
        "/v1/events",
        "text/event-stream",
    ): f"id: 4711.0\nevent: delivery.displayed\ndata: {json.dumps(_EVENT)}\n\n",
    ("get", "/metrics", "text/plain"): (
        "# HELP fleetpush_devices_online Devices connected.\n"
        "# TYPE fleetpush_devices_online gauge\nfleetpush_devices_online 1.0\n"
    ),
}
"""Answers that are no JSON."""


def body_of(method: str, path: str, media_type: str) -> Any:
    """The example of a request body; None if it cannot be written as text."""
    if path == "/v1/attachments" and media_type != _UPLOADED:
        return None
    return BODIES.get((method, path))


def answer_of(method: str, path: str, status: str, media_type: str, model: str) -> Any:
    """The example of an answer; None for what has none."""
    text = TEXTS.get((method, path, media_type))
    return text if text is not None else _SPECIAL.get((method, path, status), ANSWERS.get(model))
