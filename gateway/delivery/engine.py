"""The seam between deliveries and the broker that carries their messages.

An engine takes a message for one device and says later what became of it; it keeps nothing it did not take. Today there
is one, the embedded broker, called in-process: its acknowledgement is the device's own. A foreign broker would join
as a second implementation; nothing but this module and the composition root would notice.

`EngineEvents` is what an engine tells `DeviceConnections`. It is the broker's own protocol, so that the hot path has no
layer in between: `DeviceConnections` is handed to the broker as its events, and `deliver_to` returns the session's own
bound method.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from broker.broker import Broker
from broker.connection_protocols import ConnectionFacts
from broker.events import ACKNOWLEDGED, COMPLETED, LOST, MOVED, UNHANDLED, BrokerEvents
from broker.message import Body, Message
from broker.protocol.packets import Properties, ReasonCode
from broker.reception import PACKET_ID_BITS
from broker.settings import BrokerSettings
from gateway.settings import Settings

__all__ = [
    "ACKNOWLEDGED",
    "COMPLETED",
    "LOST",
    "MOVED",
    "PACKET_ID_BITS",
    "UNHANDLED",
    "Body",
    "ConnectionFacts",
    "EmbeddedEngine",
    "Engine",
    "EngineEvents",
    "Message",
    "Properties",
    "ReasonCode",
    "broker_settings",
]

EngineEvents = BrokerEvents
SIDE_CONNECTIONS = 8
"""Connections of one device besides its own: a helper or two, and what the network has not yet told us is gone."""
MAX_UNSTORED_BYTES = 512 * 1024
"""Bytes of one connection of a device that are not stored yet. Each is there several times on its way to the disk."""


class Engine(Protocol):
    """Broker of messages, as the hand-over needs it. All calls are made on the loop and return at once."""

    def deliver_to(self, client_id: str) -> Callable[[Message, int], bool]:
        """The function that hands over messages, each under a handle, to a client that is connected now.

        It is good until the client is not, and answers False when the client is not connected, not subscribed, or has
        no room; nothing was kept then. The message object may be used again.
        """

    def cork(self, client_id: str) -> None:
        """Gather messages for this client until `uncork`, in the same call stack.

        They may leave with one system call.
        """

        """Send what was gathered since `cork`."""

    def uncork(self, client_id: str) -> None: ...

    def granted_qos(self, client_id: str, topic: str) -> int | None:
        """The QoS the connected device subscribed with; None when it has no subscription to its topic."""

    def in_flight(self, client_id: str) -> int:
        """Count the messages that the connected client has not acknowledged, or a few more."""

    def connection_facts(self, client_id: str) -> ConnectionFacts | None:
        """Protocol version, keep alive and listener of a connected device; None of one that is away."""

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish an ordinary message with QoS 1 to whoever has subscribed to the topic."""

    def forget(self, client_id: str, handle: int) -> None:
        """Drop the record of a QoS 2 handle, whose acknowledgement is on disk."""

    def past_pubrec(self) -> list[tuple[str, int]]:
        """Deliveries past PUBREC, as (client_id, handle), which cannot be taken back."""

    def awaiting_pubrec(self, client_id: str) -> set[int]:
        """QoS 2 handles that may have arrived without an answer: handed over anew, they would arrive twice."""

    def unfinished(self) -> list[int]:
        """Handles of QoS 2 before PUBREC: right after a restart those of the last run."""

    def numbers(self) -> set[int]:
        """Numbers of the sessions and wills whose messages may come again (`Receipts.recover`)."""

    def principals(self) -> list[str]:
        """Principals whose sessions are stored, connected or not."""

    def remove_session(self, client_id: str, done: Callable[[], None]) -> None:
        """Close the connection of a removed device and delete its session; `done` is called when that is on disk."""

    def disconnect(self, principal: str, reason_code: int) -> int:
        """Close every connection of a credential; how many there were."""


class EmbeddedEngine:
    """The broker in the same process, as an `Engine`."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def deliver_to(self, client_id: str) -> Callable[[Message, int], bool]:
        return self._broker.deliver_to(client_id)

    def cork(self, client_id: str) -> None:
        self._broker.cork(client_id)

    def uncork(self, client_id: str) -> None:
        self._broker.uncork(client_id)

    def granted_qos(self, client_id: str, topic: str) -> int | None:
        return self._broker.granted_qos(client_id, topic)

    def in_flight(self, client_id: str) -> int:
        return self._broker.in_flight(client_id)

    def connection_facts(self, client_id: str) -> ConnectionFacts | None:
        return self._broker.connection_facts(client_id, client_id)

    def publish(self, topic: str, payload: bytes) -> None:
        self._broker.publish(Message(topic, Body(payload), qos=1))

    def forget(self, client_id: str, handle: int) -> None:
        self._broker.forget(client_id, handle)

    def past_pubrec(self) -> list[tuple[str, int]]:
        return self._broker.past_pubrec()

    def awaiting_pubrec(self, client_id: str) -> set[int]:
        return self._broker.awaiting_pubrec(client_id)

    def unfinished(self) -> list[int]:
        return self._broker.unfinished()

    def numbers(self) -> set[int]:
        return self._broker.numbers()

    def principals(self) -> list[str]:
        return [session.principal for session in self._broker.sessions.values()]

    def remove_session(self, client_id: str, done: Callable[[], None]) -> None:
        self._broker.remove_session(client_id)
        self._broker.when_stored(done)

    def disconnect(self, principal: str, reason_code: int) -> int:
        return self._broker.disconnect_principal(principal, reason_code)


def broker_settings(settings: Settings) -> BrokerSettings:
    """Make the settings of the embedded broker from those of the server.

    Devices and networks do not become faster with the clock: what is waited for from them takes as long as ever.
    """
    speed = settings.clock_speed
    usual = BrokerSettings(
        max_inflight=settings.max_inflight,
        ack_timeout=settings.ack_timeout * speed,
        max_message_rate=settings.device_message_rate / speed,
        max_byte_rate=settings.device_byte_rate / speed,
        max_unstored_bytes=MAX_UNSTORED_BYTES,
        max_connections_per_user=SIDE_CONNECTIONS,
        max_connections_per_address=settings.connections_per_address,
    )
    return replace(
        usual, connect_timeout=usual.connect_timeout * speed, keep_alive_grace=usual.keep_alive_grace * speed
    )
