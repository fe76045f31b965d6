from __future__ import annotations

import asyncio
import json
import tracemalloc
from typing import Any

import pytest

from gateway.delivery import receipts
from gateway.delivery.device_messages import Unusable, parse
from gateway.delivery.engine import Body, Message
from gateway.delivery.receipts import store_messages
from gateway.delivery_states import DeliveryState
from gateway.store.errors import StorageFull
from tests.gateway.delivery.world import World, items


@pytest.fixture
def push_id(world: World) -> str:
    world.connect()
    push = world.push()
    world.acknowledge()
    return push.push_id


def test_receipts_move_the_delivery_on_and_keep_first_time_stamps(world: World, push_id: str) -> None:
    world.now += 1000
    assert world.says("receipts", {"push_id": push_id, "event": "displayed"}) == 0
    world.now += 1000
    world.says("receipts", [{"push_id": push_id, "event": "displayed"}, {"push_id": push_id, "event": "opened"}])
    (item,) = items(world.run(world.reports.deliveries(1, push_id, 10, None)))
    assert item["state"] == "opened"
    assert item["displayed_at"].endswith("01.000Z")
    assert item["opened_at"].endswith("02.000Z")
    assert item["delivered_at"].endswith("00.000Z")


def test_receipts_may_skip_come_late_and_never_go_back(world: World, push_id: str) -> None:
    world.says("receipts", {"push_id": push_id, "event": "acted", "action": "play", "result": {"ok": True}})
    world.says("receipts", {"push_id": push_id, "event": "displayed"})
    assert world.state(push_id) == ("acted", None)
    world.says("receipts", {"push_id": push_id, "event": "acted", "action": "stop", "result": 2})
    (item,) = items(world.run(world.reports.deliveries(1, push_id, 10, None)))
    assert (item["state"], item["action"], item["result"]) == ("acted", "play", {"ok": True})
    report = world.run(world.reports.push(1, push_id))
    assert report["reached"] == {"delivered": 1, "displayed": 1, "opened": 1, "acted": 1}


def test_a_device_says_why_it_dismissed_a_push_by_itself(world: World, push_id: str) -> None:
    world.says("receipts", {"push_id": push_id, "event": "displayed", "reason": "ttl"})
    assert world.state(push_id) == ("displayed", None), "shown is shown"
    world.says("receipts", {"push_id": push_id, "event": "dismissed", "reason": "screen_full"})
    world.says("receipts", {"push_id": push_id, "event": "dismissed", "reason": "ttl"})
    assert world.state(push_id) == ("dismissed", "screen_full"), "the first one holds"
    world.says("receipts", {"push_id": push_id, "event": "opened"})
    assert world.state(push_id) == ("opened", None), "a person's answer is stronger"
    world.says("receipts", {"push_id": push_id, "event": "dismissed", "reason": "ttl"})
    assert world.state(push_id) == ("opened", None)


def test_the_reason_of_an_end_is_kept_over_that_of_a_device(world: World) -> None:
    push_id = world.push(ttl=5).push_id
    world.passes(6)
    world.says("receipts", {"push_id": push_id, "event": "dismissed", "reason": "ttl"})
    assert world.state(push_id) == ("dismissed", "after_expired")
    world.says("receipts", {"push_id": push_id, "event": "acted"})
    assert world.state(push_id) == ("acted", "after_expired")


@pytest.mark.parametrize("reason", ["", "Screen full", "x" * 33, 7])
def test_a_reason_that_is_no_name_is_refused(world: World, push_id: str, reason: Any) -> None:
    assert world.says("receipts", {"push_id": push_id, "event": "dismissed", "reason": reason}) == 0x99
    assert world.state(push_id) == ("delivered", None)


def test_a_bare_push_id_means_delivered(world: World) -> None:
    push_id = world.push().push_id
    assert world.says("receipts", push_id.encode()) == 0
    assert world.state(push_id) == ("delivered", None)
    world.connect()
    assert world.received() == []  # it has it: nothing to hand over


