"""Parts of a run: each device has one, whatever happens between them."""

from __future__ import annotations

import sqlite3

import pytest
from pyroaring import BitMap

from gateway.delivery.push import PushRequest
from gateway.delivery.submission import AcceptedPush
from gateway.errors import Problem
from gateway.plans.parts import RunPart, is_of_nobody, part_push, request_text, stored_request
from gateway.store.deliveries.plan_parts import PlanKind, parts_of_run
from gateway.store.plans.waiting_devices import clear_waiting, insert_waiting, remove_from_waiting, waiting_devices
from tests.gateway.delivery.world import APP, World

RUN = PlanKind.SCHEDULE, 7


def begin(world: World, *devices: int) -> None:
    insert_waiting(world.connection, *RUN, BitMap(devices))


def send(world: World, *devices: int, ttl: int = 60, refusal: Problem | None = None) -> AcceptedPush:
    part = RunPart(
        *RUN[:1], "c7", RUN[1], BitMap(devices), lambda connection: refusal, lambda *stored: None, lambda pending: None
    )
    request = stored_request(request_text(World.request({"all": True}, send_at="2027-01-15T09:00:00Z", ttl=90)))
    pending = part_push(world.acceptance, APP, request, ttl, part)
    accepted = world.run(world.acceptance.accept_pending(pending))
    world.settle()
    return accepted


def test_a_part_goes_to_its_devices_and_takes_them(world: World) -> None:
    begin(world, 1, 2, 3)
    world.connect(2)
    accepted = send(world, 1, 2)
    assert accepted.targeted == 2
    assert world.received(2) == [accepted.push_id]
    assert list(waiting_devices(world.connection, *RUN)) == [3]
    shown = world.run(world.reports.push(APP.no, accepted.push_id))
    assert (shown["schedule_id"], shown["ttl"], shown["target"]) == ("c7", 60, {"all": True})
    assert [push_id for _, push_id in parts_of_run(world.connection, *RUN)] == [accepted.push_id]
    listed = world.run(world.reports.pushes(APP.no, 10, None))
    assert b'"schedule_id":"c7"' in listed.items[0]


def test_who_has_had_a_part_or_was_removed_is_in_no_other(world: World) -> None:
    begin(world, 1, 2, 3)
    send(world, 1)
    world.remove(2)
    assert send(world, 1, 2, 3, 4).targeted == 1, "4 was none of the run"
    assert not waiting_devices(world.connection, *RUN)
    with pytest.raises(Problem) as refused:
        send(world, 1, 2, 3)
    assert is_of_nobody(refused.value)


def test_a_part_leaves_out_the_devices_that_lack_what_its_texts_need(world: World) -> None:
    """Nobody is there any more to be told."""
    begin(world, 1, 2, 3)
    world.connection.execute("UPDATE device SET name = 'Door' WHERE no = 1")
    world.connect(1)
    request = World.request({"all": True}, notification={"title": "{{ device.name }}"}, render="liquid")
    stored = stored_request(request_text(request))
    devices = BitMap([1, 2])
    part = RunPart(*RUN[:1], "c7", RUN[1], devices, lambda _: None, lambda *stored: None, lambda pending: None)
    accepted = world.run(world.acceptance.accept_pending(part_push(world.acceptance, APP, stored, 60, part)))
    world.settle()
    assert (accepted.targeted, accepted.suppressed) == (2, 1)
    assert world.received(1) == [accepted.push_id]
    assert world.state(accepted.push_id, 2) == ("suppressed", "no_text")
    assert list(waiting_devices(world.connection, *RUN)) == [3]


def test_a_part_that_is_not_wanted_any_more_takes_nothing(world: World) -> None:
    begin(world, 1, 2)
    with pytest.raises(Problem, match="over"):
        send(world, 1, refusal=Problem("gone", "over"))
    assert list(waiting_devices(world.connection, *RUN)) == [1, 2]
    assert clear_waiting(world.connection, *RUN) == 2


def test_a_part_that_is_rolled_back_takes_nothing(world: World) -> None:
    begin(world, 1, 2)

    def fails(*stored: object) -> None:
        raise sqlite3.IntegrityError("no")

    part = RunPart(PlanKind.SCHEDULE, "c7", 7, BitMap([1]), lambda connection: None, fails, lambda pending: None)
    pending = part_push(world.acceptance, APP, World.request({"all": True}), 5, part)
    with pytest.raises(Exception, match="no"):
        world.run(world.acceptance.accept_pending(pending))
    assert list(waiting_devices(world.connection, *RUN)) == [1, 2]
    assert world.row("SELECT count(*) FROM push") == (0,)


def test_sets_of_many_segments_are_taken_from_where_they_are(world: World) -> None:
    devices = BitMap([1, 70_000, 70_001, 200_000])
    insert_waiting(world.connection, *RUN, devices)
    assert remove_from_waiting(world.connection, *RUN, BitMap([70_000, 200_000, 300_000])) == 2
    assert waiting_devices(world.connection, *RUN) == BitMap([1, 70_001])


@pytest.mark.parametrize(
    "fields",
    [
        {"data": None},
        {"data": {"a": [1, "ö"]}, "kind": "command", "deadline": 5},
        {"repeat": {"cron": "0 9 * * 1-5", "zone": "device", "until": "2027-03-01T00:00:00+01:00"}},
        {"window": {"from": "08:00", "to": "20:00", "zone": "Europe/Vienna"}, "spread": 600},
        {"send_at_local": "09:00", "notification": {"title": "x", "actions": "media"}, "collapse_key": "ä"},
    ],
)
def test_a_request_is_the_same_after_it_was_stored(fields: dict[str, object]) -> None:
    request = PushRequest.model_validate_json(request_text(World.request({"tag": "a"}, **fields)))
    again = stored_request(request_text(request))
    assert again == request
    assert again.content() == request.content()


def test_only_a_schedule_says_when_it_is_sent(world: World) -> None:
    with pytest.raises(Problem, match="spread: this makes a schedule"):
        world.push({"all": True}, spread=60)
    world.push({"all": True}, spread=None)
