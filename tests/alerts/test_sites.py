"""A site that is cut off or slow, a sender that has stopped, an alarm that nobody answers, a campaign: who is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tests.alerts.timeline import Scrape, firing, scrape, value_of
from tests.end_to_end.conftest import StartServer, Wire
from tests.end_to_end.harness import Server, wait_for
from tests.end_to_end.wire_device import Publish

SPEED = "30"
"""The server's clock is so much faster: a minute is two seconds."""


def scrape_when(server: Server, ready: Callable[[Scrape], bool]) -> Scrape:
    """The first scrape that is so."""

    def look() -> Scrape | None:
        found = scrape(server)
        return found if ready(found) else None

    found = wait_for(look, timeout=30, what="the metric")
    assert found is not None, "waited for"
    return found


def test_a_site_that_is_slow_and_then_silent(start_server: StartServer, wire: Wire, tmp_path: Path) -> None:
    server = start_server("--clock-speed", SPEED)
    device = wire(server, server.api.enrol("kiosk")).start()
    server.api.call("PUT", "/v1/heartbeats/store", 200, json={"device": "kiosk", "every_s": 10, "within_s": 1})

    def devices(found: Scrape, state: str) -> float:
        return value_of(found, "fleetpush_heartbeat_devices", state=state)

    fine = scrape_when(server, lambda found: devices(found, "answering") == 1)

    def answer_late(publish: Publish) -> int:
        time.sleep(0.15)  # what makes it slow: four and a half seconds of the server
        return 0

    device.answer = answer_late
    slow = scrape_when(server, lambda found: devices(found, "slow") == 1)
    assert firing(tmp_path, fine, slow, slow) == {"FleetpushSiteSlow"}
    device.drop()
    silent = scrape_when(server, lambda found: devices(found, "silent") == 1)
    assert "FleetpushSiteSilent" in firing(tmp_path, fine, silent)


def test_a_sender_that_has_stopped(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server("--clock-speed", SPEED)
    server.api.enrol("kiosk")
    server.api.call("PUT", "/v1/watches/prices", 200, json={"every_s": 60, "channel": "prices"})
    server.api.push("kiosk", data=1, channel="prices", ttl=60)
    heard = scrape(server)
    assert value_of(heard, "fleetpush_sender_silent") == 0
    silent = scrape_when(server, lambda found: value_of(found, "fleetpush_sender_silent") == 1)
    assert firing(tmp_path, heard, silent) == {"FleetpushSenderSilent"}


def test_an_alarm_that_nobody_answers(start_server: StartServer, wire: Wire, tmp_path: Path) -> None:
    server = start_server("--clock-speed", SPEED)
    wire(server, server.api.enrol("desk")).start()
    server.api.call("PUT", "/v1/duties/night", 200, json={"steps": [{"device": "desk", "wait_s": 10}]})
    before = scrape(server)
    server.api.push({"duty": "night"}, notification={"title": "Help"})

    def ended(found: Scrape) -> bool:
        return value_of(found, "fleetpush_escalations_ended_total", state="exhausted") == 1

    assert firing(tmp_path, before, scrape_when(server, ended)) == {"FleetpushNobodyActed"}


def test_a_campaign_that_a_condition_has_stopped(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server("--clock-speed", SPEED)
    server.api.enrol("kiosk")
    before = scrape(server)
    plan = {"name": "Update", "push": {"target": {"all": True}, "data": 1}, "stop": ["waiting >= 1"]}
    server.api.call("POST", "/v1/campaigns", 201, json=plan)

    def stopped(found: Scrape) -> bool:
        return value_of(found, "fleetpush_campaigns_stopped_total", by="pause") == 1

    assert firing(tmp_path, before, scrape_when(server, stopped)) == {"FleetpushCampaignStopped"}
