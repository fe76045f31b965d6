"""A stream of events that nobody reads ends, and its place is another's."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message

from gateway.api import events
from tests.gateway.api.house import House


async def test_a_stream_that_nobody_reads_ends(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(events, "STALL_SECONDS", 0.05)
    began = asyncio.Event()

    async def send(message: Message) -> None:
        began.set()
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()  # the socket takes nothing more

    feed = house.rooms.feed
    answering = asyncio.create_task(house.ask("/v1/events", send))
    await began.wait()
    assert feed.streams == 1
    with caplog.at_level("INFO"):
        await asyncio.wait_for(answering, 10)
    assert feed.streams == 0
    assert feed.streams_stalled == 1
    assert any("was not read for" in line for line in caplog.messages)
