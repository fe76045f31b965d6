"""The report as one HTML file: nothing to fetch and nothing to run, so it can be mailed, archived and printed.

What is said is put together here, row by row; where it stands and how it looks is in `templates/`. Everything a server,
a scenario or a device may have named is escaped: by Jinja2 in the page, by the element tree in the charts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from client_sim.simulator import report_terms
from client_sim.simulator.simulation_report import MAX_FINDINGS, Latency, Sample, SimulationReport
from client_sim.simulator.svg_charts import CURVE_SLICES, MAX_POINTS, Band, Series, percentile_chart, time_chart
from client_sim.simulator.thresholds import METRICS

ERROR_KINDS = 20
"""Kinds of errors that are written out, the most frequent first."""
FINDINGS_OF_A_KIND = 5
"""Findings that are seen at once; the others unfold."""
FAR_APART_RATIO = 20
"""Accepted and delivered share a chart unless one is so many times the other, as in a broadcast."""
MIB_BYTES = 1024**2


@dataclass(frozen=True)
class Row:
    """One figure. `mark` is `good`, `bad` or nothing; `then` and `change` are empty without an earlier run."""

    title: str
    value: str
    meaning: str = ""
    mark: str = ""
    then: str = ""
    change: str = ""


@dataclass(frozen=True)
class Chart:
    """A chart of the page: its title, unit, key and drawing."""

    title: str
    unit: str
    keys: Sequence[tuple[str, str]]
    svg: str


@dataclass(frozen=True)
class StateGroup:
    """Deliveries by the state that the server's ledger gives them, of one kind of states."""

    title: str
    total: str
    states: Sequence[tuple[str, str]]


