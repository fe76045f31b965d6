"""Line charts as inline SVG: curves over time with the phases as bands behind them, and latency by percentile.

A chart is built as an element tree, so whatever a name contains is escaped. It brings no colours: the classes `line-1`,
`line-2`, `line-then`, `grid`, `band` are styled by the page, which knows light, dark and print. Units are in the
caption, not at the ticks; phones enlarge the letters, and there is room for six of them at the left.

An hour has 3,600 seconds and a chart 566 units. A long curve is therefore drawn as slices: a line through the middle
value of each, and behind it a shade (`range-1`, `range-2`) from the lowest to the highest, so that a peak of one second
is still seen. None is a gap in the curve.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

WIDTH, HEIGHT = 640, 236
LEFT, RIGHT, TOP, BOTTOM = 60, 14, 22, 30
PLOT_WIDTH, PLOT_HEIGHT = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
MAX_POINTS = 600
"""A curve of more is drawn as slices."""
CURVE_SLICES = 300
LETTER_WIDTH_UNITS = 6.4
"""Mean width of a letter in the bands' font size, 11 units; generous."""
TIME_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400)
TIME_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
TIME_INTERVALS = 5
"""The most intervals of a time axis: `150 min` in a phone's letters is a seventh of the width."""

Point = tuple[float, float | None]
Tick = tuple[float, str]


@dataclass(frozen=True)
class Series:
    """A curve of a chart. `style` becomes the class `line-STYLE`."""

    name: str
    points: Sequence[Point]
    style: str


@dataclass(frozen=True)
class Slice:
    """The range of the values in a part of a curve; None: there were none."""

    at: float
    lowest: float | None
    middle: float | None
    highest: float | None


