"""Funnels: counted as it happens, equal to what the ledger says, whatever order things come in."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.audience.policy import NewChannel
from gateway.delivery.analytics import STAGES
from gateway.errors import Problem
from gateway.store.audience.device_sets import add_to_sets
from gateway.store.deliveries.event_log import remove_events_to
from gateway.store.numbers import last_number
from gateway.timestamps import rfc3339
from tests.gateway.delivery.world import ALERT, APP, START, World


@pytest.fixture
def world() -> Any:
    world = World(window=50, mailbox_limit=50)
    yield world
    world.close()


def push(world: World, target: dict[str, Any] | None = None, **fields: Any) -> str:
    return world.push(target or {"all": True}, notification=ALERT, **fields).push_id


def says(world: World, push_id: str, event: str, device_no: int = 1, **more: Any) -> None:
    world.says("receipts", {"push_id": push_id, "event": event, **more}, device_no)


def funnel(world: World, push_id: str) -> dict[str, Any]:
    return world.run(world.analytics.of_push(APP.no, push_id))


def by(world: World, what: Any, since: int | None = None, until: int | None = None) -> dict[Any, dict[str, Any]]:
    items = world.run(world.analytics.by(APP.no, what, since, until))["items"]
    return {item[what]: item for item in items}


def stages(item: dict[str, Any]) -> list[int]:
    return [item[stage] for stage in STAGES]


def test_the_funnel_of_a_push(world: World) -> None:
    world.says("settings", {"consent": "denied"}, device_no=3)
    for device_no in (1, 2):
        world.connect(device_no)
    push_id = push(world)
    world.now += 1_000
    for device_no in (1, 2):
        world.acknowledge(device_no)
    world.now += 9_000
    says(world, push_id, "opened", 1)
    says(world, push_id, "acted", 1, action="play")
    says(world, push_id, "dismissed", 2)
    found = funnel(world, push_id)
    assert stages(found) == [3, 2, 2, 2, 1, 1, 1]
    assert found["rates"] == {"delivered": 1.0, "displayed": 1.0, "opened": 0.5, "acted": 1.0, "opted_out": 0.0}
    assert found["time_to_deliver_ms"]["p50"] == pytest.approx(1_000, rel=0.1)
    assert found["time_to_open_ms"]["p99"] == pytest.approx(10_000, rel=0.1)
    world.says("settings", {"consent": "denied"}, device_no=2)
    assert funnel(world, push_id)["opted_out"] == 1
    with pytest.raises(Problem, match="push_not_found"):
        funnel(world, "nobody")


def test_data_and_commands_are_not_seen_by_anybody(world: World) -> None:
    world.connect(1)
    order = world.push(kind="command", data={"command": "play"}, deadline=60, channel="music").push_id
    data, shown = world.push(channel="music").push_id, push(world, {"device": "d1"}, channel="music")
    world.acknowledge_all(1)
    says(world, order, "acted", 1, result={"ok": True})
    found = funnel(world, order)
    assert stages(found) == [1, 1, 1, 0, 0, 0, 1]
    assert found["rates"] == {"delivered": 1.0, "displayed": None, "opened": None, "acted": 1.0, "opted_out": None}
    assert found["time_to_open_ms"] is None
    assert funnel(world, data)["rates"]["displayed"] is None
    says(world, shown, "displayed", 1)
    music = by(world, "channel")["music"]
    assert stages(music) == [3, 3, 3, 1, 0, 0, 1]
    assert music["rates"] == {"delivered": 1.0, "displayed": 1.0, "opened": 0.0, "acted": None, "opted_out": 0.0}


def test_by_channel_and_by_tag(world: World) -> None:
    world.connection.execute("INSERT INTO device_tag (app_no, tag, device_no) VALUES (1, 'foyer', 1), (1, 'bar', 1)")
    world.connect(1)
    offers, news = push(world, channel="offers"), push(world, {"device": "d1"}, channel="news")
    plain = push(world)
    world.acknowledge_all(1)
    says(world, offers, "opened")
    channels = by(world, "channel")
    assert stages(channels["offers"]) == [3, 3, 1, 1, 0, 1, 0]
    assert stages(channels["news"]) == [1, 1, 1, 0, 0, 0, 0]
    assert stages(channels[None]) == [3, 3, 1, 0, 0, 0, 0]
    tags = by(world, "tag")
    assert stages(tags["foyer"]) == stages(tags["bar"]) == [3, 3, 3, 1, 0, 1, 0]
    says(world, news, "acted")
    says(world, plain, "dismissed")
    assert stages(by(world, "channel")["news"]) == [1, 1, 1, 1, 0, 1, 1], "the difference is added, once"
    assert stages(by(world, "channel")["news"]) == [1, 1, 1, 1, 0, 1, 1]


def test_by_hour_of_the_day_where_the_app_is_at_home(world: World) -> None:
    from gateway.audience.policy import Policy

    world.run(world.policies.set_policy(APP.no, Policy(timezone="Asia/Tokyo")))
    push(world)
    world.passes(24 * 3_600)
    push(world)
    world.passes(3_600)
    push(world)
    hours = by(world, "hour")
    assert {hour: item["targeted"] for hour, item in hours.items()} == {"17": 6, "18": 3}
    assert by(world, "hour", since=START + 86_400_000)["17"]["targeted"] == 3
    assert by(world, "hour", until=START + 3_600_000)["17"]["targeted"] == 3


def test_who_opts_out_is_counted(world: World) -> None:
    world.says("settings", {"channels": {"offers": False}})
    world.says("settings", {"channels": {"offers": False}})
    world.says("settings", {"consent": "denied"})
    world.says("settings", {"consent": "denied"})
    world.run(world.policies.add_channel(APP.no, NewChannel(id="safety", name="Safety", may_mute=False)))
    world.says("settings", {"channels": {"safety": False}})
    assert "safety" not in by(world, "channel"), "it is without effect"
    assert by(world, "channel")["offers"]["opted_out"] == 1
    assert by(world, "hour")["08"]["opted_out"] == 1


def test_counts_are_the_ledgers_own_after_everything(world: World) -> None:
    """The sum of all funnels is the sum of all counts, over crashes and slices."""
    ids = [push(world, channel=channel) for channel in ("a", "b", "a")]
    world.connect(1)
    world.acknowledge_all(1)
    world.analytics.tick()
    world.settle()
    says(world, ids[0], "displayed")
    world.crash()
    world.connect(2)
    world.acknowledge_all(2)
    says(world, ids[1], "acted", 2)
    ids.append(push(world, channel="b"))
    for _ in range(3):
        world.analytics.tick()
        world.settle()
    reached = [world.run(world.reports.push(APP.no, push_id))["reached"] for push_id in ids]
    channels = by(world, "channel")
    for stage in ("delivered", "displayed", "opened", "acted"):
        assert sum(item[stage] for item in channels.values()) == sum(found[stage] for found in reached)
    assert sum(item["targeted"] for item in channels.values()) == 12


def test_a_push_that_no_restart_counted_is_counted_when_it_is_asked_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest are counted after a restart; what came to an older one just before a crash is not lost."""
    monkeypatch.setattr("gateway.store.analytics.funnels.RECOUNTED_PUSHES", 0)
    push_id = push(world)
    world.crash()
    assert funnel(world, push_id)["delivered"] == 0
    world.connect(1)
    world.acknowledge_all(1)
    world.crash()
    assert funnel(world, push_id)["delivered"] == 1


