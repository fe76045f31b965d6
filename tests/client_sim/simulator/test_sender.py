"""The open loop: what leaves when it is due, whatever the server does; and the client that carries it."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from client_sim.simulator.gateway_client import GatewayClient, GatewayError
from client_sim.simulator.scenario import Scenario
from client_sim.simulator.sender import REPEAT_DIVISOR, Sender

Reply = tuple[int, Any] | None
"""Status and JSON; None: the connection ends without an answer."""


@dataclass
class Request:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    def pushes(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.body.splitlines()]

    def idempotency_keys(self) -> list[str]:
        """Idempotency keys."""
        if self.path == "/v1/pushes":
            return [self.headers["idempotency-key"]]
        return [push["idempotency_key"] for push in self.pushes()]


class Gateway:
    """An HTTP server whose answers a test decides; `answer` may wait as long as it likes."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.answer: Callable[[Request], Any] = accept
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().split("\r\n")
                method, path, _ = first.split(" ")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                request = Request(method, path, headers, body)
                self.requests.append(request)
                reply = self.answer(request)
                if asyncio.iscoroutine(reply):
                    reply = await reply
                if reply is None:
                    return
                status, said = reply
                content = said.encode() if isinstance(said, str) else json.dumps(said).encode()
                writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: {len(content)}\r\n\r\n".encode() + content)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def accept(request: Request) -> Reply:
    answers = [{"status": 202, "push_id": f"id-{key}", "targeted": 1} for key in request.idempotency_keys()]
    if request.path == "/v1/pushes":
        return 202, answers[0]
    return 200, "\n".join(json.dumps(answer) for answer in answers) + "\n"


@asynccontextmanager
async def gateway() -> AsyncIterator[tuple[Gateway, GatewayClient]]:
    made = Gateway()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    async with GatewayClient(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "secret") as client:
        yield made, client
    server.close()
    await server.wait_closed()


@dataclass
class Book:
    """What the sender tells."""

    intended: list[float] = field(default_factory=list)
    requested: list[float] = field(default_factory=list)
    targets: list[Sequence[int] | None] = field(default_factory=list)
    priorities: list[str] = field(default_factory=list)
    answers: dict[int, str] = field(default_factory=dict)
    repetitions: dict[int, str] = field(default_factory=dict)
    refusals: dict[int, str] = field(default_factory=dict)
    retries: list[str] = field(default_factory=list)

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
        self.intended.append(intended)
        self.requested.append(requested)
        self.targets.append(targets)
        self.priorities.append(priority)
        return len(self.intended) - 1

    def accepted(self, number: int, push_id: str, answered: float, targeted: int) -> None:
        assert number not in self.answers
        self.answers[number] = push_id

    def repeated(self, number: int, push_id: str) -> None:
        self.repetitions[number] = push_id

    def refused(self, number: int, why: str) -> None:
        self.refusals[number] = why

    def retried(self, why: str) -> None:
        self.retries.append(why)


def scenario(*streams: str, seed: int = 1) -> Scenario:
    pushes = "".join(f"[[phase.push]]\n{stream}\n" for stream in streams)
    text = f"title = 'x'\ndevices = 20\nseed = {seed}\n[[phase]]\nname = 'p'\nlasts = '1s'\n{pushes}"
    return Scenario.parse("x", text, "x.toml")


async def send(client: GatewayClient, wanted: Scenario, lasts: float = 1.0) -> Book:
    book = Book()
    sender = Sender(client, "run", wanted, book)
    await sender.run(wanted.phases[0].pushes, lasts)
    assert await sender.finish(10.0) == 0
    return book


async def test_a_slow_server_does_not_move_when_the_next_is_due() -> None:
    """Coordinated omission: a sender that waits for answers asks less of a server the slower that is."""

    async def slowly(request: Request) -> Reply:
        await asyncio.sleep(0.6)
        return accept(request)

    async with gateway() as (server, client):
        server.answer = slowly
        begin = time.monotonic()
        book = await send(client, scenario("rate = '50/s'\neven = true"), 0.5)
    assert len(book.answers) == 25
    assert [after - before for before, after in zip(book.intended, book.intended[1:], strict=False)] == [
        pytest.approx(0.02)
    ] * 24
    assert begin <= book.intended[0] <= begin + 0.1
    assert all(left - due > -0.001 for due, left in zip(book.intended, book.requested, strict=True))


