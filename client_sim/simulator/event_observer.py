"""A process beside the fleet that follows the server's events and receives a webhook of its own.

It keeps, for each delivery, which event types it was told of, by the stream (`GET /v1/events`) and by the webhook; the
coordinator asks for them at the end and gives them to the expectations. A process of its own: what it reads is as
much as the server says, and must not make the fleet late.

The stream is resumed by the id of the last event, also over a killed server. The webhook answers 200 to everything
whose signature is right, so whatever is missing in the end was never sent.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import multiprocessing
import ssl
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import httpx2

from client_sim.simulator.report_terms import ARRIVED, ENDED
from client_sim.simulator.simulated_push import BUILD_ERROR, result_of

TYPES = tuple(f"delivery.{state}" for state in ("sent", *ARRIVED, *ENDED))
BITS = {name: 1 << place for place, name in enumerate(TYPES)}
CONNECTIONS = ("device.connected", "device.disconnected")
_STAGES = tuple(f"delivery.{state}" for state in ARRIVED)
_LATER = {name: _STAGES[place + 1 :] for place, name in enumerate(_STAGES)}
"""The stages of a delivery that come after each one of them."""
FEW_DEVICES = 500
"""A webhook tells events in order, by four requests at a time: of a larger fleet it is asked for `FEW_TYPES` only, or
it would still be telling long after the last phase."""
FEW_TYPES = ("delivery.acted", *(f"delivery.{state}" for state in ENDED))
RECONNECT_SECONDS = 0.5
READ_SECONDS = 60.0
"""The server says something at least every fifteen."""
MAX_COMPLAINTS = 20


@dataclass(frozen=True)
class ObserverPlan:
    """The server, the credential and the webhook that the observer follows."""

    url: str
    key: str
    ca: str | None
    webhook_port: int | None
    """The port of the webhook's receiver; None: there is no webhook."""
    prefix: str
    """The prefix of the device ids of this simulation, `sim-abc123-`."""


class Complaint(NamedTuple):
    """An event that must not be, whatever the fleet did, in words; and the push and device that it is about."""

    what: str
    push_id: str = ""
    device: int = -1
    """The device's index; -1: it is about no device."""


@dataclass
class ReceivedEvents:
    """The event types that the stream and the webhook delivered, by (push id, device index): bits of `BITS`."""

    stream: dict[tuple[str, int], int] = field(default_factory=dict)
    webhook: dict[tuple[str, int], int] = field(default_factory=dict)
    presence: dict[int, str] = field(default_factory=dict)
    """The last event of a device's connection on the stream, by device index: `device.connected` for example."""
    complaints: list[Complaint] = field(default_factory=list)
    idle_seconds: float = 0.0
    """Since the last new event, of either."""


class _EventLog:
    """The events from one source. Their ids tell an event that is repeated from one that happened twice."""

    def __init__(self, source: str, prefix: str, complaints: list[Complaint]) -> None:
        self.bits: dict[tuple[str, int], int] = {}
        self.presence: dict[int, str] = {}
        self.last_event_at = time.monotonic()
        self._source = source
        self._prefix = prefix
        self._complaints = complaints
        self._ids: dict[tuple[str, int, str], str] = {}
        self._last: dict[int, tuple[int, int]] = {}
        """The id of each device's last event."""

    def record(self, event: dict[str, Any]) -> None:
        kind, data = event["type"], event["data"]
        if kind == "events.lost":
            self.complain("events were removed before they were told")
            return
        device_id = str(data.get("device_id", ""))
        number = device_id.removeprefix(self._prefix)
        if number == device_id or not number.isdecimal():
            return
        if kind in CONNECTIONS:
            self.presence[int(number)] = kind
            self.last_event_at = time.monotonic()
        if kind not in BITS:
            return
        place = str(data["push_id"]), int(number)
        told = self.bits.get(place, 0)
        before = self._ids.setdefault((*place, kind), event["id"])
        if before != event["id"]:
            self.complain(f"{kind} was told twice, as {before} and {event['id']}", *place)
            return
        if told & BITS[kind]:
            return  # at least once
        self._check_order(event, place, told)
        if kind == "delivery.acted":
            self._check_result(data, place)
        self.bits[place] = told | BITS[kind]
        self.last_event_at = time.monotonic()

    def _check_order(self, event: dict[str, Any], place: tuple[str, int], told: int) -> None:
        """Events of a device come in order, and those of a delivery in the order of its life."""
        push_id, index = place
        entry, _, number = event["id"].partition(".")
        position = int(entry), int(number or 0)
        if position < self._last.get(index, position):
            self.complain(f"{event['type']} with the id {event['id']} was told behind a later one", push_id, index)
        self._last[index] = max(position, self._last.get(index, position))
        later = [name for name in _LATER.get(event["type"], ()) if told & BITS[name]]
        if later:
            self.complain(f"{event['type']} was told behind {later[0]}", push_id, index)

    def _check_result(self, data: dict[str, Any], place: tuple[str, int]) -> None:
        push_id, index = place
        expected = result_of(push_id, data["device_id"])
        if data.get("result") not in (expected, BUILD_ERROR):
            told = f"the result {data.get('result')}, and the device's was {expected}"
            self.complain(f"delivery.acted has {told}", push_id, index)

    def complain(self, what: str, push_id: str = "", index: int = -1) -> None:
        if len(self._complaints) < MAX_COMPLAINTS:
            self._complaints.append(Complaint(f"{self._source}: {what}", push_id, index))


