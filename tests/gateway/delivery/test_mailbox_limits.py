"""Mailboxes that are counted, and emptied, a part at a time."""

from __future__ import annotations

import asyncio

import pytest

from gateway.delivery import mailbox_limits
from tests.gateway.delivery.world import APP, World


def test_what_there_is_no_time_for_is_limited_by_operations_of_its_own(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the three mailboxes takes five."""
    monkeypatch.setattr(mailbox_limits, "FIRST_MAILBOXES", 1)
    monkeypatch.setattr(mailbox_limits, "COUNTED_ROWS", 1)
    for count in (5, 3):
        world.run(world.acceptance.accept_many([world.checked({"all": True}) for _ in range(count)]))
    while world.acceptance.limits.behind:
        world.turn()
    assert world.row("SELECT count(*) FROM whole_delivery WHERE state = 0") == (15,)
    assert world.row("SELECT count(*) FROM whole_delivery WHERE state = 23") == (9,)
    assert world.acceptance.limits.counted_later > 0


def test_mailboxes_are_limited_though_somebody_wants_nothing(world: World) -> None:
    world.says("settings", {"consent": "denied"})
    for _ in range(6):
        world.alert({"all": True})
    assert world.row("SELECT count(*) FROM whole_delivery WHERE state = 0") == (10,)
    assert world.row("SELECT count(*) FROM whole_delivery WHERE state = 23") == (2,)


def test_mailboxes_are_limited_when_a_change_of_mind_has_made_rows_of_sets(world: World) -> None:
    """With each set that has become rows, there was room for another one."""
    for _ in range(2):
        world.alert({"all": True}, priority="critical")
    world.says("settings", {"channels": {"news": False}})
    for _ in range(4):
        world.push({"all": True})
    assert world.row(
        "SELECT max(n) FROM (SELECT count(*) AS n FROM whole_delivery WHERE state = 0 GROUP BY device_no)"
    ) == (5,)


def test_pushes_to_many_devices_wait_for_it_and_others_do_not(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = world.acceptance.limits
    limits.behind[APP.no] = {1: None}
    monkeypatch.setattr(limits, "_under_way", True)
    many = world.loop.create_task(world.acceptance.accept(APP, world.request({"all": True})))
    one = world.loop.create_task(world.acceptance.accept(APP, world.request()))
    for _ in range(10):
        world.loop.run_until_complete(asyncio.sleep(0))
        world.turn()
    assert one.done()
    assert not many.done()
    del limits.behind[APP.no]
    limits.on_caught_up()
    while not many.done():
        world.loop.run_until_complete(asyncio.sleep(0))
        world.turn()
