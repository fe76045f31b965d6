"""Pushes to many as sets of devices: what bounds them, and that they are what rows would have been."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gateway.audience.policy import ChannelFields, NewChannel
from gateway.delivery import retention, rule_changes
from gateway.store.deliveries import delivery_sets
from gateway.store.deliveries.mailboxes import count_mailboxes
from tests.gateway.delivery.test_alert_limiter import cap
from tests.gateway.delivery.world import ALERT, APP, World

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
    monkeypatch.setattr(world.acceptance.limits, "_most_sets", (2, 1 << 20))
    monkeypatch.setattr(world.acceptance.limits, "_reducing", True)
    for _ in range(5):
        world.push()
    assert world.row("SELECT count(*) FROM waiting_set") == (3,)
    assert world.row("SELECT count(*) FROM whole_delivery WHERE state = 0") == (5,)
    world.acceptance.limits._reducing = False
    world.passes(1)
    assert world.row("SELECT count(*) FROM waiting_set") == (2,)


@pytest.mark.parametrize("form", ["sets"], indirect=True)
def test_a_mailbox_is_noted_as_deep_though_the_operation_that_found_it_has_to_run_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are made of a set when there are two."""
    monkeypatch.setattr(world.acceptance.limits, "_most_sets", (1, 1 << 20))
    monkeypatch.setattr(world.acceptance.limits, "_reducing", True)
    world.push()
    world.push()
    submit = world.writer.submit

    def twice(operation: Callable[[Any], Any], *callbacks: Callable[[Any], None], **options: Any) -> None:
        def rolled_back_first(connection: Any) -> Any:
            connection.execute("SAVEPOINT first")
            operation(connection)
            connection.execute("ROLLBACK TO first")
            return operation(connection)

        submit(rolled_back_first, *callbacks, **options)

    monkeypatch.setattr(world.writer, "submit", twice)
    world.acceptance.limits._reducing = False
    world.passes(1)
    assert world.row("SELECT count(*) FROM delivery") == (1,)
    assert world.row("SELECT count(*) FROM deep_mailbox") == (1,)


@pytest.mark.parametrize("form", ["sets"], indirect=True)
def test_acknowledgements_that_trickle_in_do_not_make_more_and_more_outcomes(form: str) -> None:
    world = World(devices=20)
    accepted = world.push(EVERYBODY)
    for device_no in world.identities:
        world.connect(device_no)
        world.acknowledge(device_no)
        world.passes(1)
    assert world.row("SELECT count(*) FROM outcome_set") == (2,)
    assert world.counts(accepted.push_id) == {"targeted": 20, "delivered": 20}
    world.check_events()
    world.close()


@pytest.mark.parametrize("form", ["sets"], indirect=True)
def test_what_the_muted_may_get_by_new_rules_becomes_rows_in_slices(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rule_changes, "SET_ROWS", 1)
    world.run(world.policies.add_channel(APP.no, NewChannel(id="fire", name="Fire", may_mute=False)))
    for device_no in world.identities:
        world.says("settings", {"channels": {"fire": False}}, device_no=device_no)
    world.alert(EVERYBODY, channel="fire", priority="critical")
    assert world.row("SELECT count(*) FROM delivery") == (0,)
    before = world.rule_changes.slices
    world.run(world.policies.change_channel(APP.no, "fire", ChannelFields(name="Fire", may_mute=True)))
    world.settle()
    assert world.row("SELECT count(*) FROM delivery WHERE not_before = 0") == (3,)
    assert world.rule_changes.slices - before > 3


@pytest.mark.parametrize("form", ["sets"], indirect=True)
def test_sets_count_among_what_one_slice_of_retention_removes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "SLICE_ROWS", 1)
    for _ in range(3):
        world.push(ttl=1)
    world.passes(2)
    retention._remove_deliveries(world.connection, world.now)
    assert world.row("SELECT count(*) FROM outcome_set") == (2,)


@pytest.mark.parametrize("form", ["sets"], indirect=True)
def test_what_was_in_flight_at_a_kill_is_superseded_by_newer_sets_and_rows(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four pushes with one key, each in flight when the next one came: of each device the newest goes on."""
    for device_no in world.identities:
        world.connect(device_no)
    first = world.push({"devices": ["d1", "d2", "d3"]}, collapse_key="price").push_id
    second = world.push({"devices": ["d1", "d2"]}, collapse_key="price").push_id
    third = world.push({"device": "d1"}, collapse_key="price").push_id
    world.crash()
    world.run(world.ledger.recover([]))
    of_first = [world.state(first, device_no)[0] for device_no in (1, 2, 3)]
    assert of_first == ["superseded", "superseded", "waiting"]
    assert [world.state(second, device_no)[0] for device_no in (1, 2)] == ["superseded", "waiting"]
    assert world.state(third)[0] == "waiting"


@pytest.mark.parametrize("form", ["rows"], indirect=True)
def test_sets_are_counted_for_mailboxes_that_they_could_fill(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred sets of a thousand devices whose few rows leave room for all of them are not looked through."""
    monkeypatch.setattr(delivery_sets, "SET_DEVICES", 2)
    monkeypatch.setattr(delivery_sets, "DEEP_DELIVERIES", 2)
    world = World(devices=2, mailbox_limit=8)
    world.push(EVERYBODY)
    for device_id in ("d1", "d2", "d2"):
        world.push({"device": device_id})
    counted = [
        {each.device_no: each.deliveries for each in count_mailboxes(world.connection, APP.no, [1, 2], sets_of_all)}
        for sets_of_all in (False, True)
    ]
    assert counted == [{1: 1, 2: 3}, {1: 2, 2: 3}]
    world.close()
