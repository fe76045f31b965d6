"""An inbound QoS 2 message between its PUBLISH and PUBREL, and whether its content is stored.

Laws
1. Each store that keeps content keeps the identifier in the same commit: what is routed to durable sessions is in one
   group of the broker's store with the packet identifier; the embedder stores its content together with the number that
   it is given for it (`BrokerEvents.published`). So a kill between the two commits neither loses nor doubles anything:
   when the client repeats its PUBLISH, each side recognises what it has.
2. PUBREC leaves when both have it [MQTT-4.3.3-8], also for a repetition: one that comes while the first is on its way
   takes over its PUBREC, and one of a message that an earlier run has stored asks the embedder again.
3. PUBCOMP leaves when both have forgotten it: until then the identifier means this message [MQTT-4.3.3-10], then a
   new one. A refusal (5.0) ends the handshake at PUBREC, and frees the identifier before it [MQTT-4.3.3-9].
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from broker.protocol.packets import V5
from broker.shared_state import SharedState

PACKET_ID_BITS = 16


class ReceivingSession(Protocol):
    """The part of a session that a reception uses: `session` imports this module, not the other way round."""

    shared_state: SharedState
    version: int
    received: dict[int, Reception | None] | None
    """Inbound QoS 2 messages before PUBREL, by packet identifier. None: the content is stored."""

    def release(self, packet_id: int) -> bool:
        """Free the identifier; False if it was not in use."""


class Reception:
    """An inbound QoS 2 message whose content may not be stored yet.

    It is the `done` of `BrokerEvents.published`: the embedder calls it with the reason code.
    """

    __slots__ = ("acknowledge", "packet_id", "session")

    def __init__(self, session: ReceivingSession, packet_id: int) -> None:
        self.session = session
        self.packet_id = packet_id
        self.acknowledge: Callable[[int], None] | None = None
        """Queues PUBREC on the connection that has sent PUBLISH last. None: an earlier run has stored the identifier,
        and the embedder was not asked yet."""

    def __call__(self, reason_code: int) -> None:
        session, packet_id, acknowledge = self.session, self.packet_id, self.acknowledge
        assert acknowledge is not None, "the embedder was asked"
        received = session.received
        if received is None or received.get(packet_id) is not self:
            acknowledge(reason_code)  # released meanwhile, or the session has ended
        elif reason_code >= 0x80 and session.version == V5:
            session.release(packet_id)
            session.shared_state.store.barrier(partial(acknowledge, reason_code))
        else:
            received[packet_id] = None
            acknowledge(reason_code)
