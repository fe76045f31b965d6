"""The alert rules and the dashboard as files, and the names and labels that their expressions ask for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
DEPLOY: Final = ROOT / "gateway" / "deploy"
ALERTS: Final = DEPLOY / "prometheus-alerts.yml"
DASHBOARD: Final = DEPLOY / "grafana-dashboard.json"
_SELECTOR: Final = re.compile(r"\b((?:fleetpush|process)_\w+|up)\b(\{[^}]*\})?")
_MATCHER: Final = re.compile(r"(\w+)\s*(=~|!~|!=|=)\s*\"([^\"]*)\"")
_GROUPING: Final = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")


@dataclass(frozen=True)
class Alert:
    """A rule that raises an alert."""

    name: str
    expr: str
    labels: dict[str, str]
    annotations: dict[str, str]
    holds: str
    """`for`: how long the expression is true before somebody is told."""


@cache
def alerts() -> list[Alert]:
    """Every alert, in the order of the file."""
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    return [
        Alert(rule["alert"], rule["expr"], rule["labels"], rule["annotations"], rule.get("for", "0s")) for rule in rules
    ]


@cache
def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def panels() -> list[dict[str, Any]]:
    """The dashboard's panels, without the rows that divide it."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def dashboard_expressions() -> list[str]:
    """The expressions of all panels and annotations, with Grafana's variables filled in."""
    written = [target["expr"] for panel in panels() for target in panel["targets"]]
    written += [annotation["expr"] for annotation in dashboard()["annotations"]["list"]]
    return [expr.replace("$__rate_interval", "5m").replace("$instance", ".*") for expr in written]


@dataclass(frozen=True)
class Selector:
    """A time series that an expression asks for: its name, and what it wants of labels, as (label, operator, value)."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]


def selectors(expr: str) -> Iterator[Selector]:
    """Find the time series that an expression asks for."""
    for name, matchers in _SELECTOR.findall(expr):
        yield Selector(name, tuple(_MATCHER.findall(matchers)))


def grouped_by(expr: str) -> set[str]:
    """Find the labels that an expression groups or joins by."""
    return {label.strip() for labels in _GROUPING.findall(expr) for label in labels.split(",") if label.strip()}
