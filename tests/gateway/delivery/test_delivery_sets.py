"""Pushes to many as sets of devices: what bounds them, and that they are what rows would have been."""

from __future__ import annotations

import pytest

from gateway.delivery import acceptance_queue, delivery_sets, missed_pushes
from tests.gateway.delivery.test_alert_limiter import cap
from tests.gateway.delivery.world import ALERT, World

EVERYBODY = {"all": True}


@pytest.mark.parametrize("form", ["rows"], indirect=True)
def test_what_a_tag_selects_fills_no_mailbox_beyond_its_limit_though_somebody_does_not_want_it(world: World) -> None:
    world.says("settings", {"consent": "denied"}, device_no=2)
    for _ in range(8):
        world.push(EVERYBODY, notification=ALERT)
    assert world.row("SELECT count(*) FROM whole_delivery WHERE state = 0 AND device_no = 1") == (5,)


@pytest.mark.parametrize("form", ["rows"], indirect=True)
def test_what_a_tag_selects_is_capped_though_somebody_does_not_want_it(world: World) -> None:
    world.set_policy(caps=cap(1, "hour"))
    world.connect()
    world.says("settings", {"consent": "denied"}, device_no=2)
    first = world.push(EVERYBODY, notification=ALERT).push_id
    second = world.push(EVERYBODY, notification=ALERT).push_id
    assert world.received() == [first]
    assert world.state(second) == ("suppressed", "capped")


@pytest.mark.parametrize("form", ["sets"], indirect=True)
def test_pushes_to_few_devices_which_wait_for_nothing_do_not_make_more_and_more_sets(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_sets, "WAITING_SETS", 2)
    monkeypatch.setattr(world.acceptance.limits, "_reducing", True)
    for _ in range(5):
        world.push()
    assert world.row("SELECT count(*) FROM waiting_set") == (3,)
    assert world.row("SELECT count(*) FROM whole_delivery WHERE state = 0") == (5,)
    world.acceptance.limits._reducing = False
    world.passes(1)
    assert world.row("SELECT count(*) FROM waiting_set") == (2,)