def count(world: World) -> None:
    """Until nothing is left that was not counted."""
    for _ in range(4):
        world.passes(5)
        world.analytics.tick()
        world.settle()


def test_what_comes_just_before_a_crash_is_counted_however_old_the_push(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.store.analytics.funnels.RECOUNTED_PUSHES", 0)
    world.connect(1)
    old, newer = push(world, channel="old"), [push(world, channel="newer") for _ in range(3)]
    world.acknowledge_all(1)
    count(world)
    assert stages(by(world, "channel")["old"]) == [3, 3, 1, 0, 0, 0, 0]
    says(world, old, "acted")
    waiting = push(world, channel="waiting")
    world.crash()
    assert world.ledger.changed == {4 + 1, 1}, "and no more than that"
    assert stages(by(world, "channel")["old"]) == [3, 3, 1, 1, 0, 1, 1]
    assert stages(by(world, "channel")["newer"]) == [9, 9, 3, 0, 0, 0, 0]
    assert stages(by(world, "channel")["waiting"]) == [3, 3, 0, 0, 0, 0, 0]
    assert stages(funnel(world, waiting)) == [3, 3, 0, 0, 0, 0, 0]
    says(world, newer[0], "opened")
    world.crash()
    assert stages(by(world, "channel")["newer"]) == [9, 9, 3, 1, 0, 1, 0]


def test_a_crash_while_changes_are_counted_loses_none_of_them(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.store.analytics.funnels.RECOUNTED_PUSHES", 0)
    monkeypatch.setattr("gateway.delivery.analytics.COUNTED_PUSHES", 1)
    monkeypatch.setattr("gateway.store.analytics.funnels.PART_DELIVERIES", 2)
    monkeypatch.setattr("gateway.store.analytics.funnels.WRITER_DELIVERIES", 2)
    small = [push(world, {"device": "d1"}) for _ in range(3)]
    large = push(world)
    count(world)
    assert stages(funnel(world, large)) == [3, 3, 0, 0, 0, 0, 0]
    for step in range(8):
        for push_id in (*small, large):
            says(world, push_id, ("delivered", "displayed", "opened", "acted")[step % 4])
        world.passes(5)
        world.analytics.tick()
        for _ in range(step):
            world.turn()
            world.timers.later_turn()
        world.crash()
        hours = by(world, "hour")["08"]
        reached = [world.run(world.reports.push(APP.no, push_id))["reached"] for push_id in (*small, large)]
        for stage in ("delivered", "displayed", "opened", "acted"):
            assert hours[stage] == sum(found[stage] for found in reached), (step, stage)


def test_what_changed_without_an_event_that_is_left_is_looked_for_among_the_newest(world: World) -> None:
    world.connect(1)
    push_id = push(world, {"device": "d1"})
    count(world)
    world.acknowledge_all(1)
    remove_events_to(world.connection, last_number(world.connection, "event"))
    world.crash()
    assert by(world, "channel")[None]["delivered"] == 1, push_id


def test_what_is_being_counted_is_counted_once_more_for_who_asks(world: World) -> None:
    """A count begins between the moment from which on a question is to be answered and the answer."""
    push_id = push(world)
    world.passes(5)
    write = world.writer.write

    async def write_and_tick(operation: Any, app_no: int | None = None, **declared: Any) -> Any:
        result = await write(operation, app_no, **declared)
        world.analytics.tick()
        return result

    world.writer.write = write_and_tick  # type: ignore[method-assign]
    assert by(world, "channel")[None]["targeted"] == 3
    assert funnel(world, push_id)["targeted"] == 3


def test_a_large_push_is_counted_in_parts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.store.analytics.funnels.PART_DELIVERIES", 2)
    monkeypatch.setattr("gateway.store.analytics.funnels.WRITER_DELIVERIES", 2)
    world.connection.execute("INSERT INTO device_tag (app_no, tag, device_no) VALUES (1, 'foyer', 1), (1, 'foyer', 3)")
    add_to_sets(world.connection, 1, {"foyer": [1, 3]})
    for device_no in (1, 2, 3):
        world.connect(device_no)
    large, small = push(world), push(world, {"device": "d1"})
    world.acknowledge_all(1)
    world.acknowledge_all(3)
    assert stages(funnel(world, large)) == [3, 3, 2, 0, 0, 0, 0]
    says(world, large, "opened", 3)
    assert stages(by(world, "channel")[None]) == [4, 4, 3, 1, 0, 1, 0]
    assert stages(by(world, "tag")["foyer"]) == [3, 3, 3, 1, 0, 1, 0]
    assert stages(funnel(world, large)) == [3, 3, 2, 1, 0, 1, 0]
    assert stages(funnel(world, small)) == [1, 1, 1, 0, 0, 0, 0]


def test_large_pushes_are_counted_by_themselves(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.store.analytics.funnels.PART_DELIVERIES", 2)
    monkeypatch.setattr("gateway.store.analytics.funnels.WRITER_DELIVERIES", 2)
    counting = world.loop.create_task(world.analytics.count_large())
    large = push(world)
    world.passes(5)
    world.analytics.tick()
    world.settle()
    world.run(asyncio.sleep(0.6))
    counting.cancel()
    assert world.row("SELECT content ->> '$.tally.targeted' FROM push_funnel") == (3,), large


def test_a_slice_at_a_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.delivery.analytics.COUNTED_PUSHES", 2)
    monkeypatch.setattr("gateway.store.analytics.funnels.PART_DELIVERIES", 4)
    monkeypatch.setattr("gateway.store.analytics.funnels.WRITER_DELIVERIES", 4)
    for _ in range(5):
        push(world)
    assert by(world, "channel")[None]["targeted"] == 15


def test_tags_beyond_a_bound_are_not_counted_and_that_is_said(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("store.analytics.funnels", "delivery.analytics"):
        monkeypatch.setattr(f"gateway.{module}.MAX_TAGS", 4)
    rows = [(1, f"own-{device_no}-{number}", device_no) for device_no in (1, 2, 3) for number in range(3)]
    rows += [(1, "common", device_no) for device_no in (1, 2, 3)]
    world.connection.executemany("INSERT INTO device_tag (app_no, tag, device_no) VALUES (?, ?, ?)", rows)
    push(world)
    found = world.run(world.analytics.by(APP.no, "tag", None, None))
    assert found["limited"] is True
    assert found["items"][0]["tag"] == "common"
    assert len(found["items"]) == 4
    assert found["items"][0]["targeted"] == 3
    others = push(world)
    world.connect(1)
    world.acknowledge_all(1)
    again = world.run(world.analytics.by(APP.no, "tag", None, None))["items"]
    assert {item["tag"] for item in again} == {item["tag"] for item in found["items"]}
    assert again[0]["targeted"] == 6
    assert again[0]["delivered"] == 2
    assert funnel(world, others)["targeted"] == 3
    assert world.run(world.analytics.by(APP.no, "channel", None, None))["limited"] is False


def test_a_question_waits_so_long_for_what_is_not_counted_yet(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.delivery.analytics.CATCH_UP_SECONDS", -1.0)
    push(world)
    found = world.run(world.analytics.by(APP.no, "channel", None, None))
    assert (found["items"], found["uncounted"]) == ([], 1)
    monkeypatch.setattr("gateway.delivery.analytics.CATCH_UP_SECONDS", 10.0)
    found = world.run(world.analytics.by(APP.no, "channel", None, None))
    assert (found["items"][0]["targeted"], found["uncounted"]) == (3, 0)


def test_many_hours_are_added_up_a_part_at_a_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for hours in (0, 1, 2, 700, 2_000):
        world.now = START + hours * 3_600_000
        push(world, channel=f"at-{hours}")
    whole = by(world, "channel")
    assert whole.keys() == {"at-0", "at-1", "at-2", "at-700", "at-2000"}
    some = by(world, "channel", START, START + 700 * 3_600_000)
    assert some.keys() == {"at-0", "at-1", "at-2"}
    monkeypatch.setattr("gateway.store.analytics.funnels.PART_HOURS", 100)
    monkeypatch.setattr("gateway.store.analytics.funnels.PART_ROWS", 1)
    assert by(world, "channel") == whole
    assert sum(item["targeted"] for item in by(world, "hour").values()) == 15


def test_the_newest_hours_are_the_answer_if_there_is_no_time_for_all(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for hours in range(5):
        world.now = START + hours * 3_600_000
        push(world, channel=f"at-{hours}")
    world.run(world.analytics.catch_up())
    monkeypatch.setattr("gateway.store.analytics.funnels.PART_ROWS", 2)
    monkeypatch.setattr("gateway.delivery.analytics.ADD_UP_SECONDS", -1.0)
    found = world.run(world.analytics.by(APP.no, "channel", None, None))
    assert [item["channel"] for item in found["items"]] == ["at-3", "at-4"]
    assert found["limited"] is True
    first = START + 3 * 3_600_000
    assert found["counted_from"] == rfc3339(first - first % 3_600_000)


def test_the_sums_of_few_tags_are_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.delivery.analytics.KEPT_TAGS", 2)
    monkeypatch.setattr("gateway.store.analytics.funnels.PART_ROWS", 1)
    for hours in range(4):
        world.connection.execute("DELETE FROM device_tag")
        world.connection.executemany(
            "INSERT INTO device_tag (app_no, tag, device_no) VALUES (1, ?, ?)",
            [("all", device_no) for device_no in (1, 2, 3)] + [(f"at-{hours}", 1)],
        )
        world.now = START + hours * 3_600_000
        push(world)
        world.run(world.analytics.catch_up())
    found = world.run(world.analytics.by(APP.no, "tag", None, None))
    assert found["limited"] is True
    assert len(found["items"]) == 2
    assert found["items"][0]["tag"] == "all"
    assert found["items"][0]["targeted"] == 12
