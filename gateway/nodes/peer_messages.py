"""Ordinary messages for devices of other nodes: a notice is published at every node, and that of the device has it.

Laws
1. Nobody waits for a peer, and none is asked again: a notice that is lost with a node is lost. What must not be lost is
   a push.
2. One question is under way for each peer, and WAITING_BYTES wait behind it. What does not fit is dropped, and counted:
   the loser is whoever publishes that much.
3. What a peer passes on is published here alone, and goes no further.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from gateway.nodes.membership import Node
from gateway.nodes.peer_client import Ask, PeerUnavailable
from gateway.nodes.peer_routes import BODY_BYTES, MalformedQuestion
from gateway.nodes.peer_tasks import PeerTasks

VERB: Final = "publish"
PASS_SECONDS: Final = 1.0
"""Time for a peer to answer."""
WAITING_BYTES: Final = 1024 * 1024
"""Bytes that wait for one peer: some thousand notices. A device's preferences are the longest, with a few kilobytes."""

Publish = Callable[[str, bytes], None]
"""(topic, payload)"""


@dataclass(slots=True)
class _Waiting:
    """What a peer has not been told yet."""

    messages: deque[bytes] = field(default_factory=deque)
    """Each as JSON: [topic, payload]."""
    size: int = 0


class PeerMessages:
    """Passes messages to `peers`, and publishes those of peers. `publish` is of this node alone; `ask` is that of
    `PeerClient`. Runs on the *loop*."""

    def __init__(self, *, publish: Publish, peers: Callable[[], Sequence[Node]], ask: Ask) -> None:
        self._publish = publish
        self._peers = peers
        self._ask = ask
        self._waiting: dict[Node, _Waiting] = {}
        self._tasks = PeerTasks()
        self.dropped = 0
        """Messages that a peer was not told, for want of room or of an answer."""

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish a message of text with QoS 1 here and at the peers."""
        self._publish(topic, payload)
        if not (peers := self._peers()):
            return
        message = json.dumps([topic, payload.decode()], separators=(",", ":")).encode()
        for node in peers:
            waiting = self._waiting.setdefault(node, _Waiting())
            if waiting.size + len(message) > WAITING_BYTES or len(message) + 2 > BODY_BYTES:
                self.dropped += 1
                continue
            waiting.messages.append(message)
            waiting.size += len(message)
            if node not in self._tasks:
                self._tasks.begin(node, partial(self._tell, node, waiting))

    async def answer(self, body: bytes) -> bytes:
        """Publish what a peer passes on. Raises MalformedQuestion."""
        try:
            messages = [(topic, payload) for topic, payload in json.loads(body)]
        except (ValueError, TypeError, RecursionError) as error:
            raise MalformedQuestion(f"these are no messages: {error}") from None
        for topic, payload in messages:
            if not isinstance(topic, str) or not isinstance(payload, str) or any(part in topic for part in "#+\0"):
                raise MalformedQuestion("a message has a topic, which has no wildcards, and a text")
        for topic, payload in messages:
            self._publish(topic, payload.encode())
        return b""

    def ended(self, node: Node) -> None:
        """Forget a node that has ended."""
        self._waiting.pop(node, None)
        self._tasks.ended(node)

    async def end(self) -> None:
        """Tell nobody anything more."""
        self._waiting.clear()
        await self._tasks.end()

    async def _tell(self, node: Node, waiting: _Waiting) -> None:
        while waiting.messages:
            messages = _next_messages(waiting)
            try:
                await self._ask(node, VERB, b"[" + b",".join(messages) + b"]", PASS_SECONDS)
            except PeerUnavailable:
                self.dropped += len(messages)


def _next_messages(waiting: _Waiting) -> list[bytes]:
    """Take as many as fit into one question."""
    messages: list[bytes] = []
    room = BODY_BYTES - 2  # the brackets
    while waiting.messages and len(waiting.messages[0]) <= room:
        message = waiting.messages.popleft()
        waiting.size -= len(message)
        room -= len(message) + 1
        messages.append(message)
    return messages