@pytest.mark.parametrize("how", ["expired", "superseded", "cancelled", "overflowed", "refused"])
def test_a_receipt_for_an_ended_delivery_is_proof_that_it_arrived(world: World, how: str) -> None:
    if how == "refused":
        world.connect()
    push_id = world.push(ttl=5, collapse_key="k", priority="low").push_id
    if how == "expired":
        world.passes(6)
    elif how == "superseded":
        world.push(collapse_key="k")
    elif how == "cancelled":
        world.run(world.ledger.recalls.recall(1, push_id))
    elif how == "overflowed":
        for _ in range(5):
            world.push()
    else:
        world.acknowledge(outcome=0x80)
    assert world.state(push_id)[0] == how
    world.says("receipts", {"push_id": push_id, "event": "displayed"})
    assert world.state(push_id) == ("displayed", f"after_{how}")


def test_a_revoked_delivery_never_moves(world: World) -> None:
    push_id = world.push().push_id
    identity = world.identities[1]
    world.remove()
    topic = "default/devices/d1/receipts"
    payload = json.dumps({"push_id": push_id, "event": "opened"}).encode()
    world.receipts.published("d1", identity, Message(topic, Body(payload)), lambda code: None)
    world.settle()
    assert world.row("SELECT state FROM whole_delivery") == (31,)


def test_a_receipt_for_a_push_it_was_no_target_of_is_dropped_and_shown(world: World) -> None:
    foreign = world.push({"device": "d2"}).push_id
    assert world.says("receipts", {"push_id": foreign, "event": "opened"}) == 0
    assert world.state(foreign, 2) == ("waiting", None)
    fact = world.activity.last_error(1)
    assert fact is not None
    assert foreign in fact[0]
    assert world.activity.dropped == 1
    world.timers.later_turn()
    world.settle()
    assert foreign in world.row("SELECT last_error FROM device WHERE no = 1")[0]


def test_the_acknowledgement_leaves_after_the_commit(world: World, push_id: str) -> None:
    answers: list[int] = []
    payload = json.dumps({"push_id": push_id, "event": "opened"}).encode()
    world.connections.published("d1", Message("default/devices/d1/receipts", Body(payload)), answers.append)
    world.timers.turn()
    assert answers == []
    world.writer.commit_group()
    assert world.row("SELECT state FROM whole_delivery") == (13,)
    world.writer.call_back()
    assert answers == [0]


@pytest.mark.parametrize(
    ("leaf", "payload"),
    [
        ("receipts", b"{"),
        ("receipts", b""),
        ("receipts", b"two words"),
        ("receipts", b"\xff\xfe"),
        ("receipts", b'{"event":"opened"}'),
        ("receipts", b'{"push_id":"x","event":"eaten"}'),
        ("receipts", b'{"push_id":"x","event":"opened","at":"2026-01-01T00:00:00"}'),
        ("receipts", b"[" + b",".join([b'{"push_id":"x","event":"opened"}'] * 1001) + b"]"),
        ("settings", b'{"consent":"perhaps"}'),
        ("settings", b'{"channels":{"offers":"no"}}'),
        ("report", b"[1]"),
        ("report", b'{"timezone":"Mars/Olympus"}'),
        ("report", b'{"timezone":7}'),
        ("report", b'{"timezone":[]}'),
        ("report", b'{"timezone":{"name":"UTC"}}'),
        ("report", b'{"load":NaN}'),
        ("report", b'{"load":[1e999]}'),
        ("receipts", b'{"push_id":"x","event":"acted","result":-Infinity}'),
        ("report", b'{"x":"' + b"x" * 70_000 + b'"}'),
    ],
)
def test_bad_json_is_dropped_with_0x99_and_shown(world: World, leaf: str, payload: bytes) -> None:
    world.connect()
    assert world.says(leaf, payload) == 0x99
    fact = world.activity.last_error(1)
    assert fact is not None
    assert fact[0].startswith(leaf)


def test_unknown_fields_of_a_newer_device_are_ignored() -> None:
    (receipt,) = parse("receipts", b'{"push_id":"x","event":"opened","mood":"good"}')
    assert receipt.push_id == "x"


