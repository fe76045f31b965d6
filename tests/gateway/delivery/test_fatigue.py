"""Fatigue: figures by the alerts of the last seven days, as a model has them that keeps a number for each device."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from typing import Any

import pytest

from gateway.delivery import fatigue
from gateway.delivery.fatigue import Figures, base_of, first_higher_bucket, verdict_of
from gateway.store.analytics import alert_days
from gateway.store.analytics.alert_days import BUCKETS, bucket_name, bucket_of
from gateway.store.analytics.funnels import DAY_MS
from gateway.store.audience.device_sets import add_to_sets
from gateway.store.transaction import Transaction
from tests.gateway.delivery.world import ALERT, APP, World


@pytest.fixture
def world() -> Any:
    world = World(window=200, mailbox_limit=500, devices=3)
    yield world
    world.close()


def alert(world: World, devices: list[int], channel: str | None = None, **fields: Any) -> str:
    target = {"devices": [f"d{number}" for number in devices]}
    push_id = world.push(
        target, notification=ALERT, **({} if channel is None else {"channel": channel}), **fields
    ).push_id
    for number in devices:
        world.acknowledge_all(number)
    return push_id


def says(world: World, push_id: str, event: str, device_no: int = 1) -> None:
    world.says("receipts", {"push_id": push_id, "event": event}, device_no)


def next_day(world: World) -> None:
    world.ledger.flush()
    world.settle()
    world.now = (world.now // DAY_MS + 1) * DAY_MS + 3_600_000
    world.run(world.fatigue.count())


def report(world: World, **asked: Any) -> dict[str, Any]:
    asked = {"channel": None, "tag": None, "since": None, "until": None} | asked
    return world.run(world.fatigue.report(APP.no, **asked))


def buckets(world: World, **asked: Any) -> dict[str, list[int]]:
    names = ("device_days", "alerts", "opened", "dismissed", "opted_out")
    found = {item["bucket"]: [item[name] for name in names] for item in report(world, **asked)["buckets"]}
    return {bucket: counts for bucket, counts in found.items() if any(counts)}


def test_the_buckets_are_those_that_are_written() -> None:
    assert [bucket_name(bucket) for bucket in range(len(BUCKETS))] == ["0-1", "2-3", "4-7", "8-14", "15-28", "29+"]
    assert [bucket_of(alerts) for alerts in (0, 1, 2, 7, 8, 28, 29, 1_000)] == [0, 0, 1, 2, 3, 4, 5, 5]


def test_a_day_is_counted_when_it_is_over(world: World) -> None:
    world.run(world.fatigue.count())
    for number in (1, 2, 3):
        world.connect(number)
    first = alert(world, [1, 2], "offers")
    second = alert(world, [1], "offers")
    plain = alert(world, [1])
    world.push({"all": True}, data=1, channel="offers")
    says(world, first, "dismissed", 1)
    world.now += 30_000
    says(world, second, "opened", 1)
    says(world, second, "acted", 1)
    says(world, plain, "acted", 1)
    says(world, plain, "opened", 1)
    world.says("settings", {"channels": {"offers": False}}, 2)
    assert buckets(world) == {}
    world.run(world.fatigue.count())
    assert buckets(world) == {}, "today is in no figures"
    next_day(world)
    assert buckets(world) == {"0-1": [1, 1, 0, 0, 1], "2-3": [1, 3, 2, 1, 0]}, "what was acted on is opened, once"
    assert buckets(world, channel="offers") == {"0-1": [1, 1, 0, 0, 1], "2-3": [1, 2, 1, 1, 0]}
    assert buckets(world, channel="") == {"0-1": [1, 1, 1, 0, 0]}
    assert buckets(world, channel="news") == {}
    (few, two, *_) = report(world)["buckets"]
    assert few["time_to_open_ms"] is None
    assert two["time_to_open_ms"]["p50"] == pytest.approx(30_000, rel=0.1)
    found = report(world)
    assert (found["verdict"], found["leave_from"]) == ("not_enough_yet", {"opted_out": None, "dismissed": None})
    world.run(world.fatigue.count())
    assert buckets(world)["2-3"] == [1, 3, 2, 1, 0], "once"


def test_who_has_left_cannot_leave_again_and_who_hears_nothing_is_not_patient(world: World) -> None:
    for number in (1, 2):
        world.connect(number)
    alert(world, [1, 2], "offers")
    for day in range(3):
        world.says("settings", {"channels": {"offers": False}, "seq": day + 1}, 1)
        next_day(world)
    assert buckets(world, channel="offers") == {"0-1": [4, 2, 0, 0, 1]}, "one day of d1, three of d2"
    world.says("settings", {"consent": "denied"}, 2)
    next_day(world)
    for _ in range(20):
        next_day(world)
    assert buckets(world, channel="offers") == {"0-1": [5, 2, 0, 0, 2]}
    assert buckets(world) == {"0-1": [4 + 14, 2, 0, 0, 2]}, "d1 may have others: for two weeks after its last"
    assert world.row("SELECT count(*) FROM alert_day") == (0,)


def test_years_of_which_there_is_nothing_are_passed_over(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []

    def note_day(connection: Transaction, day: int) -> None:
        closed.append(day)
        alert_days.close_day(connection, day)

    monkeypatch.setattr(fatigue, "close_day", note_day)
    world.connect()
    alert(world, [1])
    next_day(world)
    first = world.now // DAY_MS - 1
    world.now += 1_000 * DAY_MS
    next_day(world)
    assert len(closed) < alert_days.RECENT_DAYS + 5
    assert closed[-1] == first + 1_001
    assert report(world, since=first * DAY_MS)["buckets"][0]["device_days"] == alert_days.RECENT_DAYS
    alert(world, [1])
    next_day(world)
    assert buckets(world) == {"0-1": [1, 1, 0, 0, 0]}


def test_by_tag(world: World) -> None:
    world.connection.execute("INSERT INTO device_tag (app_no, tag, device_no) VALUES (1, 'vip', 2)")
    add_to_sets(world.connection, APP.no, {"vip": [2]})
    for number in (1, 2):
        world.connect(number)
    alert(world, [1, 2])
    alert(world, [2])
    world.says("settings", {"consent": "denied"}, 2)
    next_day(world)
    assert buckets(world, tag="vip") == {"2-3": [1, 2, 0, 0, 1]}
    assert buckets(world, tag="foyer") == {}


def test_a_crash_loses_nothing_and_repeats_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alert_days, "READ_ENTRIES", 3)
    world.connect(1)
    for _ in range(5):
        alert(world, [1])
    world.run(world.fatigue.count())
    world.crash()
    world.connect(1)
    for _ in range(4):
        alert(world, [1])
    next_day(world)
    world.crash()
    world.run(world.fatigue.count())
    assert buckets(world) == {"8-14": [1, 9, 0, 0, 0]}


def test_more_channels_than_an_app_may_have_are_counted_together(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alert_days, "MAX_CHANNELS", 2)
    world.connect(1)
    for channel in ("a", "b", "c", "d", "a"):
        alert(world, [1], channel)
        world.says("settings", {"channels": {channel: False}}, 1)
        world.says("settings", {"channels": {channel: True}}, 1)
    next_day(world)
    assert buckets(world) == {"4-7": [1, 5, 0, 0, 1]}
    assert buckets(world, channel="a") == {"2-3": [1, 2, 0, 0, 1]}
    assert buckets(world, channel="") == {"2-3": [1, 2, 0, 0, 0]}
    assert buckets(world, channel="c") == {}


@pytest.mark.parametrize("seed", [1, 2])
def test_figures_are_those_of_a_model(world: World, seed: int) -> None:
    """Two weeks and more of alerts, opens, dismissals and people who leave and return, at random but reproducible."""
    rng = random.Random(seed)
    numbers = [1, 2, 3, 65_536, 65_537, 131_073]
    for number in numbers[3:]:
        world.enrol(number)
    for number in numbers:
        world.connect(number)
    alerts: dict[tuple[int, str], Counter[int]] = defaultdict(Counter)
    done: dict[tuple[int, str, str], Counter[int]] = defaultdict(Counter)
    gone: dict[str, set[int]] = defaultdict(set)
    left: dict[tuple[int, str], set[int]] = defaultdict(set)
    expected: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for _ in range(19):
        day = world.now // DAY_MS
        for _ in range(rng.choice([0, 1, 3, 6])):
            channel = rng.choice(["a", "b"])
            devices = [number for number in numbers if rng.random() < 0.6]
            if not devices:
                continue
            push_id = alert(world, devices, channel)
            had = [number for number in devices if number not in gone[channel] | gone[""]]
            for number in had:
                alerts[day, channel][number] += 1
                if rng.random() < 0.5:
                    event = rng.choice(["opened", "acted", "dismissed"])
                    says(world, push_id, event, number)
                    done[day, channel, "dismissed" if event == "dismissed" else "opened"][number] += 1
            if rng.random() < 0.3:
                number, channel = rng.choice(numbers), rng.choice(["a", "b", ""])
                wanted = number in gone[channel]
                said = {"channels": {channel: wanted}} if channel else {"consent": "granted" if wanted else "denied"}
                world.says("settings", said, number)
                (gone[channel].discard if wanted else gone[channel].add)(number)
                if not wanted:
                    left[day, channel].add(number)
        next_day(world)
        for key, channels in (("a", "a"), ("b", "b"), ("", "ab")):
            opted_out = left[day, ""].union(*(left[day, channel] for channel in channels))
            away = gone[""] - left[day, ""] | (gone[key] - left[day, key] if key else set())
            for number in set(numbers) - away:
                week = sum(alerts[day - ago, channel][number] for ago in range(7) for channel in channels)
                if not any(alerts[day - ago, channel][number] for ago in range(14) for channel in channels):
                    continue
                tally = expected[key][bucket_name(bucket_of(week))]
                tally["device_days"] += 1
                tally["alerts"] += sum(alerts[day, channel][number] for channel in channels)
                for event in ("opened", "dismissed"):
                    tally[event] += sum(done[day, channel, event][number] for channel in channels)
                tally["opted_out"] += number in opted_out
    names = ("device_days", "alerts", "opened", "dismissed", "opted_out")
    for key in ("a", "b", ""):
        assert buckets(world, **({"channel": key} if key else {})) == {
            bucket: [tally[name] for name in names] for bucket, tally in expected[key].items()
        }


def test_the_verdict_compares_with_the_lowest_bucket_that_is_known() -> None:
    def figures(*counts: tuple[int, int]) -> list[Figures]:
        return [Figures(Counter(device_days=days, alerts=days, opted_out=left)) for days, left in counts]

    few = figures((99, 0), (99, 50), (0, 0), (5, 0), (0, 0), (0, 0))
    assert (base_of(few), verdict_of(few)) == (None, "not_enough_yet")
    rising = figures((9, 9), (200, 2), (300, 3), (400, 40), (500, 90), (0, 0))
    assert (base_of(rising), verdict_of(rising)) == (1, "people_leave")
    assert first_higher_bucket(rising, "opted_out") == "8-14"
    assert first_higher_bucket(rising, "dismissed") is None
    level = figures((200, 2), (300, 3), (0, 0), (0, 0), (0, 0), (90, 90))
    assert verdict_of(level) == "no_difference"
