"""The fake server for users' own tests: with the reference device, and with clients that know nothing of it."""

from __future__ import annotations

import json
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from client_sim import testing
from client_sim.backoff import Backoff
from client_sim.device import Device
from client_sim.push import Push
from client_sim.testing import FakeServer
from tests.documents.markdown import blocks

TIMEOUT = 10.0
AT_ONCE = Backoff(base=0.001, cap=0.01)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


def device_of(server: FakeServer, on_push: Any = None, **options: Any) -> Device:
    return Device("d1", "token", port=server.port, on_push=on_push, backoff=AT_ONCE, **options)


def test_the_example_of_its_documentation_works() -> None:
    assert testing.__doc__ is not None
    example = testing.__doc__.split("\n\n")[1]

    def show(push: Push) -> None:
        device = names["device"]
        device.actions["play"] = lambda push: {"state": "playing"}
        device.act(push, "play")

    names: dict[str, Any] = {"FakeServer": FakeServer, "Device": Device, "show": show}
    exec(textwrap.dedent(example), names)


@pytest.mark.parametrize("mqtt5", [False, True])
def test_a_push_and_what_becomes_of_it(server: FakeServer, mqtt5: bool) -> None:
    shown: SimpleQueue[Push] = SimpleQueue()
    waiting = server.push("d1", notification={"title": "Hi"}, ttl=60, channel="offers")
    assert server.delivery(waiting)["state"] == "waiting"
    with device_of(server, shown.put, mqtt5=mqtt5) as device:
        server.wait_connected("d1")
        push = shown.get(timeout=TIMEOUT)
        assert (push.push_id, push.kind, push.expires_in, push.message["channel"]) == (waiting, "alert", 60, "offers")
        assert server.wait(waiting, "delivered")["state"] == "delivered"
        device.opened(push)
        assert server.wait(waiting, "displayed")["state"] == "opened"
        device.displayed(push)
        device.acted(push, "play", {"state": "playing"})
        acted = server.wait(waiting, "acted")
        assert (acted["action"], acted["result"]) == ("play", {"state": "playing"})
        assert [receipt["event"] for receipt in acted["receipts"]] == ["opened", "displayed", "acted"]
    assert server.complaints == []


def test_what_the_device_says_of_itself(server: FakeServer) -> None:
    with device_of(server) as device:
        device.set_consent("granted", "v2")
        device.set_channels({"offers": False})
        device.set_channels({"news": True})
        device.report({"battery": 81, "zone": "Europe/Vienna"})
        device.report({"battery": 80, "zone": None})
        device.uplink("door/1", b"open")
        server.wait_until(lambda: bool(server.uplink["d1"]))
        settings = server.settings["d1"]
        assert (settings["consent"], settings["text_version"]) == ("granted", "v2")
        assert settings["channels"] == {"offers": False, "news": True}
        assert server.attributes["d1"] == {"battery": 80}
        assert server.uplink["d1"] == [("door/1", b"open")]
    assert server.complaints == []


def test_a_notice_is_told_and_acknowledged(server: FakeServer) -> None:
    told: SimpleQueue[dict[str, Any]] = SimpleQueue()

    def notice(content: dict[str, Any]) -> None:
        told.put(content)
        raise ValueError("a mistake of the program")

    with device_of(server) as deaf:
        server.wait_connected("d1")
        with pytest.raises(ValueError, match="does not listen"):
            server.notice("d1", {"type": "gap"})
        assert deaf.wait_connected(TIMEOUT)
    with device_of(server, on_notice=notice) as device:
        assert device.wait_connected(TIMEOUT), "the session has a subscription already, to its pushes"
        for count in (1, 2):
            server.notice("d1", {"v": 1, "type": "gap", "count": count})
            assert told.get(timeout=TIMEOUT)["count"] == count
        push_id = server.push("d1")
        server.wait(push_id, "delivered")
    assert server.complaints == []


@pytest.mark.parametrize("mqtt5", [False, True])
def test_what_was_not_acknowledged_comes_again_once(server: FakeServer, mqtt5: bool) -> None:
    """[MQTT-4.4.0-1]; the second time with DUP, which the device ignores: the id tells it."""
    began, go_on = threading.Event(), threading.Event()
    seen: list[str] = []

    def slow(push: Push) -> None:
        seen.append(push.push_id)
        began.set()
        assert go_on.wait(TIMEOUT)

    with device_of(server, slow, mqtt5=mqtt5) as device:
        push_id = server.push("d1", data={"n": 1})
        assert began.wait(TIMEOUT)
        assert server.delivery(push_id)["state"] == "sent"
        server.disconnect("d1")
        server.wait_connected("d1")
        later = server.push("d1", data={"n": 2})
        go_on.set()
        server.wait(later, "delivered")
        server.wait(push_id, "delivered")
        assert device.flush(TIMEOUT)
    assert seen == [push_id, later]
    assert server.complaints == [], "each acknowledgement had its packet identifier"


