"""Webhooks against receivers of every kind, on a clock that is moved: nothing lost, each device's order kept."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
from collections import Counter
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from gateway.events import dns, webhook_sender
from gateway.events.webhooks import LANES_PER_WEBHOOK, MAX_WEBHOOKS
from gateway.pages import to_json
from gateway.store.deliveries.event_log import Event, Position
from gateway.store.errors import StorageFull
from tests.gateway.events.conftest import HOUR, MINUTE, Fleet, MakeReceiver, check_order
from tests.gateway.in_process import InProcessGateway
from tests.receiver import Answer, Receiver, Request

DAY = 24 * HOUR


def answering(status: int, **headers: str) -> Answer:
    return lambda request: (status, headers)


def about(device_id: str) -> Callable[[Request], bool]:
    return lambda request: any(event["data"].get("device_id") == device_id for event in request.events)


async def test_events_arrive_signed_in_order(gateway: InProcessGateway, fleet: Fleet, receiver: Receiver) -> None:
    webhook = await fleet.hook(receiver.url)
    await fleet.happens(5)
    await fleet.all_arrives(receiver)
    request = receiver.taken[0]
    assert request.path == "/hook"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert all(request.is_signed_with(webhook["secret"]) for request in receiver.taken)
    assert not receiver.taken[0].is_signed_with("whsec_" + "A" * 32)
    event = receiver.events()[0]
    assert set(event) == {"id", "type", "timestamp", "data"}
    assert event["type"] == "device.settings"
    await fleet.until(lambda: not gateway.components.webhook_sender.lanes_busy, "the answers have been read")
    status = await fleet.status()
    assert status["succeeded_at"] is not None
    assert (status["failed_at"], status["last_error"]) == (None, None)


async def test_what_happened_before_is_not_told(gateway: InProcessGateway, fleet: Fleet, receiver: Receiver) -> None:
    await fleet.happens()
    await fleet.hook(receiver.url)
    await fleet.happens(1, devices=1)
    await fleet.until(lambda: len(receiver.events()) == 1, "the one after")
    assert receiver.events() == (await fleet.log())[-1:]


async def test_many_events_go_in_batches(gateway: InProcessGateway, fleet: Fleet, receiver: Receiver) -> None:
    await fleet.hook(receiver.url, enabled=False)
    await fleet.happens(40)
    await gateway.call("PATCH", fleet.path, json={"enabled": True})
    await fleet.all_arrives(receiver)
    assert len(receiver.taken) <= 2 * LANES_PER_WEBHOOK
    assert max(len(request.events) for request in receiver.taken) <= 100


async def test_only_the_types_that_were_asked_for(gateway: InProcessGateway, fleet: Fleet, receiver: Receiver) -> None:
    await fleet.hook(receiver.url, types=["delivery.*", "webhook.disabled"])
    await fleet.happens()
    push_id = await gateway.push({"device": "d1"})
    await gateway.call("DELETE", f"/v1/pushes/{push_id}")
    await fleet.until(lambda: bool(receiver.events()), "the recall")
    assert [event["type"] for event in receiver.events()] == ["delivery.cancelled"]
    assert receiver.events()[0]["data"] == {"push_id": push_id, "device_id": "d1", "reason": "recalled"}


async def test_a_slow_receiver_gets_one_request_of_a_lane_at_a_time(
    gateway: InProcessGateway, fleet: Fleet, receiver: Receiver
) -> None:
    release = threading.Event()

    def slow(request: Request) -> tuple[int, dict[str, str]]:
        assert release.wait(30)
        return 200, {}

    receiver.answer = slow
    await fleet.hook(receiver.url)
    await fleet.happens(1)
    await fleet.until(lambda: len(receiver.requests) == LANES_PER_WEBHOOK, "a request of each lane")
    await fleet.happens(3)
    await fleet.passes(MINUTE)
    assert len(receiver.requests) == LANES_PER_WEBHOOK
    release.set()
    await fleet.all_arrives(receiver)
    assert receiver.at_once == LANES_PER_WEBHOOK


async def test_a_webhook_that_is_changed_again_and_again_has_one_request_of_a_lane_at_a_time(
    gateway: InProcessGateway, fleet: Fleet, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a request is under way its webhook waits for the answer, however often it is changed meanwhile."""
    monkeypatch.setattr(webhook_sender, "GRACE_SECONDS", 30.0)
    release = threading.Event()

    def slow(request: Request) -> tuple[int, dict[str, str]]:
        assert release.wait(30)
        return 200, {}

    receiver.answer = slow
    await fleet.hook(receiver.url)
    await fleet.happens(1)
    await fleet.until(lambda: len(receiver.requests) == LANES_PER_WEBHOOK, "a request of each lane")
    for number in range(3):
        await gateway.call("PATCH", fleet.path, json={"description": f"change {number}"})
    await fleet.happens(1)  # long enough for another request
    assert len(receiver.requests) == LANES_PER_WEBHOOK
    release.set()
    await fleet.all_arrives(receiver)
    assert receiver.at_once == LANES_PER_WEBHOOK


