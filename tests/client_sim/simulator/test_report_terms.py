"""The words of a report, the same in all its forms."""

from __future__ import annotations

import pytest

from client_sim.simulator import report_terms
from client_sim.simulator.simulation_report import Threshold
from tests.client_sim.simulator import made_up_report


def test_the_verdict_says_in_one_sentence_why() -> None:
    assert report_terms.verdict(made_up_report.report()) == (
        "All 37,600 deliveries are accounted for: 37,412 took effect exactly once, 188 ended with a reason; "
        "both ledgers say the same; 4 thresholds hold."
    )
    assert report_terms.verdict(made_up_report.failed_report()) == (
        "37 lost; 5 duplicated; 37 told differently by the two ledgers; 1 against the protocol; "
        "delivery_p99 < 250ms was 612 ms; server_cores < 1.5 was not measured."
    )
    assert report_terms.verdict(made_up_report.empty_report()) == "Nothing was accepted, so nothing was proven."
    assert report_terms.verdict(made_up_report.report(passed=False)) == (
        "It did not come to its end as it should; see the warnings."
    )
    assert report_terms.verdict(made_up_report.empty_report(passed=True)) == "There was nothing to deliver."


def test_a_run_that_may_have_flaws_still_names_them() -> None:
    assert report_terms.verdict(made_up_report.report(out_of_order=2)) == "Passed, although: 2 out of order."
    one = [Threshold(text="lost == 0", actual="0", passed=True)]
    assert report_terms.verdict(made_up_report.report(thresholds=one)).endswith("the threshold holds.")


def test_the_command_runs_it_again() -> None:
    report = made_up_report.report()
    assert report_terms.command_again(report) == "fleetpush simulate restart --devices 5000 --seed 42"
    assert report_terms.command_again(report, "again.toml") == "fleetpush simulate again.toml --seed 42"
    report = made_up_report.report(scenario="my fleet; rm -rf.toml", processes=2)
    assert report_terms.command_again(report) == (
        "fleetpush simulate 'my fleet; rm -rf.toml' --devices 5000 --processes 2 --seed 42"
    )


def test_the_first_findings_are_of_every_kind() -> None:
    report = made_up_report.failed_report()
    first, others = report_terms.leading(report.findings, 2)
    assert [finding.kind for finding in first] == ["lost", "lost", "duplicated", "duplicated", "violation"]
    assert len(first) + len(others) == len(report.findings)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (report_terms.number(None), "–"),
        (report_terms.number(0), "0"),
        (report_terms.number(37_412), "37,412"),
        (report_terms.number(0.04567), "0.0457"),
        (report_terms.number(1234.56), "1,235"),
        (report_terms.milliseconds(None), "–"),
        (report_terms.milliseconds(0), "0 ms"),
        (report_terms.milliseconds(4.2), "4.20 ms"),
        (report_terms.milliseconds(612.4), "612 ms"),
        (report_terms.milliseconds(5_913), "5.91 s"),
        (report_terms.memory(512), "512 B"),
        (report_terms.memory(5_745), "5.61 KiB"),
        (report_terms.memory(8 * 1024**3), "8 GiB"),
        (report_terms.span(0.4), "0.400 s"),
        (report_terms.span(119), "119 s"),
        (report_terms.span(120), "2 min"),
        (report_terms.span(200), "3 min 20 s"),
        (report_terms.span(3 * 3600), "3 h"),
        (report_terms.span(3 * 3600 + 60), "3 h 1 min"),
        (report_terms.change(5, 5), "="),
        (report_terms.change(3, 0), "+3"),
        (report_terms.change(0, 3), "−3"),
        (report_terms.change(3, 2), "×1.50"),
        (report_terms.change(1, 800), "×0.0013"),
        (report_terms.change(5000, 2), "×2,500"),
        (report_terms.change(None, 2), ""),
    ],
)
def test_numbers_are_said_as_people_say_them(said: str, words: str) -> None:
    assert said == words


def test_what_is_printed_cannot_move_a_cursor() -> None:
    assert report_terms.printable("a\x1b[2J\x00\x9b\ud800\ufffeé\n\t\N{FIRE}") == "a�[2J����é\n\t\N{FIRE}"