def test_a_report_is_merged_into_the_attributes(world: World) -> None:
    world.says("report", {"battery": 81, "net": {"type": "wifi", "rssi": -60}})
    world.says("report", {"net": {"rssi": None, "ssid": "a"}, "timezone": "Europe/Berlin"})
    attributes, timezone = world.row("SELECT attributes, timezone FROM device WHERE no = 1")
    assert json.loads(attributes) == {
        "battery": 81,
        "net": {"type": "wifi", "ssid": "a"},
        "timezone": "Europe/Berlin",
    }
    assert timezone == "Europe/Berlin"


def test_attributes_do_not_grow_without_bound(world: World) -> None:
    world.connect()
    assert world.says("report", {"a": "x" * 10_000}) == 0
    assert world.says("report", {"b": "x" * 10_000}) == 0x97
    assert json.loads(world.row("SELECT attributes FROM device WHERE no = 1")[0]).keys() == {"a"}


def test_channel_choices_do_not_grow_without_bound(world: World) -> None:
    world.connect()
    choices = [{f"{batch}-{number:060}": False for number in range(100)} for batch in range(3)]
    assert [world.says("settings", {"channels": channels}) for channels in choices] == [0, 0, 0x97]
    assert len(json.loads(world.row("SELECT channels FROM device WHERE no = 1")[0])) == 200


def test_of_settings_the_highest_sequence_wins(world: World) -> None:
    world.says("settings", {"consent": "granted", "seq": 5, "text_version": "v2"})
    world.says("settings", {"consent": "denied", "seq": 4})
    assert world.row("SELECT consent, settings_seq, settings_text_version FROM device WHERE no = 1") == (
        "granted",
        5,
        "v2",
    )
    world.says("settings", {"channels": {"offers": False}})  # without one: the order of arrival
    world.says("settings", {"channels": {"news": True}, "seq": 6})
    assert json.loads(world.row("SELECT channels FROM device WHERE no = 1")[0]) == {"offers": False, "news": True}


def test_the_last_hundred_uplink_messages_are_kept(world: World) -> None:
    for number in range(105):
        assert world.says("uplink/door", str(number).encode()) == 0
    world.says("uplink/door", b"other", device_no=2)
    rows = world.connection.execute("SELECT topic, payload FROM uplink_message WHERE device_no = 1 ORDER BY no")
    assert [(t, int(p)) for t, p in rows] == [("door", number) for number in range(5, 105)]


def test_a_will_that_comes_after_its_connection_finds_its_device(world: World) -> None:
    answers: list[int] = []
    message = Message("default/devices/d1/uplink/gone", Body(b"power"))
    world.connections.published("d1", message, answers.append)
    world.settle()
    assert answers == [0]
    assert world.row("SELECT device_no, topic FROM uplink_message") == (1, "gone")


def test_presence_and_ordinary_topics_need_no_storing(world: World) -> None:
    assert world.says("presence", b"1") == 0
    answers: list[int] = []
    world.connections.published("d1", Message("elsewhere", Body(b"")), answers.append)
    assert answers == [0]


def test_when_the_disk_refuses_nothing_is_acknowledged_until_it_is_stored(world: World, push_id: str) -> None:
    answers: list[int] = []
    payload = json.dumps({"push_id": push_id, "event": "opened"}).encode()
    world.connections.published("d1", Message("default/devices/d1/receipts", Body(payload)), answers.append)
    world.timers.turn()
    (refused,) = world.writer.queue
    world.writer.queue = []
    refused.on_error(StorageFull("no space left"))
    assert answers == []
    world.timers.later_turn()
    world.settle()
    assert answers == [0]
    assert world.state(push_id) == ("opened", None)


def test_what_nobody_waits_for_is_bounded_while_the_disk_is_slow(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "MAX_UNPROMISED_BYTES", 2_000)
    world.connect()

    def say(qos: int) -> None:
        message = Message("default/devices/d1/uplink/log", Body(b"x" * 400), qos)
        world.connections.published("d1", message, lambda code: None)

    for qos in (0, 0, 1, 0, 1):  # the third of QoS 0 is too much; those of QoS 1 are bounded by the device's window
        say(qos)
    fact = world.activity.last_error(1)
    assert fact is not None
    assert fact[0].startswith("uplink/log: too much waits")
    assert world.activity.dropped == 1
    world.settle()
    say(0)
    world.settle()
    assert world.row("SELECT count(*) FROM uplink_message") == (5,)


