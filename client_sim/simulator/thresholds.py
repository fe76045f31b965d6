"""Thresholds as text, in k6's manner: `delivery_p99 < 250ms`, `lost == 0`, `memory_per_device <= 8KiB`.

A metric that has a unit needs one in the bound as well: `delivery_p99 < 250` would be read by one as seconds and by
another as milliseconds. One that was not measured fails its threshold; a promise nobody looked at is not kept.

`metrics` gives times in milliseconds, memory in bytes, shares in per cent.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal

from client_sim.simulator.simulation_report import SimulationReport, Threshold

Reader = Callable[[SimulationReport], float | None]
Quantity = Literal["a number", "a time", "memory", "a share"]

UNITS: dict[Quantity, dict[str, float]] = {
    "a number": {"": 1},
    "a time": {"us": 0.001, "ms": 1, "s": 1000, "min": 60_000},
    "memory": {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3},
    "a share": {"%": 1},
}
COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
NOT_MEASURED = "not measured"

_SHAPE = re.compile(r"([A-Za-z_]\w*)\s*([=<>!]+)\s*(\d[\d_]*(?:\.\d+)?)\s*([^\W\d]+|%)?", re.ASCII)


@dataclass(frozen=True)
class Metric:
    """A number that a report has, with its unit and meaning."""

    quantity: Quantity
    meaning: str
    read: Reader


def _mean(field: str) -> Reader:
    def read(report: SimulationReport) -> float | None:
        values = _measured(report, field)
        return sum(values) / len(values) if values else None

    return read


def _highest(field: str) -> Reader:
    return lambda report: max(_measured(report, field), default=None)


def _measured(report: SimulationReport, field: str) -> list[float]:
    values = (getattr(sample, field) for sample in report.samples)
    return [value for value in values if value is not None]


def _microseconds(field: str) -> Reader:
    def read(report: SimulationReport) -> float | None:
        value: float | None = getattr(report.resources, field)
        return None if value is None else value / 1000

    return read


def _latencies(name: str, field: str, meaning: str) -> dict[str, Metric]:
    shares = {"p50": "half", "p90": "90 %", "p99": "99 %", "p999": "99.9 %", "max": "all"}
    return {
        f"{name}_{percentile}": Metric("a time", f"{meaning}, {share} of them", attrgetter(f"{field}.{percentile}"))
        for percentile, share in shares.items()
    }


METRICS: dict[str, Metric] = {
    "accepted": Metric("a number", "pushes that the server accepted", attrgetter("accepted")),
    "deliveries": Metric("a number", "one push to one device each", attrgetter("deliveries")),
    "delivered": Metric("a number", "deliveries that took effect", attrgetter("delivered")),
    "delivered_share": Metric(
        "a share",
        "delivered, of all deliveries",
        lambda report: 100 * report.delivered / report.deliveries if report.deliveries else None,
    ),
    "lost": Metric("a number", "neither arrived nor ended with a reason", attrgetter("lost")),
    "duplicated": Metric("a number", "effects beyond the first", attrgetter("duplicated")),
    "late": Metric("a number", "arrived after their time to live", attrgetter("late")),
    "out_of_order": Metric("a number", "overtaken by a later push", attrgetter("out_of_order")),
    "expired_online": Metric("a number", "expired though their device was online", attrgetter("expired_online")),
    "disagreements": Metric("a number", "the two ledgers differ", attrgetter("disagreements")),
    "violations": Metric("a number", "the server broke the protocol", attrgetter("violations")),
    "unexplained": Metric("a number", "ended without a cause", attrgetter("unexplained")),
    "contradictions": Metric("a number", "answers that do not agree", attrgetter("contradictions")),
    "events_wrong": Metric("a number", "events missing or wrong", attrgetter("events_wrong")),
    "unanswered": Metric("a number", "receipts never acknowledged", attrgetter("unanswered")),
    "redelivered": Metric("a number", "copies dropped by their device", attrgetter("redelivered")),
    "undelivered": Metric("a number", "ended with a reason", lambda report: sum(report.ended.values())),
    "errors": Metric("a number", "requests and connections that failed", lambda report: sum(report.errors.values())),
    **_latencies("delivery", "latency_ms", "intended send time to the device"),
    **_latencies("request", "request_ms", "intended send time to the 202"),
    **_latencies("connect", "connect_ms", "attempt to SUBACK"),
    "deliveries_per_second": Metric(
        "a number", "while pushes were sent", attrgetter("resources.deliveries_per_second")
    ),
    "connects_per_second": Metric("a number", "while devices connected", attrgetter("resources.connects_per_second")),
    "online_max": Metric("a number", "most devices online at once", _highest("online")),
    "memory_per_device": Metric("memory", "of the simulator", attrgetter("resources.bytes_per_device")),
    "server_memory": Metric("memory", "of the server, at most", _highest("server_memory")),
    "simulator_memory": Metric("memory", "of the simulator, at most", _highest("simulator_memory")),
    "server_cores": Metric("a number", "of the server, on average", _mean("server_cores")),
    "simulator_cores": Metric("a number", "of the simulator, on average", _mean("simulator_cores")),
    "server_time_per_push": Metric(
        "a time", "processor time of the server", _microseconds("server_microseconds_per_push")
    ),
    "simulator_time_per_push": Metric(
        "a time", "processor time of the simulator", _microseconds("simulator_microseconds_per_push")
    ),
    "loop_lag_p99": Metric("a time", "of the simulator's event loop", attrgetter("resources.loop_lag_p99_ms")),
    "loop_lag_max": Metric("a time", "of the simulator's event loop", attrgetter("resources.loop_lag_max_ms")),
    "duration": Metric("a time", "of the simulation", lambda report: report.duration * 1000),
}


class BadThreshold(ValueError):
    """The text is not a threshold; the message says what was wrong and which metrics there are."""

    def __init__(self, text: str, wrong: str) -> None:
        super().__init__(f"`{text}`: {wrong}. The metrics are: {', '.join(METRICS)}")


@dataclass(frozen=True)
class Rule:
    """A threshold as it was given; `bound` in the unit of `metrics`, `unit` as the text has it."""

    text: str
    metric: str
    comparison: str
    bound: float
    unit: str

    def evaluate(self, values: Mapping[str, float | None]) -> Threshold:
        """Compare the metric's value with the bound."""
        value = values.get(self.metric)
        if value is None:
            return Threshold(text=self.text, actual=NOT_MEASURED, passed=False)
        passed = COMPARISONS[self.comparison](value, self.bound)
        return Threshold(text=self.text, actual=self._formatted(value), passed=passed)

    def _formatted(self, value: float) -> str:
        """The value in the bound's unit, with as many digits as show on which side of the bound it is."""
        factor = UNITS[METRICS[self.metric].quantity][self.unit]
        shown, bound = value / factor, self.bound / factor
        decimals = 0 if shown == round(shown) else max(0, 2 - math.floor(math.log10(abs(shown))))
        while round(shown, decimals) == bound != shown and decimals < 15:
            decimals += 1
        separator = "" if self.unit in ("", "%") else " "
        return f"{shown:,.{decimals}f}{separator}{self.unit}"


