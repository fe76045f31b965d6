"""Every expression of the dashboard and the alert rules asks for a metric, a label and a value that `/metrics` has."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.delivery.heartbeat_states import Beaten
from gateway.store.deliveries.heartbeats import HeartbeatState
from tests.alerts.shipped import (
    ALERTS,
    ROOT,
    Alert,
    alerts,
    dashboard,
    dashboard_expressions,
    grouped_by,
    panels,
    selectors,
)
from tests.documents.markdown import anchors, blocks
from tests.gateway.in_process import InProcessGateway
from tests.third_party import require

SCRAPED_LABELS = {"job", "instance"}
"""Labels that Prometheus adds."""
RUNBOOK = ROOT / "docs" / "operate" / "monitoring.md"
RUNBOOK_URL = "https://fleetpush.example/docs/operate/monitoring#"

Known = dict[str, dict[str, set[str]]]
"""Name of a sample -> label -> its values; of `up`, which Prometheus makes, too."""


async def known_samples(gateway: InProcessGateway) -> Known:
    """What `/metrics` has, with everything that is there only under conditions."""
    gateway.components.certificate_ends = {"server": 0.0, "ca": 0.0}
    await gateway.call("PUT", "/v1/watches/prices", json={"every_s": 60})
    gateway.components.delivery.heartbeats.beaten["default/site"] = Beaten(
        {state.value: 0 for state in HeartbeatState}, slowest_ms=0
    )
    known: Known = {"up": {}}
    for family in text_string_to_metric_families((await gateway.http.get("/metrics")).text):
        for sample in family.samples:
            labels = known.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    for family in gateway.components.metrics._registry.collect():
        if not family.samples:  # nothing has happened to it yet: its labels are known, but not their values
            name = family.name + ("_total" if family.type == "counter" else "")
            known[name] = {label: set() for label in getattr(family, "_labelnames", ())}
    return known


def complaints(expr: str, known: Known) -> list[str]:
    """What is wrong with an expression."""
    found = []
    labels = set(SCRAPED_LABELS)
    for selector in selectors(expr):
        if selector.name not in known:
            found.append(f"there is no {selector.name}")
            continue
        its_labels = known[selector.name]
        labels |= set(its_labels)
        for label, operator, wanted in selector.matchers:
            if label in SCRAPED_LABELS:
                continue
            if label not in its_labels:
                found.append(f"{selector.name} has no label {label}")
            elif operator in ("=", "=~"):
                values, there = wanted.split("|") if operator == "=~" else [wanted], its_labels[label]
                found += [
                    f"{label} of {selector.name} is never {value}"
                    for value in values
                    if there and value not in there and value != ".*"
                ]
    return [*found, *(f"nothing has a label {label}" for label in sorted(grouped_by(expr) - labels))]


async def test_every_expression_asks_for_what_there_is(gateway: InProcessGateway) -> None:
    known = await known_samples(gateway)
    expressions = [*(alert.expr for alert in alerts()), *dashboard_expressions()]
    assert len(expressions) > 80
    assert {expr: found for expr in expressions if (found := complaints(expr, known))} == {}


async def test_what_there_is_not_is_found(gateway: InProcessGateway) -> None:
    known = await known_samples(gateway)
    assert complaints("fleetpush_pushes_acepted_total > 0", known) == ["there is no fleetpush_pushes_acepted_total"]
    assert complaints('sum by (le, shop) (fleetpush_hand_over_seconds_bucket{le="0.3"})', known) == [
        "le of fleetpush_hand_over_seconds_bucket is never 0.3",
        "nothing has a label shop",
    ]
    assert complaints('fleetpush_ready{state="x"}', known) == ["fleetpush_ready has no label state"]
    assert complaints('fleetpush_deliveries_ended_total{state=~"expired|lost"}', known) == [
        "state of fleetpush_deliveries_ended_total is never lost"
    ]


def test_the_dashboard_shows_every_figure_that_an_alert_watches() -> None:
    def watched(exprs: list[str]) -> set[str]:
        names = {selector.name for expr in exprs for selector in selectors(expr)}
        return {re.sub(r"_(bucket|count|sum)$", "", name) for name in names}

    shown = watched(dashboard_expressions())
    assert watched([alert.expr for alert in alerts()]) - shown == {"up"}
    text = json.dumps(dashboard())
    not_shown = {"FleetpushDown", "FleetpushRestarts", "FleetpushWebhookDisabled"}  # no figure, or beside another one's
    assert {alert.name for alert in alerts() if alert.name not in text} == not_shown


def test_panels_have_a_text_a_unit_and_a_place_of_their_own() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert x < 24
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
    for panel in panels():
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        assert all(target["legendFormat"] for target in panel["targets"])
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.name)
def test_an_alert_says_how_bad_it_is_what_to_do_and_where_to_read_on(alert: Alert) -> None:
    assert alert.labels["severity"] in ("critical", "warning")
    assert re.match(r"Fleetpush[A-Z]", alert.name)
    summary, url = alert.annotations["summary"], alert.annotations["runbook_url"]
    assert summary.endswith(".")
    assert ": " in summary, "first what is wrong, then the remedy"
    assert url == RUNBOOK_URL + alert.name.lower()
    assert alert.name.lower() in anchors(RUNBOOK)


def test_the_runbook_has_a_section_for_each_alert_and_no_other() -> None:
    titles = re.findall(r"^### (Fleetpush\w+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert sorted(titles) == sorted(alert.name for alert in alerts())


def promtool(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([require("promtool"), *arguments], cwd=folder, capture_output=True, text=True, timeout=60)


def test_prometheus_accepts_the_rules(tmp_path: Path) -> None:
    done = promtool("check", "rules", ALERTS, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {len(alerts())} rules found" in done.stdout


def test_prometheus_understands_the_dashboard(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{n}", "expr": expr} for n, expr in enumerate(dashboard_expressions())]
    path = tmp_path / "dashboard.json"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = promtool("check", "rules", path, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_accepts_the_configuration_of_the_page(tmp_path: Path) -> None:
    (text,) = (block.text for block in blocks(RUNBOOK) if (block.language, block.mark) == ("yaml", "prometheus"))
    (tmp_path / "prometheus.yml").write_text(text)
    (tmp_path / "fleetpush-alerts.yml").write_bytes(ALERTS.read_bytes())
    done = promtool("check", "config", "--syntax-only", "prometheus.yml", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
