"""Deliveries that are handed over to a device: in which order, and what becomes of them."""

from __future__ import annotations

import gc
import json

import pytest

from gateway.delivery.engine import COMPLETED
from gateway.delivery.hand_over import LATE_MS
from gateway.delivery.mailbox_reader import HandOverState
from gateway.delivery.push import ActivePushes
from tests.gateway.delivery.world import World, items


def test_a_connected_device_with_an_empty_mailbox_is_served_without_reading_back(world: World) -> None:
    world.connect()
    push = world.push()
    assert world.received() == [push.push_id]
    assert world.counts(push.push_id) == {"targeted": 1, "sent": 1}
    world.acknowledge()
    assert world.state(push.push_id) == ("delivered", None)


def test_what_was_accepted_while_away_comes_by_priority_then_age(world: World) -> None:
    low = world.push(priority="low").push_id
    first = world.push(priority="normal").push_id
    critical = world.push(priority="critical").push_id
    second = world.push(priority="normal").push_id
    world.connect()
    world.acknowledge_all()
    assert world.received() == [critical, first, second, low]


def test_more_than_the_window_is_drained_in_order_as_room_appears() -> None:
    world = World(mailbox_limit=100, window=3)
    pushes = [world.push().push_id for _ in range(20)]
    world.connect()
    assert world.received() == pushes[:3]
    world.acknowledge_all()
    assert world.received() == pushes
    late = world.push().push_id  # the fast lane is open again
    assert world.received()[-1] == late
    world.close()


def test_a_push_accepted_while_a_page_is_being_read_is_neither_lost_nor_doubled(world: World) -> None:
    first = world.push().push_id
    world.engine.connect(world.identities[1], 1)
    world.timers.turn()  # the page is submitted, and not read yet
    second = world.push().push_id
    assert world.received() == [first, second]


def test_an_acknowledgement_that_is_not_on_disk_yet_keeps_a_reconnect_from_a_second_copy(world: World) -> None:
    world.connect()
    push = world.push()
    world.engine.settle("d1", 0)  # acknowledged; nothing has run since
    world.engine.disconnect_device("d1")
    world.engine.connect(world.identities[1], 1)
    world.settle()
    assert world.received() == [push.push_id]
    assert world.state(push.push_id) == ("delivered", None)


def test_a_lost_delivery_waits_again_and_is_resumed_before_anything_newer(world: World) -> None:
    world.connect()
    first = world.push().push_id
    world.disconnect()
    assert world.counts(first) == {"targeted": 1, "waiting": 1}
    newer = world.push(priority="critical").push_id
    world.connect()
    assert world.received() == [first, first, newer]


def test_a_push_that_left_the_memory_while_it_was_judged_is_resumed_all_the_same(world: World) -> None:
    world.connect()
    push = world.push()
    world.engine.disconnect_device("d1")
    world.engine.connect(world.identities[1], 1)
    world.writer.commit_group()  # judged while in memory
    world.ledger.pushes = ActivePushes()  # others have taken its place before the loop hears of it
    world.settle()
    assert world.received() == [push.push_id, push.push_id]
    world.acknowledge()
    assert world.state(push.push_id) == ("delivered", None)


def test_a_session_that_lost_its_memory_gets_the_delivery_anew(world: World) -> None:
    world.connect()
    push = world.push()
    world.crash()
    world.connect()
    assert world.received() == [push.push_id]
    world.acknowledge()
    assert world.counts(push.push_id) == {"targeted": 1, "delivered": 1}


def test_in_flight_and_recalled_is_cancelled_only_when_it_is_lost(world: World) -> None:
    world.connect()
    push = world.push()
    assert world.run(world.ledger.recalls.recall(1, push.push_id)) == {"cancelled": 0, "in_flight": 1, "too_late": 0}
    assert world.counts(push.push_id) == {"targeted": 1, "sent": 1}
    world.disconnect()
    assert world.state(push.push_id) == ("cancelled", "recalled")
    world.connect()
    assert world.received() == [push.push_id]


def test_in_flight_past_its_ttl_is_delivered_if_acknowledged_and_expired_if_lost(world: World) -> None:
    world.connect(1)
    world.connect(2)
    push = world.push({"devices": ["d1", "d2"]}, ttl=5)
    world.passes(6)
    assert world.counts(push.push_id) == {"targeted": 2, "sent": 2}
    world.acknowledge(1)
    world.disconnect(2)
    assert world.state(push.push_id, 1) == ("delivered", None)
    assert world.state(push.push_id, 2) == ("expired", "ttl")


