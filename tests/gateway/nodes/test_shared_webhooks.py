"""Webhooks of two nodes in one process: one of them sends, either may be asked, and nothing is sent twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gateway.nodes.tasks import TaskName
from tests.gateway.in_process import InProcessGateway
from tests.nodes import gateways_in_process
from tests.receiver import Receiver


class Pair(NamedTuple):
    """Two nodes: the one that sends, and the other."""

    sending: InProcessGateway
    other: InProcessGateway


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with gateways_in_process(tmp_path, 2, run=True, webhook_networks=("127.0.0.1",)) as (first, second):
        await until(lambda: sends(first) or sends(second))
        pair = Pair(first, second) if sends(first) else Pair(second, first)
        await pair.sending.enrol("kiosk-1")
        yield pair


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def sends(gateway: InProcessGateway) -> bool:
    """Whether it is this node that sends."""
    return gateway.components._owns(TaskName.WEBHOOKS)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110  what is waited for happens at the other node, or in the database
            await asyncio.sleep(0.01)


async def happens(gateway: InProcessGateway, hour: int) -> None:
    """Have an event of the device."""
    change = {"quiet_hours": {"start": f"{hour:02}:00", "end": f"{hour:02}:30"}}
    await gateway.call("PATCH", "/v1/devices/kiosk-1/preferences", json=change)


async def test_what_is_changed_twice_in_a_millisecond_is_known_as_it_was_changed_last(pair: Pair) -> None:
    made = await pair.other.call("POST", "/v1/webhooks", 201, json={"url": "http://127.0.0.1:9/"})
    path = f"/v1/webhooks/{made['id']}"
    for description in ("once", "twice"):
        await pair.other.call("PATCH", path, json={"description": description})
        assert (await pair.sending.call("GET", path))["description"] == description


async def test_the_next_one_that_sends_goes_on_where_the_last_one_was_whatever_is_being_changed(
    pair: Pair, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request for a change began when the node knew nothing of what the other one had sent."""
    made = await pair.sending.call("POST", "/v1/webhooks", 201, json={"url": receiver.url})
    for hour in range(3):
        await happens(pair.sending, hour)
    await until(lambda: len(receiver.events()) == 3)
    await until(lambda: not pair.sending.components.webhook_sender.lanes_busy)
    stored, go_on = asyncio.Event(), asyncio.Event()
    write = pair.other.database.write

    async def slowly(operation: Any, *arguments: Any, **options: Any) -> Any:
        done = await write(operation, *arguments, **options)
        if "WebhookStore.change" in getattr(operation, "__qualname__", ""):
            stored.set()
            await go_on.wait()
        return done

    monkeypatch.setattr(pair.other.database, "write", slowly)
    path = f"/v1/webhooks/{made['id']}"
    change = asyncio.create_task(pair.other.call("PATCH", path, json={"description": "changed"}))
    await stored.wait()
    assert pair.sending.components.membership is not None
    await pair.sending.components.membership.end()
    await until(lambda: sends(pair.other))
    go_on.set()
    await change
    await happens(pair.other, 5)
    await until(lambda: len({event["id"] for event in receiver.events()}) == 4)
    times = Counter(event["id"] for request in receiver.taken for event in request.events)
    assert list(times.values()) == [1] * 4, "each is sent once"


async def test_either_node_says_which_receivers_fail(pair: Pair, receiver: Receiver) -> None:
    receiver.answer = lambda request: (500, {})
    made = await pair.other.call("POST", "/v1/webhooks", 201, json={"url": receiver.url})
    await happens(pair.other, 1)
    await until(lambda: pair.sending.components.webhook_sender.failing() == [0.0])
    async with asyncio.timeout(15):
        for gateway in pair:
            failing: list[Any] = []
            while not failing:
                gateway.clock.milliseconds += 1_000  # it is a moment before the other one knows
                failing = (await gateway.call("GET", "/v1/stats"))["webhooks"]["failing"]
                await asyncio.sleep(0.05)
            assert [one["id"] for one in failing] == [made["id"]]
