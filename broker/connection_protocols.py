"""Protocols of the two neighbours towards the socket: a session's connection, and a connection's transport.

    Session ─▶ SessionConnection (a `Connection`) ─▶ Transport (a socket, in `network`)

They stand apart from the classes that have them, so that a session is written without knowing connections, and a
connection without knowing sockets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol


class SessionConnection(Protocol):
    """The part of a connection that its session uses."""

    version: int
    paused: bool
    """The socket takes no bytes for now."""
    send: Callable[[bytes], None]
    """The socket's own `write`, for messages: none is sent while it is paused, and the sender counts `bytes_out`."""
    send_together: Callable[[list[bytes]], None]
    """Sends several packets with one system call."""

    def reply(self, data: bytes) -> None:
        """Send a packet that the protocol obliges us to send, paused or not."""

    def end(self, reason_code: int, reason: str) -> None:
        """Tell the client the reason, if its version can be told, and close."""


class Transport(Protocol):
    """The socket that a connection writes to. No call blocks or calls back, except `pause_writing` from `write`."""

    @property
    def scheme(self) -> str:
        """`mqtt` (TCP), `mqtts` (TLS), `ws`, `wss` or `unix`, as in the URL of a listener; not for the hot path."""

    @property
    def send(self) -> Callable[[bytes], None]:
        """The socket's own `write`, without a frame in between: for messages, whose sender counts `bytes_out`."""

    def send_together(self, packets: list[bytes]) -> None:
        """Send several packets with one system call; the sender counts `bytes_out`."""

    def write(self, data: bytes) -> None:
        """Send a packet that is no message, and count `bytes_out`."""

    def close(self) -> None:
        """Send what is written, for a bounded time, then close."""

    def pause_reading(self) -> None:
        """Deliver no more bytes until `resume_reading`; what was read already still comes."""

    def resume_reading(self) -> None: ...


class ConnectionFacts(NamedTuple):
    """Facts about the connection of a client."""

    version: int
    """Protocol version, as in CONNECT: 4 is 3.1.1 (and 3.1), 5 is 5.0."""
    keep_alive: int
    """Seconds; 0: none."""
    scheme: str
    """As of `Transport`."""