async def test_what_gets_no_answer_is_asked_again_under_its_key() -> None:
    failures: list[Reply] = [None, (503, {"code": "overloaded"}), (500, "oops"), (429, {}), (507, {})]

    def moody(request: Request) -> Reply:
        return failures.pop() if failures else accept(request)

    async with gateway() as (server, client):
        server.answer = moody
        book = await send(client, scenario("rate = '20/s'\neven = true"), 0.2)
        bodies: dict[str, set[str]] = {}
        for request in server.requests:
            for key, push in zip(request.idempotency_keys(), request.pushes(), strict=True):
                bodies.setdefault(key, set()).add(json.dumps(push))
    assert len(book.retries) == 5
    assert sorted(book.answers.values()) == sorted(f"id-run-{number}" for number in range(4))
    assert all(len(said) == 1 for said in bodies.values()), "another body under the same key is another push"


async def test_now_and_then_a_push_is_asked_for_twice() -> None:
    """An answer may be lost: what the server says the second time must be known."""
    for _ in range(10):
        async with gateway() as (server, client):
            book = await send(client, scenario("rate = '50/s'\neven = true"), 0.5)
            keys = [key for request in server.requests for key in request.idempotency_keys()]
        alone = [request.idempotency_keys() for request in server.requests if request.path == "/v1/pushes"]
        if [f"run-{REPEAT_DIVISOR - 1}"] in alone:
            break  # else this process was held up, and that push left in a batch, which is not repeated
    assert book.repetitions == {REPEAT_DIVISOR - 1: f"id-run-{REPEAT_DIVISOR - 1}"}
    assert len(keys) == len(set(keys)) + 1 == 26


async def test_a_batch_that_was_cut_short_goes_on_with_the_rest() -> None:
    cut = [True]

    def once(request: Request) -> Reply:
        status, answer = accept(request) or (0, "")
        if request.path == "/v1/pushes/batch" and cut:
            cut.clear()
            return status, "\n".join(answer.splitlines()[:1]) + "\n"
        return status, answer

    async with gateway() as (server, client):
        server.answer = once
        book = await send(client, scenario("rate = '1000/s'\neven = true"), 0.1)
    assert not cut, "there was a batch"
    assert set(book.answers) == set(range(len(book.intended)))


async def test_a_refusal_is_the_last_word() -> None:
    async with gateway() as (server, client):
        server.answer = lambda request: (422, {"code": "invalid_push"})
        book = await send(client, scenario("rate = '20/s'\neven = true"), 0.1)
    assert book.refusals == {0: "push refused: invalid_push", 1: "push refused: invalid_push"}
    assert not book.retries


async def test_a_server_that_stays_away_is_given_up_and_counted() -> None:
    async with gateway() as (server, client):
        server.answer = lambda request: None
        book = Book()
        wanted = scenario("rate = '20/s'\neven = true")
        sender = Sender(client, "run", wanted, book)
        await sender.run(wanted.phases[0].pushes, 0.1)
        unanswered = await sender.finish(0.2)
        sent = {tuple(request.idempotency_keys()) for request in server.requests}
    assert unanswered == len(sent), "one or two: this process may be held up, and both leave together"
    assert sorted(key for keys in sent for key in keys) == ["run-0", "run-1"]
    assert not book.answers


