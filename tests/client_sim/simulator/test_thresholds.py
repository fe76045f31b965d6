"""Thresholds: what they say, what they refuse, and what is written down about them."""

from __future__ import annotations

import pytest

from client_sim.simulator.simulation_report import Latency, Resources
from client_sim.simulator.thresholds import METRICS, BadThreshold, evaluate, metrics, parse
from tests.client_sim.simulator import made_up_report


@pytest.mark.parametrize(
    ("text", "value", "passed", "actual"),
    [
        ("delivery_p99 < 250ms", 249.9, True, "249.9 ms"),
        ("delivery_p99 < 250ms", 250.0, False, "250 ms"),
        ("delivery_p99<250 ms", 12.345, True, "12.3 ms"),
        ("connect_p99 <= 2s", 2000.0, True, "2 s"),
        ("server_time_per_push < 900us", 0.8997, True, "899.7 us"),
        ("duration < 2min", 90_000.0, True, "1.50 min"),
        ("lost == 0", 0.0, True, "0"),
        ("lost == 0", 3.0, False, "3"),
        ("duplicated != 0", 0.0, False, "0"),
        ("delivered >= 1_000", 999.0, False, "999"),
        ("accepted > 10", 1_234_567.0, True, "1,234,567"),
        ("server_cores < 1.5", 0.7512, True, "0.751"),
        ("memory_per_device <= 8KiB", 8192.0, True, "8 KiB"),
        ("server_memory < 0.5 GiB", 600 * 1024.0**2, False, "0.586 GiB"),
        ("delivered_share >= 99.5%", 99.4979, False, "99.498%"),
    ],
)
def test_is_judged_and_said_in_the_unit_it_was_given_in(text: str, value: float, passed: bool, actual: str) -> None:
    """With as many digits as show on which side of the bound it is."""
    rule = parse(text)
    verdict = rule.evaluate({rule.metric: value})
    assert (verdict.text, verdict.passed, verdict.actual) == (text, passed, actual)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "not a threshold"),
        ("delivery_p99", "not a threshold"),
        ("delivery_p99 < fast", "not a threshold"),
        ("delivery_p99 < 250ms and lost == 0", "not a threshold"),
        ("delivery_p98 < 250ms", "there is no metric `delivery_p98`"),
        ("lost = 0", "`=` is no comparison"),
        ("lost === 0", "`===` is no comparison"),
        ("delivery_p99 < 250", "`delivery_p99` is a time, give it a unit: us, ms, s, min"),
        ("delivery_p99 < 250KiB", "`delivery_p99` is a time"),
        ("memory_per_device < 8kb", "`memory_per_device` is memory, give it a unit: B, KiB, MiB, GiB"),
        ("lost < 1%", "`lost` is a number, it has no unit"),
    ],
)
def test_a_bad_one_says_what_is_wrong_and_which_metrics_there_are(text: str, wrong: str) -> None:
    with pytest.raises(BadThreshold) as caught:
        parse(text)
    assert wrong in str(caught.value)
    assert all(name in str(caught.value) for name in METRICS)


def test_what_was_not_measured_fails() -> None:
    for values in ({"server_cores": None}, {}):
        verdict = parse("server_cores < 1.5").evaluate(values)
        assert (verdict.passed, verdict.actual) == (False, "not measured")


def test_every_metric_is_read_from_a_report() -> None:
    values = metrics(made_up_report.report())
    assert values.keys() == METRICS.keys()
    assert None not in values.values()
    assert values["undelivered"] == 188
    assert values["delivered_share"] == pytest.approx(99.5)
    assert values["delivery_p99"] == 612.4
    assert values["server_time_per_push"] == pytest.approx(1.131)
    assert values["errors"] == 18_223
    assert values["online_max"] == 5000
    assert values["duration"] == 120_000


def test_an_empty_run_has_measured_nothing() -> None:
    values = metrics(made_up_report.empty_report())
    unknown = {name for name, value in values.items() if value is None}
    assert {"delivered_share", "delivery_p50", "server_cores", "server_memory", "memory_per_device"} <= unknown
    assert values["lost"] == 0


def test_a_report_is_judged_before_it_is_complete() -> None:
    report = made_up_report.report(
        thresholds=[], latency_ms=Latency(count=1, p99=251.0), resources=Resources(bytes_per_device=5000)
    )
    rules = [parse("delivery_p99 < 250ms"), parse("memory_per_device <= 8KiB")]
    assert [verdict.passed for verdict in evaluate(rules, metrics(report))] == [False, True]
