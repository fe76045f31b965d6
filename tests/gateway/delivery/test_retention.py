from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pyroaring import BitMap

from gateway.audience.policy import Policy
from gateway.delivery.retention import Retention, RetentionPeriods
from gateway.errors import Problem
from gateway.store.deliveries import delivery_sets
from gateway.store.deliveries.delivery_sets import remove_sets
from gateway.store.deliveries.event_log import lost_before, position_of
from gateway.store.deliveries.retention import FORGET
from gateway.store.nodes.connections import claim_devices
from gateway.store.transaction import Transaction
from tests.gateway.delivery.world import APP, World, items

DAY = 86_400
KEEP = RetentionPeriods(
    deliveries=30 * DAY * 1000,
    counts=400 * DAY * 1000,
    idempotency=DAY * 1000,
    uplink=7 * DAY * 1000,
    events=7 * DAY * 1000,
)


def sweep(world: World) -> int:
    database: Any = world.writer
    return world.run(Retention(database, KEEP).run(world.now))


def bury_one(world: World) -> str:
    """A push whose counts are no longer kept."""
    push = world.push(ttl=1)
    world.passes(2)
    world.passes(31 * DAY)
    sweep(world)
    world.passes(400 * DAY)
    sweep(world)
    return push.push_id


def test_nothing_leaves_before_its_time(world: World) -> None:
    world.push(ttl=DAY)
    world.passes(DAY + 1)
    assert sweep(world) == 0


def test_deliveries_leave_and_final_counts_stay(world: World) -> None:
    world.connect()
    push = world.push({"all": True}, ttl=DAY)
    world.acknowledge()
    world.passes(DAY + 1)
    before = world.counts(push.push_id)
    assert before == {"targeted": 3, "delivered": 1, "expired": 2}
    world.passes(30 * DAY + 1)
    assert sweep(world) > 0
    assert world.row("SELECT count(*) FROM whole_delivery") == (0,)
    assert world.counts(push.push_id) == before
    assert world.run(world.ledger.recalls.recall(1, push.push_id)) == {"cancelled": 0, "in_flight": 0, "too_late": 1}
    with pytest.raises(Problem) as refusal:
        world.run(world.reports.deliveries(1, push.push_id, 10, None))
    assert refusal.value.code == "gone"


def test_a_push_with_a_long_ttl_leaves_when_all_of_it_has_ended(world: World) -> None:
    world.connect()
    delivered = world.push(ttl=365 * DAY)
    world.acknowledge()
    waiting = world.push({"device": "d2"}, ttl=365 * DAY)
    world.passes(31 * DAY)
    sweep(world)
    assert world.row("SELECT count(*) FROM whole_delivery") == (1,)
    assert world.counts(delivered.push_id) == {"targeted": 1, "delivered": 1}
    assert world.counts(waiting.push_id) == {"targeted": 1, "waiting": 1}


def test_after_its_counts_are_no_longer_kept_a_push_is_gone(world: World) -> None:
    push = bury_one(world)
    with pytest.raises(Problem) as refusal:
        world.run(world.reports.push(1, push))
    assert refusal.value.code == "gone"
    with pytest.raises(Problem) as refusal:
        world.run(world.ledger.recalls.recall(1, push))
    assert refusal.value.code == "gone"
    assert items(world.run(world.reports.pushes(1, 10, None))) == []
    assert sweep(world) == 0


def test_as_long_again_after_its_counts_a_push_is_forgotten(world: World) -> None:
    push = bury_one(world)
    world.passes(400 * DAY - 1)
    assert sweep(world) == 0
    world.passes(1)
    assert sweep(world) > 0
    assert world.row("SELECT count(*) FROM push") == (0,)
    for question in (world.reports.push(1, push), world.reports.deliveries(1, push, 10, None)):
        with pytest.raises(Problem) as refusal:
            world.run(question)
        assert refusal.value.code == "push_not_found"
    assert world.run(world.ledger.recalls.recall(1, push)) is None
    assert world.says("receipts", {"push_id": push, "event": "opened"}) == 0
    assert world.activity.dropped == 1


