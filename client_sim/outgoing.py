"""Messages from the device: receipts, their limits, and which of them travel together."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

from client_sim.journal import OutgoingMessage
from client_sim.push import Push

log = logging.getLogger(__name__)

RECEIPTS_PER_MESSAGE = 20
"""Receipts travel in lists."""
BYTES_PER_MESSAGE = 16_384
"""Of such a list; the server reads four times as much."""
MAX_RESULT_BYTES = 4_096
"""Bytes of a result as JSON: what the server keeps."""


def is_channel_setting(name: object, wanted: object) -> bool:
    """True for a channel name and a setting that the server accepts."""
    return isinstance(name, str) and 1 <= len(name) <= 64 and isinstance(wanted, bool)


def receipt(
    push: Push, event: str, action: str | None = None, result: Any = None, reason: str | None = None
) -> OutgoingMessage:
    """A receipt as it is said. A result that is no JSON, or too long, is replaced by an error that says so."""
    said: dict[str, Any] = {
        "push_id": push.push_id,
        "event": event,
        "at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z",
    }
    if action is not None:
        said["action"] = action
    if reason is not None:
        said["reason"] = reason
    if result is not None:
        try:
            size = len(json.dumps(result, allow_nan=False))
            error = (
                f"a result of {size} bytes; at most {MAX_RESULT_BYTES} are kept" if size > MAX_RESULT_BYTES else None
            )
        except (TypeError, ValueError, RecursionError) as failure:
            error = f"a result that is no JSON: {failure}"
        if error is not None:
            log.error("push %s: %s", push.push_id, error)
        said["result"] = result if error is None else {"error": error}
    return "receipts", json.dumps(said)


def batch(rows: list[tuple[int, str, str | bytes]]) -> list[tuple[int, str, str | bytes]]:
    """The oldest rows that travel as one message: receipts in a row, any other message by itself."""
    size = count = 0
    for _, leaf, payload in rows:
        size += len(payload) + 1
        if count and (leaf != "receipts" or size > BYTES_PER_MESSAGE):
            break
        count += 1
        if leaf != "receipts":
            break
    return rows[:count]
