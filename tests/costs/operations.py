"""The operations whose cost is recorded (`costs.toml` says what each is), on one server with five hundred devices.

Each is done twice, and the second time is counted: the first compiles statements, opens readers and fills caches. What
a server does again and again (`periodic`) is done apart, so that it is not counted with whatever comes before.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from gateway.data_directory import BROKER, LEDGER
from tests.costs.counters import Cost, Counters
from tests.costs.server import Device, HttpClient, MeasuredServer
from tests.costs.turns import TurnsLoop

DEVICES = 500
READ_DEVICES = 125
"""Devices whose acknowledgements come in one turn of the loop."""
READ_SECONDS = 0.002
"""Time until the next ones do."""
ALONE_SECONDS = 0.025
"""Time after which nothing that comes is stored together with what came before."""
STREAM_PUSHES = 4
SINGLE_PUSHES = 40
BATCH_PUSHES = 100
CONNECTING_DEVICES = 100
RETURNING_DEVICES = 20
WAITING_PUSHES = 10
PERIODIC_SECONDS = 4.0
LANGUAGES = ("de", "en", "fr", "it", "pl")
"""Locales of the devices, in turns."""
DATA = "x" * 58
"""200 bytes on the wire, as in the benchmarks."""


async def measure(folder: Path, loop: TurnsLoop) -> dict[str, Cost]:
    """The cost of each operation: of one delivery, push, acknowledgement or CONNECT."""
    with Counters([folder / LEDGER, folder / BROKER]) as counters:
        server = await MeasuredServer.start(folder, loop)
        measurement = Measurement(server, counters, await server.enrol(DEVICES, LANGUAGES))
        return {name: cost async for name, cost in measurement.costs()}


class Measurement:
    """A server whose devices and senders do one thing at a time."""

    def __init__(self, server: MeasuredServer, counters: Counters, devices: list[Device]) -> None:
        self._server = server
        self._counters = counters
        self._devices = devices
        self._clients: list[HttpClient]

    async def costs(self) -> AsyncIterator[tuple[str, Cost]]:
        for device in self._devices:
            device.connect()
        await self._server.settle()
        for device in self._devices:
            device.subscribe()
        await self._server.settle()
        yield "push_to_all", await self._cost(DEVICES, self._push_to_all, self._acknowledge)
        yield "acknowledgement", await self._cost(DEVICES, self._acknowledge, self._push_to_all)
        yield "periodic", await self._cost(DEVICES, self._periodic_work, self._push_to_all, self._acknowledge)
        yield "stream", await self._cost(DEVICES * STREAM_PUSHES, self._stream, self._acknowledge)
        yield "single_push", await self._cost(SINGLE_PUSHES, self._push_singly, self._acknowledge)
        yield (
            "single_acknowledgement",
            await self._cost(SINGLE_PUSHES, self._acknowledge_singly, self._acknowledge, self._push_singly),
        )
        yield "batch", await self._cost(BATCH_PUSHES, self._push_in_batch, self._acknowledge)
        yield "connect", await self._cost(CONNECTING_DEVICES, self._connect, self._acknowledge, self._hang_up)
        yield (
            "return",
            await self._cost(RETURNING_DEVICES * WAITING_PUSHES, self._return, self._hang_up, self._fill_mailboxes),
        )
        yield "push_in_languages", await self._cost(DEVICES, self._push_in_languages, self._acknowledge)
        for device in self._devices:
            device.hang_up()
        await self._server.settle()
        yield "push_to_all_away", await self._cost(DEVICES, self._push_to_all)

    async def _cost(
        self, count: int, operation: Callable[[], Awaitable[None]], *before: Callable[[], Awaitable[object]]
    ) -> Cost:
        """The cost of one of the `count` that the operation does, each time after what comes before it."""
        for _ in range(2):
            self._clients = [self._server.client() for _ in range(STREAM_PUSHES)]
            for preparation in before:
                await preparation()
            self._counters.start()
            await operation()
            cost = self._counters.stop()
            for client in self._clients:
                client.hang_up()
        return cost.per(count)

    async def _connect(self) -> None:
        for device in self._devices[:CONNECTING_DEVICES]:
            device.connect()
        await self._server.settle()

    async def _hang_up(self) -> None:
        for device in self._devices[:CONNECTING_DEVICES]:
            device.hang_up()
        await self._server.settle()

    async def _push_to_all(self) -> None:
        await self._push({"all": True})
        await self._server.settle()

    async def _push_in_languages(self) -> None:
        texts = {language: {"title": f"{DATA} {language}"} for language in LANGUAGES}
        await self._push({"all": True}, texts=texts)
        await self._server.settle()

    async def _stream(self) -> None:
        for client in self._clients:
            client.post("/v1/pushes", {"target": {"all": True}, "data": DATA})
        await self._server.settle()
        for client in self._clients:
            client.answer(202)

    async def _push(self, target: dict[str, Any], **fields: Any) -> None:
        client = self._clients[0]
        client.post("/v1/pushes", {"target": target, "data": DATA, **fields})
        await self._server.turn()
        client.answer(202)

    async def _acknowledge(self) -> None:
        for first in range(0, DEVICES, READ_DEVICES):
            for device in self._devices[first : first + READ_DEVICES]:
                device.acknowledge()
            await asyncio.sleep(READ_SECONDS)
        await self._server.settle()

    async def _push_singly(self) -> None:
        for device in self._devices[:SINGLE_PUSHES]:
            await self._push({"device": device.device_id})
            await asyncio.sleep(ALONE_SECONDS)
        await self._server.settle()

    async def _acknowledge_singly(self) -> None:
        for device in self._devices[:SINGLE_PUSHES]:
            assert device.acknowledge() == 1
            await asyncio.sleep(ALONE_SECONDS)
        await self._server.settle()

    async def _push_in_batch(self) -> None:
        devices = self._devices[:BATCH_PUSHES]
        lines = [json.dumps({"target": {"device": device.device_id}, "data": DATA}) for device in devices]
        self._clients[0].post("/v1/pushes/batch", "\n".join(lines).encode(), "application/x-ndjson")
        await self._server.settle()
        answers = self._clients[0].answer(200)
        assert answers.count(b'"status":202') == BATCH_PUSHES, answers

    async def _fill_mailboxes(self) -> None:
        returning = [device.device_id for device in self._devices[:RETURNING_DEVICES]]
        for _ in range(WAITING_PUSHES):
            await self._push({"devices": returning})

    async def _return(self) -> None:
        returning = self._devices[:RETURNING_DEVICES]
        for device in returning:
            device.connect()
        await self._server.settle()
        assert sum(device.acknowledge() for device in returning) == RETURNING_DEVICES * WAITING_PUSHES
        await self._server.settle()

    async def _periodic_work(self) -> None:
        await self._server.do_periodic_work(PERIODIC_SECONDS)