async def test_a_webhook_that_is_being_disabled_is_sent_nothing_more(
    gateway: InProcessGateway, fleet: Fleet, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not what its own end is told by either, while that is being stored."""
    receiver.answer = answering(410)
    sender, stored, go_on = gateway.components.webhook_sender, asyncio.Event(), asyncio.Event()
    write = gateway.database.write

    async def slowly(operation: Any, *arguments: Any, **options: Any) -> Any:
        done = await write(operation, *arguments, **options)
        if "_record_failure" in getattr(operation, "__qualname__", ""):
            stored.set()
            await go_on.wait()
        return done

    monkeypatch.setattr(sender._database, "write", slowly)
    await fleet.hook(receiver.url)
    await fleet.happens(1, devices=1)
    await stored.wait()
    await fleet.is_told()
    sender.tick()
    go_on.set()
    await fleet.until(lambda: not sender._receivers, "its end")
    assert len(receiver.requests) == 1


async def test_an_app_has_no_webhooks_too_many_however_many_are_made_at_once(gateway: InProcessGateway) -> None:
    made = [gateway.http.post("/v1/webhooks", json={"url": "http://127.0.0.1:9/"}) for _ in range(MAX_WEBHOOKS + 5)]
    answers = await asyncio.gather(*made)
    assert Counter(answer.status_code for answer in answers) == {201: MAX_WEBHOOKS, 422: 5}


async def test_a_receiver_that_is_down_for_an_hour_loses_nothing(
    gateway: InProcessGateway, fleet: Fleet, make_receiver: MakeReceiver
) -> None:
    receiver = make_receiver()
    await fleet.hook(receiver.url)
    await fleet.happens(1)
    await fleet.all_arrives(receiver)
    receiver.close()
    start = gateway.clock.milliseconds
    while gateway.clock.milliseconds < start + HOUR:
        await fleet.happens(1, devices=3)
        await fleet.until(lambda: not gateway.components.webhook_sender.lanes_busy, "rest")
        await fleet.passes(5 * MINUTE)
    assert "Connect" in (await fleet.status())["last_error"]
    back = make_receiver(port=receiver.port)
    back.taken = list(receiver.taken)
    await fleet.all_arrives(back, most=HOUR)
    assert await fleet.dead_letters() == []
    assert (await fleet.status())["enabled"]


async def test_an_overloaded_receiver_gets_the_same_request_again(
    gateway: InProcessGateway, fleet: Fleet, receiver: Receiver
) -> None:
    receiver.answer = answering(503)
    await fleet.hook(receiver.url)
    await fleet.happens(2, devices=1)
    await fleet.passes_until(lambda: len(receiver.requests) >= 4)
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1
    assert len({request.body.partition(b'"data"')[2] for request in receiver.requests}) == 1
    receiver.answer = answering(204)
    await fleet.all_arrives(receiver)


async def test_attempts_come_rarer_and_not_all_together(
    gateway: InProcessGateway, fleet: Fleet, receiver: Receiver
) -> None:
    at: dict[str, list[int]] = {}

    def failing(request: Request) -> tuple[int, dict[str, str]]:
        lane = request.events[0]["data"]["device_id"]
        at.setdefault(lane, []).append(gateway.clock.milliseconds)
        return 503, {}

    receiver.answer = failing
    await fleet.hook(receiver.url)
    await fleet.happens(1, devices=LANES_PER_WEBHOOK)
    await fleet.passes_until(lambda: len(at) == LANES_PER_WEBHOOK and min(map(len, at.values())) >= 14, step=10_000)
    for times in at.values():
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert gaps[0] <= 20_000
        assert max(gaps) <= HOUR + 20_000
        assert min(gaps[11:13]) >= HOUR // 2
    assert len({times[12] for times in at.values()}) > 1


@pytest.mark.parametrize("is_date", [False, True])
async def test_retry_after_is_waited_for(
    gateway: InProcessGateway, fleet: Fleet, receiver: Receiver, is_date: bool
) -> None:
    date = formatdate(gateway.clock.milliseconds / 1000 + 31 * MINUTE / 1000, usegmt=True)
    receiver.answer = answering(429, **{"Retry-After": date if is_date else "1800"})
    await fleet.hook(receiver.url)
    await fleet.happens(1, devices=1)
    await fleet.until(
        lambda: len(receiver.requests) == 1 and not gateway.components.webhook_sender.lanes_busy, "the first attempt"
    )
    start = gateway.clock.milliseconds
    receiver.answer = answering(200)
    await fleet.passes_until(lambda: bool(receiver.taken))
    assert gateway.clock.milliseconds >= start + 30 * MINUTE


async def test_a_redirect_is_not_followed(
    gateway: InProcessGateway, fleet: Fleet, receiver: Receiver, make_receiver: MakeReceiver
) -> None:
    elsewhere = make_receiver()
    receiver.answer = answering(307, Location=elsewhere.url)
    await fleet.hook(receiver.url)
    await fleet.happens(2)
    await fleet.passes_until(lambda: len(receiver.requests) >= 3 * LANES_PER_WEBHOOK)
    assert elsewhere.requests == []
    assert (await fleet.status())["last_error"] == (
        "answered 307: redirects are not followed; change the webhook's url"
    )
    await gateway.call("PATCH", fleet.path, json={"url": elsewhere.url})
    await fleet.all_arrives(elsewhere)


@pytest.mark.parametrize("status", [500, 502])
async def test_what_one_device_says_holds_up_its_lane_alone_and_ends_as_a_dead_letter(
    gateway: InProcessGateway, fleet: Fleet, receiver: Receiver, status: int
) -> None:
    """A receiver whose program fails on one event, as programs do, or falls over so that its proxy answers."""

    def poisoned(request: Request) -> tuple[int, dict[str, str]]:
        return (status if any(event["id"] == poison["id"] for event in request.events) else 200), {}

    await fleet.hook(receiver.url, enabled=False)
    await fleet.happens(6)
    log = await fleet.log()
    poison = [event for event in log if event["data"]["device_id"] == "d3"][2]
    receiver.answer = poisoned
    await gateway.call("PATCH", fleet.path, json={"enabled": True})
    await fleet.passes_until(lambda: len(receiver.events()) == len(log) - 1, most=26 * HOUR)
    check_order(receiver.events(), [event for event in log if event != poison])
    await fleet.until(lambda: not gateway.components.webhook_sender.lanes_busy, "rest")
    (letter,) = await fleet.dead_letters()
    assert letter["events"] == [poison]
    assert letter["error"].startswith(f"answered {status}")
    assert letter["attempts"] > 20
    assert (await fleet.status())["enabled"], "the other lanes went on"

    answer = await gateway.call("POST", f"{fleet.path}/dead-letters/replay", 202, json={"ids": [letter["id"]]})
    assert answer == {"replaying": 1}
    await fleet.until(lambda: not gateway.components.webhook_sender.lanes_busy, "the replay")
    (letter,) = await fleet.dead_letters()
    assert not letter["replaying"], "it was refused once more"
    receiver.answer = answering(200)
    await gateway.call("POST", f"{fleet.path}/dead-letters/replay", 202)
    await fleet.until(lambda: not gateway.components.webhook_sender.lanes_busy, "the replay")
    assert await fleet.dead_letters() == []
    assert {event["id"] for event in receiver.events()} == {event["id"] for event in log}


async def test_however_many_events_are_refused_they_delay_their_lane_by_a_day_in_all(
    gateway: InProcessGateway, fleet: Fleet, receiver: Receiver
) -> None:
    await fleet.hook(receiver.url, enabled=False)
    await fleet.happens(8)
    log = await fleet.log()
    bad = {event["id"] for event in log if event["data"]["device_id"] == "d3"}
    receiver.answer = lambda request: (422 if any(event["id"] in bad for event in request.events) else 200, {})
    await gateway.call("PATCH", fleet.path, json={"enabled": True})
    await fleet.passes_until(lambda: len(receiver.events()) == len(log) - len(bad), most=26 * HOUR)
    check_order(receiver.events(), [event for event in log if event["id"] not in bad])
    await fleet.passes_until(lambda: gateway.components.webhook_sender.dead_letters == len(bad), most=HOUR)
    letters = await fleet.dead_letters()
    assert {letter["events"][0]["id"] for letter in letters} == bad
    assert {len(letter["events"]) for letter in letters} == {1}
    assert min(letter["attempts"] for letter in letters) >= webhook_sender.OLD_ATTEMPTS
    assert (await fleet.status())["enabled"]


async def test_who_refuses_everything_that_is_old_is_disabled_and_keeps_most_of_it(
    gateway: InProcessGateway, fleet: Fleet, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_sender, "OLD_LETTERS", 10)
    receiver.answer = answering(500)
    await fleet.hook(receiver.url, enabled=False)
    await fleet.happens(10)
    gateway.clock.milliseconds += 2 * DAY
    await gateway.call("PATCH", fleet.path, json={"enabled": True})
    await fleet.passes_until(lambda: gateway.components.webhook_sender.disabled == 1, step=10 * MINUTE, most=30 * HOUR)
    letters = await fleet.dead_letters()
    assert 10 <= len(letters) <= 10 + 2 * LANES_PER_WEBHOOK
    receiver.answer = answering(200)
    await gateway.call("PATCH", fleet.path, json={"enabled": True})
    await gateway.call("POST", f"{fleet.path}/dead-letters/replay", 202)
    expected = {event["id"] for event in await fleet.log() if event["type"] != "webhook.disabled"}
    await fleet.passes_until(lambda: expected <= {event["id"] for event in receiver.events()})


async def test_who_is_down_loses_nothing_that_is_old(
    gateway: InProcessGateway, fleet: Fleet, receiver: Receiver
) -> None:
    receiver.answer = answering(502)
    await fleet.hook(receiver.url, enabled=False)
    await fleet.happens(2)
    gateway.clock.milliseconds += 2 * DAY
    await gateway.call("PATCH", fleet.path, json={"enabled": True})
    start = gateway.clock.milliseconds
    await fleet.passes_until(lambda: gateway.clock.milliseconds >= start + 20 * HOUR, step=10 * MINUTE)
    receiver.answer = answering(200)
    await fleet.all_arrives(receiver)
    assert await fleet.dead_letters() == []


async def test_other_lanes_do_not_wait_for_one_that_is_held_up(
    gateway: InProcessGateway, fleet: Fleet, receiver: Receiver
) -> None:
    held_up = about("d3")
    receiver.answer = lambda request: (500 if held_up(request) else 200, {})
    await fleet.hook(receiver.url)
    await fleet.happens(2)
    await fleet.passes_until(lambda: len({event["data"]["device_id"] for event in receiver.events()}) >= 6, most=MINUTE)


async def test_who_takes_nothing_for_a_day_is_disabled_and_goes_on_where_it_was(
    gateway: InProcessGateway, fleet: Fleet, receiver: Receiver, make_receiver: MakeReceiver
) -> None:
    receiver.answer = answering(500)
    await fleet.hook(receiver.url)
    broken = fleet.webhook
    observer = make_receiver()
    await fleet.hook(observer.url, types=["webhook.disabled"])
    await fleet.happens(3)
    await fleet.passes_until(lambda: bool(observer.events()), step=30 * MINUTE, most=26 * HOUR)
    (notice,) = observer.events()
    assert notice["type"] == "webhook.disabled"
    assert notice["data"]["webhook_id"] == broken["id"]
    assert notice["data"]["reason"] == "it has taken nothing for a day: answered 500"

    fleet.webhook = broken
    status = await fleet.status()
    assert (status["enabled"], status["disabled_reason"]) == (
        False,
        "it has taken nothing for a day: answered 500",
    )
    asked = len(receiver.requests)
    await fleet.happens(1)
    await fleet.passes(2 * DAY)
    assert len(receiver.requests) == asked
    receiver.answer = answering(200)
    await gateway.call("PATCH", fleet.path, json={"enabled": True})
    await gateway.call("POST", f"{fleet.path}/dead-letters/replay", 202)
    expected = {event["id"] for event in await fleet.log()}
    await fleet.passes_until(lambda: {event["id"] for event in receiver.events()} == expected)
    await fleet.until(lambda: not gateway.components.webhook_sender.lanes_busy, "rest")
    assert await fleet.dead_letters() == []


async def test_a_dead_letter_that_cannot_be_stored_is_not_passed_over(
    gateway: InProcessGateway,
    fleet: Fleet,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(*_: Any) -> int:
        raise StorageFull("no space left")

    receiver.answer = answering(503)
    await fleet.hook(receiver.url)
    await fleet.happens(1, devices=1)
    with monkeypatch.context() as patched:
        patched.setattr(webhook_sender, "_store_dead_letter", full)
        await fleet.passes_until(lambda: "no space left" in caplog.text, step=30 * MINUTE, most=26 * HOUR)
    assert (await fleet.status())["enabled"]
    receiver.answer = answering(200)
    await fleet.all_arrives(receiver)
    assert await fleet.dead_letters() == []


async def test_gone_disables_at_once(gateway: InProcessGateway, fleet: Fleet, receiver: Receiver) -> None:
    receiver.answer = answering(410)
    await fleet.hook(receiver.url)
    await fleet.happens(1, devices=1)
    await fleet.until(
        lambda: bool(receiver.requests) and not gateway.components.webhook_sender.lanes_busy, "the attempt"
    )
    status = await fleet.status()
    assert not status["enabled"]
    assert "410" in status["disabled_reason"]
    assert await fleet.dead_letters() == [], "nothing is given up: enabled again, it goes on"


async def everything_of_webhooks(gateway: InProcessGateway) -> list[list[Any]]:
    tables = ("webhook", "webhook_lane", "dead_letter", "event")
    return await gateway.database.write(  # behind everything that was submitted before
        lambda connection: [connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables]
    )


def answering_after(go: threading.Event, status: int) -> Answer:
    def late(request: Request) -> tuple[int, dict[str, str]]:
        assert go.wait(30)
        return status, {}

    return late


@pytest.mark.sqlite("which gives a removed one's number to the next")
@pytest.mark.parametrize("status", [200, 410, 500, 503])
async def test_what_a_removed_webhook_is_still_answered_is_not_booked_for_the_next_one(
    gateway: InProcessGateway, fleet: Fleet, receiver: Receiver, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the number that the removed one had."""
    monkeypatch.setattr(webhook_sender, "GIVE_UP_MS", 0)
    go = threading.Event()
    receiver.answer = answering_after(go, status)
    await fleet.hook(receiver.url)
    await fleet.happens(1, devices=1)
    await fleet.until(lambda: bool(receiver.requests), "the request")
    await gateway.call("DELETE", fleet.path, 204)
    await fleet.happens(1, devices=1)
    await fleet.hook(receiver.url, enabled=False)
    before = await everything_of_webhooks(gateway)
    assert before[0][0][0] == 1, "the number of the removed one"
    go.set()
    await fleet.until(
        lambda: gateway.components.webhook_sender.succeeded + gateway.components.webhook_sender.failed == 1,
        "the answer",
    )
    assert await everything_of_webhooks(gateway) == before


@pytest.mark.parametrize("status", [200, 500])
async def test_a_replay_for_a_removed_webhook_leaves_the_next_ones_dead_letters(
    gateway: InProcessGateway,
    fleet: Fleet,
    receiver: Receiver,
    make_receiver: MakeReceiver,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(webhook_sender, "GIVE_UP_MS", 0)
    go = threading.Event()

    async def dies(url: str) -> None:
        """A webhook with a dead letter, which is disabled by that."""
        await fleet.hook(url)
        await fleet.happens(1, devices=1)
        await fleet.until(lambda: not gateway.components.webhook_sender.lanes_busy, "the attempt")
        assert len(await fleet.dead_letters()) == 1

    receiver.answer = answering(500)
    await dies(receiver.url)
    receiver.answer = answering_after(go, status)
    await gateway.call("PATCH", fleet.path, json={"enabled": True, "types": ["device.gap"]})
    await gateway.call("POST", f"{fleet.path}/dead-letters/replay", 202)
    await fleet.until(lambda: len(receiver.requests) == 2, "the replay")
    await gateway.call("DELETE", fleet.path, 204)
    other = make_receiver()
    other.answer = answering(500)
    await fleet.hook(other.url)
    await fleet.happens(1, devices=1)
    await fleet.until(lambda: gateway.components.webhook_sender.dead_letters == 2, "its dead letter")
    before = await everything_of_webhooks(gateway)
    go.set()
    done = gateway.components.webhook_sender.succeeded + gateway.components.webhook_sender.failed
    await fleet.until(
        lambda: gateway.components.webhook_sender.succeeded + gateway.components.webhook_sender.failed > done,
        "the answer",
    )
    assert await everything_of_webhooks(gateway) == before


@pytest.mark.sqlite("which gives a removed one's number to the next")
async def test_what_is_said_to_a_removed_webhook_does_not_change_the_next_one(
    gateway: InProcessGateway, fleet: Fleet
) -> None:
    """Requests that arrive together: each has found the webhook when it is removed."""
    await fleet.hook("https://shop.example/hook")
    answers = await asyncio.gather(
        gateway.http.delete(fleet.path),
        gateway.http.post("/v1/webhooks", json={"url": "https://other.example/hook"}),
        gateway.http.patch(fleet.path, json={"url": "https://wrong.example/hook"}),
        gateway.http.post(f"{fleet.path}/secret"),
        gateway.http.delete(fleet.path),
    )
    made = answers[1].json()
    row = await gateway.database.read(
        lambda connection: connection.execute(
            "SELECT no, url, secret FROM webhook WHERE id = ?", (made["id"],)
        ).fetchone()
    )
    assert row == (1, "https://other.example/hook", made["secret"])


async def test_a_name_that_resolves_to_this_machine_is_not_asked(tmp_path: Any, receiver: Receiver) -> None:
    gateway = await InProcessGateway.build(tmp_path, asyncio.get_running_loop())
    try:
        await gateway.enrol("d1")
        fleet = Fleet(gateway)
        for host in ("localhost", "2130706433", "0x7f000001"):  # the numbers are 127.0.0.1 to the resolver
            await fleet.hook(f"http://{host}:{receiver.port}/hook")
        await fleet.happens(1, devices=1)
        await fleet.until(
            lambda: gateway.components.webhook_sender.failed >= 3 and not gateway.components.webhook_sender.lanes_busy,
            "refusals",
        )
        for webhook in (await gateway.call("GET", "/v1/webhooks"))["items"]:
            assert "which is private" in webhook["last_error"]
        assert receiver.requests == []
    finally:
        await gateway.close()


async def another_app_has_an_event(gateway: InProcessGateway, url: str) -> None:
    await gateway.call("POST", "/v1/apps", 201, json={"id": "other"})
    other = await gateway.key_for("admin", "devices", app="other")
    await gateway.call("POST", "/v1/devices", 201, http=other, json={"device_id": "d1"})
    await gateway.call("POST", "/v1/webhooks", 201, http=other, json={"url": url})
    change = {"quiet_hours": {"start": "01:00", "end": "02:00"}}
    await gateway.call("PATCH", "/v1/devices/d1/preferences", http=other, json=change)


async def test_names_of_one_app_that_cannot_be_looked_up_hold_up_no_other(
    gateway: InProcessGateway,
    fleet: Fleet,
    receiver: Receiver,
    make_receiver: MakeReceiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go = threading.Event()

    def addresses(host: str, port: int) -> list[str]:
        assert host == "shop.example" or go.wait(30)
        return ["127.0.0.1"]

    monkeypatch.setattr(dns, "addresses", addresses)
    for number in range(MAX_WEBHOOKS):
        await fleet.hook(f"http://hook{number}.dead:{receiver.port}/")
    await fleet.happens()
    assert gateway.components.webhook_sender.lanes_busy == MAX_WEBHOOKS * LANES_PER_WEBHOOK
    quick = make_receiver()
    await another_app_has_an_event(gateway, f"http://shop.example:{quick.port}/")
    await fleet.until(lambda: len(quick.taken) == 1, "the other app's event")
    assert receiver.requests == []
    go.set()
    await fleet.all_arrives(receiver)


async def test_receivers_of_one_app_that_do_not_answer_hold_up_no_other(
    tmp_path: Path, receiver: Receiver, make_receiver: MakeReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_sender, "MAX_REQUESTS", 6)
    monkeypatch.setattr(webhook_sender, "MAX_REQUESTS_PER_APP", 5)
    gateway = await InProcessGateway.build(tmp_path, asyncio.get_running_loop(), webhook_networks=("127.0.0.1",))
    go = threading.Event()

    def silent(request: Request) -> tuple[int, dict[str, str]]:
        assert go.wait(30)
        return 200, {}

    try:
        await gateway.enrol(*[f"d{number}" for number in range(1, 9)])
        fleet = Fleet(gateway)
        receiver.answer = silent
        for _ in range(3):
            await fleet.hook(receiver.url)
        await fleet.happens()
        await fleet.until(lambda: len(receiver.requests) == 5, "its share")
        assert gateway.components.webhook_sender.lanes_busy == 3 * LANES_PER_WEBHOOK

        quick = make_receiver()
        await another_app_has_an_event(gateway, quick.url)
        await fleet.until(lambda: len(quick.taken) == 1, "the other app's event")
        assert len(receiver.requests) == 5
        go.set()
        await fleet.all_arrives(receiver)
    finally:
        go.set()
        await gateway.close()


async def test_two_secrets_sign_for_a_day(gateway: InProcessGateway, fleet: Fleet, receiver: Receiver) -> None:
    old = (await fleet.hook(receiver.url))["secret"]
    new = (await gateway.call("POST", f"{fleet.path}/secret"))["secret"]
    assert new != old
    await fleet.happens(1, devices=1)
    await fleet.until(lambda: len(receiver.taken) == 1, "an event")
    assert receiver.taken[0].is_signed_with(old)
    assert receiver.taken[0].is_signed_with(new)
    await fleet.passes(DAY)
    await fleet.happens(1, devices=1)
    await fleet.until(lambda: len(receiver.taken) == 2, "another event")
    assert not receiver.taken[1].is_signed_with(old)
    assert receiver.taken[1].is_signed_with(new)


async def test_events_that_retention_removed_are_named_as_lost(
    gateway: InProcessGateway, fleet: Fleet, receiver: Receiver
) -> None:
    await fleet.hook(receiver.url, enabled=False)
    await fleet.happens(2)
    gateway.clock.milliseconds += 8 * DAY
    await fleet.happens(1, devices=1)
    retiring = asyncio.create_task(gateway.components.remove_old())
    while len(await fleet.log()) > 2:  # noqa: ASYNC110  it is on disk
        await asyncio.sleep(0.005)
    retiring.cancel()
    await gateway.call("PATCH", fleet.path, json={"enabled": True})
    last = (await fleet.log())[-1]
    await fleet.until(lambda: last["id"] in {event["id"] for event in receiver.events()}, "the last event")
    assert [event["type"] for event in receiver.events()] == ["events.lost", "device.settings"]


async def test_what_was_not_wanted_is_never_lost(gateway: InProcessGateway, fleet: Fleet, receiver: Receiver) -> None:
    """Long after, when it has left, a restart must not take it for a loss."""
    await fleet.hook(receiver.url, types=["webhook.disabled"])
    await fleet.happens(1)
    await fleet.rests()
    await fleet.passes(2 * HOUR)
    await fleet.happens(1, devices=1)  # one event: a position is stored once an hour, when the first is passed over
    last = await gateway.components.feed.last(1)
    async with asyncio.timeout(15):
        positions: list[tuple[int]] = []
        while positions != [(last.entry,)]:  # each lane writes its own, some of them after all rest for a moment
            await asyncio.sleep(0.005)
            positions = await gateway.database.read(
                lambda connection: connection.execute("SELECT DISTINCT entry FROM webhook_lane").fetchall()
            )


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_receivers_do_nothing_is_lost(
    gateway: InProcessGateway, fleet: Fleet, receiver: Receiver, seed: int
) -> None:
    dice = random.Random(seed)
    answers = (200, 200, 204, 301, 400, 404, 408, 429, 500, 503)
    receiver.answer = lambda request: (dice.choice(answers), {})
    await fleet.hook(receiver.url)
    sender = gateway.components.webhook_sender
    start = gateway.clock.milliseconds
    while gateway.clock.milliseconds < start + 12 * HOUR:
        await fleet.happens(dice.randrange(3), devices=dice.randrange(1, 9))
        await fleet.until(lambda: not sender.lanes_busy, "rest")
        if dice.random() < 0.1:
            await gateway.call("PATCH", fleet.path, json={"enabled": False})
            await gateway.call("PATCH", fleet.path, json={"enabled": True})
        await fleet.passes(dice.randrange(1, 90 * MINUTE))
    receiver.answer = answering(200)
    await fleet.all_arrives(receiver)
    assert await fleet.dead_letters() == []
    page = await gateway.components.feed.read(1, Position(0), 1, lambda event: event == "webhook.disabled")
    assert page.events == []


async def test_dead_letters_have_room_by_their_bytes_too(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_sender, "LETTERS_BYTES", 1_000)
    webhook = gateway.components._webhooks.webhooks[
        (await gateway.call("POST", "/v1/webhooks", 201, json={"url": "http://127.0.0.1:9/"}))["id"]
    ]

    def bury(size: int) -> Any:
        event = Event("1.0", "device.uplink", "t", to_json({"id": "1.0", "text": "x" * size}))
        return lambda connection: webhook_sender._store_dead_letter(
            connection, webhook, [event], 1, "no", gateway.clock.milliseconds
        )

    for size, dropped in ((320, 0), (320, 0), (320, 1), (320, 2), (5_000, 4), (10, 5)):
        webhook.dropped = await gateway.database.write(bury(size))
        assert webhook.dropped == dropped


async def test_how_long_a_receiver_fails(gateway: InProcessGateway, fleet: Fleet, receiver: Receiver) -> None:
    sender = gateway.components.webhook_sender
    receiver.answer = answering(500)
    await fleet.hook(receiver.url)
    assert sender.failing() == []
    await fleet.happens(1, devices=1)
    await fleet.until(lambda: sender.failing() == [0.0], "the first failure")
    await fleet.until(lambda: not sender.lanes_busy, "rest")
    gateway.clock.milliseconds += 20 * MINUTE
    assert sender.failing() == [1_200.0]
    receiver.answer = answering(200)
    await fleet.all_arrives(receiver)
    await fleet.until(lambda: sender.failing() == [], "the answer has been read")
    receiver.answer = answering(410)
    await fleet.happens(1, devices=1)
    await fleet.until(lambda: sender.disabled == 1, "the end")
    await fleet.until(lambda: sender.failing() == [], "the disabled one is not sent to")


async def test_a_webhook_is_tested_whatever_it_is_doing(
    gateway: InProcessGateway, fleet: Fleet, receiver: Receiver
) -> None:
    webhook = await fleet.hook(receiver.url, types=["delivery.*"], enabled=False)
    before = await fleet.status()
    answer = await gateway.call("POST", f"{fleet.path}/test")
    (request,) = receiver.taken
    assert request.is_signed_with(webhook["secret"])
    assert request.events == [answer["event"]]
    assert answer["event"]["type"] == "webhook.test"
    assert answer["event"]["data"] == {"webhook_id": webhook["id"]}
    assert (answer["delivered"], answer["status"], answer["error"]) == (True, 200, None)
    receiver.answer = answering(500)
    refused = await gateway.call("POST", f"{fleet.path}/test")
    assert (refused["delivered"], refused["status"]) == (False, 500)
    assert refused["error"].startswith("answered 500")
    assert await fleet.status() == before, "a test says nothing about events"
    assert await fleet.log() == []


@pytest.mark.of_one_server  # each has one at a time
async def test_one_test_of_a_webhook_at_a_time(gateway: InProcessGateway, fleet: Fleet, receiver: Receiver) -> None:
    release = threading.Event()
    asked = threading.Event()

    def slow(request: Request) -> tuple[int, dict[str, str]]:
        asked.set()
        assert release.wait(30)
        return 200, {}

    receiver.answer = slow
    await fleet.hook(receiver.url)
    first = asyncio.create_task(gateway.call("POST", f"{fleet.path}/test"))
    await fleet.until(asked.is_set, "the test has come")
    await gateway.refused("POST", f"{fleet.path}/test", 503, "busy")
    release.set()
    assert (await first)["delivered"]
    assert (await gateway.call("POST", f"{fleet.path}/test"))["delivered"]


async def test_dead_letters_are_counted_where_that_is_asked(
    gateway: InProcessGateway, fleet: Fleet, receiver: Receiver
) -> None:
    await fleet.hook(receiver.url)
    path = f"{fleet.path}/dead-letters"
    assert await gateway.call("GET", path) == {"items": [], "next_cursor": None}
    assert await gateway.call("GET", f"{path}?with_count=true") == {"items": [], "next_cursor": None, "count": 0}
