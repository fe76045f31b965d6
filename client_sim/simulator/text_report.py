"""The report in a terminal, on one screen: verdict, figures, thresholds, warnings, some findings, where the rest is.

What a server or a scenario named is drawn as text, never as markup, and without control characters: a device id must
not be able to move the reader's cursor.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from client_sim.simulator import report_terms
from client_sim.simulator.simulation_report import Finding, Latency, SimulationReport

SHOWN_FINDINGS = 10
"""Shared among the kinds there are."""
ERROR_KINDS = 5


def print_report(report: SimulationReport, console: Console, files: Sequence[Path] = ()) -> None:
    """Print the report on one screen. `files`: where it was written in other forms."""
    devices = report_terms.count(report.devices)
    paho = f" ({report_terms.count(report.paho_devices)} paho-mqtt)" if report.paho_devices else ""
    console.print()
    _print(
        console,
        (report.title, "bold"),
        (f"  {devices} devices{paho}, {report_terms.span(report.duration)}, seed {report.seed}", "dim"),
    )
    result = ("PASSED", "bold green") if report.passed else ("FAILED", "bold red")
    _print(console, result, ("  " + report_terms.verdict(report), ""))
    console.print()
    console.print(_truth(report))
    console.print()
    console.print(_latencies(report))
    _print_thresholds(report, console)
    for warning in report.warnings:
        _print(console, ("warning  ", "bold yellow"), (warning, ""))
    _print_findings(report.findings, console)
    errors = sorted(report.errors.items(), key=lambda item: -item[1])
    for what, times in errors[:ERROR_KINDS]:
        _print(console, (f"{report_terms.count(times)} × ", "yellow"), (what, ""), (", tried again", "dim"))
    if len(errors) > ERROR_KINDS:
        _print(console, (f"and {len(errors) - ERROR_KINDS} more kinds of errors", "dim"))
    for file in files:
        _print(console, ("written  ", "dim"), (str(file), ""))


def _truth(report: SimulationReport) -> Table:
    """The table with what happened at the left, and what must not at the right."""
    table = _table()
    for justify in ("left", "right", "left", "right"):
        table.add_column(justify=justify)
    happened = [(figure.title, report_terms.count(figure.of(report)), "") for figure in report_terms.COUNTS]
    happened += [(f"  {state}", report_terms.count(number), "dim") for state, number in sorted(report.ended.items())]
    happened.append((report_terms.REDELIVERED.title, report_terms.count(report.redelivered), "dim"))
    if report.campaign_parts:
        happened.append(("Parts of campaigns", report_terms.count(report.campaign_parts), "dim"))
    if report.people_left:
        happened.append(("People who left", report_terms.count(report.people_left), "dim"))
    must_not = [
        (figure.title, report_terms.count(figure.of(report)), "bold red" if figure.of(report) else "green")
        for figure in report_terms.MUST_BE_ZERO
    ]
    nothing = ("", "", "")
    for row in range(max(len(happened), len(must_not))):
        left = happened[row] if row < len(happened) else nothing
        right = must_not[row] if row < len(must_not) else nothing
        table.add_row(
            _text(left[0], left[2]), _text(left[1], left[2]), _text("   " + right[0]), _text(right[1], right[2])
        )
    return table


def _latencies(report: SimulationReport) -> Table:
    table = _table(header=True)
    table.add_column("")
    for title in ("50 %", "90 %", "99 %", "99.9 %", "max"):
        table.add_column(title, justify="right", header_style="dim", no_wrap=True)

    def row(title: str, latency: Latency) -> None:
        values = (latency.p50, latency.p90, latency.p99, latency.p999, latency.max)
        table.add_row(_text(title), *(_text(report_terms.milliseconds(value)) for value in values))

    row("Delivery", report.latency_ms)
    row("Request", report.request_ms)
    row("Connect", report.connect_ms)
    return table


def _print_thresholds(report: SimulationReport, console: Console) -> None:
    if not report.thresholds:
        return
    table = _table()
    for threshold in report.thresholds:
        mark = _text("✓", "green") if threshold.passed else _text("✗", "bold red")
        table.add_row(mark, _text(threshold.text), _text(threshold.actual, "" if threshold.passed else "bold red"))
    console.print()
    console.print(table)


def _print_findings(findings: Sequence[Finding], console: Console) -> None:
    if not findings:
        return
    console.print()
    of_a_kind = max(1, SHOWN_FINDINGS // len({finding.kind for finding in findings}))
    first, others = report_terms.leading(findings, of_a_kind)
    for finding in first:
        push_id, device_id = finding.push_id or report_terms.UNKNOWN, finding.device_id or report_terms.UNKNOWN
        _print(
            console,
            (report_terms.KIND_WORDS[finding.kind], "bold red"),
            (f"  push {push_id}  device {device_id}  ", "dim"),
            (finding.detail, ""),
        )
    if others:
        _print(console, (f"and {report_terms.count(len(others))} more", "dim"))


def _table(*, header: bool = False) -> Table:
    return Table(box=None, show_header=header, pad_edge=False, padding=(0, 2, 0, 0))


def _text(words: str, style: str = "") -> Text:
    return Text(report_terms.printable(words), style=style)


def _print(console: Console, *parts: tuple[str, str]) -> None:
    console.print(Text.assemble(*((report_terms.printable(words), style) for words, style in parts)), highlight=False)