def render(report: SimulationReport, earlier: SimulationReport | None = None) -> str:
    """The report as one HTML page. `earlier`: an earlier run, drawn beside this one."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    errors = sorted(report.errors.items(), key=lambda item: -item[1])
    first, others = report_terms.leading(report.findings, FINDINGS_OF_A_KIND)
    return environment.get_template("simulation.html").render(
        report=report,
        earlier=earlier,
        verdict=report_terms.verdict(report),
        facts=_facts(report),
        differences=_differences(report, earlier) if earlier else [],
        tiles=_tiles(report, earlier),
        counts=[_count_row(figure, report, earlier) for figure in report_terms.COUNTS],
        zeros=[_count_row(figure, report, earlier, zero=True) for figure in report_terms.MUST_BE_ZERO],
        redelivered=_count_row(report_terms.REDELIVERED, report, earlier),
        states=_states(report),
        states_total=sum(report.server_states.values()),
        thresholds=[(threshold, _meaning(threshold.text)) for threshold in report.thresholds],
        findings=first,
        findings_below=others,
        findings_limit=MAX_FINDINGS,
        kind_words=report_terms.KIND_WORDS,
        latencies=_latencies(report, earlier),
        percentiles=_percentiles(report, earlier),
        charts=_charts(report) if report.samples else [],
        seconds_a_slice=round(len(report.samples) / CURVE_SLICES) if len(report.samples) > MAX_POINTS else 0,
        phases=[(phase, report_terms.span(phase.began), report_terms.span(phase.ended)) for phase in report.phases],
        costs=_costs(report, earlier),
        errors=[(what, report_terms.count(times)) for what, times in errors[:ERROR_KINDS]],
        errors_more=len(errors) - ERROR_KINDS,
        again=report_terms.command_again(report),
        again_exactly=report_terms.command_again(report, "again.toml"),
        host=[
            ("System", report.host.system),
            ("Processor", report.host.processor),
            ("Cores", report_terms.count(report.host.cores)),
            ("Memory", report_terms.memory(report.host.memory)),
            ("Python", report.host.python),
        ],
    )


def _facts(report: SimulationReport) -> list[str]:
    paho = f", {report_terms.count(report.paho_devices)} of them paho-mqtt clients" if report.paho_devices else ""
    processes = "1 process" if report.processes == 1 else f"{report.processes} processes"
    return [
        f"scenario {report.scenario}",
        f"{report_terms.count(report.devices)} devices{paho}",
        report_terms.span(report.duration),
        processes,
        f"seed {report.seed}",
        report.began_at,
        f"Fleetpush {report.fleetpush}",
        f"server: {report.server}",
    ]


def _differences(report: SimulationReport, earlier: SimulationReport) -> list[str]:
    """The facts in which two runs differ besides their figures. A bigger machine is no faster server."""

    def circumstances(of: SimulationReport) -> dict[str, str]:
        return {
            "scenario": of.scenario,
            "devices": report_terms.count(of.devices),
            "of them paho-mqtt": report_terms.count(of.paho_devices),
            "duration": report_terms.span(round(of.duration)),
            "processes": report_terms.count(of.processes),
            "seed": str(of.seed),
            "Fleetpush": of.fleetpush,
            "server": of.server,
            "system": of.host.system,
            "processor": of.host.processor,
            "cores": str(of.host.cores),
            "memory": report_terms.memory(of.host.memory),
            "Python": of.host.python,
        }

    now, then = circumstances(report), circumstances(earlier)
    return [f"{name} {now[name]} (then {then[name]})" for name in now if now[name] != then[name]]


def _row(
    title: str,
    read: Callable[[SimulationReport], float | None],
    say: Callable[[float | None], str],
    report: SimulationReport,
    earlier: SimulationReport | None,
    meaning: str = "",
) -> Row:
    now = read(report)
    if earlier is None:
        return Row(title, say(now), meaning)
    then = read(earlier)
    return Row(title, say(now), meaning, then=say(then), change=report_terms.change(now, then))


def _count_row(
    figure: report_terms.Figure, report: SimulationReport, earlier: SimulationReport | None, *, zero: bool = False
) -> Row:
    now = figure.of(report)
    # Nothing went wrong where nothing happened, but it is no success either.
    mark = "bad" if zero and now else "good" if zero and report.deliveries else ""
    if earlier is None:
        return Row(figure.title, report_terms.count(now), figure.meaning, mark)
    then = figure.of(earlier)
    return Row(
        figure.title,
        report_terms.count(now),
        figure.meaning,
        mark,
        report_terms.count(then),
        report_terms.change(now, then),
    )


def _tiles(report: SimulationReport, earlier: SimulationReport | None) -> list[Row]:
    return [
        _row("delivered", lambda of: of.delivered, report_terms.number, report, earlier),
        _row("delivery, 50 %", lambda of: of.latency_ms.p50, report_terms.milliseconds, report, earlier),
        _row("delivery, 99 %", lambda of: of.latency_ms.p99, report_terms.milliseconds, report, earlier),
        _row(
            "deliveries per second", lambda of: of.resources.deliveries_per_second, report_terms.number, report, earlier
        ),
        _row(
            "server time per push",
            lambda of: of.resources.server_microseconds_per_push,
            _microseconds,
            report,
            earlier,
        ),
    ]


def _states(report: SimulationReport) -> list[StateGroup]:
    known = {*report_terms.ARRIVED, *report_terms.OPEN, *report_terms.ENDED}
    other = sorted(report.server_states.keys() - known)
    groups = (
        ("Arrived", report_terms.ARRIVED),
        ("Still open", report_terms.OPEN),
        ("Ended undelivered", report_terms.ENDED),
    )
    found = []
    for title, states in (*groups, ("Other states", other)):
        present = [(state, report.server_states[state]) for state in states if report.server_states.get(state)]
        if present or title == "Arrived":
            total = report_terms.count(sum(number for _, number in present))
            found.append(StateGroup(title, total, [(state, report_terms.count(number)) for state, number in present]))
    return found


def _meaning(threshold: str) -> str:
    name = re.match(r"\w*", threshold.strip())
    metric = METRICS.get(name[0]) if name else None
    return metric.meaning if metric else ""


def _latencies(report: SimulationReport, earlier: SimulationReport | None) -> list[tuple[str, str, str, list[Row]]]:
    """Title, meaning, number of measurements, and a cell for each percentile."""

    def values(latency: Latency) -> tuple[float | None, ...]:
        return (latency.p50, latency.p90, latency.p99, latency.p999, latency.max)

    def cells(now: Latency, then: Latency | None) -> list[Row]:
        say = report_terms.milliseconds
        if then is None:
            return [Row("", say(value)) for value in values(now)]
        pairs = zip(values(now), values(then), strict=True)
        return [Row("", say(one), then=say(other), change=report_terms.change(one, other)) for one, other in pairs]

    of: tuple[tuple[str, str, Callable[[SimulationReport], Latency]], ...] = (
        ("Delivery", "intended send time to the device", lambda report: report.latency_ms),
        ("Request", "intended send time to the 202", lambda report: report.request_ms),
        ("Connect", "attempt to SUBACK", lambda report: report.connect_ms),
    )
    return [
        (
            title,
            meaning,
            report_terms.count(read(report).count),
            cells(read(report), read(earlier) if earlier else None),
        )
        for title, meaning, read in of
    ]


def _percentiles(report: SimulationReport, earlier: SimulationReport | None) -> Chart | None:
    if not report.latency_curve:
        return None
    series = [Series("this run", report.latency_curve, "1")]
    if earlier is not None and earlier.latency_curve:
        series.insert(0, Series("earlier run", earlier.latency_curve, "then"))
    keys = [(one.style, one.name) for one in reversed(series)] if len(series) > 1 else []
    label = "Delivery latency by percentile"
    return Chart("Delivery latency", "ms, by percentile", keys, percentile_chart(label, series))


def _charts(report: SimulationReport) -> list[Chart]:
    """Over time. What was never measured has no chart, and its absence is said in the section of the costs."""
    bands = [Band(phase.name, phase.began, phase.ended) for phase in report.phases]
    samples = report.samples
    duration = max(report.duration, samples[-1].at)

    def series(name: str, style: str, of: Callable[[Sample], float | None]) -> Series:
        return Series(name, [(sample.at, of(sample)) for sample in samples], style)

    def chart(title: str, unit: str, *curves: Series, whole: bool = False, steep: bool = False) -> Chart:
        measured = [curve for curve in curves if any(value is not None for _, value in curve.points)]
        keys = [(curve.style, curve.name) for curve in measured] if len(curves) > 1 else []
        svg = time_chart(f"{title}, {unit}", measured, bands, duration, whole=whole, steep=steep)
        return Chart(title, unit, keys, svg)

    accepted = series("accepted", "2", lambda sample: sample.accepted)
    delivered = series("delivered", "1", lambda sample: sample.delivered)
    peaks = sorted(max(getattr(sample, name) for sample in samples) for name in ("accepted", "delivered"))
    if peaks[0] * FAR_APART_RATIO < peaks[1]:
        flow = [
            chart("Pushes accepted", "per second", accepted, whole=True),
            chart("Deliveries", "per second", delivered, whole=True),
        ]
    else:
        flow = [chart("Pushes accepted, deliveries", "per second", delivered, accepted, whole=True)]
    return [
        chart("Devices online", "number", series("online", "1", lambda sample: sample.online), whole=True),
        *flow,
        chart(
            "Delivery latency",
            "ms, each second",
            series("99 %", "2", lambda sample: sample.p99_ms),
            series("50 %", "1", lambda sample: sample.p50_ms),
            steep=True,
        ),
        chart("Connections made", "per second", series("connects", "1", lambda sample: sample.connects), whole=True),
        chart(
            "Processor time",
            "cores",
            series("server", "1", lambda sample: sample.server_cores),
            series("simulator", "2", lambda sample: sample.simulator_cores),
        ),
        chart(
            "Memory",
            "MiB",
            series("server", "1", lambda sample: sample.server_memory and sample.server_memory / MIB_BYTES),
            series("simulator", "2", lambda sample: sample.simulator_memory / MIB_BYTES),
        ),
        chart(
            "Event loop lag of the simulator", "ms", series("lag", "2", lambda sample: sample.loop_lag_ms), steep=True
        ),
    ]


def _costs(report: SimulationReport, earlier: SimulationReport | None) -> list[Row]:
    def server_memory(of: SimulationReport) -> float | None:
        return METRICS["server_memory"].read(of)

    def row(title: str, read: Callable[[SimulationReport], float | None], say: Callable[[float | None], str]) -> Row:
        return _row(title, read, say, report, earlier)

    return [
        row("Server: processor time per push", lambda of: of.resources.server_microseconds_per_push, _microseconds),
        row("Server: cores, on average", METRICS["server_cores"].read, report_terms.number),
        row("Server: memory, at most", server_memory, report_terms.memory),
        row(
            "Simulator: processor time per push", lambda of: of.resources.simulator_microseconds_per_push, _microseconds
        ),
        row("Simulator: cores, on average", METRICS["simulator_cores"].read, report_terms.number),
        row("Simulator: memory per device", lambda of: of.resources.bytes_per_device, report_terms.memory),
        row("Simulator: event loop lag, 99 %", lambda of: of.resources.loop_lag_p99_ms, report_terms.milliseconds),
        row("Simulator: event loop lag, at most", lambda of: of.resources.loop_lag_max_ms, report_terms.milliseconds),
        row("Connections per second", lambda of: of.resources.connects_per_second, report_terms.number),
        row("Deliveries per second", lambda of: of.resources.deliveries_per_second, report_terms.number),
    ]


def _microseconds(value: float | None) -> str:
    return report_terms.UNKNOWN if value is None else f"{report_terms.number(value)} µs"
