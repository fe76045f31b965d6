"""Watches and heartbeats of two nodes in one process, with a clock that is moved by hand."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.nodes.tasks import TaskName
from tests.gateway.in_process import InProcessGateway
from tests.nodes import gateways_in_process

MINUTE_MS = 60_000


@asynccontextmanager
async def running(gateway: InProcessGateway) -> AsyncIterator[None]:
    """Let a node do what it does all the time."""
    components = gateway.components
    assert components.nodes is not None, "it is a node"
    await components.recover()
    works = [asyncio.create_task(work) for work in (components.nodes.run(), components.sweep())]
    try:
        yield
    finally:
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[InProcessGateway, InProcessGateway]]:
    async with gateways_in_process(tmp_path, 2) as (first, second), running(first), running(second):
        yield first, second


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.02)


async def events(gateway: InProcessGateway) -> Counter[str]:
    """How many entries of each type are in the event log."""
    found = await gateway.database.read(lambda t: t.execute("SELECT type FROM event").fetchall())
    return Counter(kind for (kind,) in found)


def owner_and_other(
    pair: tuple[InProcessGateway, InProcessGateway], task: TaskName
) -> tuple[InProcessGateway, InProcessGateway]:
    first, second = pair
    assert first.components.nodes is not None
    return (first, second) if first.components.nodes.tasks.is_owned(task) else (second, first)


def has_owner(pair: tuple[InProcessGateway, InProcessGateway], task: TaskName) -> bool:
    return any(one.components.nodes is not None and one.components.nodes.tasks.is_owned(task) for one in pair)


async def test_a_sender_is_silent_when_no_node_hears_it_and_back_when_any_does(
    pair: tuple[InProcessGateway, InProcessGateway],
) -> None:
    async def is_owned() -> bool:
        return has_owner(pair, TaskName.WATCHES)

    await until(is_owned)
    owner, other = owner_and_other(pair, TaskName.WATCHES)
    await other.enrol("kiosk-1")
    await other.call("PUT", "/v1/watches/nightly", json={"every_s": 60})
    assert (await owner.call("GET", "/v1/watches/nightly"))["silent"] is False, "known everywhere"

    async def hear(gateway: InProcessGateway) -> None:
        before = (await owner.call("GET", "/v1/watches/nightly"))["heard_at"]
        await gateway.call("POST", "/v1/pushes", 202, json={"target": {"device": "kiosk-1"}, "data": 1})

        async def has_heard() -> bool:
            gateway.clock.milliseconds += 100  # what was heard is stored a second later
            return bool((await owner.call("GET", "/v1/watches/nightly"))["heard_at"] != before)

        await until(has_heard)

    for _ in range(3):
        owner.clock.milliseconds += MINUTE_MS - 20_000
        await hear(other)
    assert "sender.silent" not in await events(owner), "the other node has heard it"
    owner.clock.milliseconds += 2 * MINUTE_MS

    async def is_silent() -> bool:
        return "sender.silent" in await events(owner)

    await until(is_silent)
    await hear(other)

    async def is_back() -> bool:
        return "sender.back" in await events(owner)

    await until(is_back)
    assert owner.components.membership is not None
    await owner.components.membership.end()

    async def is_taken_over() -> bool:
        return has_owner((other, other), TaskName.WATCHES)

    await until(is_taken_over)
    other.clock.milliseconds += 3 * MINUTE_MS

    async def is_silent_again() -> bool:
        return (await events(other))["sender.silent"] == 2

    await until(is_silent_again)
    counted = await events(other)
    assert (counted["sender.silent"], counted["sender.back"]) == (2, 1), "each is told once"


async def test_beats_are_sent_once_whichever_node_does(pair: tuple[InProcessGateway, InProcessGateway]) -> None:
    async def is_owned() -> bool:
        return has_owner(pair, TaskName.HEARTBEATS)

    await until(is_owned)
    owner, other = owner_and_other(pair, TaskName.HEARTBEATS)
    await other.enrol("kiosk-1")
    await other.call("PUT", "/v1/heartbeats/site", json={"device": "kiosk-1", "every_s": 60})

    async def beat_at(gateway: InProcessGateway) -> str | None:
        return (await gateway.call("GET", "/v1/heartbeats/site"))["beat_at"]  # type: ignore[no-any-return]  # JSON

    async def has_beaten() -> bool:
        return await beat_at(other) is not None

    await until(has_beaten)
    assert owner.components.delivery.heartbeats.beats == 1
    assert other.components.delivery.heartbeats.beats == 0
    assert owner.components.membership is not None
    await owner.components.membership.end()

    async def is_taken_over() -> bool:
        return has_owner((other, other), TaskName.HEARTBEATS)

    await until(is_taken_over)
    last = await beat_at(other)
    other.clock.milliseconds += 5 * MINUTE_MS

    async def has_beaten_again() -> bool:
        return await beat_at(other) not in (None, last)

    await until(has_beaten_again)
    assert other.components.delivery.heartbeats.beats == 1