def test_parse_refuses_nesting_bombs() -> None:
    with pytest.raises(Unusable):
        parse("receipts", b'{"push_id":"x","event":"acted","result":' + b"[" * 20_000 + b"]" * 20_000 + b"}")


def test_many_statements_are_one_operation(world: World, push_id: str) -> None:
    for _ in range(10):
        world.connections.published(
            "d1", Message("default/devices/d1/receipts", Body(push_id.encode())), lambda code: None
        )
    world.timers.turn()
    assert len(world.writer.queue) == 1
    world.loop.run_until_complete(asyncio.sleep(0))


def test_a_statement_that_cannot_be_stored_does_not_keep_the_others_from_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[tuple[str, int]] = []
    for word in ("good", "poison", "fine"):
        message = Message(f"default/devices/d1/uplink/{word}", Body(b"x"))
        world.connections.connected("d1", world.identities[1], False)
        world.connections.published("d1", message, lambda code, word=word: answers.append((word, code)))  # type: ignore[misc]
    stored = store_messages

    def store(connection: Any, statements: Any, *rest: Any) -> Any:
        if any(statement.leaf.endswith("poison") for statement in statements):
            raise ValueError("a mistake of ours")
        return stored(connection, statements, *rest)

    monkeypatch.setattr("gateway.delivery.receipts.store_messages", store)
    world.settle()
    assert answers == [("good", 0), ("poison", 0x80), ("fine", 0)]
    assert world.row("SELECT count(*) FROM uplink_message") == (2,)
    assert "poison" in str(world.activity.last_error(1))


def test_a_device_that_says_much_waits_for_itself(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "SLICE_SECONDS", -1.0)  # one message of an operation
    answered: list[str] = []

    def say(device_no: int, text: str) -> None:
        identity = world.identities[device_no]
        topic = f"default/devices/{identity.device_id}/report"
        payload = json.dumps({"said": text}).encode()
        message = Message(topic, Body(payload))
        world.receipts.published(identity.client_id, identity, message, lambda code: answered.append(text))

    for number in range(20):
        say(1, f"much {number}")
    say(2, "little")
    world.settle()
    assert "little" in answered[:2]
    assert [text for text in answered if text != "little"] == [f"much {number}" for number in range(20)]


def test_a_message_of_many_answers_is_stored_in_parts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "SLICE_SECONDS", -1.0)
    world.connect()
    ids = [world.push().push_id for _ in range(3)]
    world.acknowledge_all()
    groups: list[int] = []
    commit = world.writer.commit_group

    def counted(size: int | None = None) -> None:
        groups.append(len(world.writer.queue))
        commit(size)

    monkeypatch.setattr(world.writer, "commit_group", counted)
    said = [{"push_id": push_id, "event": "acted", "action": "consent.granted"} for push_id in ids]
    assert world.says("receipts", said) == 0
    assert [world.state(push_id) for push_id in ids] == [("acted", None)] * 3
    assert sum(1 for size in groups if size) >= 3
    assert len(world.run(world.preferences.consents(1, 1))) == 3


def test_a_message_that_is_all_mistakes_is_not_put_into_words() -> None:
    channels = {str(number): 1 for number in range(5_000)}
    with pytest.raises(Unusable, match=r"^5000 of its fields"):
        parse("settings", json.dumps({"channels": channels}).encode())
    for leaf in ("settings", "report", "receipts"):
        for deep in (b"[" * 30_000, b'{"a":' * 10_000, b'[{"push_id":"x","event":"acted","result":' + b"[" * 30_000):
            with pytest.raises(Unusable):
                parse(leaf, deep)


def once(world: World, identifier: int, leaf: str, payload: Any) -> list[int]:
    """Said with QoS 2, under an identifier of the broker; the reason codes of its acknowledgement."""
    answers: list[int] = []
    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    message = Message(f"default/devices/d1/{leaf}", Body(raw), 2)
    world.connections.published("d1", message, answers.append, identifier)
    world.settle()
    return answers


