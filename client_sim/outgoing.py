"""Messages from the device: receipts, changes of settings, their limits, and which of them travel together."""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from typing import Any

from client_sim.journal import OutgoingMessage
from client_sim.push import Push

log = logging.getLogger(__name__)

TIME = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]")
CHANNEL_NAME = re.compile(r".{1,64}", re.DOTALL)
TOPIC_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
CLIENT = "fleetpush-python/1"
"""The program that asked the person, in the record of a consent."""
RECEIPTS_PER_MESSAGE = 20
"""Receipts travel in lists."""
BYTES_PER_MESSAGE = 16_384
"""The most bytes of such a list; the server reads four times as much."""
MAX_RESULT_BYTES = 4_096
"""Bytes of a result as JSON: what the server keeps."""


def consent_change(consent: str, text_version: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The change that a person's answer is, and what is recorded with it. Raises ValueError."""
    if consent not in ("unknown", "granted", "denied"):
        raise ValueError(f"consent is unknown, granted or denied, not {consent!r}")
    if text_version is not None and len(text_version) > 64:
        raise ValueError("a text version has at most 64 characters")
    return {"consent": consent}, {"client": CLIENT} | ({} if text_version is None else {"text_version": text_version})


def channels_change(channels: dict[str, bool]) -> dict[str, Any]:
    """The change that muting channels or taking them up again is. Raises ValueError."""
    return {"channels": _checked(channels, CHANNEL_NAME, "a channel's name (1 to 64 characters)")}


def topics_change(topics: dict[str, bool]) -> dict[str, Any]:
    """The change that joining topics (True) or leaving them (False) is. Raises ValueError."""
    return {"topics": _checked(topics, TOPIC_NAME, "a topic's name (1 to 64 of A-Z a-z 0-9 _ . : -)")}


def _checked(choices: dict[str, bool], names: re.Pattern[str], name_in_words: str) -> dict[str, bool]:
    given: dict[Any, Any] = choices  # a program without a type checker gives anything
    for name, wanted in given.items():
        if not (isinstance(name, str) and names.fullmatch(name) and isinstance(wanted, bool)):
            raise ValueError(f"{name_in_words} and True or False, not {name!r}: {wanted!r}")
    return choices


def quiet_hours_change(start: str | None, end: str | None) -> dict[str, Any]:
    """The change that other quiet hours are; start None: none. Raises ValueError."""
    if start is None:
        return {"quiet_hours": None}
    if end is None or start == end or not (TIME.fullmatch(start) and TIME.fullmatch(end)):
        raise ValueError(f"two different times HH:MM, not {start!r} and {end!r}")
    return {"quiet_hours": {"start": start, "end": end}}


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
