from __future__ import annotations

import time
from dataclasses import fields

import pytest
from prometheus_client.parser import text_string_to_metric_families

from broker.metrics import BrokerMetrics
from gateway import metrics
from gateway.auth import DeviceIdentity
from gateway.delivery.push import ActivePush
from gateway.errors import CATALOGUE
from gateway.measurements import CENSUS_INTERVAL_SECONDS, KNOWN_ENDS
from gateway.metrics import BROKER_COUNTERS, BROKER_DROPPED, BROKER_GAUGES, TEXTS_PER_SECOND
from gateway.store.errors import StorageDamaged
from tests.gateway.in_process import InProcessGateway


def samples(gateway: InProcessGateway) -> dict[str, float]:
    """`name{label}` -> value."""
    found = {}
    for family in text_string_to_metric_families(gateway.components.metrics.text().decode()):
        for sample in family.samples:
            found[sample.name + "".join(f"{{{value}}}" for value in sample.labels.values())] = sample.value
    return found


async def test_names_and_help_are_as_prometheus_wants_them(gateway: InProcessGateway) -> None:
    gateway.components.certificate_ends = {"server": 0.0}
    for family in text_string_to_metric_families(gateway.components.metrics.text().decode()):
        assert family.name.startswith(("fleetpush_", "process_"))
        assert family.documentation
        for sample in family.samples:
            assert (family.type == "counter") == sample.name.endswith("_total")
            known = {
                "limit",
                "le",
                "version",
                "python",
                "modules",
                "state",
                "kind",
                "code",
                "reason",
                "by",
                "certificate",
                "outcome",
                "of",
                "presence",
            }
            assert set(sample.labels) <= known, "no device, push or app in a label"


async def test_every_counter_of_the_broker_is_shown() -> None:
    named = {*BROKER_GAUGES, *BROKER_COUNTERS, *BROKER_DROPPED.values(), "refused"}
    assert named == {field.name for field in fields(BrokerMetrics)}


async def test_what_happens_is_counted(gateway: InProcessGateway) -> None:
    await gateway.enrol("kiosk-1", "kiosk-2")
    await gateway.push({"all": True})
    await gateway.refused("GET", "/v1/devices/nothing", 404)
    await gateway.refused("GET", "/v1/devices", 401, http=gateway.client("key_wrong"))
    gateway.components.delivery.connections.connected(
        "kiosk-1", DeviceIdentity(1, 1, "default", "kiosk-1", "kiosk-1"), False
    )
    gateway.components.broker.metrics.refuse("malformed_packet")
    found = samples(gateway)
    assert found["fleetpush_pushes_accepted_total"] == 1
    assert found["fleetpush_deliveries_targeted_total"] == 2
    assert found["fleetpush_devices_online"] == 1
    assert found["fleetpush_authentication_failures_total{key}"] == 1
    assert found["fleetpush_http_problems_total{device_not_found}"] == 1
    assert found["fleetpush_http_problems_total{unauthorized}"] == 1
    assert found["fleetpush_broker_refused_connections_total{malformed_packet}"] == 1
    assert found["fleetpush_database_operations_total"] >= found["fleetpush_database_groups_total"] > 0
    assert found["fleetpush_database_size_bytes"] > 0


async def test_what_alerts_count_is_there_before_it_happens(gateway: InProcessGateway) -> None:
    """`increase` does not see a counter's step from nothing to 1."""
    found = samples(gateway)
    assert {found[f"fleetpush_http_problems_total{{{code}}}"] for code in CATALOGUE} == {0}
    assert {found[f"fleetpush_deliveries_ended_total{{{reason}}}{{{state}}}"] for state, reason in KNOWN_ENDS} == {0}
    late = {found[f"fleetpush_deliveries_late_total{{{reason}}}"] for reason in ("away", "limited", "queued", "server")}
    assert late == {0}


async def test_the_figures_of_the_service(gateway: InProcessGateway) -> None:
    found = samples(gateway)
    assert found["fleetpush_ready"] == 1
    assert found["fleetpush_writer_queue_operations"] == found["fleetpush_writer_queue_oldest_seconds"] == 0
    assert 0 < found["fleetpush_disk_left_bytes"] < found["fleetpush_disk_free_bytes"]
    assert found["fleetpush_commit_seconds_count"] > 0
    assert found["fleetpush_webhooks_failing"] == found["fleetpush_webhook_failing_seconds"] == 0
    gateway.database.trouble = StorageDamaged("malformed")
    assert samples(gateway)["fleetpush_ready"] == 0
    gateway.database.trouble = None