def let_go(world: World, *identifiers: int) -> bool:
    done: list[bool] = []
    world.connections.released("d1", identifiers, lambda: done.append(True))
    assert not done, "not before it is on disk"
    world.settle()
    return bool(done)


def test_what_is_said_again_after_a_kill_is_stored_once_until_it_is_released(world: World) -> None:
    assert once(world, 77, "uplink/door", b"open") == [0]
    world.crash()
    assert once(world, 77, "uplink/door", b"open") == [0]
    assert once(world, 78, "uplink/door", b"open") == [0], "another one"
    assert world.row("SELECT count(*) FROM uplink_message") == (2,)
    assert let_go(world, 77)
    assert once(world, 77, "uplink/door", b"shut") == [0]
    assert world.row("SELECT count(*) FROM uplink_message") == (3,)
    assert world.row("SELECT count(*) FROM received_message") == (2,)


def test_settings_said_again_do_not_undo_what_was_said_since(world: World) -> None:
    """Without a sequence number the order of arrival counts."""
    once(world, 77, "settings", {"channels": {"offers": False}})
    world.says("settings", {"channels": {"offers": True}})
    world.crash()
    assert once(world, 77, "settings", {"channels": {"offers": False}}) == [0]
    assert json.loads(world.row("SELECT channels FROM device WHERE no = 1")[0]) == {"offers": True}


def test_an_identifier_is_not_kept_of_what_was_refused(world: World) -> None:
    assert once(world, 77, "report", {"attribute": "x" * 20_000}) == [0x97]
    assert once(world, 78, "report", b"[") == [0x99]
    assert once(world, 77, "uplink/door", b"open") == [0]
    assert once(world, 78, "uplink/door", b"open") == [0]
    assert world.row("SELECT count(*) FROM uplink_message") == (2,)


def test_a_message_that_is_stored_in_parts_is_known_with_its_last(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipts, "SLICE_SECONDS", -1.0)
    monkeypatch.setattr(receipts, "RECEIPTS_TOGETHER", 1)
    world.connect()
    ids = [world.push().push_id for _ in range(3)]
    world.acknowledge_all()
    raw = json.dumps([{"push_id": push_id, "event": "opened"} for push_id in ids]).encode()
    message = Message("default/devices/d1/receipts", Body(raw), 2)
    world.connections.published("d1", message, lambda code: None, 77)
    world.timers.turn()
    world.writer.commit_group()
    states = [
        world.row("SELECT state FROM whole_delivery WHERE push_no = (SELECT no FROM push WHERE id = ?)", i) for i in ids
    ]
    assert (DeliveryState.OPENED,) in states, "the first part is stored"
    assert (DeliveryState.DELIVERED,) in states, "and not the last"
    world.crash()
    assert once(world, 77, "receipts", raw) == [0]
    assert [world.state(push_id) for push_id in ids] == [("opened", None)] * 3


def test_identifiers_of_sessions_that_are_gone_are_forgotten_at_the_start(world: World) -> None:
    for identifier in (5 << 16 | 1, 5 << 16 | 2, 6 << 16 | 1, 7 << 16):
        once(world, identifier, "uplink/door", b"open")
    world.run(world.receipts.recover({5, 7, 9}))
    kept = world.connection.execute("SELECT identifier >> 16 FROM received_message ORDER BY identifier").fetchall()
    assert kept == [(5,), (5,), (7,)]


def test_what_goes_wrong_with_one_message_holds_up_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(handles: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(world.receipts, "_on_acted", fail)
        with pytest.raises(ZeroDivisionError):  # the database tells the log
            world.says("uplink/door", b"open")
    assert world.says("uplink/door", b"shut") == 0


def test_receipts_that_wait_for_the_writer_take_little_more_than_their_message() -> None:
    """What a device may have waiting is bounded by the bytes of its messages; it was ten times that in memory."""
    said = json.dumps([{"push_id": f"k5HhWznnwjlei1TGz6s-{n}", "event": "opened"} for n in range(800)]).encode()
    parse("receipts", said)
    tracemalloc.start()
    try:
        waiting = [parse("receipts", said) for _ in range(3)]
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 3 * len(waiting) * len(said)
