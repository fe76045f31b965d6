"""New rules reach everything that waits, slice by slice, whatever comes in between."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.audience.policy import NewChannel, Policy
from gateway.store.deliveries import app_slices
from tests.gateway.delivery.test_alert_limiter import cap, not_before
from tests.gateway.delivery.test_consent import full_disk
from tests.gateway.delivery.world import APP, World

DAY = 86_400
NOBODY_ASKED = {"consent": {"unknown": "suppress"}}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Slices of two deliveries."""
    monkeypatch.setattr(app_slices, "SLICE_DELIVERIES", 2)
    world = World(devices=5, window=10, mailbox_limit=50)
    yield world
    world.close()


def change(world: World, **fields: Any) -> None:
    """The rules are on disk and hold; nothing has been put under them."""
    task = world.loop.create_task(world.policies.set_policy(APP.no, Policy.model_validate(fields)))
    while not task.done():
        world.loop.run_until_complete(asyncio.sleep(0))


def one_slice(world: World) -> None:
    world.writer.commit_group(1)
    world.writer.call_back()


def limited(world: World) -> int:
    return int(world.row("SELECT count(*) FROM whole_delivery WHERE not_before IS NOT NULL")[0])


@pytest.mark.parametrize("form", ["rows"], indirect=True)  # of sets a slice is of many devices
def test_a_pass_is_made_of_slices_and_others_come_in_between(world: World) -> None:
    for _ in range(3):
        world.alert({"all": True})
    change(world, caps=cap(1, "day"))
    one_slice(world)
    assert limited(world) == 2
    seen = []
    world.ledger.submit_until_done(lambda connection: seen.append(limited(world)), lambda _: None)
    one_slice(world)
    one_slice(world)
    assert seen == [4], "after the slice that was under way, and before the next"
    assert world.rule_changes.waiting == 1
    world.settle()
    assert limited(world) == 15
    assert world.rule_changes.waiting == 0
    assert world.row("SELECT count(*) FROM rule_change") == (0,)


@pytest.mark.parametrize("slices", range(9))
def test_a_kill_between_slices_changes_nothing_of_the_end(world: World, slices: int) -> None:
    sent = [world.alert({"all": True}, ttl=9 * DAY) for _ in range(3)]
    change(world, caps=cap(1, "day", "defer"))
    for _ in range(slices):
        one_slice(world)
    world.crash()
    assert limited(world) == 15
    assert world.row("SELECT count(*) FROM rule_change") == (0,)
    for device_no in (1, 5):
        world.connect(device_no)
        assert world.received(device_no) == sent[:1]
        assert not_before(world, sent[2], device_no) is not None


def test_what_was_deferred_is_let_through_although_the_server_is_killed_meanwhile(world: World) -> None:
    change(world, caps=cap(1, "day", "defer"))
    world.settle()
    world.connect()
    sent = [world.alert(ttl=9 * DAY) for _ in range(4)]
    assert world.received() == sent[:1]
    world.acknowledge_all()
    change(world)
    one_slice(world)
    world.crash()
    world.connect()
    assert world.received() == sent[1:]


@pytest.mark.parametrize("slices", range(5))
def test_what_is_not_wanted_ends_whenever_the_server_is_killed(world: World, slices: int) -> None:
    sent = [world.alert({"all": True}) for _ in range(2)]
    change(world, **NOBODY_ASKED)
    for _ in range(slices):
        one_slice(world)
    world.crash()
    for push_id in sent:
        assert world.counts(push_id) == {"targeted": 5, "suppressed": 5}
    world.check_events()


def test_a_change_in_the_middle_of_a_pass_begins_it_anew(world: World) -> None:
    sent = [world.alert({"all": True}, ttl=9 * DAY) for _ in range(3)]
    change(world, caps=cap(1, "day", "defer"))
    one_slice(world)
    one_slice(world)
    change(world, **NOBODY_ASKED)
    assert world.rule_changes.waiting == 1
    world.settle()
    for push_id in sent:
        assert world.counts(push_id) == {"targeted": 5, "suppressed": 5}


def test_a_kill_after_the_last_slice_of_an_earlier_change_forgets_no_later_one(world: World) -> None:
    sent = world.alert()
    change(world, caps=cap(1, "day"))
    later = world.loop.create_task(world.policies.set_policy(APP.no, Policy.model_validate(NOBODY_ASKED)))
    world.loop.run_until_complete(asyncio.sleep(0))  # on disk; the loop has not heard of it
    if not later.done():
        world.writer.drain()
    world.crash()
    assert world.state(sent) == ("suppressed", "no_consent")


def test_what_the_rules_do_not_concern_keeps_its_place(world: World) -> None:
    sent = [world.alert(), world.push().push_id, world.alert(), world.push().push_id]
    change(world)
    one_slice(world)
    world.crash()
    world.run(world.policies.add_channel(APP.no, NewChannel(id="news", name="News")))
    world.settle()
    world.connect()
    assert world.received() == sent


@pytest.mark.parametrize("form", ["rows"], indirect=True)  # of sets a slice is of many devices
def test_apps_take_turns(world: World) -> None:
    world.connection.execute("INSERT INTO application (no, id, created_at) VALUES (2, 'other', 0)")
    for _ in range(2):
        world.alert({"all": True})
    change(world, caps=cap(1, "day"))
    world.rule_changes.start(2)
    one_slice(world)
    assert limited(world) == 2
    one_slice(world)
    assert limited(world) == 2, "that was the other app's"
    assert world.rule_changes.waiting == 1
    for _ in range(3):  # an app that changes its rules again and again waits for itself
        world.rule_changes.start(APP.no)
        world.rule_changes.start(2)
        one_slice(world)
        one_slice(world)
    world.settle()
    assert limited(world) == 10


def test_a_slice_is_tried_again_when_the_disk_was_full(world: World) -> None:
    world.alert({"all": True})
    with full_disk(world):
        change(world, caps=cap(1, "day"))
        world.settle()
    assert limited(world) == 0
    world.timers.later_turn()
    world.settle()
    assert limited(world) == 5


def test_new_rules_are_done_with_a_critical_push_of_a_channel_that_nobody_has_muted(world: World) -> None:
    world.alert({"all": True}, priority="critical", channel="offers")
    world.says("settings", {"channels": {"news": False}})
    world.set_policy(critical={"per_day": 1})
    assert world.rule_changes.waiting == 0
