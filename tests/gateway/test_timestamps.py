from __future__ import annotations

import pytest

from gateway.timestamps import WallTime, retry_after_ms, rfc3339, rfc3339_or_none


def test_times_are_utc_with_milliseconds() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(1_796_113_800_007) == "2026-12-01T08:30:00.007Z"
    assert rfc3339_or_none(None) is None


def test_each_time_is_shown_by_the_offset_that_held_at_it() -> None:
    wall = WallTime()
    assert wall.of(5) == 5
    wall.set_offsets([(1_000, 300), (2_000, -100)])
    assert [wall.of(at) for at in (999, 1_000, 1_999, 2_000, 9_000)] == [999, 1_300, 2_299, 1_900, 8_900]
    assert wall.offsets() == [(1_000, 300), (2_000, -100)]


def test_a_time_on_the_wall_is_found_again() -> None:
    wall = WallTime()
    assert wall.to_server(7) == 7
    wall.set_offsets([(1_000, 300), (2_000, -100)])
    for at in (500, 1_000, 2_000, 5_000):
        assert wall.to_server(wall.of(at)) == at
    assert wall.to_server(1_100) == 1_000, "the clock was set past it"


@pytest.mark.parametrize(
    ("header", "milliseconds"),
    [
        ("0", 0),
        (" 120 ", 120_000),
        ("9" * 400, 999_999_999_000),
        ("Tue, 01 Dec 2026 08:30:30 GMT", 30_000),
        ("Tuesday, 01-Dec-26 08:30:30 GMT", 30_000),
        ("Tue, 01 Dec 2026 09:30:30 +0100", 30_000),
        ("Tue, 01 Dec 2026 08:30:30 -0000", 30_000),
        ("Tue, 01 Dec 2026 08:00:00 GMT", 0),
        ("soon", 0),
        ("", 0),
        ("-5", 0),
        ("Tue, 99 Dec 2026 08:30:30 GMT", 0),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str, milliseconds: int) -> None:
    assert retry_after_ms(header, 1_796_113_800_000) == milliseconds
