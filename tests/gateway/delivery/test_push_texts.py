"""Pushes whose devices get different texts, from the request to the socket and back from the disk."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from gateway.content import device_values
from gateway.content.device_values import read_combinations
from gateway.content.documents import compile_document
from gateway.content.liquid_language import LiquidText
from gateway.delivery import ledger as ledger_module
from gateway.delivery import push as push_module
from gateway.delivery import text_rendering
from gateway.delivery.push import ActivePush
from gateway.delivery.push_template import TemplateFields, saved_content
from gateway.delivery.retention import RetentionPeriods, remove_slice
from gateway.delivery.submission import AcceptedPush, PendingPush
from gateway.errors import Problem
from gateway.store.deliveries import stale_deliveries
from gateway.store.transaction import Transaction
from tests.gateway.delivery.world import APP, START, World, items

FLOOR = {"title": "Floor {{ device.attributes.floor }}"}
ALL = {"all": True}
LOCALES = ("de-AT", "en", "fr", None)


@pytest.fixture
def world() -> Iterator[World]:
    world = World(devices=8, mailbox_limit=50)
    yield world
    world.close()


def describe(world: World, device_no: int, **fields: Any) -> None:
    for column, value in fields.items():
        text = json.dumps(value) if column == "attributes" else value
        world.connection.execute(f"UPDATE device SET {column} = ? WHERE no = ?", (text, device_no))


def on_floors(world: World, *without: int) -> None:
    """Put each device on a floor of three, and give it one of the locales; some are on none."""
    for device_no in world.identities:
        attributes = {} if device_no in without else {"floor": device_no % 3}
        describe(world, device_no, attributes=attributes, locale=LOCALES[device_no % 4])


def pages(world: World, device_no: int) -> list[dict[str, Any]]:
    """The pushes that a device was handed, as they came over the wire."""
    session = world.engine.session(world.identities[device_no].client_id)
    return [json.loads(hand_over.payload) for hand_over in session.handed_over]


def titles(world: World, device_no: int) -> list[str]:
    return [page["notification"]["title"] for page in pages(world, device_no)]


def texts(world: World, push_id: str, **query: Any) -> list[dict[str, Any]]:
    return items(world.run(world.reports.texts(APP.no, push_id, 100, None, **query)))


def save(world: World, name: str, **content: Any) -> None:
    text = world.run(saved_content(TemplateFields.model_validate(content)))
    world.run(world.templates.put(APP.no, name, text))


def test_only_the_texts_of_devices_that_it_is_on_its_way_to_are_in_memory(world: World) -> None:
    on_floors(world)
    world.connect(1)
    world.alert(ALL, notification=FLOOR, render="liquid")
    (push,) = world.connection.execute("SELECT no FROM push").fetchone()

    def in_memory() -> list[tuple[str, list[int]]]:
        active = world.ledger.pushes.get(push)
        assert active is not None
        assert active.texts is not None
        texts = zip(active.texts.contents, active.texts.devices, strict=True)
        return [(json.loads(content)["notification"]["title"], list(devices)) for content, devices in texts]

    assert in_memory() == [("Floor 1", [1])]
    world.connect(2)  # while it is in flight to the first
    world.connect(4)
    assert in_memory() == [("Floor 1", [1, 4]), ("Floor 2", [2])]
    world.crash()
    world.connect(4)
    assert in_memory() == [("Floor 1", [4])]
    assert titles(world, 4) == ["Floor 1"]
    world.connect(1)  # its session has it in flight, and is given it again
    assert in_memory() == [("Floor 1", [1, 4])]


def test_texts_of_many_pushes_are_looked_for_a_few_pushes_at_a_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_floors(world)
    for number in range(5):
        world.alert(ALL, notification={"title": f"{number} {FLOOR['title']}"}, render="liquid")
        world.push({"all": True}, data=number)
    world.crash()
    monkeypatch.setattr(push_module, "LOADED_TEXT_SETS", 1)
    for device_no in (2, 3):
        world.connect(device_no)
        world.acknowledge_all(device_no)
        handed = [page.get("notification", {}).get("title", page["data"]) for page in pages(world, device_no)]
        assert handed == [one for number in range(5) for one in (f"{number} Floor {device_no % 3}", number)]


def test_texts_of_what_is_in_flight_are_looked_for_a_few_pushes_at_a_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_floors(world)
    world.engine.window = 10
    world.connect(2)
    for number in range(5):
        world.alert(
            ALL, notification={"title": f"{number} {FLOOR['title']}"}, render="liquid", collapse_key=f"{number}"
        )
    world.disconnect(2)
    world.ledger.pushes.__init__()  # type: ignore[misc]  # others have taken their room in memory meanwhile
    monkeypatch.setattr(push_module, "LOADED_TEXT_SETS", 1)
    loads: list[set[int]] = []

    def load(connection: Transaction, push_nos: Iterable[int], devices: Iterable[int]) -> list[ActivePush]:
        loads.append(set(push_nos))
        return push_module.load_pushes(connection, push_nos, devices)

    monkeypatch.setattr(ledger_module, "load_pushes", load)
    world.engine.session("d2").handed_over.clear()
    world.connect(2)  # its session has all of them in flight
    assert titles(world, 2) == [f"{number} Floor 2" for number in range(5)]
    assert [min(numbers) for numbers in loads] == [1, 2, 3, 4, 5]


def test_what_was_lost_is_checked_a_part_at_a_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "LOST_HANDLES", 3)
    for device_no in world.identities:
        world.connect(device_no)
    push_id = world.push(ALL, collapse_key="k").push_id
    parts: list[int] = []

    def end(connection: Transaction, handles: list[int], now_ms: int) -> list[int]:
        parts.append(len(handles))
        return stale_deliveries.end_stale_rows(connection, handles, now_ms)

    monkeypatch.setattr(ledger_module, "end_stale_rows", end)
    world.push(ALL, collapse_key="k")
    for identity in world.identities.values():
        world.engine.disconnect_device(identity.client_id)
    world.settle()
    assert parts == [3, 3, 3, 3, 3, 1]
    assert world.counts(push_id) == {"targeted": 8, "superseded": 8}


def test_texts_of_what_is_let_through_are_looked_for_a_few_pushes_at_a_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_floors(world)
    world.set_policy(quiet_hours={"start": "07:00", "end": "09:00"})  # it is 08:00
    wanted: list[str] = []
    for number in range(5):
        world.alert(ALL, notification={"title": f"{number} {FLOOR['title']}"}, render="liquid")
        world.alert(ALL, notification={"title": f"plain {number}"})
        wanted += [f"{number} Floor 2", f"plain {number}"]
    world.crash()
    monkeypatch.setattr(push_module, "LOADED_TEXT_SETS", 1)
    world.engine.window = 10
    world.connect(2)
    assert titles(world, 2) == []
    world.passes(3_600)
    assert titles(world, 2) == wanted


def test_a_text_for_each_device_has_a_limit_and_a_batch_has_none(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_values, "MAX_COMBINATIONS", 3)
    save(world, "hello", notification={"title": "Hello {{ device.id }}"})
    with pytest.raises(Problem, match="more than 3 combinations of device"):
        world.push(ALL, template={"name": "hello"})
    lines = [world.checked({"device": f"d{number}"}, data=0, template={"name": "hello"}) for number in range(1, 9)]
    answers = world.run(world.acceptance.accept_many(lines))
    assert all(isinstance(answer, AcceptedPush) for answer in answers)
    world.connect(7)
    assert titles(world, 7) == ["Hello d7"]


def test_each_device_gets_its_own_text_online_later_and_after_a_crash(world: World) -> None:
    on_floors(world)
    for device_no in (1, 2, 3):
        world.connect(device_no)
    push_id = world.alert(ALL, notification=FLOOR, render="liquid")
    assert [titles(world, device_no) for device_no in (1, 2, 3)] == [["Floor 1"], ["Floor 2"], ["Floor 0"]]
    assert world.row("SELECT content FROM push") == ('{"texts":3}',)
    world.connect(4)
    assert titles(world, 4) == ["Floor 1"]
    world.crash()
    for device_no in world.identities:
        world.connect(device_no)
        assert titles(world, device_no) == [f"Floor {device_no % 3}"]
        world.acknowledge(device_no)
    assert world.counts(push_id) == {"targeted": 8, "delivered": 8}
    world.check_events()


def test_a_push_whose_texts_are_all_the_same_is_stored_as_any_other(world: World) -> None:
    on_floors(world)
    template = {"title": "{% if device.attributes.floor >= 0 %}Hello{% endif %}"}
    push_id = world.alert(ALL, notification=template, render="liquid")
    assert world.row("SELECT content FROM push") == ('{"notification":{"title":"Hello"},"data":1}',)
    assert world.row("SELECT count(*) FROM push_text") == (0,)
    assert [text["devices"] for text in texts(world, push_id)] == [8]


def test_without_render_braces_are_text(world: World) -> None:
    world.connect()
    world.push(notification={"title": "{{ device.name }} {%"}, data="{{ x }}")
    assert titles(world, 1) == ["{{ device.name }} {%"]
    assert pages(world, 1)[0]["data"] == "{{ x }}"


def test_devices_get_the_texts_of_their_locale(world: World) -> None:
    on_floors(world)
    for device_no in range(1, 5):
        world.connect(device_no)
    world.push(
        ALL,
        notification={"title": "Hello", "body": "Bye", "actions": [{"id": "play", "title": "Play"}]},
        texts={"de": {"title": "Hallo", "actions": {"play": "Abspielen"}}, "fr": {"title": "Bonjour"}},
    )
    assert titles(world, 4) == ["Hallo"]  # de-AT
    assert pages(world, 4)[0]["notification"]["actions"] == [{"id": "play", "title": "Abspielen"}]
    assert pages(world, 4)[0]["notification"]["body"] == "Bye"
    assert [titles(world, device_no) for device_no in (1, 2, 3)] == [["Hello"], ["Bonjour"], ["Hello"]]


def test_a_device_whose_locale_has_no_text_lacks_it(world: World) -> None:
    on_floors(world)
    fields: dict[str, Any] = {"texts": {"en": {"title": "Hello"}, "fr": {"title": "Bonjour"}}}
    with pytest.raises(Problem, match=r"device\.locale for 4 devices, such as d3, d4, d7, d8\."):
        world.push(ALL, **fields)
    push_id = world.push(ALL, **fields, on_missing="leave_out").push_id
    assert world.counts(push_id) == {"targeted": 8, "waiting": 4, "suppressed": 4}


def test_what_devices_lack_refuses_the_push_or_leaves_them_out(world: World) -> None:
    on_floors(world, 5, 7)
    with pytest.raises(Problem) as refusal:
        world.push(ALL, notification=FLOOR, render="liquid")
    assert refusal.value.code == "template_error"
    assert "device.attributes.floor for 2 devices, such as d5, d7" in refusal.value.detail
    assert world.row("SELECT count(*) FROM push") == (0,)
    accepted = world.push(ALL, notification=FLOOR, render="liquid", on_missing="leave_out")
    assert (accepted.targeted, accepted.suppressed) == (8, 2)
    assert world.state(accepted.push_id, 5) == ("suppressed", "no_text")
    world.connect(5)
    world.connect(8)
    assert (titles(world, 5), titles(world, 8)) == ([], ["Floor 2"])
    assert texts(world, accepted.push_id, device_no=5) == []
    assert texts(world, accepted.push_id, device_no=8)[0]["notification"] == {"title": "Floor 2"}
    world.check_events()


def test_a_push_for_which_everybody_lacks_something_ends_at_once(world: World) -> None:
    push_id = world.push(ALL, notification=FLOOR, render="liquid", on_missing="leave_out").push_id
    assert world.counts(push_id) == {"targeted": 8, "suppressed": 8}
    assert texts(world, push_id) == []
    assert world.run(world.reports.push(APP.no, push_id))["texts"] == 0


def test_a_refusal_comes_after_what_its_key_was_answered(world: World) -> None:
    on_floors(world)
    key: dict[str, Any] = {"idempotency_key": "k", "body_hash": b"x" * 32, "notification": FLOOR, "render": "liquid"}
    first = world.run(world.accept(ALL, **key))
    describe(world, 1, attributes={})
    assert world.run(world.accept(ALL, **key)) == first


def test_consent_comes_before_what_a_device_lacks(world: World) -> None:
    on_floors(world, 1, 2)
    world.says("settings", {"consent": "denied"}, 1)
    push_id = world.alert(ALL, notification=FLOOR, render="liquid", on_missing="leave_out")
    assert [world.state(push_id, device_no) for device_no in (1, 2)] == [
        ("suppressed", "no_consent"),
        ("suppressed", "no_text"),
    ]
    assert world.counts(push_id) == {"targeted": 8, "waiting": 6, "suppressed": 2}


def test_values_cannot_leave_their_string(world: World) -> None:
    hostile = '","data":{"admin":true},"x":"\\\n\r\t\x01\x1b[31m</script>{{ device.id }}\u202e'
    describe(world, 1, name=hostile)
    world.connect(1)
    title = {"title": "{{ device.name }}"}
    world.push(notification=title, data={"name": "{{ device.name }}"}, render="liquid")
    (page,) = pages(world, 1)
    assert page["notification"] == {"title": hostile}
    assert page["data"] == {"name": hostile}


def test_texts_are_checked_as_what_is_sent_as_it_is(world: World) -> None:
    describe(world, 2, name="x" * 5_000)
    for device_no in (1, 3):
        describe(world, device_no, name="short")
    target = {"devices": ["d1", "d2", "d3"]}
    with pytest.raises(Problem, match="as rendered for device 'd2': the push is 5") as refusal:
        world.push(target, notification={"title": "{{ device.name }}"}, render="liquid")
    assert refusal.value.code == "payload_too_large"
    actions = [{"id": "a", "title": "{{ device.name }}"}]
    with pytest.raises(Problem, match=r"as rendered for device 'd2': notification\.actions\.0\.title") as refusal:
        world.push(target, notification={"title": "x", "actions": actions}, render="liquid")
    assert refusal.value.code == "template_error"
    blank = {"title": "{% if device.name == 'short' %}{% else %}x{% endif %}"}
    with pytest.raises(Problem, match='needs a "title" or a "body"'):
        world.push({"device": "d1"}, notification=blank, render="liquid")
    with pytest.raises(Problem, match="rendered for device 'd1'"):
        world.push({"device": "d1"}, notification={"title": "{{ 1 | divided_by: 0 }}"}, render="liquid")


def test_the_largest_text_counts_in_mailboxes(world: World) -> None:
    describe(world, 1, name="x" * 1_000)
    describe(world, 2, name="y")
    target = {"devices": ["d1", "d2"]}
    world.push(target, notification={"title": "{{ device.name }}"}, render="liquid")
    sizes = world.connection.execute("SELECT DISTINCT size FROM whole_delivery").fetchall()
    assert sizes == [world.row("SELECT max(size) FROM push_text")] == [world.row("SELECT size FROM push")]


def test_too_many_combinations_are_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.content.device_values.MAX_COMBINATIONS", 3)
    on_floors(world)
    world.push(ALL, notification=FLOOR, render="liquid")
    for variable in ("id", "attributes"):
        source = "{{ device.id }}" if variable == "id" else "{{ device.attributes.floor }}{{ device.locale }}"
        with pytest.raises(Problem, match=rf"more than 3 combinations of device\.{variable}") as refusal:
            world.push(ALL, notification={"title": source}, render="liquid", on_missing="leave_out")
        assert refusal.value.code == "too_many_texts"


def test_only_the_tags_that_are_asked_for_make_a_difference(world: World) -> None:
    for device_no in world.identities:
        for tag in (f"own-{device_no}", *(["vip"] if device_no < 3 else [])):
            world.connection.execute("INSERT INTO device_tag VALUES (?, ?, ?)", (APP.no, tag, device_no))
        world.connect(device_no)
    title = {"title": "{% if device.tags contains 'vip' %}Dear guest{% else %}Hello{% endif %}"}
    world.push(ALL, notification=title, render="liquid")
    assert [titles(world, device_no) for device_no in (1, 2, 3)] == [["Dear guest"], ["Dear guest"], ["Hello"]]
    asked = world.run(compile_document(notification=title, is_liquid=True))
    devices = BitMap(world.identities)
    assert len(world.run(read_combinations(cast(Any, world.writer), APP.no, devices, asked))) == 2
    named = world.run(compile_document(data="{{ device.tags | join: ' ' }}", is_liquid=True))
    assert len(world.run(read_combinations(cast(Any, world.writer), APP.no, devices, named))) == 8


@pytest.mark.parametrize(
    ("bound", "value", "why"),
    [
        ("TEXTS_BYTES", 50, "more than 50 bytes"),
        ("MAX_SETS", 2, "3 texts are too many for 8 devices"),
        ("RENDER_SECONDS", -1.0, "to render"),
    ],
)
def test_texts_are_bounded_together(
    world: World, monkeypatch: pytest.MonkeyPatch, bound: str, value: float, why: str
) -> None:
    on_floors(world)
    monkeypatch.setattr(text_rendering, bound, value)
    monkeypatch.setattr(text_rendering, "SLICE_SECONDS", 0.0)
    with pytest.raises(Problem, match=why) as refusal:
        world.push(ALL, notification=FLOOR, render="liquid")
    assert refusal.value.code == "too_many_texts"
    monkeypatch.undo()
    world.push(ALL, notification=FLOOR, render="liquid")  # the one before has given its turn back


def test_renderings_give_way_to_others_and_to_each_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """With slices that are over at once, a template is a turn; and it is one in a turn, whoever renders."""
    monkeypatch.setattr(text_rendering, "SLICE_SECONDS", 0.0)
    on_floors(world)
    rendered: list[str] = []
    render = LiquidText.render

    def noted(text: LiquidText, variables: Any) -> str:
        rendered.append(text.source)
        return render(text, variables)

    monkeypatch.setattr(LiquidText, "render", noted)
    sources = ["a {{ device.attributes.floor }}", "b {{ device.attributes.floor }}"]
    requests = [World.request(ALL, notification={"title": source}, render="liquid") for source in sources]

    async def rendered_in_turns() -> list[int]:
        devices = await world.targets.resolve(APP.no, requests[0].target)
        tasks = [asyncio.ensure_future(world.texts.forecast(APP, request, devices)) for request in requests]
        turns = []
        while not all(task.done() for task in tasks):
            before = len(rendered)
            await asyncio.sleep(0)
            turns.append(len(rendered) - before)
        return turns

    assert max(world.run(rendered_in_turns())) == 1
    assert sorted(rendered) == [sources[0]] * 3 + [sources[1]] * 3


def test_renderings_that_wait_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_rendering, "WAITING_RENDERINGS", 0)
    with pytest.raises(Problem) as refusal:
        world.push(notification=FLOOR, render="liquid")
    assert (refusal.value.code, refusal.value.retryable) == ("busy", True)


def test_a_saved_template_gives_what_the_push_does_not_say(world: World) -> None:
    save(
        world,
        "lunch",
        notification={"title": "Lunch", "body": "{{ values.dish }} for {{ device.id }}"},
        values={"dish": "soup"},
        channel="offers",
        priority="high",
        data={"from": "template"},
    )
    world.connect()
    first = world.push({"device": "d1"}, template="lunch").push_id
    save(world, "lunch", notification={"title": "New"}, ttl=60)
    own = {"title": "Mine: {{ braces }}"}
    world.push({"device": "d1"}, template={"name": "lunch", "version": 1, "values": {"dish": "fish"}}, notification=own)
    world.push({"device": "d1"}, template="lunch", ttl=90)
    one, two, three = pages(world, 1)
    assert one["notification"] == {"title": "Lunch", "body": "soup for d1"}
    assert (one["channel"], one["priority"], one["data"]) == ("offers", "high", 1)
    assert two["notification"] == {"title": "Mine: {{ braces }}", "body": "fish for d1"}
    assert (three["notification"], three["expires_in"]) == ({"title": "New"}, 90)
    assert world.run(world.reports.push(APP.no, first))["template"] == {"name": "lunch", "version": 1}


def test_a_value_that_is_missing_is_to_be_sent(world: World) -> None:
    save(world, "lunch", notification={"title": "{{ values.dish }}"})
    with pytest.raises(Problem, match=r'values\.dish.*\. Send it in the "values" of the template'):
        world.push({"device": "d1"}, template="lunch")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"template": "nothing"}, "template_not_found"),
        ({"template": {"name": "lunch", "version": 7}}, "template_not_found"),
        ({"template": "lunch", "texts": {"de": {"actions": {"none": "x"}}}}, "invalid_request"),
        ({"template": "lunch", "kind": "silent", "deadline": 5}, "invalid_request"),
        ({"template": "data", "kind": "alert"}, "invalid_request"),
        ({"notification": {"title": "{{ oops"}, "render": "liquid"}, "template_error"),
        ({"notification": {"title": "{{ user.name }}"}, "render": "liquid"}, "template_error"),
    ],
)
def test_what_cannot_be_put_together_is_refused(world: World, fields: dict[str, Any], code: str) -> None:
    save(world, "lunch", notification={"title": "Lunch"})
    save(world, "data", data={"a": 1})
    with pytest.raises(Problem) as refusal:
        world.push({"device": "d1"}, **fields)
    assert refusal.value.code == code


def test_a_batch_may_have_templates(world: World) -> None:
    on_floors(world, 2)
    pushes = [
        world.checked({"device": "d1"}, notification=FLOOR, render="liquid"),
        world.checked({"device": "d2"}, notification=FLOOR, render="liquid"),
        world.checked({"device": "d3"}, notification={"title": "plain"}),
    ]
    answers = world.run(world.acceptance.accept_many(pushes))
    codes = [answer.code if isinstance(answer, Problem) else answer.targeted for answer in answers]
    assert codes == [1, "template_error", 1]


def test_a_batch_holds_the_texts_of_a_few_pushes_at_a_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    on_floors(world)
    together: list[int] = []
    store = world.acceptance._store

    async def noted(pending_pushes: list[PendingPush]) -> None:
        together.append(len(pending_pushes))
        await store(pending_pushes)

    monkeypatch.setattr(world.acceptance, "_store", noted)
    pushes = [world.checked(ALL, notification=FLOOR, render="liquid") for _ in range(20)]
    answers = world.run(world.acceptance.accept_many(pushes))
    assert len(answers) == sum(together) == 20
    assert max(together) == 8


def test_the_forecast_says_what_is_missing(world: World) -> None:
    on_floors(world, 5)
    request = World.request(ALL, notification=FLOOR, render="liquid", on_missing="leave_out")
    found = world.run(world.forecast.of(APP, request))
    assert (found["targeted"], found["texts"], found["suppressed"]) == (8, 3, {"no_text": 1})
    assert found["missing"] == [
        {"variable": "device.attributes.floor", "where": "notification.title", "devices": 1, "examples": ["d5"]}
    ]
    assert world.row("SELECT count(*) FROM push") == (0,)


def test_a_digest_names_the_texts_that_its_device_would_have_got(world: World) -> None:
    on_floors(world)
    world.set_policy(caps={"limits": [{"count": 1, "per": "hour"}], "excess": "digest"})
    world.connect(1)
    for _ in range(3):
        world.alert(ALL, notification=FLOOR, render="liquid")
        world.acknowledge_all(1)
    world.passes(3_601)
    assert pages(world, 1)[-1]["notification"]["body"] == "Floor 1\nFloor 1"


def test_texts_leave_with_the_deliveries(world: World) -> None:
    on_floors(world)
    save(world, "floors", notification=FLOOR)
    push_id = world.push(ALL, template="floors", ttl=60).push_id
    world.passes(61)
    keep = RetentionPeriods(deliveries=0, counts=10**12, idempotency=10**12, uplink=10**12, events=10**12)
    world.connection.execute("UPDATE push SET closed_at = expires_at")
    while remove_slice(world.connection, keep, world.now):
        pass
    assert world.row("SELECT (SELECT count(*) FROM push_text), (SELECT count(*) FROM push_text_set)") == (0, 0)
    report = world.run(world.reports.push(APP.no, push_id))
    assert (report["texts"], report["template"]["name"]) == (3, "floors")
    with pytest.raises(Problem) as refusal:
        texts(world, push_id)
    assert refusal.value.code == "gone"
    while remove_slice(world.connection, RetentionPeriods(0, 0, 0, 0, 0), world.now):
        pass
    assert world.row("SELECT count(*) FROM push_template") == (0,)


FLEET = st.lists(
    st.fixed_dictionaries(
        {
            "locale": st.sampled_from([None, "de", "de-AT", "en", "xx"]),
            "name": st.none() | st.text(st.characters(codec="utf-8"), min_size=1, max_size=3),
            "attributes": st.dictionaries(
                st.sampled_from(["floor", "room"]), st.none() | st.booleans() | st.integers(0, 2) | st.just("1")
            ),
        }
    ),
    min_size=1,
    max_size=30,
)
SOURCES = st.sampled_from(
    [
        "plain",
        "{{ device.name }}",
        "{{ device.attributes.floor }}",
        "{{ device.attributes.floor | default: 'none' }}",
        "{% if device.attributes.room == 1 %}one{% else %}{{ device.attributes.room | default: 'x' }}{% endif %}",
        "{{ device.locale }} {{ device.id }}",
    ]
)


@settings(
    max_examples=settings().max_examples // 2,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(fleet=FLEET, title=SOURCES, german=SOURCES, data=SOURCES)
def test_every_device_gets_what_is_rendered_for_it_alone(
    fleet: list[dict[str, Any]], title: str, german: str, data: str
) -> None:
    world = World(devices=len(fleet), mailbox_limit=100)
    try:
        for device_no, fields in enumerate(fleet, start=1):
            describe(world, device_no, **fields)
            if device_no % 2:
                world.connect(device_no)
        fields = {
            "notification": {"title": title},
            "texts": {"de": {"title": german}},
            "data": data,
            "render": "liquid",
            "on_missing": "leave_out",
            "kind": "in_app",
        }
        push_id = world.push(ALL, **fields).push_id
        if len(fleet) % 3 == 0:
            world.crash()
        for device_no in world.identities:
            if not world.hand_over.is_taking(device_no):
                world.connect(device_no)
        for device_no in world.identities:
            alone = World.request({"device": f"d{device_no}"}, **fields)
            devices = world.run(world.targets.resolve(APP.no, alone.target))
            _, expected = world.run(world.texts.forecast(APP, alone, devices))
            got = [page for page in pages(world, device_no) if page["push_id"] == push_id]
            assert [{"notification": page["notification"], "data": page["data"]} for page in got] == [
                json.loads(text.content) for text in expected.texts
            ]
        assert world.now == START
    finally:
        world.close()
