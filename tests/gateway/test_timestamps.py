from __future__ import annotations

from gateway.timestamps import rfc3339, rfc3339_or_none


def test_times_are_utc_with_milliseconds() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(1_796_113_800_007) == "2026-12-01T08:30:00.007Z"
    assert rfc3339_or_none(None) is None