def parse(text: str) -> Rule:
    """Raises BadThreshold."""
    text = text.strip()
    shape = _SHAPE.fullmatch(text)
    if shape is None:
        raise BadThreshold(text, "not a threshold; write a metric, a comparison and a bound: `delivery_p99 < 250ms`")
    metric, comparison, bound, unit = shape[1], shape[2], shape[3], shape[4] or ""
    if metric not in METRICS:
        raise BadThreshold(text, f"there is no metric `{metric}`")
    if comparison not in COMPARISONS:
        raise BadThreshold(text, f"`{comparison}` is no comparison; there are {', '.join(COMPARISONS)}")
    quantity = METRICS[metric].quantity
    units = UNITS[quantity]
    if unit not in units:
        wanted = f"give it a unit: {', '.join(units)}" if units.keys() != {""} else "it has no unit"
        raise BadThreshold(text, f"`{metric}` is {quantity}, {wanted}")
    return Rule(text, metric, comparison, float(bound) * units[unit], unit)


def metrics(report: SimulationReport) -> dict[str, float | None]:
    """Every metric of a report that may not have been judged yet; None: not measured."""
    return {name: metric.read(report) for name, metric in METRICS.items()}


def evaluate(rules: Iterable[Rule], values: Mapping[str, float | None]) -> list[Threshold]:
    """Evaluate each rule, in order."""
    return [rule.evaluate(values) for rule in rules]
