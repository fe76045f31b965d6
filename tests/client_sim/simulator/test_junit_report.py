"""JUnit XML: what a CI server counts and shows."""

from __future__ import annotations

from xml.etree import ElementTree

from client_sim.simulator import junit_report
from client_sim.simulator.simulation_report import Finding, SimulationReport, Threshold
from tests.client_sim.simulator import made_up_report


def suite_of(report: SimulationReport) -> ElementTree.Element:
    suites = ElementTree.fromstring(junit_report.render(report).encode())
    assert suites.tag == "testsuites"
    (suite,) = suites
    assert suite.get("tests") == suites.get("tests") == str(len(suite.findall("testcase")))
    assert suite.get("failures") == suites.get("failures") == str(len(suite.findall("testcase/failure")))
    return suite


def failures(suite: ElementTree.Element) -> dict[str, str]:
    return {
        case.get("name", ""): failure.get("message", "")
        for case in suite.findall("testcase")
        for failure in case.findall("failure")
    }


def test_every_truth_and_every_threshold_is_a_case() -> None:
    suite = suite_of(made_up_report.report())
    assert suite.get("name") == "restart"
    assert suite.get("time") == "120.000"
    assert suite.get("timestamp") == "2026-11-26T12:00:00.000Z"
    assert [(case.get("classname"), case.get("name")) for case in suite.findall("testcase")] == [
        ("restart.truth", "lost == 0"),
        ("restart.truth", "duplicated == 0"),
        ("restart.truth", "late == 0"),
        ("restart.truth", "out_of_order == 0"),
        ("restart.truth", "expired_online == 0"),
        ("restart.truth", "disagreements == 0"),
        ("restart.truth", "violations == 0"),
        ("restart.truth", "unexplained == 0"),
        ("restart.truth", "contradictions == 0"),
        ("restart.truth", "events_wrong == 0"),
        ("restart.truth", "unanswered == 0"),
        ("restart.thresholds", "lost == 0"),
        ("restart.thresholds", "delivery_p50 < 20ms"),
        ("restart.thresholds", "connect_p99 < 2s"),
        ("restart.thresholds", "memory_per_device <= 8KiB"),
    ]
    assert failures(suite) == {}
    properties = {element.get("name"): element.get("value") for element in suite.findall("properties/property")}
    assert properties["seed"] == "42"
    assert properties["delivered"] == "37412"


def test_a_failure_has_its_words_and_its_findings() -> None:
    suite = suite_of(made_up_report.failed_report())
    said = failures(suite)
    assert said["duplicated == 0"] == "5 duplicated: took effect more than once on one device"
    assert said["delivery_p99 < 250ms"] == "delivery_p99 < 250ms was 612 ms"
    assert "delivered_share >= 99%" not in said
    details = suite.findtext("testcase[@name='duplicated == 0']/failure") or ""
    assert details.count("\nduplicated: push 01KB0Z7A1C") == 5
    details = suite.findtext("testcase[@name='lost == 0']/failure") or ""
    assert details.endswith("and 17 more")
    assert "bottleneck" in (suite.findtext("system-err") or "")


def test_a_run_that_failed_otherwise_is_not_green() -> None:
    assert failures(suite_of(made_up_report.empty_report())) == {
        "came to its end": "Nothing was accepted, so nothing was proven."
    }


def test_no_name_breaks_the_document() -> None:
    evil = "]]>\x00\x1b[2J\ud800<failure/>&\"'\n"
    report = made_up_report.failed_report(
        scenario=evil,
        title=evil,
        thresholds=[Threshold(text=evil, actual=evil, passed=False)],
        findings=[Finding(kind="lost", push_id=evil, device_id=evil, detail=evil)],
        warnings=[evil],
    )
    suite = suite_of(report)
    assert suite.get("name") == "]]>��[2J�<failure/>&\"'\n"
    assert len(suite.findall("testcase")) == 12
