from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import Message

from gateway.api.bodies import BODY_BYTES, BODY_VALUES, DEVICE_VALUES, MERGE_PATCH, PUSH_BYTES, read_body
from gateway.api.problems import MANY_ERRORS
from gateway.errors import Problem
from tests.gateway.in_process import InProcessGateway


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


SMALL = [
    ("POST", "/v1/devices"),
    ("PATCH", "/v1/devices/d1"),
    ("PATCH", "/v1/devices/d1/preferences"),
    ("POST", "/v1/channels"),
    ("PATCH", "/v1/channels/c1"),
    ("PUT", "/v1/policy"),
    ("POST", "/v1/webhooks"),
    ("PATCH", "/v1/webhooks/{webhook}"),
    ("POST", "/v1/webhooks/{webhook}/dead-letters/replay"),
    ("POST", "/v1/apps"),
    ("POST", "/v1/keys"),
]
LARGE = [("POST", "/v1/pushes"), ("POST", "/v1/pushes/forecast"), ("POST", "/v1/devices/d1/call")]
ALL = SMALL + LARGE


@pytest.fixture
async def stocked(gateway: InProcessGateway) -> tuple[InProcessGateway, str]:
    """A device, a channel and a webhook; the id of the last."""
    await gateway.enrol("d1")
    await gateway.call("POST", "/v1/channels", 201, json={"id": "c1", "name": "One"})
    webhook = await gateway.call("POST", "/v1/webhooks", 201, json={"url": "https://receiver.example/"})
    return gateway, str(webhook["id"])


async def refused_everywhere(
    stocked: tuple[InProcessGateway, str], routes: list[tuple[str, str]], body: bytes, status: int, code: str
) -> list[str]:
    """The details of the refusals."""
    gateway, webhook = stocked
    details = []
    for method, path in routes:
        path = path.format(webhook=webhook)
        headers = {"Content-Type": "application/json"}
        details.append((await gateway.refused(method, path, status, code, content=body, headers=headers))["detail"])
    return details


async def test_each_route_has_its_limit_in_bytes(stocked: tuple[InProcessGateway, str]) -> None:
    for routes, limit in ((SMALL, BODY_BYTES), (LARGE, PUSH_BYTES)):
        body = b'{"x":"' + b"x" * limit + b'"}'
        for detail in await refused_everywhere(stocked, routes, body, 413, "payload_too_large"):
            assert str(limit) in detail
        fitting = body[: limit - 2] + b'"}'
        await refused_everywhere(stocked, routes, fitting, 422, "invalid_request")


async def test_each_route_has_its_limit_in_values(stocked: tuple[InProcessGateway, str]) -> None:
    for body in (
        b'{"x":[' + b"[]," * (BODY_VALUES + 9_000) + b"[]]}",
        b"{" + b'"a":1,' * (BODY_VALUES + 4_000) + b'"b":1}',
    ):
        assert len(body) < BODY_BYTES
        for detail in await refused_everywhere(stocked, ALL, body, 413, "payload_too_large"):
            assert "values" in detail
    body = b'{"channels":{' + b",".join(b'"%d":1' % number for number in range(DEVICE_VALUES)) + b"}}"
    await refused_everywhere(stocked, [("PATCH", "/v1/devices/d1/preferences")], body, 413, "payload_too_large")


async def test_many_mistakes_are_counted_and_not_named(stocked: tuple[InProcessGateway, str]) -> None:
    mistakes = 10 * MANY_ERRORS
    body = b"{" + b",".join(b'"%d":1' % number for number in range(mistakes)) + b"}"
    for detail in await refused_everywhere(stocked, ALL, body, 422, "invalid_request"):
        assert detail.startswith("10")  # or two more that are required


@pytest.mark.parametrize("nested", [b"[" * 50_000, b'{"a":' * 15_000, b"[" * 5_000 + b"]" * 5_000])
@pytest.mark.parametrize("head", [b"", b'{"name":'])
async def test_what_is_nested_too_deeply_is_told_so(
    stocked: tuple[InProcessGateway, str], head: bytes, nested: bytes
) -> None:
    gateway, webhook = stocked
    for method, path in ALL:
        headers = {"Content-Type": "application/json"}
        answer = await gateway.http.request(
            method, path.format(webhook=webhook), content=head + nested, headers=headers
        )
        assert answer.status_code in (400, 413, 422), f"{method} {path}: {answer.status_code}"


@pytest.mark.parametrize(
    ("body", "codes"),
    [
        (b"NaN", {"malformed_json", "invalid_request"}),
        (b'{"name": NaN}', {"malformed_json", "invalid_request"}),
        (b'{"name": "\\ud800"}', {"invalid_request"}),
        (b'{"name": "\xff"}', {"malformed_json"}),
        (b'{"name": ' + b"1" * 5_000 + b"}", {"malformed_json", "invalid_request"}),
        (b'{"name": 1e999}', {"invalid_request", "malformed_json"}),
        (b'{"name": "a", "name": 1}', {"invalid_request"}),
        (b"", {"malformed_json"}),
        (b"[]", {"invalid_request"}),
        (b"null", {"invalid_request"}),
    ],
)
async def test_odd_json_is_refused_by_every_route(
    stocked: tuple[InProcessGateway, str], body: bytes, codes: set[str]
) -> None:
    gateway, webhook = stocked
    for method, path in ALL:
        if path.endswith("/replay") and not body:
            continue  # all of them
        headers = {"Content-Type": "application/json"}
        answer = await gateway.http.request(method, path.format(webhook=webhook), content=body, headers=headers)
        assert answer.status_code in (400, 422), f"{method} {path}: {answer.status_code} {answer.text}"
        assert answer.json()["code"] in codes, f"{method} {path}: {answer.text}"


async def test_one_line_of_a_batch_and_one_device_of_a_bulk_are_bounded_too(
    stocked: tuple[InProcessGateway, str],
) -> None:
    gateway, _ = stocked
    large = b'{"target":{"device":"d1"},"data":[' + b"[]," * 400_000 + b"[]]}"
    headers = {"Content-Type": "application/x-ndjson"}
    answer = await gateway.http.post(
        "/v1/pushes/batch", content=large + b'\n{"target":{"device":"d1"}}', headers=headers
    )
    lines = [line for line in answer.text.splitlines() if line]
    assert '"payload_too_large"' in lines[0]
    assert '"status":202' in lines[1]
    await gateway.refused("POST", "/v1/pushes/batch", 413, "payload_too_large", content=b"\n" * 30_000, headers=headers)
    devices = b'{"devices":[{"device_id":"b1","x":[' + b"[]," * 40_000 + b'[]]},{"device_id":"b2"}]}'
    headers = {"Content-Type": "application/json"}
    answer = await gateway.http.post("/v1/devices/bulk", content=devices, headers=headers)
    refused, enrolled = answer.json()["devices"]
    assert refused["error"]["code"] == "payload_too_large"
    assert enrolled["device_id"] == "b2"
    await gateway.refused(
        "POST",
        "/v1/devices/bulk",
        400,
        "malformed_json",
        content=b'{"devices":[{"device_id":"b3"},{,}]}',
        headers=headers,
    )
    await gateway.refused("GET", "/v1/devices/b3", 404)
