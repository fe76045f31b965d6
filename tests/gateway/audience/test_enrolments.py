"""An app has so many devices at most, whatever comes and goes at once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.audience import enrolments
from gateway.audience.enrolments import LOG_MS, EnrolmentQuota
from gateway.store.audience.devices import count_devices
from tests.gateway.in_process import InProcessGateway
from tests.nodes import gateways_in_process


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three devices of an app at most."""
    monkeypatch.setattr(enrolments, "DEVICES_OF_APP", 3)


@pytest.mark.of_one_server  # which of two has the refusal in its metrics is left to chance
async def test_one_too_many_is_refused_until_one_has_left(
    gateway: InProcessGateway, caplog: pytest.LogCaptureFixture
) -> None:
    await gateway.enrol("d1", "d2", "d3")
    await gateway.refused("POST", "/v1/devices", 422, "too_many_devices", json={"device_id": "d4"})
    assert "no more are enrolled" in caplog.text
    assert b'fleetpush_requests_over_share_total{limit="devices"} 1.0' in gateway.components.metrics.text()
    await gateway.call("DELETE", "/v1/devices/d2", 204)
    await gateway.refused("DELETE", "/v1/devices/d2", 404)
    await gateway.call("POST", "/v1/devices", 201, json={"device_id": "d4"})
    await gateway.refused("POST", "/v1/devices", 422, "too_many_devices", json={"device_id": "d2"})
    await gateway.call("POST", "/v1/apps", 201, json={"id": "other"})
    other = await gateway.key_for("devices", app="other")
    await gateway.call("POST", "/v1/devices", 201, http=other, json={"device_id": "d2"})


async def test_what_is_enrolled_already_takes_no_place(gateway: InProcessGateway) -> None:
    await gateway.enrol("d1")
    for _ in range(3):
        await gateway.refused("POST", "/v1/devices", 409, "device_exists", json={"device_id": "d1"})
    devices = [{"device_id": f"d{number}"} for number in (1, 2, 3)]
    results = (await gateway.call("POST", "/v1/devices/bulk", 201, json={"devices": devices}))["devices"]
    # One that exists has its place back when that is known.
    assert [each["error"]["code"] if "error" in each else "enrolled" for each in results] == [
        "device_exists", "enrolled", "too_many_devices",
    ]  # fmt: skip
    await gateway.call("POST", "/v1/devices", 201, json={"device_id": "d3"})
    await gateway.refused("POST", "/v1/devices", 422, "too_many_devices", json={})


async def test_many_at_once_are_no_more(gateway: InProcessGateway) -> None:
    answers = await asyncio.gather(*(gateway.http.post("/v1/devices", json={}) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [422] * 5


async def test_the_devices_of_earlier_runs_count(gateway: InProcessGateway) -> None:
    await gateway.enrol("d1", "d2")
    await gateway.call("DELETE", "/v1/devices/d1", 204)
    quota = EnrolmentQuota(lambda: 0)
    await quota.load(gateway.database)
    assert quota.reserve(1, 5) == 2
    assert quota.reserve(2, 5) == 3


def test_a_refusal_is_logged_now_and_then(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(enrolments, "DEVICES_OF_APP", 0)
    times = iter((0, 1, LOG_MS))
    quota = EnrolmentQuota(lambda: next(times))
    assert [quota.reserve(1, 2) for _ in range(3)] == [0, 0, 0]
    assert caplog.text.count("no more are enrolled") == 2
    assert quota.refused == 6


def test_what_changes_while_all_are_counted_is_not_lost() -> None:
    quota = EnrolmentQuota(lambda: 0)
    assert quota.reserve(1, 1) == 1
    quota.begin_count()
    assert quota.reserve(1, 2) == 2
    quota.release(2, 1)
    quota.counted({1: 1, 2: 3})
    assert (quota.count(1), quota.count(2)) == (3, 2)


async def test_what_other_nodes_enrol_and_remove_counts_at_once(tmp_path: Path) -> None:
    async with gateways_in_process(tmp_path, 2) as (first, second):
        await first.enrol("d1", "d2", "d3")
        await second.refused("POST", "/v1/devices", 422, "too_many_devices", json={"device_id": "d4"})
        await second.call("DELETE", "/v1/devices/d2", 204)
        await first.call("POST", "/v1/devices", 201, json={"device_id": "d4"})
        (invitation,) = (await second.call("POST", "/v1/invitations", 201, json={}))["invitations"]
        code = {"code": invitation["code"]}
        await second.refused("POST", "/v1/enrol", 422, "too_many_devices", http=second.client(None), json=code)
        assert second.components.enrolments.refused == 2
        await first.call("DELETE", "/v1/devices/d1", 204)
        await second.call("POST", "/v1/enrol", 201, http=second.client(None), json=code)


async def test_nodes_that_enrol_at_once_do_not_pass_the_limit(tmp_path: Path) -> None:
    async with gateways_in_process(tmp_path, 2) as nodes:
        for _ in range(5):
            answers = await asyncio.gather(*(node.http.post("/v1/devices", json={}) for node in nodes * 4))
            assert sorted(answer.status_code for answer in answers) == [201] * 3 + [422] * 5
            enrolled = [answer.json()["device_id"] for answer in answers if answer.status_code == 201]
            refused = [answer.json()["code"] for answer in answers if answer.status_code == 422]
            assert refused == ["too_many_devices"] * 5
            assert await nodes[0].database.read(count_devices) == {1: 3}
            for device_id in enrolled:
                await nodes[0].call("DELETE", f"/v1/devices/{device_id}", 204)


async def test_bulks_of_two_nodes_share_what_is_left(tmp_path: Path) -> None:
    async with gateways_in_process(tmp_path, 2) as nodes:
        bulks = ({"devices": [{"device_id": f"{name}{number}"} for number in range(4)]} for name in "ab")
        answers = await asyncio.gather(
            *(node.call("POST", "/v1/devices/bulk", 201, json=bulk) for node, bulk in zip(nodes, bulks, strict=True))
        )
        results = [each["error"]["code"] if "error" in each else "" for answer in answers for each in answer["devices"]]
        assert sorted(results) == [""] * 3 + ["too_many_devices"] * 5
        assert sum(node.components.enrolments.refused for node in nodes) == 5


async def test_devices_of_all_nodes_are_in_the_count_for_people_now_and_then(tmp_path: Path) -> None:
    async with gateways_in_process(tmp_path, 2) as (first, second):
        await first.enrol("d1", "d2")
        assert second.components.enrolments.count(1) == 0
        await second.components.measurements.enrolled.count_if_due(0)
        assert second.components.enrolments.count(1) == 2
