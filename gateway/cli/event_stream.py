"""Server-sent events as they come in pieces (WHATWG HTML, 9.2.6), of a stream that is followed over lost connections.

A stream that has spoken once is followed until it is refused: who comes back with the id of the last event misses
nothing. Before the first event there is no id: what happens while such a connection is lost is not told, and that is
said. A stream that cannot be had at all fails at once, because then the address or the key is wrong.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterable, Iterator
from typing import Any

from gateway.cli.server_client import RequestRefused, ServerClient, UntrustedServer
from gateway.cli.terminal import Failure, note

PATH = "/v1/events"
EVENT_BYTES = 16 * 1024 * 1024
"""Bytes of one event; the largest that the server makes has less than one MiB."""
RETRY_SECONDS = (1.0, 3.0, 10.0, 30.0)
"""Time before each attempt to have the stream back; the last again and again."""

Event = dict[str, Any]


def follow(client: ServerClient, types: str | None, since: str | None) -> Generator[Event]:
    """Events as they happen. Raises Failure if there is no stream, or none any more for this key."""
    parameters = {} if types is None else {"types": types}
    last, spoken, attempt = since, False, 0
    while True:
        headers = {} if last is None else {"Last-Event-ID": last}
        try:
            for piece in decode_events(client.stream(PATH, parameters, headers)):
                if attempt:
                    note("Following again.")
                spoken, attempt = True, 0
                if piece is not None:
                    last = str(piece["id"])
                    yield piece
            reason = "the server has ended it"
        except Failure as failure:
            wrong = isinstance(failure, RequestRefused) and not failure.retryable
            if not spoken or wrong or isinstance(failure, UntrustedServer) or failure.exit_code == 2:
                raise
            reason = str(failure)
        if not attempt:
            missed = "" if last is not None else " No event had come yet: what happens meanwhile is not told."
            note(f"The stream broke off: {reason.rstrip('.')}. It is asked for again.{missed}")
        time.sleep(RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)])
        attempt += 1


def decode_events(pieces: Iterable[bytes]) -> Iterator[Event | None]:
    """The events, and None for each piece of a stream that has none: it is alive."""
    rest = b""
    data: list[bytes] = []
    size = 0
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        found = False
        for line in lines:
            name, _, value = line.removesuffix(b"\r").partition(b":")
            if name == b"data":
                data.append(value.removeprefix(b" "))
                size += len(value)
            elif not name and not value and data:
                found = True
                yield _event(b"\n".join(data))
                data, size = [], 0
        if len(rest) + size > EVENT_BYTES:
            raise Failure(f"an event has more than {EVENT_BYTES} bytes: is it another server?")
        if not found:
            yield None


def _event(data: bytes) -> Event:
    try:
        event: Event = json.loads(data)
        _ = event["id"], event["type"], event["timestamp"], event["data"].items()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise Failure("the stream's events are not Fleetpush's: is it another server?", 2) from None
    return event
