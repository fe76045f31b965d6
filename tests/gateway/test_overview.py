from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway import overview
from gateway.backup_record import change_record
from gateway.delivery.heartbeat_states import Beaten
from gateway.metrics import MetricsSources
from gateway.overview import Overview, ServerAlert
from tests.alerts.shipped import alerts as shipped_alerts
from tests.gateway.in_process import InProcessGateway

RULES = {alert.name: alert for alert in shipped_alerts()}
NEED_HISTORY = {
    *("FleetpushDown", "FleetpushRestarts", "FleetpushRequestsFail", "FleetpushLoginsFail", "FleetpushDevicesLost"),
    *("FleetpushDeliverySlow", "FleetpushDevicesSlow", "FleetpushUndelivered", "FleetpushWebhookDisabled"),
    *("FleetpushNobodyActed", "FleetpushCampaignStopped", "FleetpushStorageFails", "FleetpushDiskSlow"),
    *("FleetpushLoopStalls", "FleetpushNodeDown", "FleetpushNodeLeaseShort", "FleetpushNodesEnd"),
    *("FleetpushPeerSilent", "FleetpushChangesWait", "FleetpushDatabaseAway", "FleetpushVersionsMixed"),
}
"""Rules over a time or over several nodes, which only Prometheus has."""
GIB = 1 << 30
DAY_SECONDS = 86_400


@pytest.fixture
def sources(gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch) -> MetricsSources:
    """Those of a gateway that nothing ails, whatever the disk of this machine has; databases of tests do not sync."""
    monkeypatch.setattr(type(gateway.database), "is_durable", True)
    return replace(gateway.components.overview._sources, disk_left=lambda: 2 * GIB)


def told(sources: MetricsSources) -> list[ServerAlert]:
    return Overview(sources, lambda: 0, lambda app_no: 0).alerts()


def seconds(**values: float) -> Any:
    return SimpleNamespace(critical=SimpleNamespace(seconds=lambda: {"connected": 0.0, "away": 0.0, **values}))


def beaten(**states: int) -> Any:
    return SimpleNamespace(beaten={"default/site": Beaten(Counter(states), None)})


def test_nothing_is_said_of_a_healthy_server(sources: MetricsSources) -> None:
    assert told(sources) == []


@pytest.mark.parametrize(
    ("name", "change", "value", "threshold"),
    [
        ("FleetpushNotReady", {"is_ready": lambda: False}, 0, 0),
        ("FleetpushCriticalWaits", {"measurements": seconds(connected=61)}, 61, 60),
        ("FleetpushCriticalForAway", {"measurements": seconds(away=901)}, 901, 900),
        ("FleetpushWebhookFails", {"webhook_sender": SimpleNamespace(failing=lambda: [3.0, 901.0])}, 901, 900),
        ("FleetpushSiteSilent", {"heartbeats": beaten(silent=2)}, 2, 0),
        ("FleetpushSiteSlow", {"heartbeats": beaten(slow=3)}, 3, 0),
        ("FleetpushSenderSilent", {"watches": SimpleNamespace(all=lambda: [SimpleNamespace(silent_at=7)])}, 1, 1),
        ("FleetpushDiskFull", {"disk_left": lambda: 0}, 0, 0),
        ("FleetpushDiskFilling", {"disk_left": lambda: GIB - 1}, GIB - 1, GIB),
        ("FleetpushDescriptorsShort", {"device_descriptors": 10, "broker": SimpleNamespace(connections=9)}, 9, 0.8),
        ("FleetpushCertificateEnds", {"certificates": lambda: {"ca": time.time() + 29 * DAY_SECONDS}}, 29, 30),
        ("FleetpushCertificateEndsSoon", {"certificates": lambda: {"ca": time.time() + 6 * DAY_SECONDS}}, 6, 7),
    ],
)
def test_an_alert_is_as_its_rule_for_prometheus(
    sources: MetricsSources, name: str, change: dict[str, Any], value: float, threshold: float
) -> None:
    (found,) = told(replace(sources, **change))
    assert (found.name, round(found.value)) == (name, value)
    assert_as_ruled(found, threshold)


def assert_as_ruled(found: ServerAlert, threshold: float) -> None:
    rule = RULES[found.name]
    assert found.severity == rule.labels["severity"]
    assert re.search(rf"(?<![\w.]){threshold}(?![\w.])", rule.expr)


def test_a_writer_that_is_behind_is_said(sources: MetricsSources, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(sources.database), "backlog", lambda self: (9, 2.5))
    (found,) = told(sources)
    assert_as_ruled(found, 2)


def test_a_node_that_reads_nothing_is_said_while_it_has_a_lease(sources: MetricsSources) -> None:
    behind: Any = SimpleNamespace(behind_seconds=lambda: 6.0)
    for has_lease in (True, False):
        membership: Any = SimpleNamespace(may_serve=lambda: has_lease)  # noqa: B023
        found = told(replace(sources, new_pushes=behind, membership=membership))
        assert [alert.name for alert in found] == ["FleetpushNodeBehind"] * has_lease
        for alert in found:
            assert_as_ruled(alert, 5)


def test_a_database_that_may_lose_what_was_accepted_is_said(
    sources: MetricsSources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(sources.database), "is_durable", False)
    (found,) = told(sources)
    assert_as_ruled(found, 0)


def test_backups_that_fail_or_are_not_proven_are_said(sources: MetricsSources) -> None:
    data_dir: Path = sources.database.path.parent
    change_record(data_dir, failed_attempts=3, interval_seconds=3600, proven_of=int(time.time()))
    (fails,) = told(sources)
    assert_as_ruled(fails, 2)
    change_record(data_dir, failed_attempts=0, proven_of=int(time.time()) - 8 * DAY_SECONDS)
    (old,) = told(sources)
    assert_as_ruled(old, 604_800)


def test_every_rule_is_here_or_needs_history() -> None:
    text = Path(overview.__file__).read_text()
    assert set(re.findall(r'"(Fleetpush\w+)"', text)) == set(RULES) - NEED_HISTORY


def test_critical_alerts_come_first(sources: MetricsSources) -> None:
    both: dict[str, Any] = {"is_ready": lambda: False, "disk_left": lambda: GIB - 1}
    assert [found.severity for found in told(replace(sources, **both))] == ["critical", "warning"]