def test_a_resumed_delivery_says_how_long_it_has_left_now(world: World) -> None:
    world.connect()
    world.push(ttl=60)
    world.disconnect()
    world.passes(20.5)
    world.connect()
    first, again = world.engine.session("d1").handed_over
    assert json.loads(first.payload)["expires_in"] == 60
    assert json.loads(again.payload)["expires_in"] == 40


def test_ttl_zero_is_now_or_never(world: World) -> None:
    world.connect(1)
    push = world.push({"devices": ["d1", "d2"]}, ttl=0)
    assert json.loads(world.engine.session("d1").handed_over[0].payload)["expires_in"] == 0
    assert world.state(push.push_id, 2) == ("expired", "ttl")
    world.disconnect(1)
    assert world.state(push.push_id, 1) == ("expired", "ttl")


def test_ttl_zero_does_not_queue_behind_a_full_window() -> None:
    world = World(window=1)
    world.connect()
    world.push()
    now_or_never = world.push(ttl=0)
    assert world.state(now_or_never.push_id) == ("expired", "ttl")
    world.close()


def test_effective_qos_is_the_lesser_of_push_and_subscription(world: World) -> None:
    world.connect(1, granted=0)
    world.connect(2, granted=2)
    push = world.push({"devices": ["d1", "d2"]}, qos=2)
    world.acknowledge(2)
    found = items(world.run(world.reports.deliveries(1, push.push_id, 10, None)))
    assert [(item["state"], item["qos"]) for item in found] == [("sent", 0), ("delivered", 2)]
    assert len(world.engine.forgotten) == 1  # the carrier may drop its record of the QoS 2 handshake


def test_an_acknowledged_delivery_is_delivered_whatever_the_subscription_says_meanwhile(world: World) -> None:
    world.connect(granted=1)
    push = world.push()
    world.connect(granted=0)  # a new connection, which subscribes for less; the old delivery is sent again
    world.acknowledge()
    assert world.state(push.push_id) == ("delivered", None)


def test_the_effective_qos_is_that_of_the_hand_over_whatever_is_subscribed_meanwhile(world: World) -> None:
    world.connect(granted=2)
    push = world.push(qos=2)
    world.engine.session("d1").granted = 1
    world.connections.ready("d1", 2)  # it has subscribed again, for less
    world.acknowledge()
    (item,) = items(world.run(world.reports.deliveries(1, push.push_id, 10, None)))
    assert (item["state"], item["qos"]) == ("delivered", 2)
    assert len(world.engine.forgotten) == 1  # or its packet identifier would be taken for ever


def test_qos_zero_is_sent_and_final_until_a_receipt_proves_more(world: World) -> None:
    world.connect()
    push = world.push(qos=0)
    world.disconnect()
    world.connect()
    assert world.received() == [push.push_id]
    assert world.state(push.push_id) == ("sent", None)
    world.says("receipts", {"push_id": push.push_id, "event": "displayed"})
    assert world.state(push.push_id) == ("displayed", None)


@pytest.mark.parametrize(("code", "reason"), [(0x97, "reason_code_0x97"), (0x95, "packet_too_large")])
def test_a_refusal_ends_the_delivery_with_its_code(world: World, code: int, reason: str) -> None:
    world.connect()
    push = world.push()
    world.acknowledge(outcome=code)
    assert world.state(push.push_id) == ("refused", reason)


def test_an_emptied_mailbox_cancels_what_waits_and_lets_what_flies_land() -> None:
    world = World(window=1)
    world.connect()
    flying, waiting = world.push().push_id, world.push().push_id
    assert world.run(world.ledger.empty_mailbox(1)) == 1
    assert world.state(waiting) == ("cancelled", "mailbox_emptied")
    world.acknowledge()
    assert world.state(flying) == ("delivered", None)
    assert world.received() == [flying]
    world.close()


def test_without_a_subscription_nothing_is_handed_over(world: World) -> None:
    identity = world.identities[1]
    session = world.engine.session("d1")
    session.connected = True
    world.connections.connected("d1", identity, False)
    world.connections.ready("d1", 3)  # subscribed to its notices, say: no grant for the push topic
    push = world.push()
    assert world.counts(push.push_id) == {"targeted": 1, "waiting": 1}
    assert world.hand_over.devices[1].state is HandOverState.CLOSED


