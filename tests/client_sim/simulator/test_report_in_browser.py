"""The report as it is seen, in headless Chromium: on a desk, on a phone and on paper nothing overlaps or hangs over."""

from __future__ import annotations

from pathlib import Path

import pytest

from client_sim.simulator import html_report
from client_sim.simulator.simulation_report import SimulationReport
from tests.browser import Browser
from tests.client_sim.simulator import made_up_report

OVERLAPS = """
[...document.querySelectorAll("svg")].flatMap((svg) => {
    const edge = svg.getBoundingClientRect();
    const seen = [...svg.querySelectorAll("text")]
        .map((text) => ({ words: text.textContent, box: text.getBoundingClientRect() }))
        .filter(({ box }) => box.width > 0);
    const cut = seen.filter(({ box }) => box.left < edge.left - 1 || box.right > edge.right + 1);
    const pairs = seen.flatMap((one, index) => seen.slice(index + 1).map((other) => [one, other]));
    const over = pairs.filter(([{ box: a }, { box: b }]) =>
        a.left < b.right && b.left < a.right && a.top + 2 < b.bottom && b.top + 2 < a.bottom);
    return [
        ...cut.map(({ words }) => `${svg.ariaLabel}: ${words} is cut off`),
        ...over.map(([a, b]) => `${svg.ariaLabel}: ${a.words} over ${b.words}`),
    ];
})
"""


@pytest.mark.parametrize(
    ("report", "earlier"),
    [
        (made_up_report.failed_report(), None),
        (made_up_report.hours_report(), None),
        (made_up_report.report(), made_up_report.failed_report(latency_ms=made_up_report.empty_report().latency_ms)),
    ],
    ids=["failed", "hours", "compared"],
)
def test_reads_well_on_a_desk_a_phone_and_paper(
    browser: Browser, tmp_path: Path, report: SimulationReport, earlier: SimulationReport | None
) -> None:
    file = tmp_path / "report.html"
    file.write_text(html_report.render(report, earlier))
    with browser.context() as context:
        page = context.open(file.as_uri())
        page.wait_for("document.readyState === 'complete' && document.querySelectorAll('svg').length > 0")
        for width, medium in ((1280, "screen"), (390, "screen"), (720, "print")):
            phone = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
            page.call("Emulation.setDeviceMetricsOverride", **phone)
            page.call("Emulation.setEmulatedMedia", media=medium)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (width, medium)
            assert page.evaluate(OVERLAPS) == [], (width, medium)
        assert page.evaluate("performance.getEntriesByType('resource').length") == 0
        assert page.complaints == []
