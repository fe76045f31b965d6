from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import Message

from gateway.api.bodies import MERGE_PATCH, read_body
from gateway.errors import Problem


class Sender:
    """A request whose body comes in the given pieces; counts how many were asked for."""

    def __init__(self, *pieces: bytes, **headers: str) -> None:
        self._pieces = list(pieces)
        self.asked = 0
        scope = {
            "type": "http",
            "method": "POST",
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
        }
        self.request = Request(scope, self._receive)

    async def _receive(self) -> Message:
        self.asked += 1
        if not self._pieces:
            return {"type": "http.disconnect"}
        piece = self._pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(self._pieces)}


async def test_a_body_is_read_whole() -> None:
    assert await read_body(Sender(b"{}").request) == b"{}"
    assert await read_body(Sender(b"", b"{", b"}").request) == b"{}"
    assert await read_body(Sender(b"").request) == b""


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8"])
async def test_json_is_recognised(content_type: str) -> None:
    assert await read_body(Sender(b"{}", content_type=content_type).request) == b"{}"


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""])
async def test_another_content_type_is_415_unread(content_type: str) -> None:
    sender = Sender(b"{}", content_type=content_type)
    with pytest.raises(Problem) as refusal:
        await read_body(sender.request)
    assert refusal.value.code == "unsupported_media_type"
    assert sender.asked == 0


async def test_merge_patches_have_two_names() -> None:
    for content_type in ("application/json", "application/merge-patch+json"):
        assert await read_body(Sender(b"{}", content_type=content_type).request, MERGE_PATCH) == b"{}"


async def test_a_body_that_says_it_is_too_large_is_not_read() -> None:
    sender = Sender(b"x" * 11, content_length="11")
    with pytest.raises(Problem) as refusal:
        await read_body(sender.request, limit=10)
    assert refusal.value.code == "payload_too_large"
    assert sender.asked == 0


async def test_a_body_that_does_not_say_is_read_up_to_the_limit() -> None:
    sender = Sender(*[b"x" * 4] * 1000)
    with pytest.raises(Problem) as refusal:
        await read_body(sender.request, limit=10)
    assert refusal.value.code == "payload_too_large"
    assert sender.asked == 3
    with pytest.raises(Problem):
        await read_body(Sender(b"x" * 11).request, limit=10)


async def test_a_connection_that_ends_first_is_no_body() -> None:
    async def cut(pieces: list[Message]) -> AsyncIterator[Message]:
        for piece in pieces:
            yield piece

    messages = cut([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])
    request = Request({"type": "http", "method": "POST", "headers": []}, messages.__anext__)
    with pytest.raises(ClientDisconnect):
        await read_body(request)