def test_the_most_urgent_comes_first(server: FakeServer) -> None:
    seen: SimpleQueue[str] = SimpleQueue()
    for priority in ("low", "normal", "critical", "high", "normal"):
        server.push("d1", priority=priority)
    with device_of(server, lambda push: seen.put(push.push_id)):
        assert [seen.get(timeout=TIMEOUT) for _ in range(5)] == ["push-3", "push-4", "push-2", "push-5", "push-1"]


def test_time_passes_when_the_test_says_so(server: FakeServer) -> None:
    seen: SimpleQueue[Push] = SimpleQueue()
    short, long, never = server.push("d1", ttl=60), server.push("d1", ttl=600), server.push("d1", ttl=0)
    older, newer = (server.push("d1", collapse_key="price", data=price) for price in (1, 2))
    server.pass_time(61)
    states = [server.delivery(push_id)["state"] for push_id in (short, long, never, older, newer)]
    assert states == ["expired", "waiting", "expired", "superseded", "waiting"]
    with device_of(server, seen.put):
        assert seen.get(timeout=TIMEOUT).push_id == long
        assert seen.get(timeout=TIMEOUT).data == 2
        now = server.push("d1", ttl=0)
        push = seen.get(timeout=TIMEOUT)
        assert (push.push_id, push.expires_in) == (now, 0)
        server.wait(now, "delivered")


def test_a_refusal_and_the_hint_when_to_return(server: FakeServer) -> None:
    class Noted(Backoff):
        hints: SimpleQueue[int | None] = SimpleQueue()

        def delay(self, failures: int, retry_after: int | None = None, away_seconds: float = 0.0) -> float:
            self.hints.put(retry_after)
            return 0.0

    backoff = Noted()
    server.refuse_next(retry_after=7)
    with Device("d1", "token", port=server.port, backoff=backoff, mqtt5=True):
        assert backoff.hints.get(timeout=TIMEOUT) == 7
        server.wait_connected("d1")
        server.disconnect("d1", 0x8B, retry_after=3)
        assert backoff.hints.get(timeout=TIMEOUT) == 3
        server.wait_connected("d1")


def test_a_time_without_a_server(server: FakeServer, tmp_path: Path) -> None:
    with device_of(server, journal=tmp_path / "d1.db") as device:
        server.wait_connected("d1")
        server.go_offline()
        server.wait_until(lambda: not server.connected("d1"))
        device.uplink("note", "written offline")
        assert not device.flush(0.1)
        server.go_online()
        server.wait_until(lambda: server.uplink["d1"] == [("note", b"written offline")])


def test_tokens_are_looked_at_when_there_are_some() -> None:
    states: SimpleQueue[tuple[str, str]] = SimpleQueue()
    with FakeServer({"d1": "right"}) as server:
        with Device("d1", "wrong", port=server.port, on_state=lambda *state: states.put(state), backoff=AT_ONCE):
            assert states.get(timeout=TIMEOUT)[0] == "connecting"
            assert states.get(timeout=TIMEOUT)[0] == "refused"
        assert server.complaints[0] == "d1: a wrong token"
        with Device("d1", "right", port=server.port):
            server.wait_connected("d1")


def test_a_wait_that_ends_says_what_it_found(server: FakeServer) -> None:
    push_id = server.push("d1")
    with pytest.raises(AssertionError, match="waited 0 s for push-1 to be delivered; it is waiting"):
        server.wait(push_id, "delivered", timeout=0)
    with pytest.raises(ValueError, match="already"):
        server.push("d1", push_id=push_id)
    with pytest.raises(ValueError, match="critical, high"):
        server.push("d1", priority="urgent")


class PlainClient:
    """A program that does what comes to its mind."""

    def __init__(
        self, server: FakeServer, mqtt5: bool, client_id: str = "d1", username: str = "d1", **options: Any
    ) -> None:
        self.answers: SimpleQueue[Any] = SimpleQueue()
        version = MQTTProtocolVersion.MQTTv5 if mqtt5 else MQTTProtocolVersion.MQTTv311
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=version, **options)
        self.client.username_pw_set(username, "token")
        self.client.on_connect = lambda *given: self.answers.put(given[3].value)
        self.client.on_subscribe = lambda *given: self.answers.put([reason.value for reason in given[3]])
        self.client.on_publish = lambda *given: self.answers.put(given[3].value)
        self.client.connect("127.0.0.1", server.port)
        self.client.loop_start()

    def answer(self) -> Any:
        return self.answers.get(timeout=TIMEOUT)