@dataclass(frozen=True)
class Band:
    """A named part of the time axis: a phase."""

    name: str
    begin: float
    end: float


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high`; values outside are drawn at its edge."""

    low: float
    high: float
    ticks: Sequence[Tick]
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """The place of a value on the axis, 0 at the low end and 1 at the high one."""
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(max(value, low))
        return min(1.0, max(0.0, (value - low) / (high - low)))


def time_chart(
    label: str,
    series: Sequence[Series],
    bands: Sequence[Band],
    duration: float,
    *,
    whole: bool = False,
    steep: bool = False,
) -> str:
    """Seconds since the start against values from 0.

    `whole`: of things that cannot be had by halves, so neither are ticks. `steep`: values that lie two decades apart
    are drawn by their logarithm, which has no place for 0.
    """
    values = _values(series)
    vertical = steep_axis(values) if steep else value_axis(values, whole=whole)
    times = Axis(0, max(duration, 1), time_ticks(max(duration, 1)))
    return _chart(label, series, bands, times, vertical)


def percentile_chart(label: str, series: Sequence[Series]) -> str:
    """Points are (percentile, value); each step of the axis is ten times rarer, as HdrHistogram draws it."""
    finite = [percentile for one in series for percentile, _ in one.points if percentile < 100]
    right = max(2.0, max((_nines(percentile) for percentile in finite), default=0))
    nines = [(0.0, "0"), (_nines(50), "50"), (1.0, "90")]
    nines += [(float(n), f"99.{'9' * (n - 2)}".rstrip(".")) for n in range(2, math.floor(right + 1e-6) + 1)]
    moved = [
        Series(one.name, [(right if p >= 100 else _nines(p), value) for p, value in one.points], one.style)
        for one in series
    ]
    return _chart(label, moved, [], Axis(0, right, nines), steep_axis(_values(series)))


def _nines(percentile: float) -> float:
    return -math.log10(1 - min(max(percentile, 0), 100 - 1e-9) / 100)


def slices(points: Sequence[Point], number: int = CURVE_SLICES) -> list[Slice]:
    """`points`, no fewer than `number`, in so many parts."""
    found = []
    for index in range(number):
        part = points[index * len(points) // number : (index + 1) * len(points) // number]
        known = sorted(value for _, value in part if value is not None)
        at = part[0][0]
        # One that was measured, not the mean of two, so that whole numbers stay whole.
        found.append(Slice(at, known[0], known[len(known) // 2], known[-1]) if known else Slice(at, None, None, None))
    return found


def value_axis(values: Sequence[float], *, whole: bool = False) -> Axis:
    ticks = linear_ticks(max(values, default=0) or 1, whole=whole)
    return Axis(0, ticks[-1][0], ticks)


def steep_axis(values: Sequence[float]) -> Axis:
    """Logarithmic if the highest is a hundred times what is usual, else as ever."""
    positive = sorted(value for value in values if value > 0)
    # The lower quartile, not the lowest: one early 0.01 must not flatten all else.
    if not positive or positive[-1] <= 100 * positive[len(positive) // 4]:
        return value_axis(values)
    ticks = log_ticks(max(positive[0], positive[-1] / 1e6), positive[-1])
    return Axis(ticks[0][0], ticks[-1][0], ticks, logarithmic=True)


def linear_ticks(highest: float, *, whole: bool = False) -> list[Tick]:
    """Four to six ticks from 0."""
    magnitude = 10.0 ** math.floor(math.log10(highest / 5))
    step = next(magnitude * factor for factor in (1, 2, 5, 10) if magnitude * factor * 5 >= highest * (1 - 1e-9))
    if whole:
        step = max(step, 1.0)
    steps = max(1, math.ceil(highest / step - 1e-9))
    return [(step * n, short_number(step * n)) for n in range(steps + 1)]


def log_ticks(lowest: float, highest: float) -> list[Tick]:
    """The 1, 2 and 5 of each decade around the values; more than six: the decades only."""
    begin, end = math.floor(math.log10(lowest)), math.ceil(math.log10(highest))
    steps = [round(10.0**n * factor, 12) for n in range(begin, end + 1) for factor in (1, 2, 5)]
    low = max((step for step in steps if step <= lowest), default=steps[0])
    high = min(step for step in steps if step >= highest * (1 - 1e-9))
    if high == low:
        high = steps[steps.index(low) + 1]
    within = [step for step in steps if low <= step <= high]
    if len(within) > 6:
        within = [10.0**n for n in range(begin, end + 1)]
    return [(step, short_number(step)) for step in within]


def time_ticks(duration: float) -> list[Tick]:
    step = next((step for step in TIME_STEPS if duration / step <= TIME_INTERVALS), None)
    if step is None:
        step = 86_400 * math.ceil(duration / 86_400 / TIME_INTERVALS)
    unit, name = next((unit, name) for unit, name in TIME_UNITS if step >= unit)
    times = [step * n for n in range(math.floor(duration / step) + 1)]
    return [(at, f"{short_number(at / unit)} {name}" if at else "0") for at in times]


def short_number(value: float) -> str:
    """The number in at most six letters."""
    for least, factor, name in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if value >= least:
            return f"{value / factor:.4g}{name}"
    return f"{value:,.10g}" if value >= 1 else f"{value:.3g}"


def path(points: Iterable[Point], horizontal: Axis, vertical: Axis) -> str:
    """A line through the points; None lifts the pen, and a point alone becomes a dot."""
    words: list[str] = []
    for run in _runs(points):
        words.append("M" + "L".join(_place(at, value, horizontal, vertical) for at, value in run))
        if len(run) == 1:
            words.append("h0")
    return "".join(words)


def shade_path(parts: Sequence[Slice], horizontal: Axis, vertical: Axis) -> str:
    """The area between the highest values and the lowest."""
    words: list[str] = []
    above = _runs((part.at, part.highest) for part in parts)
    below = _runs((part.at, part.lowest) for part in parts)
    for high, low in zip(above, below, strict=True):
        around = [*high, *reversed(low)]
        words.append("M" + "L".join(_place(at, value, horizontal, vertical) for at, value in around) + "Z")
    return "".join(words)


def _runs(points: Iterable[Point]) -> list[list[tuple[float, float]]]:
    """The points between gaps."""
    runs: list[list[tuple[float, float]]] = [[]]
    for at, value in points:
        if value is not None:
            runs[-1].append((at, value))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _place(at: float, value: float, horizontal: Axis, vertical: Axis) -> str:
    x, y = LEFT + PLOT_WIDTH * horizontal.share(at), TOP + PLOT_HEIGHT * (1 - vertical.share(value))
    return f"{_short(x)} {_short(y)}"


def _values(series: Sequence[Series]) -> list[float]:
    return [value for one in series for _, value in one.points if value is not None]


def _chart(label: str, series: Sequence[Series], bands: Sequence[Band], horizontal: Axis, vertical: Axis) -> str:
    svg = ElementTree.Element("svg", {"viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "aria-label": label})
    _draw_bands(svg, bands, horizontal)
    bottom = TOP + PLOT_HEIGHT
    for value, name in vertical.ticks:
        y = _short(TOP + PLOT_HEIGHT * (1 - vertical.share(value)))
        line = {"class": "grid", "x1": str(LEFT), "x2": str(WIDTH - RIGHT), "y1": y, "y2": y}
        ElementTree.SubElement(svg, "line", line)
        _text(svg, str(LEFT - 6), y, name, "tick up")
    for value, name in horizontal.ticks:
        x = _short(LEFT + PLOT_WIDTH * horizontal.share(value))
        line = {"class": "mark", "x1": x, "x2": x, "y1": str(bottom), "y2": str(bottom + 4)}
        ElementTree.SubElement(svg, "line", line)
        # Half of a name at the right edge would be cut off.
        edge = horizontal.share(value) > 0.97
        _text(svg, str(WIDTH) if edge else x, str(bottom + 6), name, "tick along last" if edge else "tick along")
    sliced = [slices(one.points) if len(one.points) > MAX_POINTS else None for one in series]
    for one, parts in zip(series, sliced, strict=True):
        if parts:
            shade = {"class": f"range range-{one.style}", "d": shade_path(parts, horizontal, vertical)}
            ElementTree.SubElement(svg, "path", shade)
    for one, parts in zip(series, sliced, strict=True):
        points = [(part.at, part.middle) for part in parts] if parts else one.points
        line = {"class": f"line line-{one.style}", "d": path(points, horizontal, vertical)}
        ElementTree.SubElement(ElementTree.SubElement(svg, "path", line), "title").text = one.name
    if not _values(series):
        _text(svg, str(LEFT + PLOT_WIDTH // 2), str(TOP + PLOT_HEIGHT // 2), "not measured", "tick along")
    return ElementTree.tostring(svg, encoding="unicode")


def _draw_bands(svg: ElementTree.Element, bands: Sequence[Band], horizontal: Axis) -> None:
    """Every second one shaded. Its name where there is room for it, else its number; both in its tooltip."""
    free = 0.0
    for number, band in enumerate(bands, start=1):
        begin = LEFT + PLOT_WIDTH * horizontal.share(band.begin)
        width = LEFT + PLOT_WIDTH * horizontal.share(band.end) - begin
        shade = "band-odd" if number % 2 else "band-even"
        place = {"x": _short(begin), "y": "0", "width": _short(width), "height": str(TOP + PLOT_HEIGHT)}
        rectangle = ElementTree.SubElement(svg, "rect", {"class": f"band {shade}", **place})
        ElementTree.SubElement(rectangle, "title").text = f"{number} {band.name}"
        left = max(begin, free) + 4
        room = begin + width - left
        # The phone's letters are larger: there the name stays only where it fits twice over.
        named = LETTER_WIDTH_UNITS * len(band.name) <= room
        everywhere = 2 * LETTER_WIDTH_UNITS * len(band.name) <= room
        if named:
            _text(svg, _short(left), "14", band.name, "name" if everywhere else "name wide")
        if not everywhere and room >= LETTER_WIDTH_UNITS * len(str(number)):
            _text(svg, _short(left), "14", str(number), "name narrow" if named else "name")
        if named or room >= LETTER_WIDTH_UNITS * len(str(number)):
            free = left + LETTER_WIDTH_UNITS * (len(band.name) if named else len(str(number)))


def _text(svg: ElementTree.Element, x: str, y: str, words: str, style: str) -> None:
    ElementTree.SubElement(svg, "text", {"class": style, "x": x, "y": y}).text = words


def _short(value: float) -> str:
    return f"{round(value, 1):g}"