class _Observer:
    def __init__(self, plan: ObserverPlan) -> None:
        self._plan = plan
        self._complaints: list[Complaint] = []
        self.stream = _EventLog("the event stream", plan.prefix, self._complaints)
        self.webhook = _EventLog("the webhook", plan.prefix, self._complaints)
        self.secret = ""

    def snapshot(self) -> ReceivedEvents:
        heard = max(self.stream.last_event_at, self.webhook.last_event_at)
        return ReceivedEvents(
            dict(self.stream.bits),
            dict(self.webhook.bits),
            dict(self.stream.presence),
            list(self._complaints),
            time.monotonic() - heard,
        )

    # The stream

    async def follow(self, since: str | None, started: Connection) -> None:
        """Until cancelled. `started` is told when the first connection stands."""
        plan = self._plan
        trust: Any = ssl.create_default_context(cafile=plan.ca) if plan.url.startswith("https:") else True
        headers = {"Authorization": f"Bearer {plan.key}"}
        async with httpx2.AsyncClient(
            base_url=plan.url, headers=headers, timeout=READ_SECONDS, trust_env=False, verify=trust
        ) as client:
            position = since
            while True:
                try:
                    resumed = {} if position is None else {"Last-Event-ID": position}
                    async with client.stream("GET", "/v1/events", headers=resumed) as answer:
                        if answer.status_code == 200 and not started.closed:
                            started.send("following")
                            started.close()
                        async for line in answer.aiter_lines():
                            name, _, value = line.partition(": ")
                            if name == "id":
                                position = value
                            elif name == "data":
                                self.stream.record(json.loads(value))
                except (httpx2.HTTPError, ValueError):
                    pass  # the server was killed, or is busy: on from where we were
                await asyncio.sleep(RECONNECT_SECONDS)

    # The webhook

    def serve(self, port: int) -> ThreadingHTTPServer:
        observer = self

        class Receiver(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", "0"))
                body = self.rfile.read(length)
                if len(body) < length:  # the server was killed in the middle of it
                    self.close_connection = True
                    return
                self.send_response(200 if observer.received(self.headers, body) else 400)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:
                """Nobody asked."""

        server = ThreadingHTTPServer(("127.0.0.1", port), Receiver)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def received(self, headers: Any, body: bytes) -> bool:
        if not _is_signed(self.secret, headers, body):
            self.webhook.complain("a request came with a wrong signature")
            return False
        for event in json.loads(body)["data"]["events"]:
            self.webhook.record(event)
        return True


def _is_signed(secret: str, headers: Any, body: bytes) -> bool:
    """Verify a signature as Standard Webhooks specifies: HMAC-SHA256 of id, time stamp and body."""
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"))
    except binascii.Error:
        return False
    signed = f"{headers.get('webhook-id')}.{headers.get('webhook-timestamp')}.".encode() + body
    expected = "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    given = str(headers.get("webhook-signature", "")).split(" ")
    return any(hmac.compare_digest(one.encode(), expected.encode()) for one in given)


def run_observer(
    plan: ObserverPlan, since: str | None, commands: Connection, answers: Connection, started: Connection
) -> None:
    """The process, from start to end: `("secret", text)`, `("snapshot",)` and `("end",)` are what it is told."""

    async def main() -> None:
        observer = _Observer(plan)
        server = None if plan.webhook_port is None else observer.serve(plan.webhook_port)
        following = asyncio.create_task(observer.follow(since, started))
        loop = asyncio.get_running_loop()
        while True:
            try:
                name, *arguments = await loop.run_in_executor(None, commands.recv)
            except (EOFError, OSError):
                break  # the coordinator is gone
            if name == "secret":
                (observer.secret,) = arguments
            elif name == "snapshot":
                answers.send(observer.snapshot())
            else:
                break
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following
        if server is not None:
            server.shutdown()

    with suppress(KeyboardInterrupt):
        asyncio.run(main())


class EventObserver:
    """The observer's process, as the coordinator sees it. Its methods block; none for long."""

    def __init__(self, plan: ObserverPlan, since: str | None) -> None:
        """`since`: the id of the event behind which it begins, `0` for all that is kept; None: from now on."""
        context = multiprocessing.get_context("spawn")
        theirs, self._commands = context.Pipe(duplex=False)
        self._answers, ours = context.Pipe(duplex=False)
        self._started, starts = context.Pipe(duplex=False)
        self._process = context.Process(target=run_observer, args=(plan, since, theirs, ours, starts), daemon=True)
        self._process.start()
        for end in (theirs, ours, starts):
            end.close()

    def wait_started(self, seconds: float) -> bool:
        """Whether the stream stands within so many seconds."""
        try:
            return self._started.poll(seconds) and self._started.recv() == "following"
        except (EOFError, OSError):
            return False

    def expect_signature(self, secret: str) -> None:
        """Verify webhooks with this secret from now on."""
        self._commands.send(("secret", secret))

    def snapshot(self) -> ReceivedEvents:
        """The events that were received so far."""
        self._commands.send(("snapshot",))
        received = self._answers.recv()
        assert isinstance(received, ReceivedEvents), "what it answers"
        return received

    def end(self) -> None:
        """End the process, by force after five seconds."""
        with suppress(OSError):
            self._commands.send(("end",))
        self._process.join(5.0)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        for end in (self._commands, self._answers, self._started):
            end.close()


def webhook_types(devices: int) -> Sequence[str]:
    """The event types that a webhook of a fleet of this size asks for."""
    return TYPES if devices <= FEW_DEVICES else FEW_TYPES
