from __future__ import annotations

import pytest
from pyroaring import BitMap

from gateway.delivery.reports import count_states
from gateway.delivery_states import DeliveryState
from gateway.errors import Problem
from gateway.store.deliveries.delivery_sets import SET_DEVICES, to_rows
from gateway.store.transaction import Transaction
from tests.gateway.delivery.machinery import counted_steps
from tests.gateway.delivery.world import APP, World, items


def test_a_push_is_shown_as_it_was_sent(world: World) -> None:
    push = world.push(
        {"device": "d1"},
        notification={"title": "Hello", "actions": [{"id": "play", "title": "Play"}]},
        data=None,
        channel="offers",
        priority="high",
        ttl=60,
        collapse_key="k",
        qos=2,
    )
    report = world.run(world.reports.push(1, push.push_id))
    assert report["notification"] == {"title": "Hello", "actions": [{"id": "play", "title": "Play"}]}
    assert report["data"] is None
    assert (report["kind"], report["channel"], report["priority"], report["qos"]) == ("alert", "offers", "high", 2)
    assert (report["ttl"], report["collapse_key"], report["target"]) == (60, "k", {"device": "d1"})
    assert report["sent_at"] == "2027-01-15T08:00:00.000Z"
    assert report["expires_at"] == "2027-01-15T08:01:00.000Z"
    assert report["counts"]["targeted"] == 1
    assert report["reached"] == {"delivered": 0, "displayed": 0, "opened": 0, "acted": 0}


def test_what_was_acknowledged_but_not_recorded_is_still_sent(world: World) -> None:
    world.connect()
    push = world.push()
    world.engine.settle("d1", 0)
    assert world.counts(push.push_id) in ({"targeted": 1, "sent": 1}, {"targeted": 1, "delivered": 1})


def test_what_has_a_receipt_before_its_acknowledgement_is_not_listed_as_sent(world: World) -> None:
    world.connect()
    push_id = world.push().push_id
    world.says("receipts", {"push_id": push_id, "event": "opened"})
    assert world.counts(push_id) == {"targeted": 1, "opened": 1}
    for state, count in ((DeliveryState.SENT, 0), (DeliveryState.OPENED, 1)):
        assert len(items(world.run(world.reports.deliveries(APP.no, push_id, 10, None, state)))) == count


def test_pushes_of_another_app_do_not_exist(world: World) -> None:
    push = world.push()
    for question in (
        world.reports.push(2, push.push_id),
        world.reports.deliveries(2, push.push_id, 10, None),
    ):
        with pytest.raises(Problem) as refusal:
            world.run(question)
        assert refusal.value.code == "push_not_found"
    assert world.run(world.ledger.recalls.recall(2, push.push_id)) is None
    assert items(world.run(world.reports.pushes(2, 10, None))) == []


def test_lists_are_paged_to_the_end() -> None:
    world = World(devices=7, mailbox_limit=100)
    answers = world.run(world.acceptance.accept_many([world.checked({"all": True}) for _ in range(5)]))
    ids = [a.push_id for a in answers]  # type: ignore[union-attr]
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = world.run(world.reports.pushes(1, 2, cursor))
        seen += [item["push_id"] for item in items(page)]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == ids[::-1]
    devices: list[str] = []
    while True:
        page = world.run(world.reports.deliveries(1, ids[0], 3, cursor))
        devices += [item["device_id"] for item in items(page)]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert devices == [f"d{number}" for number in range(1, 8)]
    world.close()


def test_a_mailbox_is_listed_in_drain_order_with_what_is_in_flight(world: World) -> None:
    low = world.push(priority="low").push_id
    high = world.push(priority="high").push_id
    page = world.run(world.reports.mailbox(1, 1, None))
    assert [item["push_id"] for item in page["items"]] == [high]
    rest = world.run(world.reports.mailbox(1, 10, page["next_cursor"]))
    assert [item["push_id"] for item in rest["items"]] == [low]
    assert rest["next_cursor"] is None
    world.connect()
    states = [item["state"] for item in world.run(world.reports.mailbox(1, 10, None))["items"]]
    assert states == ["sent", "sent"]


@pytest.mark.parametrize("cursor", ["x", "-1", "", "9" * 30, "1.x"])
def test_a_made_up_cursor_is_refused(world: World, cursor: str) -> None:
    with pytest.raises(Problem) as refusal:
        world.run(world.reports.mailbox(1, 10, cursor))
    assert refusal.value.code == "invalid_request"


def steps(connection: Transaction, push_no: int, sent: list[int]) -> tuple[dict[str, int], int]:
    """The counts of a push, but for zeros, and the steps of SQLite's machine that they take."""
    with counted_steps(connection) as count:
        counts = count_states(connection, push_no, sent)
    return {state: number for state, number in counts.items() if number}, count[0]


def test_what_is_in_flight_of_a_push_in_sets_is_counted_from_its_sets() -> None:
    """However much it is, and although a part of it has rows; in the sets, too, that nothing waits in any more."""
    devices = 10 * SET_DEVICES
    world = World(devices=devices, mailbox_limit=1_000, mailbox_bytes=4 << 20)
    world.push({"all": True})
    (push_no,) = world.row("SELECT no FROM push")
    few, many = list(range(1, 3)), list(range(1, devices - 9))
    assert (counted := steps(world.connection, push_no, few))[0] == {"waiting": devices - 2, "sent": 2}
    assert steps(world.connection, push_no, many) == ({"waiting": 10, "sent": devices - 10}, counted[1])
    to_rows(world.connection, push_no, BitMap([1, devices]))
    assert steps(world.connection, push_no, few)[0] == {"waiting": devices - 2, "sent": 2}
    assert steps(world.connection, push_no, many)[0] == {"waiting": 10, "sent": devices - 10}
    world.close()