async def test_a_seed_repeats_whom_and_what_and_when() -> None:
    streams = (
        "rate = '300/s'\npriority = ['critical', 'low']",
        "rate = '20/s'\nto = 0.25\nkind = 'silent'",
        "rate = '5/s'\nto = 'all'\ncollapse = 3\nsize = 100\nttl = '1h'",
    )

    async def run(seed: int) -> tuple[Any, ...]:
        async with gateway() as (_, client):
            book = await send(client, scenario(*streams, seed=seed), 0.3)
        moments = [round(at - book.intended[0], 6) for at in book.intended]
        return moments, book.targets, book.priorities

    first, again, other = await asyncio.gather(run(1), run(1), run(2))
    assert first == again
    assert first != other
    sizes = {None if targets is None else len(targets) for targets in first[1]}
    assert sizes >= {1, 5}


async def test_a_push_is_what_its_stream_says() -> None:
    stream = "rate = '20/s'\neven = true\nto = 'all'\nkind = 'command'\ncollapse = 1\nsize = 10\nttl = '1h'\nqos = 0"
    async with gateway() as (server, client):
        await send(client, scenario(stream), 0.05)
        (request,) = server.requests
    assert request.headers["authorization"] == "Bearer secret"
    assert request.pushes() == [
        {
            "target": {"tag": "run"},
            "kind": "command",
            "data": {"sim": 0, "as": ["command", "normal", 0, 3_600, 10, "key-0"], "padding": "x" * 10},
            "priority": "normal",
            "qos": 0,
            "ttl": 3_600,
            "collapse_key": "key-0",
        }
    ]


# The client


async def test_a_fleet_is_enrolled_by_the_thousand_and_in_order() -> None:
    def enrol(request: Request) -> Reply:
        wanted = request.pushes()[0]["devices"]
        mqtt = {"host": "h", "port": 1, "tls": False, "client_id": "c", "topics": {"push": "default/devices/x/push"}}
        return 201, {"devices": [{"device_id": one["device_id"], "token": "t", "mqtt": mqtt} for one in wanted]}

    ids = [f"kiosk-{number}" for number in range(2_500)]
    async with gateway() as (server, client):
        server.answer = enrol
        enrolled = await client.enrol(ids, "tag")
        assert 1 < len(server.requests) < 10
    assert [one.device_id for one in enrolled] == ids
    assert enrolled[0].topics == "default/devices/x/"


async def test_what_could_not_be_enrolled_is_said() -> None:
    async with gateway() as (server, client):
        server.answer = lambda request: (201, {"devices": [{"device_id": "k", "error": {"detail": "it exists"}}]})
        with pytest.raises(GatewayError, match="k could not be enrolled: it exists"):
            await client.enrol(["k"], "tag")


async def test_all_pages_of_a_push_s_deliveries_are_read() -> None:
    def pages(request: Request) -> Reply:
        if request.path.startswith("/v1/pushes/unknown/"):
            return 404, {"code": "push_not_found"}
        found = re.search("cursor=(\\d+)", request.path)
        page = int(found[1]) if found else 0
        items = [{"device_id": f"kiosk-{page}", "state": "delivered", "reason": None}]
        return 200, {"items": items, "next_cursor": str(page + 1) if page < 2 else None}

    async with gateway() as (server, client):
        server.answer = pages
        assert [one.device_id for one in await client.deliveries("p")] == ["kiosk-0", "kiosk-1", "kiosk-2"]
        assert await client.deliveries("unknown") == []


async def test_a_busy_server_is_asked_again_and_a_wrong_key_is_not() -> None:
    busy: list[Reply] = [(503, {}), None, (429, {})]
    async with gateway() as (server, client):
        server.answer = lambda request: busy.pop() if busy else (200, {"items": []})
        assert await client.deliveries("p") == []
        assert len(server.requests) == 4
        server.answer = lambda request: (401, {"detail": "no such key; make one"})
        with pytest.raises(GatewayError, match="401, no such key; make one"):
            await client.check_access()


async def test_every_device_is_removed_also_those_that_are_gone() -> None:
    async with gateway() as (server, client):
        server.answer = lambda request: (404, {}) if request.path.endswith("-3") else (204, "")
        await client.remove([f"kiosk-{number}" for number in range(20)])
        assert {request.path for request in server.requests} == {f"/v1/devices/kiosk-{n}" for n in range(20)}
