"""Every problem the API can answer, one row each (RFC 9457).

A `Problem` is raised anywhere below the API and becomes an `application/problem+json` document at the edge. `code`
is stable and meant for programs; `detail` says what to do; `retryable` says whether the same request may succeed
later unchanged. `docs/reference/errors.md` is made from this catalogue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True, frozen=True)
class ProblemKind:
    """A row of the catalogue of problems: status, title, when it is answered, and whether a retry may succeed."""

    status: int
    title: str
    """A few words, for a person who sees nothing else."""
    when: str
    """The cases in which it is answered."""
    retryable: bool = False


CATALOGUE: dict[str, ProblemKind] = {
    "malformed_json": ProblemKind(400, "The body is not JSON", "The body does not parse as JSON in UTF-8."),
    "malformed_request": ProblemKind(
        400,
        "The request is not HTTP as it should be",
        "The bytes on the HTTP port are no request, or the connection ended before the body did.",
    ),
    "unauthorized": ProblemKind(
        401,
        "A valid key is needed",
        "There is no key, or it is unknown or revoked; a session has ended; or a device's token is wrong. `/metrics` "
        "may ask for a key, too.",
    ),
    "forbidden": ProblemKind(
        403,
        "The key lacks a scope",
        "The key lacks the scope, or is of another app than the one that it would manage.",
    ),
    "not_same_origin": ProblemKind(
        403,
        "Not from a page of this server",
        "A request with the cookie of a session comes from a page of another origin, or lacks the header "
        "`Fleetpush-Console: 1`.",
    ),
    "approval_needed": ProblemKind(
        403,
        "Another key has to approve it",
        "A `command` is for more devices than the policy's `approve_above`, and is no campaign.",
    ),
    "other_key_needed": ProblemKind(
        403,
        "Another key is needed",
        "The key that made a campaign has tried to approve it.",
    ),
    "request_refused": ProblemKind(
        403,
        "The request was refused",
        "An operator has refused a device's request for a new token, or the device was removed.",
    ),
    "not_found": ProblemKind(
        404, "There is nothing here", "There is no such path; or no app of the id that a new key is for."
    ),
    "device_not_found": ProblemKind(
        404, "No such device", "No device of the key's app has this id, or any id of the list."
    ),
    "push_not_found": ProblemKind(
        404, "No such push", "No push of the key's app has this id, or it is no longer kept."
    ),
    "channel_not_found": ProblemKind(404, "No such channel", "No channel of this id was made in the key's app."),
    "topic_not_found": ProblemKind(404, "No such topic", "No device of the key's app is in a topic of this name."),
    "segment_not_found": ProblemKind(404, "No such segment", "No segment of the key's app has this name."),
    "duty_not_found": ProblemKind(404, "No such duty", "No duty of the key's app has this name."),
    "campaign_not_found": ProblemKind(
        404, "No such campaign", "No campaign of the key's app has this id, or it is no longer kept."
    ),
    "schedule_not_found": ProblemKind(
        404, "No such schedule", "No schedule of the key's app has this id, or it is no longer kept."
    ),
    "heartbeat_not_found": ProblemKind(404, "No such heartbeat", "No heartbeat of the key's app has this name."),
    "watch_not_found": ProblemKind(404, "No such watch", "No watch of the key's app has this name."),
    "template_not_found": ProblemKind(
        404, "No such template", "No template of the key's app has this name, or this version of it is no longer kept."
    ),
    "webhook_not_found": ProblemKind(404, "No such webhook", "No webhook of the key's app has this id."),
    "attachment_not_found": ProblemKind(
        404,
        "No such attachment",
        "No attachment of the key's app has this id, or it has expired.",
    ),
    "invitation_not_found": ProblemKind(
        404, "No such invitation", "No invitation of the key's app has this id, nor has a batch of them."
    ),
    "request_not_found": ProblemKind(
        404, "No such request", "No token request of the key's app has this id, or its device asks no more."
    ),
    "code_unknown": ProblemKind(
        404,
        "Nobody has this code",
        "An enrolment code was revoked, has expired long ago, or is of another server.",
    ),
    "key_not_found": ProblemKind(404, "No such key", "No key has this id."),
    "method_not_allowed": ProblemKind(
        405,
        "Not with this method",
        "The path exists, the method does not; the header `Allow` lists those that do.",
    ),
    "request_timeout": ProblemKind(
        408,
        "The body came too slowly",
        "The body came too slowly: under 1 KiB a second, looked at every 30 s, or for more than 10 minutes.",
        retryable=True,
    ),
    "schedule_ended": ProblemKind(
        409, "The schedule cannot do that now", "The schedule has ended or was cancelled; or it is paused."
    ),
    "device_exists": ProblemKind(409, "The device exists", "A device of this id is enrolled."),
    "code_used": ProblemKind(
        409,
        "The code was used",
        "An enrolment code is good for one device, and a device has it. That device asks again with its nonce, within "
        "an hour and before it has connected.",
    ),
    "request_answered": ProblemKind(
        409, "The request was answered", "A token request was refused, or its device has the new token already."
    ),
    "token_does_not_expire": ProblemKind(
        409, "The token never ends", "A token is renewed that never ends: the device was enrolled without `token_days`."
    ),
    "selection_changed": ProblemKind(
        409,
        "The filter selects other devices now",
        "A change of many devices expects another number of them than its filter selects by now.",
    ),
    "app_exists": ProblemKind(409, "The app exists", "There is an app of this id."),
    "campaign_state": ProblemKind(
        409,
        "The campaign is in another state",
        "A campaign cannot do that in its state: only what runs can be paused, and only what is paused be resumed.",
    ),
    "channel_exists": ProblemKind(409, "The channel exists", "There is a channel of this id."),
    "last_admin_key": ProblemKind(409, "The last admin key", "Nobody could make keys after it was revoked."),
    "gone": ProblemKind(
        410, "No longer kept", "Retention has removed what was asked for. Later the push itself is not found."
    ),
    "code_expired": ProblemKind(410, "The code has expired", "An enrolment code was not used in time."),
    "precondition_failed": ProblemKind(
        412,
        "It was changed meanwhile",
        "The header `If-Match` has the `ETag` of an earlier state: read it again, and decide anew.",
    ),
    "payload_too_large": ProblemKind(
        413,
        "Too large",
        "The body, the JSON values in it, or the push on the wire are over their limit; the detail names it.",
    ),
    "unsupported_media_type": ProblemKind(
        415,
        "Another content type is needed",
        "The header `Content-Type` is none that the operation reads.",
    ),
    "invalid_request": ProblemKind(
        422,
        "The request is not valid",
        "A field or a parameter is unknown, missing or out of range, or a limit is reached; the detail names it.",
    ),
    "invalid_expression": ProblemKind(
        422,
        "The expression is not valid",
        "An expression that selects devices has a mistake; the detail shows where, and `line` and `column` say it.",
    ),
    "too_many_topics": ProblemKind(
        422,
        "The app or the device has as many topics as it may",
        "An app has 10,000 topics at most, and a device is in 256 at most: leave or delete some first.",
    ),
    "template_error": ProblemKind(
        422,
        "A text cannot be rendered",
        "A template is no Liquid or does too much, what it yields is no notification, or devices lack a variable that "
        "it needs; the detail names it, with examples.",
    ),
    "too_many_texts": ProblemKind(
        422,
        "The push has too many texts",
        "Its devices differ in more than 1,000 combinations of what its texts use, or 250 if they are a million; or "
        "the texts have more than 4 MiB, or take more than 2 s to render.",
    ),
    "too_many_devices": ProblemKind(
        422,
        "The app has as many devices as it may",
        "The app has 1,000,000 devices: remove some first.",
    ),
    "too_many_invitations": ProblemKind(
        422,
        "The app has as many invitations as it may",
        "The app keeps 100,000 invitations: revoke some first, or wait until old ones are removed.",
    ),
    "idempotency_key_reused": ProblemKind(
        422,
        "The idempotency key belongs to another request",
        "The idempotency key came before with another body.",
    ),
    "too_many_calls": ProblemKind(
        429,
        "Too many callers wait for their devices",
        "1,000 calls and pushes wait for their devices, or 250 of this app.",
        retryable=True,
    ),
    "too_many_escalations": ProblemKind(
        429,
        "Too many pushes to duties are under way",
        "Nobody has acted yet on 1,000 pushes of this app to duties, or on 10,000 of all.",
        retryable=True,
    ),
    "too_many_campaigns": ProblemKind(
        429,
        "Too many campaigns are under way",
        "100 campaigns of this app, or 1,000 of all, have not ended.",
        retryable=True,
    ),
    "too_many_schedules": ProblemKind(
        429,
        "The app has too many schedules",
        "The app has 1,000 schedules that are active or paused, or their pushes have 64 MiB.",
    ),
    "too_many_streams": ProblemKind(
        429,
        "Too many streams are open",
        "200 streams of events are open, 100 of this app, or 20 of this key.",
        retryable=True,
    ),
    "too_many_attempts": ProblemKind(
        429,
        "Too many wrong codes or keys",
        "So many answers to wrong enrolment codes, or keys at the console's sign-in, of the address, or of all, are "
        "being held back that this one is not.",
        retryable=True,
    ),
    "rate_limited": ProblemKind(
        429,
        "Too many requests",
        "The key sent more requests in a second than the setting `request_limit` (default 20,000) allows, or signed in "
        "at the console more than 40 times in a row; or the token that is to be renewed is less than a minute old.",
        retryable=True,
    ),
    "internal_error": ProblemKind(
        500,
        "The server failed",
        "A mistake in the server. Its log has the details.",
        retryable=True,
    ),
    "busy": ProblemKind(
        503,
        "Too many at once",
        "Too much is under way: HTTP connections, reads or changes of the app, large bodies, uploads or "
        "downloads; or another program keeps the ledger locked.",
        retryable=True,
    ),
    "outcome_unknown": ProblemKind(
        503,
        "It may be stored, or not",
        "The disk did not confirm a commit (a failed fsync): it may be stored, or not, and the server ends. "
        "Send again with the same `Idempotency-Key` when it is back.",
    ),
    "storage_damaged": ProblemKind(
        503,
        "The ledger is damaged",
        "The ledger is damaged: nothing was stored. Stop the server, check the disk, restore a backup.",
        retryable=True,
    ),
    "storage_failed": ProblemKind(
        503,
        "The disk failed",
        "The disk refused to read or write: nothing was stored. The log says why.",
        retryable=True,
    ),
    "unavailable": ProblemKind(
        503,
        "The server is not ready",
        "The server is starting or ending, its database does not answer, or the rest of a list could not be stored.",
        retryable=True,
    ),
    "storage_full": ProblemKind(
        507,
        "The disk is full",
        "There is no room on the disk, or for attachments: nothing was stored.",
        retryable=True,
    ),
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


class RetryableProblem(Problem):
    """A problem that may be over after `retry_after` seconds."""

    def __init__(self, code: str, detail: str, retry_after: float) -> None:
        super().__init__(code, detail)
        self.retry_after = retry_after


class BasicUnauthorized(Problem):
    """401 where a device identifies itself with HTTP Basic (RFC 7617), and is to be asked for it."""

    def __init__(self, detail: str) -> None:
        super().__init__("unauthorized", detail)


class InvalidExpression(Problem):
    """A mistake in an expression over devices; the detail has several lines, the last two show the place."""

    def __init__(self, detail: str, line: int, column: int) -> None:
        super().__init__("invalid_expression", detail)
        self.line = line
        self.column = column
        """Both count from 1; characters, not bytes."""

    def document(self) -> dict[str, Any]:
        return {**super().document(), "line": self.line, "column": self.column}


class RateLimited(RetryableProblem):
    """Problem 429, for a key that asks too often."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(
            "rate_limited", "too many requests with this key; wait as long as Retry-After says", retry_after
        )


def problem(code: str, detail: str) -> Problem:
    """A problem of the catalogue; `detail` is for the caller, and never holds a secret."""
    assert code in CATALOGUE, f"no such problem: {code}"
    return Problem(code, detail)
