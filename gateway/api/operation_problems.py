"""The problems that each operation can answer, for the OpenAPI document and the page of all problems.

Most follow from what an operation is: whether it needs a key, reads a body, changes something, names a device. What is
left has a row in SPECIFIC. The tests hold every problem that they are answered against this.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.errors import CATALOGUE

Operation = tuple[str, str]
"""Method in lower case, and path as the document has it."""

OF_NO_OPERATION: Final = ("not_found", "method_not_allowed")
"""Answered where there is no operation; `not_found` also by one that names an app."""
EVERYWHERE: Final = ("malformed_request", "invalid_request", "internal_error", "busy")
"""The head of the request, its query, our mistakes, and a server that has no connection free."""
WITH_KEY: Final = ("unauthorized", "forbidden", "not_same_origin", "rate_limited")
"""`not_same_origin`: with a session instead of a key."""
AT_LEDGER: Final = ("storage_failed", "storage_damaged")
"""A key or a code is looked up in the ledger."""
WITHOUT_KEY: Final = (
    ("post", "/v1/enrol"),
    ("post", "/v1/enrol/again"),
    ("get", "/v1/enrol/ca"),
    ("post", "/v1/session"),
    ("get", "/v1/session"),
    ("delete", "/v1/session"),
    ("get", "/v1/session/options"),
)
"""Operations below `/v1` that devices call which have no token yet, and people who sign in."""
WITH_BODY: Final = ("request_timeout", "payload_too_large", "unsupported_media_type", "unavailable")
"""`unavailable`: the server ends while the body comes."""
WITH_JSON: Final = ("malformed_json",)
ON_WRITER: Final = ("storage_full", "outcome_unknown")
"""Problems of a commit, for operations that write, or read between two commits."""
IN_PATH: Final = {
    "device_id": ("device_not_found",),
    "push_id": ("push_not_found", "gone"),
    "campaign_id": ("campaign_not_found",),
    "channel_id": ("channel_not_found",),
    "segment_name": ("segment_not_found",),
    "topic_name": ("topic_not_found",),
    "duty_name": ("duty_not_found",),
    "schedule_id": ("schedule_not_found",),
    "heartbeat_name": ("heartbeat_not_found",),
    "watch_name": ("watch_not_found",),
    "template_name": ("template_not_found",),
    "version": (),
    "webhook_id": ("webhook_not_found",),
    "attachment_id": ("attachment_not_found",),
    "key_id": ("key_not_found",),
    "invitation_id": ("invitation_not_found",),
    "request_id": ("request_not_found",),
}
_TEXTS: Final = ("template_not_found", "template_error", "too_many_texts")
_CAMPAIGN: Final = (
    "device_not_found",
    "segment_not_found",
    "attachment_not_found",
    "invalid_expression",
    *_TEXTS,
)
_PUSH: Final = (*_CAMPAIGN, "duty_not_found", "approval_needed")
_ENROLMENT: Final = ("device_exists", "too_many_devices")
SPECIFIC: Final[Mapping[Operation, tuple[str, ...]]] = {
    ("post", "/v1/pushes"): (
        *_PUSH,
        "too_many_escalations",
        "too_many_calls",
        "too_many_schedules",
        "idempotency_key_reused",
    ),
    ("post", "/v1/campaigns"): (*_CAMPAIGN, "too_many_campaigns", "idempotency_key_reused"),
    ("post", "/v1/campaigns/forecast"): _CAMPAIGN,
    ("post", "/v1/campaigns/{campaign_id}/pause"): ("campaign_state",),
    ("post", "/v1/campaigns/{campaign_id}/resume"): ("campaign_state",),
    ("post", "/v1/campaigns/{campaign_id}/approve"): ("campaign_state", "other_key_needed"),
    ("post", "/v1/campaigns/{campaign_id}/abort"): ("campaign_state",),
    ("post", "/v1/schedules"): (*_PUSH, "too_many_schedules", "idempotency_key_reused"),
    ("post", "/v1/schedules/preview"): _PUSH,
    ("patch", "/v1/schedules/{schedule_id}"): (*_PUSH, "schedule_ended"),
    ("post", "/v1/schedules/{schedule_id}/pause"): ("schedule_ended",),
    ("post", "/v1/schedules/{schedule_id}/resume"): ("schedule_ended",),
    ("post", "/v1/schedules/{schedule_id}/run"): ("schedule_ended",),
    ("post", "/v1/pushes/forecast"): _PUSH,
    ("post", "/v1/pushes/preview"): ("device_not_found", "attachment_not_found", *_TEXTS),
    ("get", "/v1/pushes/{push_id}/deliveries"): ("device_not_found",),
    ("get", "/v1/pushes/{push_id}/texts"): ("device_not_found",),
    ("put", "/v1/templates/{template_name}"): ("template_error",),
    ("post", "/v1/templates/{template_name}/preview"): (
        "device_not_found",
        "attachment_not_found",
        "template_error",
        "payload_too_large",
    ),
    ("post", "/v1/devices"): _ENROLMENT,
    ("get", "/v1/devices"): ("invalid_expression",),
    ("post", "/v1/devices/tags"): ("invalid_expression", "selection_changed"),
    ("post", "/v1/devices/removal"): ("invalid_expression", "selection_changed"),
    ("post", "/v1/invitations"): ("too_many_invitations", "payload_too_large"),
    ("post", "/v1/invitations/bulk"): ("too_many_invitations",),
    ("post", "/v1/enrol"): (*_ENROLMENT, "code_unknown", "code_used", "code_expired", "too_many_attempts"),
    ("post", "/v1/devices/{device_id}/token/renewal"): ("token_does_not_expire",),
    ("post", "/v1/enrol/again"): ("request_refused",),
    ("post", "/v1/token-requests/{request_id}/confirm"): ("request_answered",),
    ("delete", "/v1/token-requests/{request_id}"): ("request_answered",),
    ("get", "/v1/enrol/ca"): ("not_found",),
    ("post", "/v1/devices/{device_id}/call"): ("too_many_calls", "gone", "approval_needed"),
    ("post", "/v1/channels"): ("channel_exists",),
    ("put", "/v1/policy"): ("precondition_failed",),
    ("put", "/v1/segments/{segment_name}"): ("invalid_expression",),
    ("get", "/v1/segments/{segment_name}"): ("invalid_expression",),
    ("post", "/v1/segments/preview"): ("invalid_expression",),
    ("put", "/v1/topics/{topic_name}/devices"): ("payload_too_large",),
    ("put", "/v1/watches/{watch_name}"): ("key_not_found",),
    ("get", "/v1/events"): ("too_many_streams",),
    ("post", "/v1/session"): ("unauthorized", "not_same_origin", "too_many_attempts", "rate_limited"),
    ("get", "/v1/session"): ("unauthorized", "not_same_origin"),
    ("delete", "/v1/session"): ("unauthorized", "not_same_origin"),
    ("post", "/v1/apps"): ("app_exists",),
    ("get", "/v1/keys"): ("not_found",),
    ("post", "/v1/keys"): ("not_found",),
    ("delete", "/v1/keys/{key_id}"): ("last_admin_key",),
    ("get", "/healthz"): ("not_found",),
    ("get", "/readyz"): ("unavailable",),
    ("get", "/metrics"): ("unauthorized",),
}
OF_ITEMS: Final[Mapping[Operation, tuple[str, ...]]] = {
    ("post", "/v1/pushes/batch"): (
        *_PUSH,
        "too_many_escalations",
        "idempotency_key_reused",
        "malformed_json",
        "payload_too_large",
        "invalid_request",
        "unavailable",
        "storage_failed",
        "storage_damaged",
        "storage_full",
        "outcome_unknown",
        "busy",
    ),
    ("put", "/v1/topics/{topic_name}/devices"): ("device_not_found", "too_many_topics", "unavailable", "busy"),
    ("delete", "/v1/topics/{topic_name}/devices"): ("device_not_found", "unavailable", "busy"),
    ("post", "/v1/invitations/bulk"): ("payload_too_large", "invalid_request"),
    ("post", "/v1/devices/tags"): ("device_not_found", "invalid_request", "unavailable", "busy"),
    ("post", "/v1/devices/removal"): ("device_not_found", "unavailable", "busy"),
    ("post", "/v1/devices/bulk"): (*_ENROLMENT, "payload_too_large", "invalid_request", "unavailable", "busy"),
}
"""Problems of single lines or devices, within an answer that is a success."""
READS: Final = (
    ("post", "/v1/pushes/forecast"),
    ("post", "/v1/pushes/preview"),
    ("post", "/v1/campaigns/forecast"),
    ("post", "/v1/segments/preview"),
    ("post", "/v1/templates/{template_name}/preview"),
    ("post", "/v1/schedules/preview"),
    ("post", "/v1/webhooks/{webhook_id}/test"),
)
"""Operations that store nothing, whatever their method."""
READS_ON_WRITER: Final = (("get", "/v1/devices/{device_id}/mailbox"),)


def codes_of(method: str, path: str, operation: Mapping[str, Any]) -> list[str]:
    """The codes that an operation of the OpenAPI document can answer, in the order of the catalogue."""
    key = (method, path)
    found = {*EVERYWHERE, *SPECIFIC.get(key, ())}
    if path.startswith("/v1/"):
        found.update(AT_LEDGER if key in WITHOUT_KEY else (*WITH_KEY, *AT_LEDGER))
        if key in READS_ON_WRITER or (method != "get" and key not in READS):
            found.update(ON_WRITER)
    if "requestBody" in operation:
        found.update(WITH_BODY)
        if any(kind.endswith("json") and "ndjson" not in kind for kind in operation["requestBody"]["content"]):
            found.update(WITH_JSON)
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            found.update(IN_PATH[parameter["name"]])
    return [code for code in CATALOGUE if code in found]


def operations_by_code(document: Mapping[str, Any]) -> dict[str, list[str]]:
    """Code -> the operations of an OpenAPI document that can answer it, as `POST /v1/pushes`."""
    found: dict[str, list[str]] = {code: [] for code in CATALOGUE}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            codes = {*codes_of(method, path, operation), *OF_ITEMS.get((method, path), ())}
            for code in codes:
                found[code].append(f"{method.upper()} {path}")
    return found
