"""What one connection owes its client, in the order it was asked for.

An answer leaves when nothing is missing for it (the store's barrier, the embedder's `done`) and every earlier one has
left: PUBACKs and PUBRECs in the order of their PUBLISHes [MQTT-4.6.0-2] [MQTT-4.6.0-3]
[3.1.1: MQTT-4.6.0-2] [3.1.1: MQTT-4.6.0-3], and nothing before CONNACK.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from broker.protocol.packets import Packet


class Answer:
    __slots__ = ("missing", "packet", "then")

    def __init__(self, packet: Packet, missing: int, then: Callable[[], None] | None) -> None:
        self.packet = packet
        self.missing = missing
        """How many calls of `fulfil` it waits for."""
        self.then = then
        """Runs when the packet has left; never, if it never does."""


class Answers:
    __slots__ = ("_due", "_leave")

    def __init__(self, leave: Callable[[Packet], None]) -> None:
        self._leave = leave
        self._due: deque[Answer] = deque()

    def __len__(self) -> int:
        return len(self._due)

    def owe(self, answer: Answer) -> None:
        self._due.append(answer)

    def fulfil(self, answer: Answer) -> None:
        """One of the things it waits for has come."""
        answer.missing -= 1
        due = self._due
        while due and not due[0].missing:
            first = due.popleft()
            self._leave(first.packet)
            if first.then is not None:
                first.then()

    def drop(self) -> None:
        """The connection has ended: nothing leaves any more."""
        self._due.clear()
