"""The report as JUnit XML, for the page of a CI server: a test case for each figure that must be 0 and each threshold.

The dialect is the one that all readers share: `testsuites`, `testsuite` with its counts, `properties`, `testcase` with
`failure`, `system-err`.
"""

from __future__ import annotations

from xml.etree import ElementTree

from client_sim.simulator import report_terms
from client_sim.simulator.simulation_report import Finding, SimulationReport

FINDINGS_OF_A_KIND = 20
"""Written into a failure; the JSON has all."""


def render(report: SimulationReport) -> str:
    """The report as JUnit XML: a case for each truth and each threshold."""
    suites = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(suites, "testsuite", {"name": _text(report.scenario)})
    properties = ElementTree.SubElement(suite, "properties")
    for name in ("title", "fleetpush", "server", "seed", "devices", "paho_devices", "processes", *_counted()):
        value = _text(str(getattr(report, name)))
        ElementTree.SubElement(properties, "property", {"name": name, "value": value})
    for figure in report_terms.MUST_BE_ZERO:
        findings = [finding for finding in report.findings if finding.kind in figure.kinds]
        number = figure.of(report)
        said = f"{report_terms.count(number)} {figure.words}: {figure.meaning}"
        _case(suite, report, "truth", f"{figure.field} == 0", said if number else None, _lines(findings))
    for threshold in report.thresholds:
        said = f"{threshold.text} was {threshold.actual}"
        _case(suite, report, "thresholds", threshold.text, None if threshold.passed else said)
    failures = suite.findall("testcase/failure")
    if not report.passed and not failures:
        # Failed for another reason, nothing accepted for example; a CI server must not show it green.
        _case(suite, report, "run", "came to its end", report_terms.verdict(report))
        failures = suite.findall("testcase/failure")
    counts = {"tests": len(suite.findall("testcase")), "failures": len(failures), "errors": 0, "skipped": 0}
    for element in (suites, suite):
        for name, number in counts.items():
            element.set(name, str(number))
        element.set("time", f"{report.duration:.3f}")
    suite.set("timestamp", _text(report.began_at))
    if report.warnings:
        ElementTree.SubElement(suite, "system-err").text = _text("\n".join(report.warnings))
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"


def _counted() -> tuple[str, ...]:
    return tuple(figure.field for figure in (*report_terms.COUNTS, report_terms.REDELIVERED))


def _case(
    suite: ElementTree.Element, report: SimulationReport, group: str, name: str, failed: str | None, details: str = ""
) -> None:
    attributes = {"classname": _text(f"{report.scenario}.{group}"), "name": _text(name), "time": "0"}
    case = ElementTree.SubElement(suite, "testcase", attributes)
    if failed is not None:
        kind = {"message": _text(failed), "type": group}
        ElementTree.SubElement(case, "failure", kind).text = _text("\n".join(filter(None, (failed, details))))


def _lines(findings: list[Finding]) -> str:
    lines = [
        f"{report_terms.KIND_WORDS[finding.kind]}: push {finding.push_id or report_terms.UNKNOWN}, "
        f"device {finding.device_id or report_terms.UNKNOWN}: {finding.detail}"
        for finding in findings[:FINDINGS_OF_A_KIND]
    ]
    more = len(findings) - len(lines)
    return "\n".join(lines + ([f"and {more} more"] if more > 0 else []))


def _text(words: str) -> str:
    return report_terms.printable(words)
