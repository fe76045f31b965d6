from __future__ import annotations

from gateway.timestamps import WallTime, rfc3339, rfc3339_or_none


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
