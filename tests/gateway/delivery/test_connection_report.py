from __future__ import annotations

from typing import Any

from broker.network.listen_address import SCHEMES
from gateway.api.responses import ConnectionResponse
from gateway.delivery.connection_events import PROTOCOL_ERROR, REASONS
from gateway.delivery.connection_report import LISTENERS, WORDS, ConnectionReport
from tests.gateway.delivery.test_connection_events import watched
from tests.gateway.delivery.world import World

AWAY = ("connected_at", "address", "listener", "protocol", "keep_alive", "subscribed_qos")


def report(world: World, device_no: int = 1) -> dict[str, Any]:
    found = world.run(ConnectionReport(world.connections, connections(world).recent).of(device_no))
    ConnectionResponse.model_validate(found)
    return found


def connections(world: World) -> Any:
    if not hasattr(world.on_disconnected, "__self__"):
        watched(world)
    return world.on_disconnected.__self__  # type: ignore[attr-defined]  # bound, as `watched` has left it


def test_a_connection_is_what_the_engine_knows_of_it(world: World) -> None:
    assert [report(world)[name] for name in AWAY] == [None] * len(AWAY)
    world.connect(1, granted=2)
    world.push({"device": "d1"}, qos=1)
    found = report(world)
    assert found | {
        "online": True, "connected_at": "2027-01-15T08:00:00.000Z", "listener": "tls", "protocol": "5.0",
        "keep_alive": 60, "subscribed_qos": 2, "in_flight": 1, "disconnects": [],
    } == found  # fmt: skip
    assert report(world, 2)["online"] is False


def test_the_last_ends_are_told_the_newest_first_whatever_the_log_has_room_for(world: World) -> None:
    connections(world)
    for number in range(12):
        world.connect()
        world.now += 1_000 + number
        world.connections.disconnected("d1", "keep alive timeout" if number % 2 else "connection lost", "")
    found = report(world)
    assert found["since"] == "2027-01-15T08:00:00.000Z"
    assert [end["duration"] for end in found["disconnects"]] == [1 + number / 1_000 for number in range(11, 1, -1)]
    last, before = found["disconnects"][:2]
    assert (last["reason"], before["reason"], before["text"]) == (
        "keep_alive", "network", "the network connection was lost"
    )  # fmt: skip
    assert not found["online"]


def test_every_reason_and_listener_has_its_word() -> None:
    assert set(WORDS) == {*REASONS.values(), PROTOCOL_ERROR}
    assert set(LISTENERS) == set(SCHEMES)
