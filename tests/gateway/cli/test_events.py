"""Following events from the terminal: decoding, lines, and a stream that breaks off."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from gateway.cli import event_stream
from gateway.cli.event_stream import decode_events
from gateway.cli.events import line_of
from gateway.cli.terminal import Failure
from tests.gateway.cli.fake_server import FakeServer, Request, problem


def event(number: int, **data: Any) -> dict[str, Any]:
    return {"id": f"{number}.0", "type": "delivery.acted", "timestamp": "2026-12-01T08:00:00.000Z", "data": data}


def frame(found: dict[str, Any]) -> bytes:
    return f"id: {found['id']}\nevent: {found['type']}\ndata: {json.dumps(found)}\n\n".encode()


class Breaks(httpx2.SyncByteStream):
    """Pieces, and then a connection that is gone."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        yield from self._pieces
        raise httpx2.ReadError("gone")


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "RETRY_SECONDS", (0.0,))


def test_events_are_decoded_however_they_are_cut() -> None:
    stream = b"retry: 3000\n\n:\n\n" + frame(event(1, text="é")) + frame(event(2)).replace(b"\n", b"\r\n")
    for size in (1, 2, 7, len(stream)):
        pieces = (stream[start : start + size] for start in range(0, len(stream), size))
        assert [found for found in decode_events(pieces) if found] == [event(1, text="é"), event(2)], size
    in_lines = b'data: {"id":\ndata: "3.0", "type": "t", "timestamp": "t", "data": {}}\n\n'
    assert [found["id"] for found in decode_events([in_lines]) if found] == ["3.0"]


@pytest.mark.parametrize("data", [b"<html>", b"[]", b'{"id": "1"}', b"[" * 100_000, b"\xff"])
def test_what_is_no_event_is_said(data: bytes) -> None:
    with pytest.raises(Failure, match="another server"):
        list(decode_events([b"data: " + data + b"\n\n"]))


def test_an_event_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "EVENT_BYTES", 1000)
    for piece in (b"x" * 100, b"data: " + b"x" * 94 + b"\n"):
        with pytest.raises(Failure, match="more than 1000 bytes"):
            list(decode_events([piece] * 20))


def test_a_stream_that_breaks_off_goes_on_where_it_was(fake: FakeServer) -> None:
    answers = [
        httpx2.Response(200, stream=Breaks(frame(event(1)), frame(event(2)))),
        problem(503, "unavailable", retryable=True),
        httpx2.Response(200, content=frame(event(3))),
        problem(401, "unauthorized", "no such key"),
    ]
    fake.answer = lambda request: answers.pop(0)
    ended = fake.run("events", "--type", "delivery.*", "--type", "device.gap", "--since", "0", "--json")
    assert [json.loads(line)["id"] for line in ended.stdout.splitlines()] == ["1.0", "2.0", "3.0"]
    assert [request.headers["last-event-id"] for request in fake.requests] == ["0", "2.0", "2.0", "3.0"]
    assert {request.query["types"] for request in fake.requests} == {"delivery.*,device.gap"}
    assert ended.exit_code == 1
    said = ended.stderr.splitlines()
    assert said[0].startswith("The stream broke off: no answer from http://127.0.0.1:9: gone.")
    assert said[1] == "Following again."
    assert said[2:4] == [
        "The stream broke off: the server has ended it. It is asked for again.",
        "3 shown. What comes after them: --since 3.0",
    ]
    assert "no such key" in said[4]


def test_before_the_first_event_a_gap_is_admitted(fake: FakeServer) -> None:
    answers = [httpx2.Response(200, content=b"retry: 3000\n\n"), problem(403, "forbidden")]
    fake.answer = lambda request: answers.pop(0)
    assert "what happens meanwhile is not told" in fake.run("events").stderr
    assert "last-event-id" not in fake.requests[1].headers


def test_a_stream_that_cannot_be_had_fails_at_once(fake: FakeServer) -> None:
    fake.answer = lambda request: problem(429, "too_many_streams", retryable=True)
    assert fake.run("events").exit_code == 1

    def unreachable(request: Request) -> Any:
        raise httpx2.ConnectError("refused")

    fake.answer = unreachable
    assert "Is the server running?" in fake.run("events").stderr
    assert len(fake.requests) == 2


def test_a_limit_ends_it_and_says_how_to_go_on(fake: FakeServer) -> None:
    fake.answer = lambda request: httpx2.Response(200, content=b"".join(frame(event(n)) for n in range(1, 9)))
    ended = fake.run("events", "--limit", "3")
    assert (ended.exit_code, len(ended.stdout.splitlines())) == (0, 3)
    assert ended.stderr == "3 shown. What comes after them: --since 3.0\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_says_where_it_was(fake: FakeServer, number: signal.Signals) -> None:
    class Interrupted(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield frame(event(1))
            signal.raise_signal(number)

    before = signal.getsignal(number)
    fake.answer = lambda request: httpx2.Response(200, stream=Interrupted())
    ended = fake.run("events")
    assert (ended.exit_code, ended.stderr) == (0, "1 shown. What comes after them: --since 1.0\n")
    assert signal.getsignal(number) is before


def test_a_line_keeps_to_its_line_and_commands_nothing() -> None:
    found = event(1, device_id="kiosk-1", push_id="p1", channel=None, result={"a": "x\ty"}, payload="a\nb\x1b[2J c")
    assert line_of(found) == (
        "2026-12-01T08:00:00.000Z\tdelivery.acted\tkiosk-1\t"
        'push_id=p1 result={"a": "x\\ty"} payload="a\\nb\\u001b[2J c"'
    )