def test_numbers_of_forgotten_pushes_are_not_given_again(world: World) -> None:
    bury_one(world)
    world.passes(400 * DAY)
    (before,) = world.row("SELECT no FROM push")
    sweep(world)
    world.push()
    assert world.row("SELECT no FROM push") == (before + 1,)


def test_a_push_that_is_forgotten_between_two_looks_is_gone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of a push and its row are read one after the other."""
    for room in ("reports", "recalls"):
        monkeypatch.setattr(f"gateway.delivery.{room}.push_number", lambda *_: 999)
    for question in (
        world.reports.push(1, "x"),
        world.reports.deliveries(1, "x", 10, None),
        world.ledger.recalls.recall(1, "x"),
    ):
        with pytest.raises(Problem) as refusal:
            world.run(question)
        assert refusal.value.code == "gone"


@pytest.mark.sqlite("whose plan it is")
def test_forgetting_needs_no_look_at_pushes_that_are_kept(world: World) -> None:
    plan = world.connection.execute(f"EXPLAIN QUERY PLAN {FORGET}", (0, 1)).fetchall()
    assert any("push_to_forget" in step[3] for step in plan)
    assert not any(step[3].startswith("SCAN") for step in plan)


def test_idempotency_records_and_uplink_go_by_age(world: World) -> None:
    world.run(world.accept(idempotency_key="k", body_hash=b"1"))
    world.says("uplink/x", b"1")
    world.passes(DAY + 1)
    sweep(world)
    assert world.row("SELECT count(*) FROM idempotency_record") == (0,)
    assert world.row("SELECT count(*) FROM uplink_message") == (1,)
    world.passes(6 * DAY)
    sweep(world)
    assert world.row("SELECT count(*) FROM uplink_message") == (0,)


@pytest.mark.parametrize(("kept", "pause"), [(30 * DAY, 60.0), (20, 20.0), (0.01, 1.0)])
def test_what_is_kept_for_seconds_is_not_kept_for_a_minute(world: World, kept: float, pause: float) -> None:
    database: Any = world.writer
    milliseconds = int(kept * 1000)
    keep = replace(KEEP, deliveries=milliseconds)
    assert Retention(database, keep).pause == pause


def test_many_small_pushes_leave_together(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a commit for each of them, retention would fall behind a fleet of single pushes."""
    world.connect()
    for _ in range(150):
        world.push(ttl=365 * DAY)
        world.acknowledge()
    world.passes(31 * DAY)
    operations: list[Any] = []
    write = world.writer.write

    async def counted(operation: Any, **declared: Any) -> Any:
        operations.append(operation)
        return await write(operation, **declared)

    monkeypatch.setattr(world.writer, "write", counted)
    sweep(world)
    assert world.row("SELECT count(*) FROM whole_delivery") == (0,)
    assert len(operations) < 10


