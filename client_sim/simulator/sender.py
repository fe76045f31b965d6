"""The senders of a simulation: pushes at times that are fixed beforehand, whatever the server does (an open loop).

What is due within ten milliseconds leaves together, as one request or as a batch. Requests run side by side, up to a
bound; one that gets no answer, or that the server is too busy for, is repeated with the same idempotency key until it
is answered. None of that moves when the next is due: latency counts from there (no coordinated omission).
"""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

import httpx2

from client_sim.backoff import Backoff
from client_sim.simulator.gateway_client import Answer, GatewayClient, error_text
from client_sim.simulator.scenario import Scenario, Stream
from client_sim.simulator.simulated_push import push_body

TICK_SECONDS = 0.01
MAX_CONNECTIONS = 32
BATCH_PUSHES = 500
REPEATED = (429, 500, 502, 503, 504, 507)
"""Answers that say nothing about the push itself."""
ACCEPTED = 202
REPEAT_DIVISOR = 20
"""One push of so many, of those that leave alone, is asked for twice."""


class SenderEvents(Protocol):
    """The receiver of what the sender does; `number` is what `sending` gave the push."""

    def sending(
        self,
        intended: float,
        requested: float,
        targets: Sequence[int] | None,
        ttl: float,
        priority: str,
        collapse_key: str | None = None,
        size: int = 0,
        qos: int = 1,
        kind: str = "alert",
        channel: str | None = None,
    ) -> int:
        """The first request of a push is about to leave; its number. Targets: device indexes, None: all of them.
        `size`: bytes of its padding."""

    def accepted(self, number: int, push_id: str, answered: float, targeted: int) -> None:
        """The server answered the request of a push with 202."""

    def repeated(self, number: int, push_id: str) -> None:
        """A request was repeated with the same key, and answered with this push."""

    def refused(self, number: int, why: str) -> None:
        """The server refused a push for good; it does not exist."""

    def retried(self, why: str) -> None:
        """A request failed for a reason of the server's or the network's, and is repeated."""


@dataclass
class _Due:
    """A push that has its time."""

    intended: float
    stream: Stream
    targets: tuple[int, ...] | None
    priority: str
    collapse_key: str | None


@dataclass
class _Request:
    number: int
    key: str
    body: Mapping[str, Any]


