"""The command: what it refuses, what it subscribes to, and its stream of events."""

from __future__ import annotations

import queue
import threading
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from gateway.cli.bridge import command
from gateway.cli.bridge.bridge import EventHappened, EventsLost, Inbox
from gateway.cli.bridge.command import LATEST_EVENT, follow_events, state_path, topic_filters
from tests.gateway.cli.bridge.fakes import OPTIONS
from tests.gateway.cli.fake_server import FakeServer, problem, run_command


def test_nothing_is_bridged_that_is_not_named(fake: FakeServer) -> None:
    for options, says in (
        ([], "nothing is bridged unless you name it"),
        (["--tag", "lobby", "--refresh", "0"], "at least a second"),
        (["--tag", "lobby", "--name", "a b"], "--name 'a b'"),
    ):
        ended = run_command("bridge", "--to", "mqtt://127.0.0.1:9", *options)
        assert ended.exit_code == 2
        assert says in ended.stderr
    assert fake.requests == []


def test_it_subscribes_to_what_it_may_be_asked_for() -> None:
    assert topic_filters(OPTIONS) == ["fleetpush/devices/+/notify", "fleetpush/devices/+/command/+"]
    assert topic_filters(replace(OPTIONS, notify=False, commands=())) == []


def test_each_bridge_of_each_server_has_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert state_path(FakeServer().client(), "shop") == Path("/state/fleetpush/bridge/127.0.0.1-9/shop.json")
    monkeypatch.delenv("XDG_STATE_HOME")
    assert state_path(FakeServer().client(), "shop").is_relative_to(Path.home())


def test_events_are_followed_until_the_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "RETRY_SECONDS", 0.0)
    fake = FakeServer()
    event = b'id: 7.0\nevent: t\ndata: {"id": "7.0", "type": "t", "timestamp": "t", "data": {}}\n\n'
    answers = [
        problem(503, "busy", retryable=True),
        httpx2.Response(200, content=event),
        problem(401, "unauthorized"),
    ]
    fake.answer = lambda request: answers.pop(0)
    monkeypatch.setattr("gateway.cli.event_stream.RETRY_SECONDS", (0.0,))
    inbox: Inbox = queue.SimpleQueue()
    follow_events(fake.client(), "device.connected", LATEST_EVENT, inbox, threading.Semaphore(1))
    items = [inbox.get_nowait() for _ in range(3)]
    assert [type(item) for item in items] == [EventsLost, EventHappened, EventsLost]
    assert [item.final for item in items if isinstance(item, EventsLost)] == [False, True]
    assert [request.headers["last-event-id"] for request in fake.requests] == [LATEST_EVENT, LATEST_EVENT, "7.0"]
