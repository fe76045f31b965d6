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
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from gateway.metrics import TEXTS_PER_SECOND
from tests.alerts.shipped import ALERTS, alerts, selectors
from tests.end_to_end.harness import Server
from tests.third_party import require

INSTANCE: Final = "push.example:8080"
JOB: Final = f'job="fleetpush",instance="{INSTANCE}"'
_JOB_LABEL: Final = r'job="([^"]+)"'
DURABLE: Final = "fleetpush_database_durable"
"""The databases of tests do not sync, and say so: it is the test's fault, and told by no rule."""
CALM_MINUTES: Final = 40
"""Minutes for which the first sample is repeated: longer than any rule looks back for what is usual."""
STEP_MINUTES: Final = 4
"""Minutes for each sample of the fault: no rule waits longer, but for those that have time enough after the last."""
AFTER_MINUTES: Final = 70
"""Minutes for which the last sample is repeated."""
WATCHED: Final = {selector.name for alert in alerts() for selector in selectors(alert.expr)}
"""Names of the samples that rules ask for."""

TIME: Final = "_timestamp_seconds"
"""The end of the names of times; promtool's clock begins at 0, so what counts is their age."""

PAUSE_SECONDS: Final = 1.2 / TEXTS_PER_SECOND
"""Seconds before each scrape: who asks more often is told the same again."""

Scrape = dict[str, float]
"""Samples by name and labels, `name{label="value",..}`, of times their age; `up` says whether the server answered."""


def scrape(server: Server) -> Scrape:
    """Scrape a server as Prometheus does, and not more often than the server makes its text anew."""
    time.sleep(PAUSE_SECONDS)
    try:
        answer = httpx2.get(f"{server.url}/metrics", timeout=10.0, trust_env=False, verify=False)
    except httpx2.TransportError:
        return {f"up{{{JOB}}}": 0.0}
    assert answer.status_code == 200, answer.text
    return samples(answer.text)


def samples(text: str, instance: str = INSTANCE) -> Scrape:
    """The samples of a text of Prometheus that rules ask for, of a server that has answered."""
    job = JOB.replace(INSTANCE, instance)
    found: Scrape = {f"up{{{job}}}": 1.0}
    watched = [line for line in text.splitlines() if re.split("[{ ]", line, maxsplit=1)[0] in WATCHED]
    for family in text_string_to_metric_families("\n".join(watched)):  # not of everything: that takes ten times as long
        for sample in family.samples:
            if math.isfinite(sample.value):
                labels = [job, *(f'{label}="{value}"' for label, value in sample.labels.items())]
                age = time.time() - sample.value
                found[f"{sample.name}{{{','.join(labels)}}}"] = age if sample.name.endswith(TIME) else sample.value
    return found | {f"{DURABLE}{{{job}}}": 1.0}


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
    calm, found = _evaluate(folder, timeline, 60, [CALM_MINUTES - 1, len(timeline) - 1])
    assert calm == set(), "before"
    return found


def firing_over(folder: Path, timeline: Sequence[Scrape], interval_seconds: int) -> set[str]:
    """The alerts that fire at any time, one sample each interval."""
    (found,) = _evaluate(folder, timeline, interval_seconds, [len(timeline) - 1])
    return found


def firing_by_job(folder: Path, timeline: Sequence[Scrape], interval_seconds: int) -> dict[str, set[str]]:
    """The alerts of each job that fire at any time, one sample each interval; of every job that has samples."""
    (answer,) = _ask(folder, timeline, interval_seconds, [len(timeline) - 1])
    found: dict[str, set[str]] = {job: set() for one in timeline for key in one for job in re.findall(_JOB_LABEL, key)}
    for alert, job in re.findall(rf'alertname="(\w+)", {_JOB_LABEL}', answer):
        found[job].add(alert)
    return found


def _evaluate(folder: Path, timeline: Sequence[Scrape], seconds: int, ends: Sequence[int]) -> list[set[str]]:
    """The alerts that have fired until each of these samples."""
    answers = _ask(folder, timeline, seconds, ends)
    return [set(re.findall(r'alertname="(\w+)"', answer)) for answer in answers]


def _ask(folder: Path, timeline: Sequence[Scrape], seconds: int, ends: Sequence[int]) -> list[str]:
    """What promtool says of the alerts that have fired until each of these samples."""
    test = _test(timeline, seconds, ends)
    path = folder / "timeline.json"
    path.write_text(json.dumps({"rule_files": [str(ALERTS)], "evaluation_interval": f"{seconds}s", "tests": [test]}))
    done = subprocess.run([require("promtool"), "test", "rules", path], capture_output=True, text=True, timeout=60)
    answers = (done.stdout + done.stderr).split("got:")[1:]
    assert len(answers) == len(ends), done.stdout + done.stderr
    return [answer.partition("exp:")[0] for answer in answers]


def _test(timeline: Sequence[Scrape], seconds: int, ends: Sequence[int]) -> dict[str, Any]:
    names = dict.fromkeys(name for one in timeline for name in one)
    # What it got instead of what it was asked for, which there cannot be, is the answer.
    impossible = [{"labels": '{alertname="nothing of that name"}', "value": 1}]
    return {
        "interval": f"{seconds}s",
        "input_series": [{"series": name, "values": _values(name, timeline, seconds)} for name in names],
        "promql_expr_test": [
            {
                "expr": 'group by (alertname, job) (max_over_time(ALERTS{alertstate="firing"}[1d]))',
                "eval_time": f"{end * seconds}s",
                "exp_samples": impossible,
            }
            for end in ends
        ],
    }


def _values(name: str, timeline: Sequence[Scrape], seconds: int) -> str:
    values = [one.get(name) for one in timeline]
    if f"{TIME}{{" in name:
        values = [None if age is None else number * seconds - age for number, age in enumerate(values)]
    # What a scrape does not have is gone at once, and not as it was for five minutes more.
    return " ".join("stale" if value is None else f"{value:f}" for value in values)