class Sender:
    """One for the whole simulation; `run` once for each phase."""

    def __init__(self, gateway: GatewayClient, run: str, scenario: Scenario, events: SenderEvents) -> None:
        """`run` is the tag of the fleet, and what idempotency keys begin with."""
        self._gateway = gateway
        self._run = run
        self._devices = scenario.devices
        self._random = random.Random(f"{scenario.seed} pushes")
        self._events = events
        self._connections = asyncio.Semaphore(MAX_CONNECTIONS)
        self._backoff = Backoff(base=0.1, cap=3.0)
        self._under_way: set[asyncio.Task[None]] = set()
        self._given_up = False

    async def run(self, streams: Sequence[Stream], lasts: float) -> None:
        """Send for so many seconds; what has no answer then is still being repeated."""
        begin = time.monotonic()
        todo = heapq.merge(*(self._schedule(stream, lasts) for stream in streams), key=lambda due: due.intended)
        waiting: list[_Due] = []
        for due in todo:
            at = begin + due.intended
            if (wait := at - time.monotonic()) > 0:
                self._send_due(waiting)
                waiting = []
                await asyncio.sleep(max(wait, TICK_SECONDS))
            due.intended = at
            waiting.append(due)
            if len(waiting) == BATCH_PUSHES:
                self._send_due(waiting)
                waiting = []
        self._send_due(waiting)
        await asyncio.sleep(max(0.0, begin + lasts - time.monotonic()))

    def _schedule(self, stream: Stream, lasts: float) -> Iterator[_Due]:
        """The pushes of a stream, with random numbers of its own: streams do not change each other."""
        rng = random.Random(self._random.random())
        return self._pushes(stream, lasts, rng)

    def _pushes(self, stream: Stream, lasts: float, rng: random.Random) -> Iterator[_Due]:
        interval = 1 / stream.rate
        at = rng.random() * interval if stream.even else rng.expovariate(stream.rate)
        while at < lasts:
            priorities = (stream.priority,) if isinstance(stream.priority, str) else stream.priority
            collapse_key = f"key-{rng.randrange(stream.collapse)}" if stream.collapse else None
            yield _Due(at, stream, self._targets(stream, rng), rng.choice(priorities), collapse_key)
            at += interval if stream.even else rng.expovariate(stream.rate)

    def _targets(self, stream: Stream, rng: random.Random) -> tuple[int, ...] | None:
        if stream.to == "all":
            return None
        if stream.to == "one":
            return (rng.randrange(self._devices),)
        return tuple(sorted(rng.sample(range(self._devices), max(1, round(stream.to * self._devices)))))

    def _send_due(self, waiting: Sequence[_Due]) -> None:
        if waiting:
            task = asyncio.create_task(self._send(waiting))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _send(self, waiting: Sequence[_Due]) -> None:
        """Send due pushes until each has its answer."""
        requests: list[_Request] = []
        for attempt in count():
            async with self._connections:
                if not requests:
                    requests = [self._request(due) for due in waiting]
                requests = await self._attempt(requests, alone=len(waiting) == 1)
            if not requests or self._given_up:
                return
            await asyncio.sleep(self._backoff.delay(attempt + 1))

    def _request(self, due: _Due) -> _Request:
        stream = due.stream
        number = self._events.sending(
            due.intended,
            time.monotonic(),
            due.targets,
            stream.ttl,
            due.priority,
            due.collapse_key,
            stream.size,
            stream.qos,
            stream.kind,
            stream.channel,
        )
        if due.targets is None:
            target: dict[str, Any] = {"tag": self._run}
        elif len(due.targets) == 1:
            target = {"device": self._device(due.targets[0])}
        else:
            target = {"devices": [self._device(index) for index in due.targets]}
        body = push_body(
            number,
            stream.kind,
            due.priority,
            stream.qos,
            int(stream.ttl),
            stream.size,
            due.collapse_key,
            stream.channel,
        )
        return _Request(number, f"{self._run}-{number}", {"target": target, **body})

    def _device(self, index: int) -> str:
        return f"{self._run}-{index:05d}"

    async def _attempt(self, requests: list[_Request], *, alone: bool) -> list[_Request]:
        """Send requests once; those that must be repeated, by the same path: only the same words are the same push."""
        try:
            if alone:
                answers = [await self._gateway.push(requests[0].body, requests[0].key)]
            else:
                answers = await self._gateway.batch([(request.body, request.key) for request in requests])
        except (httpx2.TransportError, ValueError) as error:
            self._events.retried(f"push without an answer: {error_text(error)}")
            return requests
        answered = time.monotonic()
        again = requests[len(answers) :]
        for request, answer in zip(requests, answers, strict=False):
            if not self._handle_answer(request, answer, answered):
                again.append(request)
        if alone and requests[0].number % REPEAT_DIVISOR == REPEAT_DIVISOR - 1 and answers[0].status == ACCEPTED:
            await self._repeat(requests[0])
        return again

    async def _repeat(self, request: _Request) -> None:
        """A request whose answer somebody has lost: the same key must be answered with the same push."""
        try:
            answer = await self._gateway.push(request.body, request.key)
        except httpx2.TransportError:
            return
        if answer.status == ACCEPTED:
            self._events.repeated(request.number, str(answer.body["push_id"]))

    def _handle_answer(self, request: _Request, answer: Answer, answered: float) -> bool:
        """Whether that was the last word on it."""
        if answer.status == ACCEPTED:
            body = answer.body
            self._events.accepted(request.number, str(body["push_id"]), answered, int(body["targeted"]))
        elif answer.status in REPEATED:
            self._events.retried(f"push answered {answer.code}")
            return False
        else:
            self._events.refused(request.number, f"push refused: {answer.code}")
        return True

    async def finish(self, within: float) -> int:
        """Wait for the last answers, at most so many seconds; how many requests have none."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=within)
        self._given_up = True
        left = list(self._under_way)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        return len(left)
