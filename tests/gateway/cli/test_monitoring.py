from __future__ import annotations

import json

from tests.alerts.shipped import ALERTS, DASHBOARD
from tests.gateway.cli.fake_server import run_command


def test_the_files_are_printed_as_they_are_shipped() -> None:
    alerts = run_command("monitoring", "alerts")
    assert (alerts.exit_code, alerts.stdout) == (0, ALERTS.read_text())
    dashboard = run_command("monitoring", "dashboard")
    assert (dashboard.exit_code, dashboard.stdout) == (0, DASHBOARD.read_text())
    assert json.loads(dashboard.stdout)["uid"] == "fleetpush"
