"""The HTML report: one file that fetches nothing and runs nothing, says everything, and believes no name."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from client_sim.simulator import html_report
from client_sim.simulator.simulation_report import Finding, Latency, PhaseReport, SimulationReport, Threshold
from tests.client_sim.simulator import made_up_report

VOID = {"meta", "br", "hr", "img", "input", "link"}
EVIL = "\"><script>alert('x')</script><img src=http://evil.example/x onerror=alert(1)>{{ 7 * 7 }}</pre></style>"


class Reader(HTMLParser):
    """Complains of tags that do not balance, scripts, and anything a browser would fetch or run."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.complaints: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag in ("script", "img", "link", "iframe", "object", "embed", "base", "form"):
            self.complaints.append(f"<{tag}>")
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "action", "style") or name.startswith("on"):
                self.complaints.append(f"{name}={value}")

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.complaints.append(f"</{tag}> closes nothing")

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "style":
            self.complaints += re.findall(r"@import|url\(|https?:", data)
        else:
            self.words.append(data)

    @classmethod
    def read(cls, html: str) -> Reader:
        reader = cls()
        reader.feed(html)
        reader.close()
        reader.complaints += [f"<{tag}> is never closed" for tag in reader._open]
        return reader

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def read(report: SimulationReport, earlier: SimulationReport | None = None) -> Reader:
    return Reader.read(html_report.render(report, earlier))


@pytest.mark.parametrize(
    ("report", "earlier"),
    [
        (made_up_report.report(), None),
        (made_up_report.failed_report(), None),
        (made_up_report.empty_report(), None),
        (made_up_report.hours_report(), None),
        (made_up_report.report(), made_up_report.failed_report()),
        (made_up_report.report(), made_up_report.empty_report()),
        (made_up_report.empty_report(), made_up_report.report()),
    ],
    ids=["passed", "failed", "empty", "hours", "compared", "compared with an empty one", "empty compared"],
)
def test_is_one_sound_page_that_needs_nothing_else(report: SimulationReport, earlier: SimulationReport | None) -> None:
    html = html_report.render(report, earlier)
    reader = Reader.read(html)
    assert reader.complaints == []
    assert html.lstrip().startswith("<!DOCTYPE html>")
    assert '<html lang="en">' in html
    assert reader.tags.count("title") >= 1
    assert report.title in reader.text


def test_the_verdict_comes_first() -> None:
    text = read(made_up_report.failed_report()).text
    assert text.index("Failed 37 lost; 5 duplicated") < text.index("What became of every delivery")
    assert "The simulator was the bottleneck" in text
    text = read(made_up_report.report()).text
    assert "Passed All 37,600 deliveries are accounted for" in text
    assert "Findings" not in text
    assert "Warnings" not in text


def test_both_ledgers_are_told() -> None:
    text = read(made_up_report.report()).text
    for words in (
        "Accepted 37,600",
        "Lost 0 accepted, neither arrived",
        "Expired though online 0",
        "Harmless: 213 redelivered",
        "Arrived 37,412 delivered 9,000 displayed 20,312 opened 5,100 acted 3,000",
        "Ended undelivered 188 expired 121 superseded 67 All states 37,600",
        "Delivery by delivery, both say the same.",
    ):
        assert words in text, words
    assert "On 37 of 37,600 deliveries the two do not say the same." in read(made_up_report.failed_report()).text


def test_states_that_came_later_are_shown_too() -> None:
    assert "Other states 4 teleported 4" in read(made_up_report.report(server_states={"teleported": 4})).text


def test_thresholds_have_what_was_measured_and_what_it_means() -> None:
    text = read(made_up_report.failed_report()).text
    assert "delivery_p99 < 250ms 612 ms failed intended send time to the device, 99 % of them" in text
    assert "delivered_share >= 99% 99.4% holds" in text
    assert "server_cores < 1.5 not measured failed" in text


