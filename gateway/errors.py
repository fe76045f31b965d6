"""Every problem the API can answer, one row each (RFC 9457).

A `Problem` is raised anywhere behind the doors and becomes an `application/problem+json` document at the edge. `code`
is stable and meant for programs; `detail` says what to do; `retryable` says whether the same request may succeed
later unchanged. Each code has a row in README.md of this folder (a test compares).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True, frozen=True)
class Row:
    status: int
    title: str
    retryable: bool = False


CATALOGUE: dict[str, Row] = {
    "malformed_json": Row(400, "The body is not JSON"),
    "malformed_request": Row(400, "The request is not HTTP as it should be"),
    "unauthorized": Row(401, "A valid key is needed"),
    "forbidden": Row(403, "The key lacks a scope"),
    "not_found": Row(404, "There is nothing here"),
    "device_not_found": Row(404, "No such device"),
    "push_not_found": Row(404, "No such push"),
    "channel_not_found": Row(404, "No such channel"),
    "webhook_not_found": Row(404, "No such webhook"),
    "attachment_not_found": Row(404, "No such attachment"),
    "key_not_found": Row(404, "No such key"),
    "method_not_allowed": Row(405, "Not with this method"),
    "request_timeout": Row(408, "The body came too slowly", retryable=True),
    "device_exists": Row(409, "The device exists"),
    "app_exists": Row(409, "The app exists"),
    "channel_exists": Row(409, "The channel exists"),
    "last_admin_key": Row(409, "The last admin key"),
    "gone": Row(410, "No longer kept"),
    "payload_too_large": Row(413, "Too large"),
    "unsupported_media_type": Row(415, "Another content type is needed"),
    "invalid_request": Row(422, "The request is not valid"),
    "not_yet_supported": Row(422, "Not available in this version"),
    "too_many_devices": Row(422, "The app has as many devices as it may"),
    "idempotency_key_reused": Row(422, "The idempotency key belongs to another request"),
    "too_many_calls": Row(429, "Too many calls wait for their devices", retryable=True),
    "too_many_streams": Row(429, "Too many streams are open", retryable=True),
    "rate_limited": Row(429, "Too many requests", retryable=True),
    "internal_error": Row(500, "The server failed", retryable=True),
    "busy": Row(503, "Too many at once", retryable=True),
    "outcome_unknown": Row(503, "It may be stored, or not"),
    "storage_damaged": Row(503, "The ledger is damaged", retryable=True),
    "storage_failed": Row(503, "The disk failed", retryable=True),
    "unavailable": Row(503, "The server is not ready", retryable=True),
    "storage_full": Row(507, "The disk is full", retryable=True),
}


class Problem(Exception):
    """One refused request. Made by `problem`."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.retryable = CATALOGUE[code].retryable

    @property
    def status(self) -> int:
        return CATALOGUE[self.code].status

    def document(self) -> dict[str, Any]:
        """The problem document (RFC 9457, section 3) with our stable `code` and `retryable`."""
        row = CATALOGUE[self.code]
        return {
            "type": f"/docs/problems#{self.code}",
            "title": row.title,
            "status": row.status,
            "code": self.code,
            "detail": self.detail,
            "retryable": self.retryable,
        }


class Later(Problem):
    """What may be asked again after `retry_after` seconds."""

    def __init__(self, code: str, detail: str, retry_after: float) -> None:
        super().__init__(code, detail)
        self.retry_after = retry_after


class BasicUnauthorized(Problem):
    """401 where a device identifies itself with HTTP Basic (RFC 7617), and is to be asked for it."""

    def __init__(self, detail: str) -> None:
        super().__init__("unauthorized", detail)


class RateLimited(Later):
    """429."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(
            "rate_limited", "too many requests with this key; wait as long as Retry-After says", retry_after
        )


def problem(code: str, detail: str) -> Problem:
    """A problem of the catalogue; `detail` is for the caller, and never holds a secret."""
    assert code in CATALOGUE, f"no such problem: {code}"
    return Problem(code, detail)
