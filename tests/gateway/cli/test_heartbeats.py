"""Heartbeats and watches: what their commands send, and how they print it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.cli.fake_server import FakeServer

HEARTBEAT: dict[str, Any] = {
    "name": "store-7",
    "devices": ["d1", "d2"],
    "every_s": 60,
    "within_s": 10,
    "misses": 2,
    "states": [
        {"device_id": "d1", "state": "answering", "since": "2026-12-01T11:00:00.000Z", "took_ms": 412},
        {"device_id": "d2", "state": "silent", "since": "2026-12-01T11:00:00.000Z", "took_ms": None},
    ],
}
WATCH = {"name": "prices", "silent": True, "every_s": 600, "channel": "a", "key_id": None, "heard_at": None}


def test_heartbeats(fake: FakeServer) -> None:
    fake.answer = lambda request: dict(HEARTBEAT)
    options = ["--every", "1m", "--within", "5", "--misses", "3"]
    shown = fake.run("heartbeats", "set", "store-7", "--device", "d1", "--device", "d2", *options).stdout
    assert fake.only.json == {"devices": ["d1", "d2"], "every_s": 60, "within_s": 5, "misses": 3}
    assert "d1  answering since 2026-12-01T11:00:00.000Z, 412 ms" in shown
    fake.run("heartbeats", "set", "store-7", "--tag", "site")
    assert fake.requests[-1].json == {"tag": "site"}
    fake.answer = lambda request: {"items": [HEARTBEAT], "next_cursor": None}
    assert fake.run("heartbeats", "list").stdout.splitlines()[1] == "store-7\td1,d2\t60s\t10s\t1 answering, 1 silent"


@pytest.mark.parametrize("who", [[], ["--device", "d1", "--tag", "site"]])
def test_a_heartbeat_of_nobody_asks_nobody(fake: FakeServer, who: list[str]) -> None:
    assert fake.run("heartbeats", "set", "store-7", *who).exit_code == 2
    assert fake.requests == []


def test_watches(fake: FakeServer) -> None:
    fake.answer = lambda request: WATCH
    fake.run("watches", "set", "prices", "--every", "10m", "--channel", "a", "--key", "k_1")
    assert (fake.only.method, fake.only.path) == ("PUT", "/v1/watches/prices")
    assert fake.only.json == {"every_s": 600, "channel": "a", "key_id": "k_1"}
    fake.answer = lambda request: {"items": [WATCH], "next_cursor": None}
    assert fake.run("watches", "list").stdout.splitlines()[1] == "prices\tyes\t600s\ta\t\t\t"