def test_some_findings_of_every_kind_are_seen_at_once() -> None:
    html = html_report.render(made_up_report.failed_report())
    seen = html[html.index("<h2>Findings") : html.index("<details>")]
    assert seen.count(">lost<") == 5
    assert seen.count(">duplicated<") == 5
    assert "PUBLISH with QoS 3" in seen
    assert "32 more of the same kinds" in html


def test_that_findings_were_cut_off_is_said() -> None:
    finding = Finding(kind="late", push_id="p", device_id="d", detail="2 s too late")
    assert "first 100; further ones" in read(made_up_report.failed_report(findings=[finding] * 100)).text
    assert "further ones" not in read(made_up_report.failed_report(findings=[finding] * 99)).text


def test_how_to_run_it_again_is_said() -> None:
    text = read(made_up_report.report()).text
    assert "fleetpush simulate restart --devices 5000 --seed 42" in text
    assert "fleetpush simulate again.toml --seed 42" in text
    assert "pushes_per_second = 400" in text
    assert "AMD EPYC 7B13" in text


def test_hours_stay_small_and_keep_their_peak() -> None:
    report = made_up_report.hours_report(8)
    html = html_report.render(report)
    assert len(html.encode()) < 300_000
    assert ">100k</text>" in html, "the one second of 98 s is in the axis"
    assert "Each point stands for 96 s" in html


def test_accepted_and_delivered_part_when_one_is_far_larger() -> None:
    assert "Pushes accepted, deliveries" in read(made_up_report.report()).text
    samples = [
        sample.model_copy(update={"accepted": 1, "delivered": 5000}) for sample in made_up_report.report().samples
    ]
    text = read(made_up_report.report(samples=samples)).text
    assert "Pushes accepted, deliveries" not in text
    assert "Pushes accepted per second" in text


def test_a_server_elsewhere_has_no_curves_of_its_own() -> None:
    unknown = {"server_cores": None, "server_memory": None}
    samples = [sample.model_copy(update=unknown) for sample in made_up_report.report().samples]
    reader = read(made_up_report.report(samples=samples))
    assert "Processor time cores simulator" in reader.text
    assert "Server: memory, at most –" in reader.text


def test_an_earlier_run_stands_beside_each_figure() -> None:
    earlier = made_up_report.failed_report(
        devices=1000,
        began_at="2026-11-25T12:00:00.000Z",
        latency_ms=Latency(count=9, p50=8.4, p90=11.9, p99=306.2, p999=None, max=6_871),
        latency_curve=made_up_report.latency_curve(8.4, 5_000),
    )
    html = html_report.render(made_up_report.report(), earlier)
    text = Reader.read(html).text
    assert "Compared with the run of 2026-11-25T12:00:00.000Z, which failed." in text
    assert "Not the same: devices 5,000 (then 1,000)." in text
    assert "delivery, 50 % 4.20 ms then 8.40 ms, ×0.50" in text
    assert "Lost 0 37 −37" in text
    assert "612 ms 306 ms ×2.00" in text
    assert 'class="line line-then"' in html
    assert "this run earlier run" in text


def test_equal_circumstances_are_said_too() -> None:
    assert "Both under the same circumstances." in read(made_up_report.report(), made_up_report.report()).text


def test_no_name_is_believed() -> None:
    report = made_up_report.failed_report(
        scenario=EVIL,
        title=EVIL,
        description=EVIL,
        scenario_text=EVIL,
        server=EVIL,
        ended={EVIL: 1},
        server_states={EVIL: 1},
        errors={EVIL: 1},
        phases=[PhaseReport(name=EVIL, began=0, ended=60, description=EVIL)],
        thresholds=[Threshold(text=EVIL, actual=EVIL, passed=False)],
        findings=[Finding(kind="lost", push_id=EVIL, device_id=EVIL, detail=EVIL)],
        warnings=[EVIL],
    )
    reader = read(report, report.model_copy(update={"server": EVIL + "2"}))
    assert reader.complaints == []
    assert reader.text.count(EVIL) >= 14
    assert "49" not in re.findall(r"onerror=alert\(1\)>(..)", reader.text)
