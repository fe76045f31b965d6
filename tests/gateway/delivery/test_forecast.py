"""Forecasts: what caps and quiet hours would do to a push, and what is kept of a forecast beside its push."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.delivery import limit_forecast
from gateway.delivery.submission import Submission
from gateway.store.analytics.forecasts import KeptForecast, keep_forecast
from tests.gateway.delivery.test_alert_limiter import HOUR, NIGHT, cap, until_evening
from tests.gateway.delivery.world import ALERT, APP, START, World


@pytest.fixture
def world() -> Any:
    world = World(devices=4, window=10, mailbox_limit=50)
    yield world
    world.close()


def forecast(world: World, **fields: Any) -> dict[str, Any]:
    request = world.request({"all": True}, **({"notification": ALERT} | fields))
    found = world.run(world.forecast.of(APP, request))
    dropped = sum(found[reason]["dropped"] for reason in limit_forecast.REASONS)
    divided = found["likely"] + found["will_expire"] + found["unknown_presence"] + dropped
    assert divided + sum(found["suppressed"].values()) == found["targeted"], found
    return found


def test_without_rules_who_is_there_gets_it(world: World) -> None:
    for device_no in (1, 2):
        world.connect(device_no)
    found = forecast(world, ttl=0)
    assert (found["likely"], found["will_expire"], found["unknown_presence"]) == (2, 2, 0)
    assert found["capped"] == found["quiet_hours"] == {"dropped": 0, "deferred": 0}


def test_who_has_had_enough_is_not_expected_to_get_more(world: World) -> None:
    world.set_policy(caps=cap(1, "day"))
    for device_no in (1, 2, 3):
        world.connect(device_no)
    world.alert({"devices": ["d1", "d2"]})
    before = world.connection.total_changes
    found = forecast(world, ttl=0)
    assert world.connection.total_changes == before
    assert found["capped"] == {"dropped": 2, "deferred": 0}
    assert (found["likely"], found["will_expire"]) == (1, 1)
    assert forecast(world, ttl=0, kind="in_app")["capped"]["dropped"] == 0, "only alerts are"
    world.passes(25 * HOUR)
    assert forecast(world, ttl=0)["likely"] == 3
    world.push({"all": True}, notification=ALERT, ttl=0)
    assert forecast(world, ttl=0, priority="critical")["likely"] == 3, "they pass the cap"


def test_what_quiet_hours_defer_beyond_the_ttl_expires(world: World) -> None:
    world.set_policy(quiet_hours=NIGHT)
    for device_no in (1, 2):
        world.connect(device_no)
    until_evening(world)
    short = forecast(world, ttl=3 * HOUR)
    assert short["quiet_hours"] == {"dropped": 0, "deferred": 4}
    assert (short["likely"], short["will_expire"]) == (0, 4)
    long = forecast(world, ttl=9 * HOUR)
    assert (long["quiet_hours"]["deferred"], long["likely"]) == (4, 2)
    world.set_policy(quiet_hours={**NIGHT, "excess": "drop"})
    dropped = forecast(world, ttl=9 * HOUR)
    assert (dropped["quiet_hours"], dropped["likely"]) == ({"dropped": 4, "deferred": 0}, 0)


def test_only_who_has_quiet_hours_is_asked_where_the_app_has_none(world: World) -> None:
    world.connect()
    world.says("settings", {"quiet_hours": {"start": "07:30", "end": "09:30"}})
    found = forecast(world, ttl=60)
    assert (found["quiet_hours"]["deferred"], found["likely"]) == (1, 0)


def test_of_many_a_sample_stands_for_all(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limit_forecast, "SAMPLE_DEVICES", 2)
    for device_no in range(1, 5):
        world.connect(device_no)
    world.set_policy(caps=cap(1, "day"))
    assert forecast(world, ttl=0) | {"likely": 4, "sampled": True} == forecast(world, ttl=0)
    world.alert({"all": True})
    found = forecast(world, ttl=0)
    assert (found["capped"]["dropped"], found["likely"], found["sampled"]) == (4, 0, True)
    world.passes(25 * HOUR)
    world.alert({"devices": ["d1", "d2"]})
    dropped = {forecast(world, ttl=0)["capped"]["dropped"] for _ in range(60)}
    assert dropped <= {0, 2, 4}
    assert len(dropped) > 1, "another sample each time"


def test_a_forecast_stands_beside_what_has_happened(world: World) -> None:
    def kept(push_id: str) -> Any:
        return world.run(world.reports.push(APP.no, push_id)).get("forecast")

    async def send(**fields: Any) -> str:
        request = world.request({"all": True}, **fields)
        pending = world.acceptance.pending(APP, Submission(request))
        return (await world.forecast.accept(pending, request, world.acceptance.accept_pending)).push_id

    for device_no in (1, 2):
        world.connect(device_no)
    push_id = world.run(send(ttl=60))
    world.settle()
    assert kept(push_id) == {
        "likely": 2,
        "will_expire": 0,
        "unknown_presence": 2,
        "made_at": "2027-01-15T08:00:00.000Z",
        "reached": 0,
        "error": None,
    }
    world.acknowledge(1)
    world.disconnect(2)
    assert (kept(push_id)["reached"], kept(push_id)["error"]) == (1, None)
    world.passes(61)
    assert (kept(push_id)["reached"], kept(push_id)["error"]) == (1, 1)
    assert kept(world.push().push_id) is None


def test_what_was_accepted_before_its_forecast_keeps_none(world: World) -> None:
    push_id = world.push().push_id
    late = KeptForecast(world.now + 1, 1, 0, 0)
    keep_forecast(world.connection, APP.no, push_id, late)
    assert world.row("SELECT count(*) FROM push_forecast") == (0,)
    keep_forecast(world.connection, APP.no + 1, push_id, late._replace(made_at=START))
    assert world.row("SELECT count(*) FROM push_forecast") == (0,), "of another app"
    for likely in (1, 2):
        keep_forecast(world.connection, APP.no, push_id, late._replace(made_at=START, likely=likely))
    assert world.row("SELECT likely FROM push_forecast") == (1,), "the first"
