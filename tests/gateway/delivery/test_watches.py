"""Watches: a sender that has fallen silent, over restarts and pauses of the server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from gateway.delivery import watches
from gateway.delivery.submission import Submission
from gateway.delivery.watches import WatchFields
from gateway.errors import Problem
from tests.gateway.delivery.world import APP, World

MINUTE = 60


@pytest.fixture
def world() -> Iterator[World]:
    world = World(devices=1)
    yield world
    world.close()


def watch(world: World, name: str = "prices", **fields: Any) -> dict[str, Any]:
    return world.run(world.watches.put(APP, name, WatchFields.model_validate({"every_s": 10 * MINUTE, **fields})))


def send(world: World, key_id: str | None = "k_1", key: str | None = None, **fields: Any) -> None:
    body = None if key is None else b"body"
    pending = world.acceptance.pending(APP, Submission(world.request(**fields), key, body))
    pending.key_id = key_id
    world.run(world.acceptance.accept_pending(pending))
    world.settle()


def told(world: World) -> list[str]:
    return [event["type"] for event in world.events() if event["type"].startswith("sender.")]


def silent(world: World, name: str = "prices") -> bool:
    return bool(world.watches.get(APP.no, name)["silent"])


def test_a_sender_that_sends_in_time_is_heard(world: World) -> None:
    watch(world)
    for _ in range(3):
        world.passes(9 * MINUTE)
        send(world)
    assert not silent(world)
    assert told(world) == []


def test_a_sender_that_does_not_is_silent_and_comes_back(world: World) -> None:
    watch(world, channel="prices")
    send(world, channel="prices")
    world.passes(10 * MINUTE)
    assert silent(world)
    world.passes(60 * MINUTE)
    assert told(world) == ["sender.silent"], "once"
    (event,) = [event for event in world.events() if event["type"] == "sender.silent"]
    assert event["data"] == {
        "watch": "prices",
        "channel": "prices",
        "key_id": None,
        "heard_at": "2027-01-15T08:00:00.000Z",
        "every_s": 600,
    }
    send(world, channel="other")
    assert silent(world)
    send(world, channel="prices")
    assert not silent(world)
    assert told(world) == ["sender.silent", "sender.back"]


@pytest.mark.parametrize(
    ("fields", "sent", "heard"),
    [
        ({}, {}, True),
        ({"channel": "a"}, {"channel": "a"}, True),
        ({"channel": "a"}, {}, False),
        ({"key_id": "k_1"}, {}, True),
        ({"key_id": "k_1"}, {"key_id": "k_2"}, False),
        ({"key_id": "k_1", "channel": "a"}, {"channel": "b"}, False),
        ({}, {"key_id": None}, False),
    ],
)
def test_what_is_heard(world: World, fields: dict[str, Any], sent: dict[str, Any], heard: bool) -> None:
    for number in (1, 2):
        world.connection.execute(
            "INSERT INTO api_key (id, app_no, name, scopes, secret_hash, created_at) VALUES (?, 1, 'x', 'send', ?, 0)",
            (f"k_{number}", bytes([number])),
        )
    watch(world, **fields)
    send(world, **sent)
    assert (world.watches.get(APP.no, "prices")["heard_at"] is not None) == heard


def test_a_repetition_is_nothing_new(world: World) -> None:
    watch(world)
    send(world, key="once")
    world.passes(9 * MINUTE)
    send(world, key="once")
    world.passes(1 * MINUTE)
    assert silent(world)


def test_a_key_that_there_is_not(world: World) -> None:
    with pytest.raises(Problem) as refusal:
        watch(world, key_id="k_none")
    assert refusal.value.code == "key_not_found"
    assert world.watches.all() == []


def test_a_pause_of_the_server_is_no_silence_of_the_sender(world: World) -> None:
    watch(world)
    world.passes(4 * MINUTE)
    world.stopped_at = world.now
    world.now += 3_600_000
    world.crash()
    world.passes(5 * MINUTE)
    assert not silent(world)
    world.passes(1 * MINUTE)
    assert silent(world)
    assert told(world) == ["sender.silent"]


def test_after_a_start_a_sender_has_a_minute_at_least_and_its_whole_time_at_most(world: World) -> None:
    watch(world)
    world.passes(9.9 * MINUTE)
    world.stopped_at = world.now
    world.crash()
    world.passes(0.5 * MINUTE)
    assert not silent(world)
    world.stopped_at = world.now - 9 * 3_600_000  # nothing was stored for hours
    world.crash()
    world.passes(10 * MINUTE)
    assert silent(world)


def test_silence_is_kept_over_a_restart(world: World) -> None:
    watch(world)
    world.passes(10 * MINUTE)
    world.stopped_at = world.now
    world.crash()
    assert silent(world)
    world.passes(60 * MINUTE)
    assert told(world) == ["sender.silent"]
    send(world)
    assert told(world) == ["sender.silent", "sender.back"]


def test_when_somebody_was_heard_is_stored_now_and_then(world: World) -> None:
    watch(world)
    send(world)
    world.passes(11)
    send(world)
    send(world)
    heard = world.watches.get(APP.no, "prices")["heard_at"]
    world.passes(11)
    world.crash()
    assert world.watches.get(APP.no, "prices")["heard_at"] == heard


def test_a_watch_that_is_replaced_begins_anew(world: World) -> None:
    made = watch(world)
    world.passes(10 * MINUTE)
    again = watch(world, every_s=20 * MINUTE)
    assert (again["silent"], again["created_at"]) == (False, made["created_at"])
    world.passes(19 * MINUTE)
    assert not silent(world)
    world.crash()
    assert not silent(world)


def test_an_app_has_its_own_and_not_too_many(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "MAX_WATCHES", 1)
    watch(world)
    watch(world, every_s=MINUTE)
    with pytest.raises(Problem, match="at most 1"):
        watch(world, "other")
    assert world.watches.page(APP.no, 10, None)["next_cursor"] is None
    assert world.watches.page(2, 10, None)["items"] == []
    send(world)
    world.run(world.watches.remove(APP.no, "prices"))
    assert world.watches.by_app == {}
    world.passes(60 * MINUTE)
    assert told(world) == []
    with pytest.raises(Problem) as refusal:
        world.run(world.watches.remove(APP.no, "prices"))
    assert refusal.value.code == "watch_not_found"
