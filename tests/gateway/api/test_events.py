"""A stream of events that nobody reads ends, and its place is another's; it holds little meanwhile."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest

from gateway.api import events
from gateway.store.deliveries.event_log import Event, EventPage, Position
from tests.gateway.in_process import InProcessGateway


async def test_a_stream_that_nobody_reads_ends(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(events, "STALL_SECONDS", 0.05)
    feed = gateway.components.feed
    answering = await gateway.begin_unread("/v1/events")
    assert feed.streams == 1
    with caplog.at_level("INFO"):
        await asyncio.wait_for(answering, 10)
    assert feed.streams == 0
    assert feed.streams_stalled == 1
    assert any("was not read for" in line for line in caplog.messages)


def test_what_is_sent_of_a_page_is_no_copy_of_it() -> None:
    """Twenty streams that are not read, each before an event of a megabyte, were twenty megabytes."""
    sizes = [10, 300, 1_200_000, 5, events.PIECE_BYTES, events.PIECE_BYTES - 1]
    page = EventPage(
        [(Position(n), Event(str(n), "device.uplink", "", b"x" * size)) for n, size in enumerate(sizes)],
        Position(9),
        False,
    )
    tracemalloc.start()
    try:
        stream = events._pieces(page)
        sent = [next(stream) for _ in range(5)]  # and stands still
        held, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 9 * events.PIECE_BYTES
    assert most < 9 * events.PIECE_BYTES
    sent += stream
    assert max(map(len, sent)) < 2 * events.PIECE_BYTES
    frames = [b"id: %d\nevent: device.uplink\ndata: %b\n\n" % (n, b"x" * size) for n, size in enumerate(sizes)]
    assert b"".join(sent) == b"".join(frames)
