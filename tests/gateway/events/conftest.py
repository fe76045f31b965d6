"""A gateway whose webhooks may go to this machine, and receivers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.nodes.tasks import TaskName
from gateway.store.deliveries.event_log import EventPage, Position
from tests.gateway.in_process import InProcessGateway
from tests.receiver import Receiver

MakeReceiver = Callable[..., Receiver]
MINUTE = 60_000
HOUR = 60 * MINUTE


@pytest.fixture
async def gateway(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[InProcessGateway]:
    """A gateway; with `--nodes` that of two which sends to webhooks, and either of them answers requests."""
    networks = ("127.0.0.1",)
    if request.config.getoption("--nodes"):
        if request.node.get_closest_marker("of_one_server"):
            pytest.skip("about one server")
        from tests.nodes import gateways_in_process

        async with gateways_in_process(tmp_path, 2, run=True, webhook_networks=networks) as (first, second):
            first.share_requests(second)
            yield await first.owner_of(TaskName.WEBHOOKS)
        return
    gateway = await InProcessGateway.build(tmp_path, asyncio.get_running_loop(), webhook_networks=networks)
    yield gateway
    await gateway.close()


@pytest.fixture
def make_receiver() -> Iterator[MakeReceiver]:
    made: list[Receiver] = []

    def make(**options: Any) -> Receiver:
        made.append(Receiver(**options))
        return made[-1]

    yield make
    for receiver in made:
        receiver.close()


@pytest.fixture
def receiver(make_receiver: MakeReceiver) -> Receiver:
    return make_receiver()


class Fleet:
    """Devices that something happens to, and what came of that."""

    def __init__(self, gateway: InProcessGateway) -> None:
        self.gateway = gateway
        self.webhook: dict[str, Any] = {}
        gateway.components.feed.follow(1, lambda: None)  # it looks for those who follow

    @property
    def path(self) -> str:
        return f"/v1/webhooks/{self.webhook['id']}"

    async def hook(self, url: str, **fields: Any) -> dict[str, Any]:
        self.webhook = await self.gateway.call("POST", "/v1/webhooks", 201, json={"url": url, **fields})
        return self.webhook

    async def happens(self, times: int = 1, devices: int = 8) -> None:
        """To each of these devices so often: its settings change."""
        for number in range(times):
            for device in range(1, devices + 1):
                change = {"quiet_hours": {"start": f"{number % 24:02}:00", "end": f"{number % 24:02}:30"}}
                await self.gateway.call("PATCH", f"/v1/devices/d{device}/preferences", json=change)
        await self.is_told()

    async def is_told(self) -> None:
        """WebhookSender know of all of it."""
        feed = self.gateway.components.feed
        last = await feed.last(1)
        await self.until(lambda: feed.seen.get(1, 0) >= last.entry, "the feed has looked")

    async def log(self) -> list[dict[str, Any]]:
        """All that there was to tell."""
        page = EventPage([], Position(0), True)
        events: list[dict[str, Any]] = []
        while page.more:
            page = await self.gateway.components.feed.read(1, page.position, 100_000, lambda event: True)
            events += [json.loads(event.json) for _, event in page.events]
        return events

    async def status(self) -> dict[str, Any]:
        """What any node says of the webhook, when it has heard what became of the last request."""
        await self.gateway.catch_up()
        return dict(await self.gateway.call("GET", self.path))

    async def dead_letters(self) -> list[dict[str, Any]]:
        return list((await self.gateway.call("GET", f"{self.path}/dead-letters"))["items"])

    async def passes(self, milliseconds: int) -> None:
        self.gateway.clock.milliseconds += milliseconds
        self.gateway.components.webhook_sender.tick()

    async def rests(self) -> None:
        """Until the sender has looked at all that it has been told of. What comes while a lane looks it is sent at the
        next tick."""
        sender = self.gateway.components.webhook_sender

        def is_done() -> bool:
            sender.tick()
            return not any(receiver.tasks or receiver.dirty for receiver in sender._receivers.values())

        await self.until(is_done, "rest")

    async def until(self, predicate: Callable[[], bool], what: str) -> None:
        """Time stands still. `what` is for who reads."""
        async with asyncio.timeout(15):
            while not predicate():  # noqa: ASYNC110  what is waited for happens in several places
                await asyncio.sleep(0.005)

    async def passes_until(self, predicate: Callable[[], bool], step: int = MINUTE, most: int = 23 * HOUR) -> None:
        """Time goes on while nothing is under way."""
        end = self.gateway.clock.milliseconds + most
        sender = self.gateway.components.webhook_sender
        while not predicate():
            assert self.gateway.clock.milliseconds < end, "it does not happen"
            await self.until(lambda: not sender.lanes_busy, "rest")
            await self.is_told()
            if not predicate():
                await self.passes(step)
                await asyncio.sleep(0)

    async def all_arrives(self, receiver: Receiver, **options: Any) -> None:
        """Nothing is lost, and each device's events come in their order."""
        expected = await self.log()
        ids = {event["id"] for event in expected}
        await self.passes_until(lambda: ids <= {event["id"] for event in receiver.events()}, **options)
        check_order(receiver.events(), expected)


def check_order(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    def by_device(events: list[dict[str, Any]]) -> dict[str | None, list[dict[str, Any]]]:
        devices: dict[str | None, list[dict[str, Any]]] = {}
        for event in events:
            devices.setdefault(event["data"].get("device_id"), []).append(event)
        return devices

    assert by_device(found) == by_device(expected)


@pytest.fixture
async def fleet(gateway: InProcessGateway) -> Fleet:
    await gateway.enrol(*[f"d{number}" for number in range(1, 9)])
    return Fleet(gateway)
