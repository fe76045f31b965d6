"""What the parser lets through and RFC 9110 and 9112 do not, byte by byte."""

from __future__ import annotations

from typing import Any

from tests.broker.network.conftest import Run, run  # noqa: F401  # the fixture
from tests.gateway.api.test_http_connection import CHUNKED, limits, serving

END = b"Connection: close\r\n\r\n"
REFUSED = {
    "no host": b"GET /quick HTTP/1.1\r\n" + END,
    "no host, upgrade": b"GET /mqtt HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    "two hosts": b"GET /quick HTTP/1.1\r\nHost: a\r\nHost: a\r\n" + END,
    "a host that is none": b"GET /quick HTTP/1.1\r\nHost: a/b\r\n" + END,
    "a path for a host": b"GET /quick HTTP/1.1\r\nHost: http://a\r\n" + END,
    "two hosts in one": b"GET /quick HTTP/1.1\r\nHost: a, b\r\n" + END,
    "HTTP/2.0": b"GET /quick HTTP/2.0\r\nHost: a\r\n" + END,
    "HTTP/0.9": b"GET /quick\r\n\r\n",
    "a coding": CHUNKED.replace(b"chunked", b"gzip, chunked") + b"2\r\nhi\r\n0\r\n\r\n",
}
TAKEN = {
    "no host in 1.0": b"GET /quick HTTP/1.0\r\n\r\n",
    "an empty host": b"GET /quick HTTP/1.1\r\nHost:\r\n" + END,
    "an address": b"GET /quick HTTP/1.1\r\nHost: [2001:db8::1]:8080\r\n" + END,
    "a name": b"GET /quick HTTP/1.1\r\nHost: push_1.example.com:8080\r\n" + END,
    "a whole address": b"GET http://a/quick HTTP/1.1\r\nHost: a\r\n" + END,
    "a trailer": CHUNKED + b"2\r\nhi\r\n0\r\nHost: b\r\n\r\n",
}


def test_what_a_head_may_say(run: Run[Any]) -> None:  # noqa: F811
    async def scene() -> None:
        async with serving() as running:
            for case, said in REFUSED.items():
                answer = await running.say(said)
                assert answer.startswith(b"HTTP/1.1 400 "), case
                assert b"\r\ndate: " in answer, "RFC 9110, 6.6.1"
            assert limits(running)["malformed"] == len(REFUSED)
            for case, said in TAKEN.items():
                assert (await running.say(said)).startswith(b"HTTP/1.1 200 "), case
            no_path = await running.say(b"GET http://a HTTP/1.1\r\nHost: a\r\n" + END)
            assert no_path.startswith(b"HTTP/1.1 404 "), "it is asked for /"
            assert not running.takers

    run(scene())


def test_an_older_client_is_told_nothing_that_it_does_not_know(run: Run[Any]) -> None:  # noqa: F811
    """RFC 9110, 10.1.1: no 100 in HTTP/1.0; an upgrade that is ignored makes no newer client of it."""

    async def scene() -> None:
        async with serving() as running:
            for header in (b"Expect: 100-continue\r\n", b"Connection: Upgrade\r\nUpgrade: h2c\r\n"):
                answer = await running.say(b"POST /echo HTTP/1.0\r\n" + header + b"Content-Length: 2\r\n\r\nhi")
                assert answer.startswith(b"HTTP/1.1 200 "), header
                assert b"connection: close" in answer
            assert [body for _, body in running.asked] == [b"hi", b"hi"]

    run(scene())
