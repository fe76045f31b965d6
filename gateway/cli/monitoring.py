"""`fleetpush monitoring`: the dashboard and the alert rules that belong to this version, to be written to a file.

They are files of the package (`gateway/deploy`), and a person does not look for them in `site-packages`.
"""

from __future__ import annotations

from importlib.resources import files

import typer

from gateway.cli.options import command_group

monitoring = command_group("Print what Prometheus and Grafana are given: alert rules, and a dashboard.")


@monitoring.command("alerts")
def monitoring_alerts() -> None:
    """Alert rules for Prometheus, YAML: `fleetpush monitoring alerts > fleetpush-alerts.yml`."""
    _print_file("prometheus-alerts.yml")


@monitoring.command("dashboard")
def monitoring_dashboard() -> None:
    """A dashboard for Grafana, JSON to import: `fleetpush monitoring dashboard > fleetpush-dashboard.json`."""
    _print_file("grafana-dashboard.json")


def _print_file(name: str) -> None:
    typer.echo(files("gateway").joinpath("deploy", name).read_text(encoding="utf-8"), nl=False)
