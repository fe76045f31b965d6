"""The reference device against a scripted broker: one effect per push, receipts that survive, each PUBACK in place."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from queue import SimpleQueue
from typing import Any, cast

import pytest

from client_sim.backoff import Backoff
from client_sim.device import Device
from client_sim.journal import Journal
from client_sim.push import Push
from tests.client_sim.scripted_broker import (
    DISCONNECT,
    PUBACK,
    PUBLISH,
    TIMEOUT,
    Connection,
    ScriptedBroker,
    push_json,
    user_property,
)

ROOT = Path(__file__).resolve().parents[2]
AT_ONCE = Backoff(base=0.001, cap=0.01)


@pytest.fixture
def broker() -> Iterator[ScriptedBroker]:
    broker = ScriptedBroker()
    yield broker
    broker.close()


class Shown:
    """What on_push was called with."""

    def __init__(self) -> None:
        self.pushes: SimpleQueue[Push] = SimpleQueue()

    def __call__(self, push: Push) -> None:
        self.pushes.put(push)

    def next(self) -> Push:
        return self.pushes.get(timeout=TIMEOUT)


@pytest.fixture
def shown() -> Shown:
    return Shown()


def device_of(broker: ScriptedBroker, on_push: Any, **options: Any) -> Device:
    return Device("d1", "dev_secret", port=broker.port, on_push=on_push, backoff=AT_ONCE, **options)


def connected(broker: ScriptedBroker, device: Device, **options: Any) -> Connection:
    connection = broker.accept(**options)
    assert device.wait_connected(TIMEOUT)
    return connection


def test_connects_as_the_contract_says(broker: ScriptedBroker, shown: Shown) -> None:
    with device_of(broker, shown) as device:
        connected(broker, device)
        # Protocol name and level, user name + password flags without clean session, keep alive, id, user, password.
        assert broker.connect_body == (
            b"\x00\x04MQTT\x04\xc0\x00\x3c" + b"\x00\x02d1" + b"\x00\x02d1" + b"\x00\x0adev_secret"
        )


def test_mqtt5_asks_for_a_session_that_stays(broker: ScriptedBroker, shown: Shown) -> None:
    with device_of(broker, shown, mqtt5=True) as device:
        connected(broker, device, mqtt5=True)
        assert broker.connect_body.startswith(b"\x00\x04MQTT\x05\xc0\x00\x3c\x05\x11\xff\xff\xff\xff")


def test_a_device_of_another_app_has_its_prefix(broker: ScriptedBroker, shown: Shown) -> None:
    with device_of(broker, shown, app="shop") as device:
        connected(broker, device)
        assert b"\x00\x07shop/d1\x00\x07shop/d1" in broker.connect_body


def test_the_acknowledgement_follows_the_effect(broker: ScriptedBroker) -> None:
    may_finish = threading.Event()
    begun = threading.Event()

    def slow(push: Push) -> None:
        begun.set()
        assert may_finish.wait(TIMEOUT)

    with device_of(broker, slow) as device:
        connection = connected(broker, device)
        connection.push(7, push_json("p1"))
        assert begun.wait(TIMEOUT)
        assert connection.nothing_more()
        may_finish.set()
        assert connection.expect(PUBACK).packet_id == 7


def test_a_push_seen_before_is_acknowledged_without_effect(
    broker: ScriptedBroker, shown: Shown, tmp_path: Path
) -> None:
    journal = tmp_path / "journal.db"
    for dup in (False, True):
        with device_of(broker, shown, journal=journal) as device:
            connection = connected(broker, device)
            connection.push(1, push_json("p1"), dup=dup)
            connection.expect(PUBACK)
    assert shown.next().push_id == "p1"
    assert shown.pushes.empty()


def test_a_process_that_dies_in_its_effect_does_not_repeat_it(broker: ScriptedBroker, tmp_path: Path) -> None:
    program = textwrap.dedent(f"""
        import os
        from pathlib import Path
        from client_sim.device import Device

        def on_push(push):
            with open({str(tmp_path / "effects")!r}, "a") as file:
                file.write(push.push_id)
            os._exit(9)

        Device("d1", "t", port={broker.port}, on_push=on_push, journal=Path({str(tmp_path / "j.db")!r})).start()
        import threading
        threading.Event().wait({TIMEOUT})
    """)
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    broker.accept().push(1, push_json("p1"))
    assert process.wait(TIMEOUT) == 9

    shown, interrupted = Shown(), Shown()
    with device_of(broker, shown, journal=tmp_path / "j.db", on_interrupted=interrupted) as device:
        connection = connected(broker, device, session_present=True)
        connection.push(1, push_json("p1"), dup=True)
        connection.expect(PUBACK)
        connection.push(2, push_json("p2"))
        assert shown.next().push_id == "p2"
    assert interrupted.next().push_id == "p1"
    assert (tmp_path / "effects").read_text() == "p1"


def test_a_late_acknowledgement_does_not_fit_the_next_connection(broker: ScriptedBroker) -> None:
    may_finish = threading.Event()
    done: list[str] = []

    def handle(push: Push) -> None:
        if push.push_id == "p1":
            assert may_finish.wait(TIMEOUT)
        done.append(push.push_id)

    with device_of(broker, handle) as device:
        first = connected(broker, device)
        first.push(1, push_json("p1"))
        first.vanish()
        second = connected(broker, device)
        # The server crashed: the identifier is given to another push.
        second.push(1, push_json("p2"))
        may_finish.set()
        second.expect(PUBACK)
        assert done == ["p1", "p2"]
        second.push(2, push_json("p1"), dup=True)
        assert second.expect(PUBACK).packet_id == 2
        assert done == ["p1", "p2"]


def test_a_message_that_is_no_push_is_dropped_and_acknowledged(broker: ScriptedBroker, shown: Shown) -> None:
    with device_of(broker, shown) as device:
        connection = connected(broker, device)
        for number, payload in enumerate((b"\xff\xfe", b"not json", b"[]", b'{"push_id": 5}'), start=1):
            connection.push(number, payload)
            assert connection.expect(PUBACK).packet_id == number
        connection.push(9, push_json("p1", kind="a kind of tomorrow", unknown={"field": 1}))
        assert shown.next().kind == "a kind of tomorrow"


def test_a_failing_handler_does_not_block_the_mailbox(broker: ScriptedBroker) -> None:
    def fail(push: Push) -> None:
        raise ValueError("no screen")

    with device_of(broker, fail) as device:
        connection = connected(broker, device)
        connection.push(1, push_json("p1"))
        connection.expect(PUBACK)
        assert device.connected


def test_receipts_arrive_in_order_and_in_lists(broker: ScriptedBroker, shown: Shown) -> None:
    with device_of(broker, shown) as device:
        connection = connected(broker, device)
        connection.push(1, push_json("p1"))
        push = shown.next()
        connection.expect(PUBACK)
        device.displayed(push)
        topic, number, receipt = connection.expect(PUBLISH).publish()
        assert topic == "default/devices/d1/receipts"
        assert (receipt["push_id"], receipt["event"]) == ("p1", "displayed")
        assert receipt["at"].endswith("Z")
        device.opened(push)
        device.dismissed(push)
        connection.acknowledge(number)
        _, number, receipts = connection.expect(PUBLISH).publish()
        assert [receipt["event"] for receipt in receipts] == ["opened", "dismissed"]
        connection.acknowledge(number)
        assert device.flush(TIMEOUT)


def test_a_receipt_outlives_connection_and_process(broker: ScriptedBroker, shown: Shown, tmp_path: Path) -> None:
    journal = tmp_path / "journal.db"
    device = device_of(broker, shown, journal=journal).start()
    connection = connected(broker, device)
    device.displayed(Push.parse(push_json("p1")))
    connection.expect(PUBLISH)
    connection.vanish()
    connection = connected(broker, device)
    again = connection.expect(PUBLISH)
    assert again.flags & 0x08, "DUP [MQTT-3.3.1-1]"
    device.close(timeout=0.2)

    with device_of(broker, shown, journal=journal) as device:
        connection = connected(broker, device)
        _, number, receipt = connection.expect(PUBLISH).publish()
        assert receipt["push_id"] == "p1"
        connection.acknowledge(number)
        assert device.flush(TIMEOUT)
    assert Journal(journal).queued(10) == []


def test_what_was_typed_and_what_the_push_names_as_its_command(broker: ScriptedBroker, shown: Shown) -> None:
    actions = [
        {"id": "order", "input": "How many?"},
        {"id": "say", "input": "What?"},
        {"id": "now", "command": "reboot"},
        {"id": "on", "command": "order"},
        {"id": "later", "command": "wait"},
    ]
    with device_of(broker, shown) as device:
        device.actions["order"] = lambda push: f"{push.input} ordered"
        device.commands["reboot"] = lambda push: "rebooted"
        connection = connected(broker, device)
        connection.push(1, push_json("p1", notification={"title": "Hi", "actions": actions}))
        push = shown.next()
        connection.expect(PUBACK)
        for action, text, result in (
            ("order", "three", "three ordered"),
            ("say", "yes", "yes"),
            ("now", None, "rebooted"),
            ("on", None, "None ordered"),
            ("later", None, {"error": "unknown command 'wait'"}),
        ):
            assert device.act(push, action, text) == result
            _, number, receipt = connection.expect(PUBLISH).publish()
            assert (receipt["event"], receipt["action"], receipt["result"]) == ("acted", action, result)
            connection.acknowledge(number)


def test_an_action_runs_and_its_result_is_booked(broker: ScriptedBroker, shown: Shown) -> None:
    def fail(push: Push) -> None:
        raise OSError("no sound card")

    with device_of(broker, shown) as device:
        device.actions["play"] = lambda push: {"played": push.notification["title"]}
        device.actions["sing"] = fail
        connection = connected(broker, device)
        connection.push(1, push_json("p1"))
        push = shown.next()
        connection.expect(PUBACK)
        assert device.act(push, "play") == {"played": "Hi"}
        _, number, receipt = connection.expect(PUBLISH).publish()
        assert (receipt["event"], receipt["action"], receipt["result"]) == ("acted", "play", {"played": "Hi"})
        connection.acknowledge(number)
        device.act(push, "sing")
        _, number, receipt = connection.expect(PUBLISH).publish()
        assert receipt["result"] == {"error": "OSError: no sound card"}
        connection.acknowledge(number)


def test_the_result_of_a_command_is_what_the_callback_returns(broker: ScriptedBroker) -> None:
    with device_of(broker, lambda push: push.data["a"] + 1) as device:
        connection = connected(broker, device)
        connection.push(1, push_json("p1", kind="command", data={"a": 1}))
        packets = {
            packet.kind: packet for packet in (connection.packets.get(timeout=TIMEOUT) for _ in range(2)) if packet
        }
        assert packets[PUBACK].packet_id == 1
        _, number, receipt = packets[PUBLISH].publish()
        assert (receipt["event"], receipt["result"]) == ("acted", 2)
        connection.acknowledge(number)


def result_of(connection: Connection) -> Any:
    """The result of the next command, in whichever order acknowledgement and receipt come."""
    packets = [connection.packets.get(timeout=TIMEOUT) for _ in range(2)]
    (said,) = (packet for packet in packets if packet is not None and packet.kind == PUBLISH)
    _, number, receipt = said.publish()
    assert receipt["event"] == "acted"
    connection.acknowledge(number)
    return receipt.get("result")


def test_commands_are_carried_out_by_name(broker: ScriptedBroker, shown: Shown) -> None:
    with device_of(broker, shown) as device:

        @device.command("add")
        def add(push: Push) -> int:
            return int(push.data["a"]) + 1

        assert device.commands == {"add": add}
        connection = connected(broker, device)
        results = []
        for number, data in enumerate(({"command": "add", "a": 1}, {"command": "sing"}, {"a": 1}, ["add"]), start=1):
            connection.push(number, push_json(f"p{number}", kind="command", data=data))
            results.append(result_of(connection))
    assert results == [
        2,
        {"error": "unknown command 'sing'"},
        {"error": "unknown command"},
        {"error": "unknown command"},
    ]
    assert shown.pushes.empty(), "with commands registered, unknown ones are not shown as if they were done"


def test_a_device_without_handlers_takes_what_comes(broker: ScriptedBroker) -> None:
    with device_of(broker, None) as device:
        connection = connected(broker, device)
        connection.push(1, push_json("p1"))
        connection.expect(PUBACK)
        connection.push(2, push_json("p2", kind="command", data={"command": "reboot"}))
        assert result_of(connection) == {"error": "unknown command 'reboot'"}


def test_a_result_that_cannot_be_sent_is_an_error_in_words(broker: ScriptedBroker) -> None:
    results: list[Any] = [{1, 2}, float("nan"), "x" * 5_000]
    with device_of(broker, lambda push: results[push.data]) as device:
        connection = connected(broker, device)
        said = []
        for number in range(3):
            connection.push(number + 1, push_json(f"p{number}", kind="command", data=number))
            said.append(result_of(connection)["error"])
    assert said[0] == "a result that is no JSON: Object of type set is not JSON serializable"
    assert said[1].startswith("a result that is no JSON: ")
    assert said[2] == "a result of 5002 bytes; at most 4096 are kept"


def test_an_interrupted_command_is_answered(broker: ScriptedBroker, tmp_path: Path) -> None:
    """It reboots once: whoever comes back can say that it was done."""
    told: list[Any] = [None, lambda push: {"rebooted": True}]
    for number, on_interrupted in enumerate(told):
        path = tmp_path / f"{number}.db"
        journal = Journal(path)
        journal.begin("p1")
        journal.close()
        with device_of(broker, None, journal=path, on_interrupted=on_interrupted) as device:
            connection = connected(broker, device)
            connection.push(1, push_json("p1", kind="command", data={"command": "reboot"}), dup=True)
            assert result_of(connection) == ({"error": "interrupted"}, {"rebooted": True})[number]


def test_what_was_cancelled_is_neither_acknowledged_nor_begun_again(broker: ScriptedBroker, tmp_path: Path) -> None:
    interrupted = Shown()

    def cancelled(push: Push) -> None:
        raise CancelledError

    with device_of(broker, cancelled, journal=tmp_path / "j.db", on_interrupted=interrupted) as device:
        connection = connected(broker, device)
        connection.push(1, push_json("p1"))
        connection.push(2, push_json("p2"), dup=False)
        connection.vanish()
        connection = connected(broker, device)
        connection.push(1, push_json("p1"), dup=True)
        assert connection.expect(PUBACK).packet_id == 1
    assert interrupted.next().push_id == "p1"


def test_settings_are_remembered_and_said_in_order(broker: ScriptedBroker, tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    device = device_of(broker, None, journal=path)
    assert (device.consent, device.channels) == ("unknown", {})
    device.set_consent("denied")
    device.set_channels({"offers": False, "news": False})
    device.set_channels({"news": True})
    device.set_consent("granted", "2026-11")
    device.close()
    with device_of(broker, None, journal=path) as device:
        assert (device.consent, device.channels) == ("granted", {"offers": False, "news": True})
        connection = connected(broker, device)
        said = []
        for _ in range(4):
            topic, number, settings = connection.expect(PUBLISH).publish()
            assert topic == "default/devices/d1/settings"
            said.append(settings)
            connection.acknowledge(number)
        assert device.flush(TIMEOUT)
    numbers = [settings.pop("seq") for settings in said]
    assert numbers == sorted(set(numbers))
    assert numbers[0] > 1_700_000_000_000, "milliseconds: above what a lost journal had reached"
    assert said == [
        {"consent": "denied", "client": "fleetpush-python/1"},
        {"channels": {"offers": False, "news": False}},
        {"channels": {"news": True}},
        {"consent": "granted", "client": "fleetpush-python/1", "text_version": "2026-11"},
    ]


def test_quiet_hours_are_a_setting_like_the_others(broker: ScriptedBroker, tmp_path: Path) -> None:
    device = device_of(broker, None, journal=tmp_path / "journal.db")
    kept = [device.quiet_hours]
    for start, end in (("22:00", "07:00"), (None, None)):
        device.set_quiet_hours(start, end)
        kept.append(device.quiet_hours)
    assert kept == [None, ("22:00", "07:00"), None]
    for wrong in (("22:00", None), ("22:00", "22:00"), ("24:00", "07:00"), ("7:00", "08:00")):
        with pytest.raises(ValueError, match="HH:MM"):
            device.set_quiet_hours(*wrong)
    device.close()
    said = [json.loads(payload)["quiet_hours"] for _, _, payload in Journal(tmp_path / "journal.db").queued(9)]
    assert said == [{"start": "22:00", "end": "07:00"}, None]


def test_a_push_that_asks_needs_no_handler(broker: ScriptedBroker, tmp_path: Path) -> None:
    device = device_of(broker, None, journal=tmp_path / "journal.db")
    asked = Push.parse(push_json("p1", kind="in_app", data={"text_version": "v2"}))
    assert device.act(asked, "consent.granted") == {"consent": "granted", "text_version": "v2"}
    assert device.consent == "granted"
    assert device.act(asked, "something else") is None
    device.close()
    settings, *receipts = [json.loads(payload) for _, _, payload in Journal(tmp_path / "journal.db").queued(9)]
    assert (settings["consent"], settings["text_version"]) == ("granted", "v2")
    assert [(receipt["action"], receipt.get("result")) for receipt in receipts] == [
        ("consent.granted", {"consent": "granted", "text_version": "v2"}),
        ("something else", None),
    ]


def test_everything_said_offline_arrives_in_order(broker: ScriptedBroker, tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    device = device_of(broker, None, journal=path)
    push = Push.parse(push_json("p1"))
    device.displayed(push)
    device.opened(push)
    device.report({"battery": 81})
    device.uplink("door/1", b"open")
    device.acted(push, "play", {"state": "playing"})
    device.close()
    with device_of(broker, None, journal=path) as device:
        connection = connected(broker, device)
        said = []
        for _ in range(4):
            topic, number, payload = connection.expect(PUBLISH).said()
            said.append((topic.removeprefix("default/devices/d1/"), payload))
            connection.acknowledge(number)
        assert device.flush(TIMEOUT)
    assert [leaf for leaf, _ in said] == ["receipts", "report", "uplink/door/1", "receipts"]
    assert [receipt["event"] for receipt in json.loads(said[0][1])] == ["displayed", "opened"]
    assert json.loads(said[1][1]) == {"battery": 81}
    assert said[2][1] == b"open"
    assert (json.loads(said[3][1])["action"], json.loads(said[3][1])["result"]) == ("play", {"state": "playing"})


def test_what_cannot_be_said_is_refused_at_once(broker: ScriptedBroker) -> None:
    device = device_of(broker, None)
    wrong: list[Callable[[], object]] = [
        lambda: device.set_consent("yes"),
        lambda: device.set_consent("granted", "x" * 65),
        lambda: device.set_channels({"": False}),
        lambda: device.set_channels({"offers": cast(bool, None)}),
        lambda: device.report({"temperature": float("inf")}),
        lambda: device.uplink("", b""),
        lambda: device.uplink("a/#", b""),
        lambda: device.uplink("big", bytes(262_145)),
    ]
    for call in wrong:
        with pytest.raises(ValueError):
            call()
    with pytest.raises(TypeError):
        device.report(cast(dict[str, Any], ["battery"]))
    assert device.flush(0)
    device.close()


def test_receipts_in_one_message_are_bounded(broker: ScriptedBroker, shown: Shown) -> None:
    push = Push.parse(push_json("p1"))
    with device_of(broker, shown) as device:
        for _ in range(7):
            device.acted(push, "play", "x" * 4_000)
        for _ in range(30):
            device.opened(push)
        connection = connected(broker, device)
        sizes: list[int] = []
        while sum(sizes) < 37:
            _, number, receipts = connection.expect(PUBLISH).publish()
            sizes.append(len(receipts))
            connection.acknowledge(number)
        assert sizes == [3, 3, 20, 11]


def test_what_expired_while_it_waited_here_has_no_effect(broker: ScriptedBroker) -> None:
    now = time.monotonic()
    assert Push("p", "alert", {}, expires_in=5, received_at=now - 6).expired
    assert not Push("p", "alert", {}, expires_in=5, received_at=now - 4).expired
    assert not Push("p", "alert", {}, expires_in=0, received_at=now - 4).expired, "now or never: it is now"


def test_a_refused_credential_is_told_and_tried_again(broker: ScriptedBroker, shown: Shown) -> None:
    states: SimpleQueue[tuple[str, str]] = SimpleQueue()
    with device_of(broker, shown, on_state=lambda *state: states.put(state)) as device:
        broker.accept(return_code=5)
        seen = [states.get(timeout=TIMEOUT) for _ in range(2)]
        assert seen[0][0] == "connecting"
        assert seen[1] == ("refused", "Not authorized")
        connected(broker, device)


def test_a_lost_connection_is_called_that(broker: ScriptedBroker, shown: Shown) -> None:
    states: SimpleQueue[tuple[str, str]] = SimpleQueue()
    with device_of(broker, shown, on_state=lambda *state: states.put(state)) as device:
        connected(broker, device).vanish()
        seen = [states.get(timeout=TIMEOUT) for _ in range(3)]
        assert [state for state, _ in seen[:2]] == ["connecting", "connected"]
        assert seen[2] == ("disconnected", "connection lost")


def test_who_is_thrown_out_by_its_own_id_says_so(broker: ScriptedBroker, shown: Shown) -> None:
    """Only MQTT 5 has a word for it."""
    states: SimpleQueue[tuple[str, str]] = SimpleQueue()
    with device_of(broker, shown, app="shop", mqtt5=True, on_state=lambda *state: states.put(state)):
        for code, words in (
            (0x8E, "another client connects as shop/d1: stop one of them, or give it an id of its own"),
            (0x8B, "Server shutting down"),
        ):
            connection = broker.accept(mqtt5=True)
            connection.goodbye(code, b"")
            connection.vanish()
            seen = [states.get(timeout=TIMEOUT) for _ in range(3)]
            assert [state for state, _ in seen] == ["connecting", "connected", "disconnected"]
            assert seen[2][1] == words


def test_a_name_that_nobody_knows_is_named_with_the_remedy(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    states: SimpleQueue[tuple[str, str]] = SimpleQueue()
    with Device("d1", "dev_secret", host="push.example", on_push=shown, on_state=lambda *state: states.put(state)):
        assert states.get(timeout=TIMEOUT) == ("connecting", "")
        state, words = states.get(timeout=TIMEOUT)
    assert state == "disconnected"
    assert words.startswith("push.example: Name or service not known; enter the name in DNS")
    assert "--public-host" in words


def test_close_says_goodbye_and_is_idempotent(broker: ScriptedBroker, shown: Shown) -> None:
    device = device_of(broker, shown).start()
    connection = connected(broker, device)
    device.close()
    connection.expect(DISCONNECT)
    connection.expect_end()
    device.close()
    assert not device.connected


def test_close_from_a_callback(broker: ScriptedBroker) -> None:
    closed = threading.Event()

    def handle(push: Push) -> None:
        device.close()
        closed.set()

    device = device_of(broker, handle).start()
    connection = connected(broker, device)
    connection.push(1, push_json("p1"))
    assert closed.wait(TIMEOUT)
    connection.expect(DISCONNECT)


def test_close_while_nobody_answers(shown: Shown, broker: ScriptedBroker) -> None:
    broker.close()
    device = device_of(broker, shown).start()
    device.close()
    unstarted = device_of(broker, shown)
    unstarted.close()


class NotedBackoff(Backoff):
    """Comes back at once, and notes what the server had said."""

    def __init__(self) -> None:
        super().__init__()
        self.hints: SimpleQueue[int | None] = SimpleQueue()

    def delay(self, failures: int, retry_after: int | None = None, away_seconds: float = 0.0) -> float:
        self.hints.put(retry_after)
        return 0.0


def test_comes_back_when_the_server_says(broker: ScriptedBroker, shown: Shown) -> None:
    """By either packet, once each; what cannot be read is no word."""
    backoff = NotedBackoff()

    def hint() -> int | None:
        return backoff.hints.get(timeout=TIMEOUT)

    with Device("d1", "dev_secret", port=broker.port, on_push=shown, backoff=backoff, mqtt5=True):
        broker.accept(return_code=0x89, mqtt5=True, properties=user_property("retry-after", "7")).vanish()
        assert hint() == 7
        connection = broker.accept(mqtt5=True)
        connection.goodbye(0x8B, user_property("other", "1") + user_property("retry-after", "12"))
        connection.vanish()
        assert hint() == 12
        for value in ("", "soon", "-1", "1.5", "9" * 10):
            connection = broker.accept(mqtt5=True)
            connection.goodbye(0x8B, user_property("retry-after", value))
            connection.vanish()
            assert hint() is None
        broker.accept(mqtt5=True).vanish()
        assert hint() is None
        broker.accept(mqtt5=True)


def test_a_3_1_1_device_has_only_its_jitter(broker: ScriptedBroker, shown: Shown) -> None:
    backoff = NotedBackoff()
    with Device("d1", "dev_secret", port=broker.port, on_push=shown, backoff=backoff):
        broker.accept(return_code=3).vanish()
        assert backoff.hints.get(timeout=TIMEOUT) is None
        broker.accept()
