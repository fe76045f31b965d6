"""Charts: known values end up at known places, gaps stay gaps, peaks survive, names are harmless."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from client_sim.simulator.svg_charts import (
    HEIGHT,
    LEFT,
    MAX_POINTS,
    PLOT_HEIGHT,
    PLOT_WIDTH,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Band,
    Point,
    Series,
    Slice,
    linear_ticks,
    log_ticks,
    path,
    percentile_chart,
    shade_path,
    short_number,
    slices,
    steep_axis,
    time_chart,
    time_ticks,
    value_axis,
)

X = Axis(0, 10, [])
Y = Axis(0, 100, [])
MIDDLE = (f"{LEFT + PLOT_WIDTH / 2:g}", f"{TOP + PLOT_HEIGHT / 2:g}")
BOTTOM = TOP + PLOT_HEIGHT


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("text")]


def line(svg: str, style: str) -> str:
    element = ElementTree.fromstring(svg).find(f"path[@class='line line-{style}']")
    assert element is not None
    return element.get("d", "")


def test_a_path_goes_through_its_points() -> None:
    points: list[Point] = [(0, 0), (5, 50), (10, 100)]
    assert path(points, X, Y) == f"M{LEFT} {BOTTOM}L{MIDDLE[0]} {MIDDLE[1]}L{WIDTH - RIGHT} {TOP}"


def test_none_is_a_gap_and_a_point_alone_a_dot() -> None:
    drawn = path([(0, None), (1, 0), (2, 0), (3, None), (4, None), (5, 50), (6, None), (10, 0)], X, Y)
    runs = drawn.split("M")
    assert len(runs) == 4
    assert runs[2] == f"{MIDDLE[0]} {MIDDLE[1]}h0"
    assert runs[3] == f"{WIDTH - RIGHT} {BOTTOM}h0"
    assert path([(0, None)], X, Y) == ""


def test_values_outside_are_drawn_at_the_edge() -> None:
    assert path([(-5, -1), (11, 1e9)], X, Y) == f"M{LEFT} {BOTTOM}L{WIDTH - RIGHT} {TOP}"


def test_a_logarithmic_axis_gives_every_decade_the_same_room() -> None:
    axis = Axis(1, 100, [], logarithmic=True)
    assert [axis.share(value) for value in (1, 10, 100)] == pytest.approx([0, 0.5, 1])
    assert axis.share(0) == 0


def test_a_slice_keeps_its_lowest_and_highest_value() -> None:
    values: list[Point] = [(float(at), 1_000_000.0 if at == 7_001 else float(at % 10)) for at in range(36_000)]
    parts = slices(values, 100)
    assert len(parts) == 100
    assert max(part.highest or 0 for part in parts) == 1_000_000
    assert {part.lowest for part in parts} == {0}
    assert all(part.middle in (4, 5) for part in parts)
    empty: list[Point] = [(float(at), None if at < 500 else 1) for at in range(1000)]
    assert [part.middle for part in slices(empty, 4)] == [None, None, 1, 1]


def test_a_shade_lies_between_highest_and_lowest() -> None:
    parts = [Slice(0, 0, 0, 100), Slice(5, None, None, None), Slice(10, 50, 50, 50)]
    right = WIDTH - RIGHT
    assert shade_path(parts, X, Y) == f"M{LEFT} {TOP}L{LEFT} {BOTTOM}ZM{right} {MIDDLE[1]}L{right} {MIDDLE[1]}Z"


def test_only_long_curves_are_sliced() -> None:
    points: list[Point] = [(float(at), float(at % 5)) for at in range(MAX_POINTS + 1)]
    short = time_chart("t", [Series("a", points[:-1], "1")], [], MAX_POINTS)
    long = time_chart("t", [Series("a", points, "1")], [], MAX_POINTS)
    assert "range-1" not in short
    assert line(short, "1").count("L") == MAX_POINTS - 1
    assert "range-1" in long
    assert line(long, "1").count("L") < MAX_POINTS - 1


@pytest.mark.parametrize(
    ("highest", "names"),
    [
        (5000, ["0", "1,000", "2,000", "3,000", "4,000", "5,000"]),
        (1.33, ["0", "0.5", "1", "1.5"]),
        (0.07, ["0", "0.02", "0.04", "0.06", "0.08"]),
        (123_456, ["0", "50k", "100k", "150k"]),
    ],
)
def test_ticks_are_round_numbers(highest: float, names: list[str]) -> None:
    assert [name for _, name in linear_ticks(highest)] == names


def test_whole_things_have_whole_ticks() -> None:
    assert [name for _, name in linear_ticks(1, whole=True)] == ["0", "1"]
    assert [name for _, name in linear_ticks(3, whole=True)] == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("lowest", "highest", "names"),
    [
        (3, 4_000, ["1", "10", "100", "1,000", "10k"]),
        (3, 12, ["2", "5", "10", "20"]),
        (10, 10, ["10", "20"]),
        (0.5, 30, ["0.5", "1", "2", "5", "10", "20", "50"]),
        (1, 100, ["1", "10", "100"]),
    ],
)
def test_logarithmic_ticks_enclose_the_values(lowest: float, highest: float, names: list[str]) -> None:
    ticks = log_ticks(lowest, highest)
    assert ticks[0][0] <= lowest
    assert ticks[-1][0] >= highest
    if len(names) <= 6:
        assert [name for _, name in ticks] == names


@pytest.mark.parametrize(
    ("duration", "names"),
    [
        (1, ["0", "1 s"]),
        (20, ["0", "5 s", "10 s", "15 s", "20 s"]),
        (119, ["0", "30 s", "60 s", "90 s"]),
        (1800, ["0", "10 min", "20 min", "30 min"]),
        (5 * 3600, ["0", "1 h", "2 h", "3 h", "4 h", "5 h"]),
        (20 * 86_400, ["0", "4 d", "8 d", "12 d", "16 d", "20 d"]),
    ],
)
def test_time_has_the_unit_that_suits_it(duration: float, names: list[str]) -> None:
    assert [name for _, name in time_ticks(duration)] == names


@pytest.mark.parametrize("value", [0, 0.0123456, 0.5, 9_999, 12_345, 999_999, 5e6, 3.2e9])
def test_a_tick_fits_into_the_margin(value: float) -> None:
    assert len(short_number(value)) <= 6


def test_values_far_apart_get_a_logarithmic_axis_where_they_may() -> None:
    assert not steep_axis([4, 5, 6, 200]).logarithmic
    assert steep_axis([4, 5, 6, 4_000]).logarithmic
    assert not value_axis([4, 5, 6, 4_000]).logarithmic
    assert not steep_axis([]).logarithmic
    assert not steep_axis([0, 0]).logarithmic
    assert steep_axis([0.01, 900, 1_000, 1_100, 1_050]).low == 0, "one early small value decides nothing"


def test_percentiles_are_spaced_by_their_nines() -> None:
    chart = percentile_chart("p", [Series("now", [(0, 1), (90, 2), (99, 3), (99.9, 4), (100, 5)], "1")])
    assert [name for name in texts(chart) if "." in name or len(name) == 2] == ["50", "90", "99", "99.9"]
    xs = [float(x) for x in re.findall(r"[ML]([\d.]+) ", line(chart, "1"))]
    third = PLOT_WIDTH / 3
    # What is beyond the last nine, the highest value, is drawn at the edge.
    assert xs == pytest.approx([LEFT, LEFT + third, LEFT + 2 * third, WIDTH - RIGHT, WIDTH - RIGHT], abs=0.1)


def test_nothing_measured_is_said() -> None:
    assert "not measured" in texts(time_chart("t", [], [], 10))
    assert "not measured" in texts(time_chart("t", [Series("a", [(0, None)], "1")], [], 10))


def test_a_phase_has_its_name_where_there_is_room_and_else_its_number() -> None:
    bands = [Band("ramp", 0, 50), Band("a rather long name", 50, 60), Band("instant", 60, 60), Band("steady", 60, 100)]
    svg = time_chart("t", [], bands, 100)
    names = {
        element.text: element.get("class")
        for element in ElementTree.fromstring(svg).iter("text")
        if "name" in element.get("class", "")
    }
    assert names == {"ramp": "name", "2": "name", "steady": "name"}
    titles = [element.text for element in ElementTree.fromstring(svg).iterfind("rect/title")]
    assert titles == ["1 ramp", "2 a rather long name", "3 instant", "4 steady"]


def test_names_of_phases_that_overlap_stand_beside_each_other() -> None:
    svg = time_chart("t", [], [Band("outage", 0, 50), Band("recovery", 1, 100)], 100)
    places = [
        float(element.get("x", ""))
        for element in ElementTree.fromstring(svg).iter("text")
        if element.text in ("outage", "recovery")
    ]
    assert len(places) == 2
    assert places[1] - places[0] > 6 * len("outage")


def test_names_are_escaped() -> None:
    evil = '"><script>alert(1)</script>'
    svg = time_chart(evil, [Series(evil, [(0, 1)], "1")], [Band(evil, 0, 10)], 10)
    assert "<script" not in svg
    assert ElementTree.fromstring(svg).get("aria-label") == evil


def test_a_name_at_the_edge_ends_there() -> None:
    svg = ElementTree.fromstring(time_chart("t", [], [], 20))
    last = [element for element in svg.iter("text") if element.text == "20 s"]
    assert [element.get("class") for element in last] == ["tick along last"]
    assert svg.get("viewBox") == f"0 0 {WIDTH} {HEIGHT}"