@pytest.mark.parametrize("mqtt5", [False, True])
def test_what_the_contract_does_not_allow_is_a_complaint(server: FakeServer, mqtt5: bool) -> None:
    plain = PlainClient(server, mqtt5)
    assert plain.answer() == 0
    answers: list[Any] = []
    for topic_filter, qos in (("default/devices/d2/push", 1), ("#", 1), ("default/devices/d1/push", 0)):
        plain.client.subscribe(topic_filter, qos)
        answers.append(plain.answer())
    said = [
        ("default/devices/d2/report", "{}"),
        ("default/devices/d1/report", "[]"),
        ("default/devices/d1/receipts", '{"push_id": "p", "event": "seen"}'),
        ("default/devices/d1/receipts", "push-9"),
        ("default/devices/d1/settings", '{"consent": "yes"}'),
        ("default/devices/d1/settings", '{"channels": {"offers": 1}}'),
    ]
    for topic, payload in said:
        plain.client.publish(topic, payload, qos=1)
        answers.append(plain.answer())
    plain.client.loop_stop()
    denied, bad = (0x87, 0x99) if mqtt5 else (0x80, 0)
    assert answers == [[denied], [denied], [0], denied if mqtt5 else 0, *[bad] * 5]
    expected = [
        "a session that ends with the connection",
        "subscription to default/devices/d2/push: not its push or notices topic",
        "subscription to #:",
        "subscription with QoS 0",
        "a message on default/devices/d2/report",
        "report: not a JSON object",
        "receipts: {'push_id': 'p', 'event': 'seen'} is no receipt",
        "receipts: a receipt for 'push-9', which was not pushed to this device",
        "settings: consent is unknown, granted or denied, not 'yes'",
        "settings: channels is an object of true and false",
    ]
    assert len(server.complaints) == len(expected)
    for complaint, part in zip(server.complaints, expected, strict=True):
        assert complaint.startswith(f"d1: {part}")


def test_a_side_connection_publishes_and_nothing_else(server: FakeServer) -> None:
    with device_of(server):
        server.wait_connected("d1")
        side = PlainClient(server, True, client_id="d1:r", username="d1:r")
        assert side.answer() == 0
        for qos in (1, 2):
            side.client.publish("default/devices/d1/uplink/x", str(qos), qos)
            assert side.answer() == 0
        side.client.subscribe("default/devices/d1/push", 1)
        assert side.answer() == [0x87]
        side.client.loop_stop()
        assert server.uplink["d1"] == [("x", b"1"), ("x", b"2")]
        assert server.connected("d1")
    assert server.complaints == ["d1: subscription to default/devices/d1/push: a side connection subscribes to nothing"]


def test_a_client_id_of_another_name_is_refused(server: FakeServer) -> None:
    plain = PlainClient(server, True, client_id="my-client")
    assert plain.answer() == 0x85
    plain.client.loop_stop()
    assert "the device id (APP/ID for an app other than default) is both" in server.complaints[0]


def test_a_list_of_receipts_or_a_bare_id_will_do(server: FakeServer) -> None:
    first, second = server.push("d1"), server.push("d1")
    plain = PlainClient(server, False, clean_session=False)
    assert plain.answer() == 0
    both = [{"push_id": push_id, "event": "displayed"} for push_id in (first, second)]
    for payload in (first, json.dumps(second), json.dumps(both)):
        plain.client.publish("default/devices/d1/receipts", payload, qos=1)
        plain.answer()
    plain.client.loop_stop()
    assert [receipt["event"] for receipt in server.delivery(first)["receipts"]] == ["delivered", "displayed"]
    assert server.wait(second, "displayed")["state"] == "displayed"
    assert server.complaints == []


def test_the_examples_of_the_document_work(tmp_path: Path) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "device-python.md"
    *_, program, example = (block.text for block in blocks(page) if (block.language, block.mark) == ("python", ""))
    program = program.replace("kiosk-1.db", str(tmp_path / "kiosk-1.db"))
    with FakeServer() as server:
        shown: SimpleQueue[Push] = SimpleQueue()
        here = program.replace('host="push.example"', f"port={server.port}").replace("on_push=show", "on_push=note")
        names: dict[str, Any] = {}

        def note(push: Push) -> None:
            names["show"](push)
            shown.put(push)

        names["note"] = note
        exec(here, names)
        push_id = server.push("kiosk-1", notification={"title": "Hi"})
        names["device"].act(shown.get(timeout=TIMEOUT), "play")
        assert server.wait(push_id, "acted")["result"] == {"state": "playing"}
        command = server.push("kiosk-1", kind="command", data={"command": "reboot"})
        server.wait(command, "acted")
        names["device"].close()

    def show(push: Push) -> None:
        names["device"].actions["play"] = names["play"]
        names["device"].act(push, "play")

    names["show"] = show
    exec(example, names)
