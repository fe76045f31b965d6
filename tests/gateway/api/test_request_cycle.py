"""An answer in one piece: the same bytes as in two messages, written at once."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from starlette.responses import Response
from uvicorn.protocols.http.flow_control import FlowControl

from gateway.api.http_connection import log
from gateway.api.request_cycle import EXTENSIONS, WHOLE_ANSWER, RequestCycle

CONTENT = b'{"push_id":"x"}'
DEFAULT_HEADERS = [(b"date", b"Tue, 01 Dec 2026 08:30:00 GMT"), (b"x-more", b"1")]


class Pipe:
    """What a cycle writes to and hangs up."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = self.answered = 0

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written.append(data)

    def close(self) -> None:
        self.closed += 1

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def on_response(self) -> None:
        self.answered += 1


def cycle_of(pipe: Pipe, *, keep_alive: bool = True, expects_100: bool = False) -> RequestCycle:
    transport = cast(asyncio.Transport, pipe)
    return RequestCycle(
        scope=cast(Any, {"type": "http", "method": "POST", "extensions": EXTENSIONS}),
        transport=transport,
        flow=FlowControl(transport),
        logger=log,
        access_logger=log,
        access_log=False,
        default_headers=DEFAULT_HEADERS,
        message_event=asyncio.Event(),
        expect_100_continue=expects_100,
        keep_alive=keep_alive,
        on_response=pipe.on_response,
    )


def whole(status: int = 202) -> dict[str, Any]:
    return {"type": WHOLE_ANSWER, "status": status, "media_type": b"application/json", "content": CONTENT}


@pytest.mark.parametrize("keep_alive", [True, False])
@pytest.mark.parametrize("status", [202, 413])
async def test_it_says_what_two_messages_say(keep_alive: bool, status: int) -> None:
    in_two, in_one = Pipe(), Pipe()
    cycle: Any = cycle_of(in_two, keep_alive=keep_alive)
    await Response(CONTENT, status, media_type="application/json")(cycle.scope, cycle.receive, cycle.send)
    await cycle_of(in_one, keep_alive=keep_alive).send(whole(status))
    assert len(in_one.written) == 1
    assert in_one.written == [b"".join(in_two.written)]
    assert (in_one.closed, in_one.answered) == (in_two.closed, in_two.answered) == (int(not keep_alive), 1)


async def test_nothing_comes_behind_it() -> None:
    pipe = Pipe()
    cycle = cycle_of(pipe, expects_100=True)
    await cycle.send(whole())
    assert await cycle.receive() == {"type": "http.disconnect"}
    with pytest.raises(RuntimeError):
        await cycle.send({"type": "http.response.body", "body": b"more"})
    assert len(pipe.written) == 1


async def test_who_has_hung_up_is_sent_nothing() -> None:
    pipe = Pipe()
    cycle = cycle_of(pipe)
    cycle.disconnected = True
    await cycle.send(whole())
    assert (pipe.written, pipe.answered) == ([], 0)


async def test_it_waits_for_a_reader_that_is_behind() -> None:
    pipe = Pipe()
    cycle = cycle_of(pipe)
    cycle.flow.pause_writing()
    answer = asyncio.ensure_future(cycle.send(whole()))
    await asyncio.sleep(0)
    assert pipe.written == []
    cycle.flow.resume_writing()
    await answer
    assert len(pipe.written) == 1
