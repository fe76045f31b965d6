"""What a node answers to others, and to strangers."""

from __future__ import annotations

import asyncio
import hmac
from contextlib import AsyncExitStack
from typing import Any

import httpx2
import pytest

from gateway.errors import problem
from gateway.nodes import peer_routes
from gateway.nodes.peer_routes import BODY_BYTES, QUESTIONS_AT_ONCE, MalformedQuestion
from tests.gateway.in_process import InProcessGateway, openapi_document
from tests.gateway.nodes.peers import ServedNode, ServedPair, served


def asking(node: ServedNode, secret: str | None = None) -> httpx2.AsyncClient:
    headers = {"Authorization": f"Bearer {node.node.secret if secret is None else secret}"}
    return httpx2.AsyncClient(base_url=node.node.url, headers=headers)


async def echo(body: bytes) -> bytes:
    return body


async def test_a_question_is_answered_to_who_has_the_secret(served_pair: ServedPair) -> None:
    node = served_pair[0]
    node.verbs.add("echo", echo)
    async with asking(node) as http:
        answer = await http.post("/nodes/echo", content=b"\0" * BODY_BYTES)
        assert (answer.status_code, answer.content) == (200, b"\0" * BODY_BYTES)
        assert (await http.post("/nodes/echo")).content == b""
        assert (await http.post("/nodes/other")).json()["code"] == "not_found"
        assert (await http.get("/nodes/echo")).json()["code"] == "not_found"
    assert node.verbs.answered == 2


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer secret of 2", "Basic secret of 1", "Bearer ä"])
@pytest.mark.parametrize("path", ["/nodes/echo", "/nodes/other", "/nodes/"])
@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_a_stranger_is_told_nothing_but_401(
    served_pair: ServedPair, authorization: str | None, path: str, method: str
) -> None:
    """The secret of another node is none."""
    node = served_pair[0]
    node.verbs.add("echo", echo)
    headers = {} if authorization is None else {"Authorization": authorization.encode()}
    async with httpx2.AsyncClient(base_url=node.node.url) as http:
        answer = await http.request(method, path, headers=headers)  # type: ignore[arg-type]  # bytes: it is no ASCII
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    assert node.verbs.strangers == 1


async def test_secrets_are_compared_in_constant_time(served_pair: ServedPair, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(shown: bytes, expected: bytes) -> bool:
        compared.append((shown, expected))
        return hmac.compare_digest(shown, expected)

    monkeypatch.setattr(peer_routes, "hmac", type("hmac", (), {"compare_digest": staticmethod(compare)}))
    async with asking(served_pair[0], "a guess") as http:
        assert (await http.post("/nodes/echo")).status_code == 401
    assert compared == [(b"Bearer a guess", b"Bearer secret of 1")]


async def test_no_byte_of_a_strangers_body_is_waited_for(served_pair: ServedPair) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(served_pair[0].node.url.rpartition(":")[2]))
    writer.write(b"POST /nodes/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n")
    assert b" 401 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    writer.close()


async def test_without_nodes_there_are_no_such_paths(gateway: InProcessGateway) -> None:
    async with served(gateway, 1, has_nodes=False) as node, asking(node) as http:
        for path in ("/nodes/nudge", "/nodes/"):
            answer = await http.post(path)
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_no_document_of_the_api_mentions_them() -> None:
    assert not [path for path in openapi_document()["paths"] if "nodes" in path]


async def test_a_question_has_64_kib_at_most(served_pair: ServedPair) -> None:
    node = served_pair[0]
    node.verbs.add("echo", echo)

    async def chunks() -> Any:
        for _ in range(65):
            yield b"\0" * 1_024

    async with asking(node) as http:
        refused = [
            await http.post("/nodes/echo", content=b"\0" * (BODY_BYTES + 1)),
            await http.post("/nodes/echo", content=chunks()),
        ]
        assert [answer.json()["code"] for answer in refused] == ["payload_too_large"] * 2
    assert node.verbs.answered == 0


async def test_one_verb_that_hangs_keeps_no_other_waiting(served_pair: ServedPair) -> None:
    node = served_pair[0]
    release, begun = asyncio.Event(), asyncio.Semaphore(0)

    async def hang(body: bytes) -> bytes:
        begun.release()
        await release.wait()
        return b"at last"

    node.verbs.add("hang", hang)
    node.verbs.add("echo", echo)
    async with asking(node) as http:
        hanging = [asyncio.create_task(http.post("/nodes/hang")) for _ in range(QUESTIONS_AT_ONCE)]
        for _ in hanging:
            await begun.acquire()
        answer = await http.post("/nodes/hang")
        assert (answer.status_code, answer.json()["code"]) == (503, "busy")
        assert (await http.post("/nodes/echo", content=b"x")).content == b"x"
        release.set()
        assert {(await task).content for task in hanging} == {b"at last"}
        assert (await http.post("/nodes/hang")).content == b"at last"


async def test_an_answer_that_does_not_come_is_not_waited_for(
    served_pair: ServedPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = served_pair[0]
    monkeypatch.setattr(peer_routes, "ANSWER_SECONDS", 0.05)

    async def hang(body: bytes) -> bytes:
        await asyncio.Event().wait()
        return b""

    node.verbs.add("hang", hang)
    async with asking(node) as http:
        for _ in range(QUESTIONS_AT_ONCE + 1):
            assert (await http.post("/nodes/hang")).json()["code"] == "unavailable"


async def test_a_question_that_is_none_is_refused(served_pair: ServedPair) -> None:
    node = served_pair[0]

    async def refuse(body: bytes) -> bytes:
        if body:
            raise problem("busy", "not now")
        raise MalformedQuestion("no number of an app")

    node.verbs.add("refuse", refuse)
    async with asking(node) as http:
        answer = await http.post("/nodes/refuse")
        assert (answer.status_code, answer.json()["detail"]) == (400, "no number of an app")
        assert (await http.post("/nodes/refuse", content=b"x")).json()["code"] == "busy"


async def test_what_nobody_has_thought_of_is_500_and_says_nothing(
    served_pair: ServedPair, caplog: pytest.LogCaptureFixture
) -> None:
    node = served_pair[0]

    async def fail(body: bytes) -> bytes:
        raise LookupError("a private thing")

    node.verbs.add("fail", fail)
    async with asking(node) as http:
        for _ in range(QUESTIONS_AT_ONCE + 1):
            answer = await http.post("/nodes/fail")
            assert answer.status_code == 500
            assert "private" not in answer.text
    assert "/nodes/fail failed" in caplog.text


async def test_two_nodes_ask_each_other(served_pair: ServedPair, ending: AsyncExitStack) -> None:
    for node in served_pair:
        node.verbs.add("echo", echo)
    for node in served_pair:
        http = await ending.enter_async_context(asking(node))
        assert (await http.post("/nodes/echo", content=b"here")).content == b"here"