def test_many_devices_at_once_are_read_a_bounded_number_of_bytes_at_a_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushes = [world.push({"all": True}, data="x" * 500).push_id for _ in range(3)]
    monkeypatch.setattr("gateway.store.deliveries.mailbox_reads.READ_BYTES", 1_200)
    for device_no in (1, 2, 3):
        world.engine.connect(world.identities[device_no], 1)
    world.settle()
    for device_no in (1, 2, 3):
        assert world.received(device_no) == pushes


@pytest.mark.usefixtures("no_collector")
def test_the_life_of_a_delivery_leaves_nothing_to_the_collector(world: World) -> None:
    """It comes seldom (`tune_collector`), and callbacks that refer to each other keep what they hold until then."""
    world.connect()
    push = world.push()
    world.disconnect()
    world.connect()
    world.acknowledge()
    world.says("receipts", {"push_id": push.push_id, "event": "opened"})
    assert world.state(push.push_id) == ("opened", None)
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    left = [one for one in gc.garbage if str(getattr(one, "__module__", "")).startswith("gateway.")]
    gc.garbage.clear()
    assert left == []


def test_what_goes_wrong_with_one_acknowledgement_holds_up_no_other(world: World) -> None:
    def fail(handles: object) -> None:
        raise ZeroDivisionError

    world.connect(granted=2)
    first, second = world.push(qos=2), world.push(qos=2)
    recorded, world.ledger.on_recorded = world.ledger.on_recorded, fail
    with pytest.raises(ZeroDivisionError):  # the database tells the log
        world.acknowledge(outcome=COMPLETED)
    world.ledger.on_recorded = recorded
    world.acknowledge(outcome=COMPLETED)
    assert [world.state(push.push_id)[0] for push in (first, second)] == ["delivered", "delivered"]


def late_by_reason(world: World) -> dict[str, int]:
    return {reason: count for reason, count in world.hand_over.late.items() if count}


def test_what_is_late_counts_by_its_reason() -> None:
    world = World(mailbox_limit=100, window=1)
    world.push()
    world.now += LATE_MS + 1
    world.connect()
    assert late_by_reason(world) == {"away": 1}
    world.push()
    world.push()
    world.now += LATE_MS
    world.acknowledge()
    assert late_by_reason(world) == {"away": 1}, "as late as that is in time"
    world.now += 1
    world.acknowledge()
    assert late_by_reason(world) == {"away": 1, "queued": 1}
    assert len(world.received()) == 3
    assert world.hand_over.latency.beyond == 0
    world.close()


def test_what_quiet_hours_have_put_off_is_late_because_of_them(world: World) -> None:
    world.set_policy(quiet_hours={"start": "07:00", "end": "09:00"})  # it is 8
    world.connect()
    push_id = world.alert()
    assert world.received() == []
    world.passes(3_600)
    assert world.received() == [push_id]
    assert late_by_reason(world) == {"limited": 1}


def test_the_time_to_an_acknowledgement_is_that_of_devices_which_were_there() -> None:
    world = World(devices=2)
    world.connect(1)
    world.push({"all": True})
    world.now += 30
    world.acknowledge(1)
    world.passes(1)
    measured = world.hand_over.acknowledgements
    assert dict(measured.buckets())["0.02"] == 0
    assert (dict(measured.buckets())["0.05"], measured.sum_ms) == (1, 30)
    world.connect(2)
    world.acknowledge(2)
    world.passes(1)
    assert dict(measured.buckets())["+Inf"] == 1, "the other was away"
    world.push({"device": "d1"}, qos=0)
    world.passes(1)
    assert dict(measured.buckets())["+Inf"] == 1, "nobody acknowledges QoS 0"
    world.close()


def test_nothing_is_handed_over_without_a_lease() -> None:
    """Neither what is accepted now nor what was read of a mailbox: another node may serve the device by then. Slices
    that were under way when it ended go no further."""
    has_lease = True
    world = World(mailbox_limit=100, window=30)
    world.may_serve = lambda: has_lease
    world.boot()
    world.connect(1)
    before = world.push().push_id
    waiting = world.push({"device": "d2"}).push_id
    assert world.received(1) == [before]
    world.engine.connect(world.identities[2], 1)  # its mailbox is about to be read
    has_lease = False
    world.settle()
    after = world.push({"devices": ["d1", "d2"]}).push_id
    assert world.received(1) == [before]
    assert world.received(2) == []
    assert world.counts(waiting)["waiting"] == 1
    assert world.counts(after)["waiting"] == 2
    has_lease = True  # the database was away for all nodes
    world.timers.later_turn()
    world.settle()
    assert world.received(1) == [before, after]
    assert world.received(2) == [waiting, after]
    world.close()
