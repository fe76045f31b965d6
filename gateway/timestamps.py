"""Times as the API writes and reads them: RFC 3339, UTC, milliseconds, `Z`; inside they are integer milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache


@lru_cache(maxsize=256)  # the pushes of a batch have one time in common
def rfc3339(milliseconds: int) -> str:
    """1796113800000 -> `2026-12-01T08:30:00.000Z`."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:03d}Z"


def rfc3339_or_none(milliseconds: int | None) -> str | None:
    return None if milliseconds is None else rfc3339(milliseconds)
