from __future__ import annotations

from tests.gateway.delivery.world import World


def test_facts_of_many_devices_are_one_operation_and_the_newest_wins(world: World) -> None:
    for device_no in (1, 2, 3):
        world.activity.connected(world.identities[device_no], 10)
        world.activity.seen(world.identities[device_no], 10)
    world.activity.seen(world.identities[2], 20)
    world.activity.error(3, "first")
    world.activity.error(3, "second")
    world.timers.later_turn()
    assert len(world.writer.queue) == 1
    world.settle()
    rows = world.connection.execute("SELECT connected_at, last_seen, last_error FROM device ORDER BY no").fetchall()
    assert rows == [(10, 10, None), (10, 20, None), (10, 10, "second")]


def test_the_newest_error_is_known_before_it_is_written(world: World) -> None:
    world.activity.on_denied(world.identities[1], "x" * 600)
    fact = world.activity.last_error(1)
    assert fact == ("x" * 500, world.now)
    assert world.activity.denied == 1
    world.timers.later_turn()
    world.settle()
    assert world.activity.last_error(1) is None
    assert world.row("SELECT length(last_error) FROM device WHERE no = 1") == (500,)


def test_a_connection_leaves_its_traces(world: World) -> None:
    world.connect()
    world.passes(5)
    world.disconnect()
    world.timers.later_turn()
    world.settle()
    connected_at, last_seen = world.row("SELECT connected_at, last_seen FROM device WHERE no = 1")
    assert last_seen - connected_at == 5000
