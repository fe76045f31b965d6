"""What is kept of what devices say, and how others see it."""

from __future__ import annotations

import json

import pytest

from gateway.delivery import uplink
from tests.gateway.delivery.world import World


@pytest.mark.parametrize(
    ("payload", "is_text"),
    [
        (b"x" * 100_000, True),
        (b'{"a":"b"}' * 10_000, True),
        (b'"' * 100_000, True),
        (b"\n\t\r" * 10_000, True),
        (("é" * 10_000).encode(), True),
        (b"\x01", True),
        (b"\x01" * 100_000, False),
        (b"\xff", False),
    ],
)
def test_an_uplink_message_is_no_larger_as_json_than_it_has_to_be(payload: bytes, is_text: bool) -> None:
    found = uplink.uplink_content("x", payload)
    assert ("payload" in found) is is_text
    assert len(json.dumps(found, ensure_ascii=False).encode()) < 2.1 * len(payload) + 50


def test_large_uplink_messages_have_a_share_of_their_device(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uplink, "UPLINK_BYTES", 1_000)
    world.connect()
    for size in (5, 400, 5, 400, 5, 400):
        assert world.says("uplink", b"x" * size) == 0
        assert world.row("SELECT sum(length(payload)) FROM uplink_message")[0] <= 1_000
    for size in (1_500, 5):
        assert world.says("uplink", b"x" * size) == 0
    rows = world.connection.execute("SELECT length(payload) FROM uplink_message ORDER BY no").fetchall()
    assert rows == [(1_500,), (5,)]
