"""The report in a terminal: compact, complete, and deaf to what names contain."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from client_sim.simulator.simulation_report import Finding, SimulationReport, Threshold
from client_sim.simulator.text_report import print_report
from tests.client_sim.simulator import made_up_report


def printed(report: SimulationReport, *files: Path, width: int = 100, terminal: bool = False) -> str:
    out = io.StringIO()
    print_report(report, Console(file=out, width=width, force_terminal=terminal), files)
    return out.getvalue()


def words(text: str) -> str:
    return " ".join(text.split())


def test_a_passed_run_fits_on_a_screen() -> None:
    text = printed(made_up_report.report(), Path("run.html"), Path("run.json"))
    assert len(text.splitlines()) <= 30
    said = words(text)
    for part in (
        "Restart in mid-traffic 5,000 devices (50 paho-mqtt), 2 min, seed 42",
        "PASSED All 37,600 deliveries are accounted for",
        "Accepted 37,600 Lost 0",
        "expired 121 Out of order 0",
        "Delivery 4.20 ms 11.9 ms 612 ms 5.91 s 6.87 s",
        "✓ connect_p99 < 2s 1.89 s",
        "18,211 × ConnectionRefusedError: connection refused, tried again",
        "written run.html written run.json",
    ):
        assert part in said, part


def test_a_failed_run_names_some_findings_of_every_kind() -> None:
    said = words(printed(made_up_report.failed_report()))
    assert "FAILED 37 lost; 5 duplicated;" in said
    assert "✗ delivery_p99 < 250ms 612 ms" in said
    assert "warning The simulator was the bottleneck" in said
    assert said.count("lost push 01KB0Z6Q9V") == 3
    assert said.count("duplicated push") == 3
    assert "protocol violation push – device sim-00812 PUBLISH with QoS 3 [MQTT-3.3.1-4]; disconnected" in said
    assert "and 36 more" in said


def test_an_empty_run_says_so() -> None:
    assert "FAILED Nothing was accepted, so nothing was proven." in words(printed(made_up_report.empty_report()))


def test_many_errors_are_cut_to_the_most_frequent() -> None:
    said = words(printed(made_up_report.report(errors={f"error {number}": number for number in range(1, 10)})))
    assert "9 × error 9, tried again" in said
    assert "error 4" not in said
    assert "and 4 more kinds of errors" in said


def test_a_narrow_window_breaks_no_number() -> None:
    said = words(printed(made_up_report.failed_report(), width=60))
    assert "Expired though online 0" in said
    assert "612 ms" in said


def test_names_are_neither_markup_nor_commands() -> None:
    evil = "[red]x[/red] [/nothing] \x1b[2J\x07"
    report = made_up_report.failed_report(
        title=evil,
        ended={evil: 1},
        errors={evil: 1},
        warnings=[evil],
        thresholds=[Threshold(text=evil, actual=evil, passed=False)],
        findings=[Finding(kind="lost", push_id=evil, device_id=evil, detail=evil)],
    )
    text = printed(report, width=200, terminal=True)
    assert "\x1b[2J" not in text
    assert "\x07" not in text
    assert text.count("[red]x[/red] [/nothing] �[2J�") >= 7
