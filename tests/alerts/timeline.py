"""Alerts over time: what `/metrics` of a real server said, and which rules Prometheus fires over it.

A test scrapes before, during and after a fault. promtool, which is Prometheus' own program for testing rules, is given
those samples as if each had been scraped for some minutes, and evaluates the shipped rules over them: minutes pass in
a fraction of a second, and nobody's re-implementation of PromQL is believed.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from tests.alerts.shipped import ALERTS, alerts, selectors
from tests.end_to_end.harness import Server
from tests.third_party import require

JOB: Final = 'job="fleetpush",instance="push.example:8080"'
CALM_MINUTES: Final = 40
"""Minutes for which the first sample is repeated: longer than any rule looks back for what is usual."""
STEP_MINUTES: Final = 4
"""Minutes for each sample of the fault: no rule waits longer, but for those that have time enough after the last."""
AFTER_MINUTES: Final = 10
"""Minutes for which the last sample is repeated."""
WATCHED: Final = {selector.name for alert in alerts() for selector in selectors(alert.expr)}
"""Names of the samples that rules ask for."""

Scrape = dict[str, float]
"""Samples by name and labels, `name{label="value",..}`; `up` says whether the server answered."""


def scrape(server: Server) -> Scrape:
    """Scrape a server as Prometheus does."""
    try:
        answer = httpx2.get(f"{server.url}/metrics", timeout=10.0, trust_env=False, verify=False)
    except httpx2.TransportError:
        return {f"up{{{JOB}}}": 0.0}
    assert answer.status_code == 200, answer.text
    return {f"up{{{JOB}}}": 1.0} | samples(answer.text)


def samples(text: str) -> Scrape:
    """The samples of a text of Prometheus that rules ask for."""
    found: Scrape = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in WATCHED and math.isfinite(sample.value):
                labels = [JOB, *(f'{label}="{value}"' for label, value in sample.labels.items())]
                found[f"{sample.name}{{{','.join(labels)}}}"] = sample.value
    return found


def value_of(scraped: Scrape, name: str, **labels: str) -> float:
    """The sum of the samples of a name that have these labels."""
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    of_name = ((series, value) for series, value in scraped.items() if series.startswith(f"{name}{{"))
    return sum(value for series, value in of_name if all(label in series for label in wanted))


def firing(folder: Path, before: Scrape, *during: Scrape) -> set[str]:
    """The alerts that fire because of what came after `before`; none may fire before that."""
    timeline = [before] * CALM_MINUTES
    for one in during:
        timeline += [one] * STEP_MINUTES
    timeline += [during[-1]] * AFTER_MINUTES
    assert _evaluate(folder, timeline[:CALM_MINUTES], "1m") == set(), "before"
    return _evaluate(folder, timeline, "1m")


def firing_over(folder: Path, timeline: Sequence[Scrape], interval: str) -> set[str]:
    """The alerts that fire at any time, one sample each `interval`."""
    return _evaluate(folder, timeline, interval)


def _evaluate(folder: Path, timeline: Sequence[Scrape], interval: str) -> set[str]:
    names = dict.fromkeys(name for one in timeline for name in one)
    end = f"{len(timeline) - 1}x{interval}"
    test = {
        "rule_files": [str(ALERTS)],
        "evaluation_interval": interval,
        "tests": [
            {
                "interval": interval,
                "input_series": [
                    {"series": name, "values": _values(one.get(name) for one in timeline)} for name in names
                ],
                "promql_expr_test": [
                    {
                        "expr": 'group by (alertname) (max_over_time(ALERTS{alertstate="firing"}[1d]))',
                        "eval_time": _product(end),
                        "exp_samples": [{"labels": '{alertname="nothing of that name"}', "value": 1}],
                    }
                ],
            }
        ],
    }
    path = folder / "timeline.json"
    path.write_text(json.dumps(test))
    done = subprocess.run([require("promtool"), "test", "rules", path], capture_output=True, text=True, timeout=60)
    # What it got instead of what was asked for, which there cannot be, is the answer.
    said = done.stdout + done.stderr
    assert "got:" in said, said
    return set(re.findall(r'alertname="(\w+)"', said.partition("got:")[2]))


def _values(values: Iterable[float | None]) -> str:
    return " ".join("_" if value is None else f"{value:f}" for value in values)


def _product(text: str) -> str:
    """`40x15s` -> `600s`."""
    count, _, interval = text.partition("x")
    number, unit = int(interval[:-1]), interval[-1]
    return f"{int(count) * number}{unit}"
