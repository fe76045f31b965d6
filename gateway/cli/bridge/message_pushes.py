"""Messages of the operator's broker as pushes: what may be asked for, how often, and the thread that sends it.

    notify             text, or a notification as JSON   →  a push of kind alert, which waits for a device that is away
    command/COMMAND    PRESS, or its data as an object   →  a push of kind command, for COMMAND_TTL_SECONDS

A message is checked twice: when it arrives, by what the options allow and by the rate of its device; and before it is
sent, by its age. A server that does not answer makes it fail, and it is not tried again later: whoever pressed the
button has gone, or has pressed it again.
"""

from __future__ import annotations

import json
import queue
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gateway.cli.bridge.broker_connection import BrokerMessage
from gateway.cli.bridge.home_assistant import PRESS, BridgedDevice
from gateway.cli.server_client import ServerClient
from gateway.cli.terminal import Failure

STALE_SECONDS = 10.0
"""Age of a message at which nobody expects any more that it is acted upon."""
COMMAND_TTL_SECONDS = 10
"""Time to live of a command, as of a call that waits as long."""
BURST_MESSAGES = 10
"""Messages of a device that may come at once."""
MESSAGE_SECONDS = 2.0
"""Seconds after which a device may have one more."""
MAX_UNSENT_PUSHES = 1_000
REASON_CHARACTERS = 200
"""Characters of a server's refusal that are published."""


Sign = Callable[[dict[str, Any]], dict[str, Any]]


class MessageRefused(Exception):
    """A message that becomes no push. Its text is the published `reason`, one word."""


@dataclass(frozen=True)
class UnsentPush:
    """A push that a message asks for. `command` is None for a notification."""

    device_id: str
    command: str | None
    body: dict[str, Any]
    arrived: float
    """Seconds of the monotonic clock."""


@dataclass(frozen=True)
class PushAnswered:
    """The server's answer to a push: its id, or why there is none."""

    push: UnsentPush
    push_id: str | None
    reason: str | None


def push_of(message: BrokerMessage, leaf: str, device: BridgedDevice) -> UnsentPush:
    """Read a message on a topic of a device. Raises MessageRefused."""
    word, _, command = leaf.partition("/")
    if word == "command" and command:
        if command not in device.commands:
            raise MessageRefused("not_allowed")
    elif leaf != "notify" or not device.notify:
        raise MessageRefused("not_allowed")
    if message.retained:  # it would come again with each connection
        raise MessageRefused("retained")
    if message.payload is None:
        raise MessageRefused("too_large")
    target = {"device": device.device_id}
    if word == "notify":
        body = {"target": target, "kind": "alert", "notification": _notification(message.payload)}
        return UnsentPush(device.device_id, None, body, message.arrived)
    data = {**_arguments(message.payload), "command": command}
    order = {"target": target, "kind": "command", "data": data, "priority": "high", "ttl": COMMAND_TTL_SECONDS}
    return UnsentPush(device.device_id, command, order, message.arrived)


def _notification(payload: bytes) -> dict[str, Any]:
    """A notification: an object as it is, anything else as its text. The server checks it."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        raise MessageRefused("unusable") from None
    if not text.strip():
        raise MessageRefused("unusable")
    if text.lstrip().startswith("{"):
        return _object(payload)
    return {"body": text}


def _arguments(payload: bytes) -> dict[str, Any]:
    """The data of a command. An empty message is none: it is how a retained one is taken away."""
    return {} if payload == PRESS else _object(payload)


def _object(payload: bytes) -> dict[str, Any]:
    try:
        found = json.loads(payload, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise MessageRefused("unusable") from None
    if not isinstance(found, dict):
        raise MessageRefused("unusable")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


class MessageRates:
    """The messages that each device may have: BURST_MESSAGES at once, then one every MESSAGE_SECONDS."""

    def __init__(self) -> None:
        self._full_at: dict[str, float] = {}
        """Device id -> when its burst is whole again, in seconds of the monotonic clock. Devices that have not been
        asked for are not in it."""

    def admit(self, device_id: str, now: float) -> None:
        """Count a message. Raises MessageRefused when the device has had too many."""
        full_at = max(self._full_at.get(device_id, now), now) + MESSAGE_SECONDS
        if full_at - now > BURST_MESSAGES * MESSAGE_SECONDS:
            raise MessageRefused("too_many")
        self._full_at[device_id] = full_at

    def forget(self, device_id: str) -> None:
        self._full_at.pop(device_id, None)


class PushSender:
    """Sends pushes one after the other, on a thread of its own.

    So a slow server does not keep the bridge from publishing. `post` is called with each answer, on that thread."""

    def __init__(self, client: ServerClient, post: Callable[[PushAnswered], None], sign: Sign | None) -> None:
        """`sign` adds a signature to the request of a command, for devices with pinned keys; it raises Failure."""
        self._client = client
        self._post = post
        self._sign = sign
        self._unsent: queue.Queue[UnsentPush] = queue.Queue(MAX_UNSENT_PUSHES)
        self._thread = threading.Thread(target=self._run, name="bridge pushes", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def send(self, push: UnsentPush) -> None:
        """Send a push when it is its turn. Raises MessageRefused when too many wait."""
        try:
            self._unsent.put_nowait(push)
        except queue.Full:
            raise MessageRefused("too_many") from None

    def _run(self) -> None:
        while True:
            push = self._unsent.get()
            self._post(self._answer(push))

    def _answer(self, push: UnsentPush) -> PushAnswered:
        if time.monotonic() - push.arrived > STALE_SECONDS:
            return PushAnswered(push, None, "stale")
        try:
            body = push.body
            if self._sign is not None and push.command is not None:
                body = self._sign(body)
            accepted = self._client.post_once(body, str(uuid.uuid4()))
            return PushAnswered(push, str(accepted["push_id"]), None)
        except Failure as failure:
            return PushAnswered(push, None, str(failure)[:REASON_CHARACTERS])
        except (KeyError, TypeError):
            return PushAnswered(push, None, "the server's answer is none of Fleetpush's")
