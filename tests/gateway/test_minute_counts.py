from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import minute_counts
from gateway.minute_counts import COUNTS, EVENT_TYPES, KEPT_MINUTES, LEVELS, MINUTE_MS, MinuteCounts
from tests.gateway.in_process import START

FIRST = START // MINUTE_MS
apps = st.integers(1, 3)
steps = st.one_of(
    st.tuples(st.just("wait"), st.integers(0, 3 * MINUTE_MS)),
    st.tuples(st.just("wait"), st.sampled_from([KEPT_MINUTES * MINUTE_MS, 3 * KEPT_MINUTES * MINUTE_MS])),
    st.tuples(st.just("event"), apps, st.sampled_from(EVENT_TYPES), st.integers(0, 5), st.integers(1, 9)),
    st.tuples(st.just("push"), apps, st.integers(1, 3), st.integers(0, 9)),
    st.tuples(st.just("levels"), st.dictionaries(apps, st.integers(0, 3)), st.dictionaries(apps, st.integers(0, 3))),
)
COLUMN = {
    "device.connected": "connects",
    "device.disconnected": "disconnects",
    **{event: event.removeprefix("delivery.") for event in EVENT_TYPES if event.startswith("delivery.")},
}


class Model:
    """All that was ever said, kept for ever: (app, minute, column, count), and the levels by time."""

    def __init__(self) -> None:
        self.said: list[tuple[int, int, str, int]] = []
        self.levels: list[tuple[int, dict[str, dict[int, int]]]] = []

    def count(self, app_no: int, minute: int, column: str) -> int:
        return sum(count for app, at, name, count in self.said if (app, at, name) == (app_no, minute, column))

    def level(self, app_no: int, minute: int, name: str) -> int:
        noted = [levels for at, levels in self.levels if at <= minute]
        return noted[-1][name].get(app_no, 0) if noted else 0


@settings(max_examples=60, deadline=None)
@given(st.lists(steps, max_size=25), st.integers(1, KEPT_MINUTES))
def test_curves_are_what_was_said_in_the_last_minutes(story: list[Any], wanted: int) -> None:
    counts, model, now = MinuteCounts(START), Model(), START
    for step in story:
        minute = now // MINUTE_MS
        match step:
            case ("wait", milliseconds):
                now += milliseconds
            case ("event", app_no, event, ago, count):
                counts.add_events(app_no, event, minute - ago, count)
                model.said.append((app_no, minute - ago, COLUMN[event], count))
            case ("push", app_no, pushes, targeted):
                counts.add_pushes(app_no, pushes, targeted, minute)
                model.said += [(app_no, minute, "pushes", pushes), (app_no, minute, "targeted", targeted)]
            case ("levels", online, waiting):
                counts.note_levels(online, waiting, now)
                model.levels.append((minute, {"online": online, "waiting": waiting}))
    for app_no in (1, 2, 3):
        first, curves = counts.curves(app_no, wanted, now)
        last = now // MINUTE_MS
        assert set(curves) == {*COUNTS, *LEVELS}
        assert {len(curve) for curve in curves.values()} == {min(wanted, last - FIRST + 1, KEPT_MINUTES)}
        minutes = range(first // MINUTE_MS, last + 1)
        for name in COUNTS:
            assert curves[name] == [model.count(app_no, minute, name) for minute in minutes]
        for name in LEVELS:
            assert curves[name] == [model.level(app_no, minute, name) for minute in minutes]
    assert counts.since == max(START, (now // MINUTE_MS - KEPT_MINUTES + 1) * MINUTE_MS)


def test_the_oldest_minutes_of_all_apps_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minute_counts, "KEPT_CELLS", 10)
    counts = MinuteCounts(START)
    for minute in range(8):
        now = START + minute * MINUTE_MS
        counts.note_levels({1: 1, 2: 1, 3: 1}, {}, now)
        assert sum(len(cells) for cells in counts._minutes) == counts._cells <= 10
    first, curves = counts.curves(1, KEPT_MINUTES, now)
    assert curves["online"] == [1, 1, 1]
    assert first == counts.since == (FIRST + 5) * MINUTE_MS
    counts.add_events(1, "delivery.expired", FIRST, 4)
    assert not any(counts.curves(1, KEPT_MINUTES, now)[1]["expired"]), "that minute has left"
    counts.note_levels(dict.fromkeys(range(40), 1), {}, now)
    assert counts.curves(39, KEPT_MINUTES, now)[1]["online"] == [1], "the present minute stays, whatever is in it"