async def test_the_days_that_certificates_have_left(gateway: InProcessGateway) -> None:
    assert b"tls_certificate" not in gateway.components.metrics.text(), "there is no TLS"
    now = time.time()
    gateway.components.certificate_ends = {"server": now + 30.5 * 86_400, "ca": now - 86_400}
    found = samples(gateway)
    assert found["fleetpush_tls_certificate_days_left{server}"] == pytest.approx(30.5, abs=0.001)
    assert found["fleetpush_tls_certificate_days_left{ca}"] == pytest.approx(-1, abs=0.001)


async def test_deliveries_are_counted_by_state_now_and_then(gateway: InProcessGateway) -> None:
    await gateway.enrol("kiosk-1", "kiosk-2")
    await gateway.push({"all": True})
    census = gateway.components.measurements.census
    assert samples(gateway)["fleetpush_deliveries{waiting}"] == 0
    await census.count_if_due(1.0)
    assert samples(gateway)["fleetpush_deliveries{waiting}"] == 2
    assert samples(gateway)["fleetpush_deliveries_counted_timestamp_seconds"] > 0
    await gateway.push({"device": "kiosk-1"})
    await census.count_if_due(CENSUS_INTERVAL_SECONDS / 2)
    assert samples(gateway)["fleetpush_deliveries{waiting}"] == 2
    await census.count_if_due(CENSUS_INTERVAL_SECONDS * 10)
    assert samples(gateway)["fleetpush_deliveries{waiting}"] == 3


async def test_what_runs_how_many_devices_there_are_and_how_fast_they_get_their_pushes(
    gateway: InProcessGateway,
) -> None:
    await gateway.enrol("kiosk-1", "kiosk-2")
    await gateway.components.measurements.census.count_if_due(CENSUS_INTERVAL_SECONDS)
    connections = gateway.components.delivery.connections
    push = ActivePush(
        no=1, app_no=1, push_id="p", kind="silent", priority=2, qos=1, ttl=60, collapse_key=None, channel=None,
        content="{}", accepted_at=gateway.clock.milliseconds, expires_at=gateway.clock.milliseconds + 60_000,
    )  # fmt: skip
    assert not samples(gateway)["fleetpush_hand_over_seconds_count"]
    connections.connected("kiosk-1", DeviceIdentity(1, 1, "default", "kiosk-1", "kiosk-1"), False)
    hand_over = gateway.components.delivery.hand_over
    device = hand_over.devices[1]
    device.deliver, device.open_priorities, device.granted = (lambda message, handle: True), 9, 1
    gateway.clock.milliseconds += 4
    hand_over.fan_out([(push, [1, 2])])
    found = samples(gateway)
    assert found["fleetpush_devices_enrolled"] == 2
    assert found["fleetpush_hand_over_seconds_count"] == 1
    assert found["fleetpush_hand_over_seconds_sum"] == 0.004
    assert (found["fleetpush_hand_over_seconds_bucket{0.002}"], found["fleetpush_hand_over_seconds_bucket{0.005}"]) == (
        0,
        1,
    )
    assert any(name.startswith("fleetpush_build_info{") and value == 1 for name, value in found.items())


async def test_strangers_who_ask_again_and_again_get_the_last_text(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = 0

    def text(registry: object) -> bytes:
        nonlocal made
        made += 1
        return b"%d" % made

    monkeypatch.setattr(metrics, "generate_latest", text)
    answers = [gateway.components.metrics.text() for _ in range(10 * TEXTS_PER_SECOND)]
    assert answers[:TEXTS_PER_SECOND] == [b"%d" % number for number in range(1, TEXTS_PER_SECOND + 1)]
    assert set(answers[TEXTS_PER_SECOND:]) == {b"%d" % TEXTS_PER_SECOND}
    gateway.components.metrics._second -= 1.0
    assert gateway.components.metrics.text() == b"%d" % (TEXTS_PER_SECOND + 1)
