"""Events that the broker reports to its embedder, and the outcomes of a delivery.

All calls are made on the *loop*, synchronously, from within a packet's or a timer's processing. A handler
may call back into the broker (`deliver` from `ready` or `delivery_ended`, for example), and must not raise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from broker.message import Message
from broker.protocol.packets import ReasonCode

ACKNOWLEDGED = 0x00
"""`delivery_ended` outcome: PUBACK with a reason code below 0x80."""
COMPLETED = 1
"""`delivery_ended` outcome: PUBCOMP. The broker keeps its record of the handle until `forget`."""
LOST = -1
"""`delivery_ended` outcome: the connection ended first. A session that outlives it may offer the handle to `resume`."""
UNHANDLED = -2
"""`delivery_ended` outcome: LOST, and the client has shown that it does not handle the message (`unhandled`)."""
MOVED = -3
"""`delivery_ended` outcome: past PUBREC, in a session that leaves memory for any broker over its store to load."""
# Any other outcome is `refused`: the reason code >= 0x80 of PUBACK or PUBREC, or 0x95 when the message is larger than
# the client's maximum packet size and was therefore not sent [MQTT-3.1.2-24].


class BrokerEvents(Protocol):
    """The embedder, as the broker sees it."""

    def connected(self, client_id: str, identity: object, session_present: bool) -> None:
        """Report an accepted CONNECT, side connections included. `identity` is that of `Accepted`."""

    def disconnected(self, client_id: str, reason: str, detail: str) -> None:
        """Report the end of a connection (for a take-over: of the old one, before `connected` of the new one).

        `reason` is one short word group for logs and metrics, `detail` whatever else is known of it, or empty. Every
        handle of the connection whose delivery has not ended has been reported LOST before, except those past PUBREC,
        which cannot be taken back.
        """

    def ready(self, client_id: str, send_quota: int) -> None:
        """Report that the session accepts `send_quota` (> 0) more messages through `deliver`.

        Called after CONNECT (once the inflight messages of the session are re-sent) if the session has a subscription,
        after every SUBSCRIBE and UNSUBSCRIBE that leaves one, and after a `deliver` answered False for want of send
        quota, when half of the window is free again and the socket takes bytes.
        """

    def delivery_ended(self, client_id: str, handle: int, outcome: int) -> None:
        """Report the outcome of a delivery of QoS 1 or 2: ACKNOWLEDGED, COMPLETED, LOST, UNHANDLED, or a code >= 0x80.

        After COMPLETED the caller owes a `Broker.forget(client_id, handle)` once it has stored the outcome: until then
        the broker keeps its own record, so that a crash between the two cannot deliver twice.
        """

    def resume(
        self, client_id: str, handles: Sequence[int], done: Callable[[Mapping[int, Message | None]], None]
    ) -> None:
        """Ask which unacknowledged deliveries of a session that came back are still to be sent; oldest first.

        Call `done` once, now or later, with a message (rendered afresh) for each of these. They are re-sent with their
        packet identifiers, order and DUP; the others are dropped from the session without another event. None in place
        of a message: not yet, others come first. It leaves the window, and one of QoS 2 keeps its packet identifier:
        delivered again under its handle, it is a repetition, which the client takes once. After a restart that is how
        to keep the order, since of what was sent with QoS 1 nothing is stored here (see `Broker.unfinished`).

        Calling `done` after the connection has ended again is harmless: the handles are dropped from nothing, nothing
        is sent, and the broker reports LOST for each handle that was in the mapping with a message.
        """

    def published(
        self, client_id: str, message: Message, done: Callable[[int], None], identifier: int | None = None
    ) -> None:
        """Report a permitted message of a client, or its will. `done(reason_code)` releases PUBACK or PUBREC, in order.

        The broker has also routed the message to ordinary subscribers; the acknowledgement leaves when that is stored
        and `done` was called, whichever is later. For QoS 0 and wills `done` must be called all the same.

        With an `identifier` the same message may be reported again, by the next run of the server: store the identifier
        in the commit that stores the content, and if it is there already, only call `done`. A message that `done`
        refuses (0x80 and above) is not stored, nor is its identifier.
        """

    def released(self, client_id: str, identifiers: Sequence[int], done: Callable[[], None]) -> None:
        """Report that messages of these identifiers, known or not, will not be reported again.

        The identifiers may mean other messages from now on. Call `done` when they are forgotten, on disk: the
        client's PUBCOMP waits for it.
        """


class NoEvents:
    """Events of a broker without an embedder: everything is accepted, and there are no deliveries."""

    def connected(self, client_id: str, identity: object, session_present: bool) -> None: ...

    def disconnected(self, client_id: str, reason: str, detail: str) -> None: ...

    def ready(self, client_id: str, send_quota: int) -> None: ...

    def delivery_ended(self, client_id: str, handle: int, outcome: int) -> None: ...

    def resume(
        self, client_id: str, handles: Sequence[int], done: Callable[[Mapping[int, Message | None]], None]
    ) -> None:
        # Left by an embedder of an earlier run.
        done({})

    def published(
        self, client_id: str, message: Message, done: Callable[[int], None], identifier: int | None = None
    ) -> None:
        done(ReasonCode.SUCCESS)

    def released(self, client_id: str, identifiers: Sequence[int], done: Callable[[], None]) -> None:
        done()