def test_a_large_push_leaves_in_slices(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.delivery.retention.SLICE_ROWS", 2)
    pushes = [world.push({"all": True}, ttl=1) for _ in range(2)]
    world.passes(2)
    before = [world.counts(push.push_id) for push in pushes]
    world.passes(31 * DAY)
    sweep(world)
    assert world.row("SELECT count(*) FROM whole_delivery") == (0,)
    assert [world.counts(push.push_id) for push in pushes] == before


def test_a_push_to_a_million_devices_leaves_in_small_operations(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are as far apart as a set can be dense and yet not a run."""
    devices = BitMap(range(1, 2_000_001, 2))
    push_id = world.push({"tag": "none"}, ttl=1).push_id
    (push_no,) = world.row("UPDATE push SET in_sets = 1, targeted = ? RETURNING no", len(devices))
    delivery_sets.insert_set(world.connection, push_no, APP.no, 2, devices)
    world.passes(2)
    before = world.counts(push_id)
    assert before == {"targeted": 1_000_000, "expired": 1_000_000}
    assert world.row("SELECT max(count) FROM outcome_set") == (5_000,)
    removed: list[int] = []

    def remove(connection: Transaction, no: int, count: int) -> int:
        removed.append(remove_sets(connection, no, count))
        return removed[-1]

    monkeypatch.setattr("gateway.delivery.retention.remove_sets", remove)
    world.passes(31 * DAY)
    sweep(world)
    assert world.counts(push_id) == before
    assert sum(removed) > 200
    assert max(removed) <= 100
    for table in ("outcome_set", "waiting_set", "delivery_count"):
        assert not world.row(f"SELECT 1 FROM {table}"), table


def test_a_removed_device_leaves_when_nothing_refers_to_it(world: World) -> None:
    world.push({"all": True}, ttl=DAY)
    world.passes(DAY + 1)
    world.remove(2)
    world.passes(1)
    later = world.push({"device": "d1"}, ttl=40 * DAY)
    assert world.row("SELECT count(*) FROM device") == (3,)
    sweep(world)
    assert world.row("SELECT count(*) FROM device") == (3,)  # its deliveries are still listed
    world.passes(31 * DAY)
    sweep(world)
    assert world.row("SELECT group_concat(id) FROM device") == ("d1,d3",)
    assert world.counts(later.push_id) == {"targeted": 1, "waiting": 1}


def test_who_opted_out_after_a_push_is_known_when_its_deliveries_are_gone(world: World) -> None:
    world.connect()
    push_id = world.push(notification={"title": "Hi"}).push_id
    world.acknowledge()
    world.says("settings", {"consent": "denied"})
    assert world.run(world.analytics.of_push(APP.no, push_id))["opted_out"] == 1
    world.passes(2 * DAY)
    world.passes(31 * DAY)
    sweep(world)
    assert world.row("SELECT count(*) FROM whole_delivery") == (0,)
    assert world.run(world.analytics.of_push(APP.no, push_id))["opted_out"] == 1


def test_what_is_known_of_a_person_leaves_with_the_device(world: World, database_of_test: str) -> None:
    world.run(
        world.policies.set_policy(APP.no, Policy.model_validate({"caps": {"limits": [{"count": 9, "per": "day"}]}}))
    )
    world.says("settings", {"consent": "granted"})
    world.connect()
    world.push(notification={"title": "Hi"})
    world.acknowledge()
    world.remove()
    tables = ["consent_record", "alert_use"]
    if database_of_test == "postgresql":
        tables.append("connection")
        claim_devices(world.connection, [1], no=1, epoch=1)
    counts = f"SELECT {', '.join(f'(SELECT count(*) FROM {table})' for table in tables)}"
    assert world.row(counts) == (1,) * len(tables)
    world.passes(2 * DAY)
    world.passes(31 * DAY)
    sweep(world)
    assert world.row(counts) == (0,) * len(tables)


def test_uses_of_critical_are_on_record_as_long_as_counts(world: World) -> None:
    policy = {"caps": {"limits": [{"count": 1, "per": "day"}]}, "critical": {"per_day": 1}}
    world.run(world.policies.set_policy(APP.no, Policy.model_validate(policy)))
    world.connect()
    for _ in range(2):
        world.push(notification={"title": "Hi"}, priority="critical")
        world.acknowledge_all()
    for days, kept in ((399, 1), (2, 0)):
        world.passes(days * DAY)
        sweep(world)
        assert world.row("SELECT count(*) FROM critical_use") == (kept,)


def test_who_has_read_all_events_is_told_of_no_loss(world: World) -> None:
    """What a device says again is no event: when it leaves there is nothing to have missed."""
    world.connect()
    push_id = world.push(notification={"title": "Hi"}).push_id
    world.acknowledge()
    for _ in range(2):
        world.says("receipts", {"push_id": push_id, "event": "opened"})
    last = position_of(world.events()[-1]["id"])
    assert last is not None
    world.passes(8 * DAY)
    sweep(world)
    assert world.row("SELECT count(*) FROM event WHERE at < ?", world.now) == (0,)
    assert lost_before(world.connection, APP.no, last) is None
