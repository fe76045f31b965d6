"""Acknowledgements that one connection still has to send, in the order of the packets that they acknowledge.

One leaves when its conditions are met (the store's barrier, the embedder's `done`) and every earlier one has left:
PUBACKs and PUBRECs in the order of their PUBLISHes [MQTT-4.6.0-2] [MQTT-4.6.0-3] [3.1.1: MQTT-4.6.0-2]
[3.1.1: MQTT-4.6.0-3], and nothing before CONNACK. SUBACK, UNSUBACK, PUBCOMP and AUTH wait in the same line.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from broker.protocol.packets import Packet


class PendingAck:
    """One acknowledgement and the conditions that it waits for."""

    __slots__ = ("conditions_left", "packet", "then")

    def __init__(self, packet: Packet, conditions: int, then: Callable[[], None] | None) -> None:
        self.packet = packet
        self.conditions_left = conditions
        """Calls of `PendingAcks.condition_met` that are still to come."""
        self.then = then
        """Called when the packet has left; never, if it never does."""


class PendingAcks:
    """The line of acknowledgements of one connection; `send` is called for each whose turn has come."""

    __slots__ = ("_line", "_send")

    def __init__(self, send: Callable[[Packet], None]) -> None:
        self._send = send
        self._line: deque[PendingAck] = deque()

    def __len__(self) -> int:
        return len(self._line)

    def __bool__(self) -> bool:
        return bool(self._line)

    def append(self, ack: PendingAck) -> None:
        self._line.append(ack)

    def condition_met(self, ack: PendingAck) -> None:
        """Count one condition of an acknowledgement as met, and send all whose turn has come by it."""
        ack.conditions_left -= 1
        line = self._line
        while line and not line[0].conditions_left:
            first = line.popleft()
            self._send(first.packet)
            if first.then is not None:
                first.then()

    def clear(self) -> None:
        """Drop all: the connection has ended, and nothing leaves any more."""
        self._line.clear()
