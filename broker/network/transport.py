"""One TCP socket and one `Connection`: bytes in, bytes out, and the pauses of a slow reader.

Laws
1. It decides nothing about MQTT. It hands over bytes with the time they came, and reports when the socket's buffer
   rises above the settings' `write_buffer` (pause) and has drained (resume); `Connection` decides on the rest.
2. It never keeps bytes back: uvloop's transport writes at once; TCP keeps the order and loses nothing [MQTT-4.2-1]
   [3.1.1: MQTT-7.1.1-1].
3. A client that sends much at once is read in turns with the others (`read_turns`); bytes that came before it hangs up
   are processed all the same.
4. Nothing is sent after `close`, and every close ends. Bytes that were written go out first; a peer that does not read
   them, or does not hang up, is cut off after `LINGER_SECONDS`.

Closing has a second half. A socket that is closed with unread bytes in it answers them with a reset, and a reset
destroys the bytes that the peer has not read yet: the very CONNACK or DISCONNECT that tells it the reason. So `close`
ends our side only, and bytes that still come are read and thrown away until the peer hangs up.

Price of an idle connection: this object about 200 bytes, uvloop's transport 1.4 KiB.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol, cast

from broker.broker import Broker
from broker.connection import Connection
from broker.network.proxies import UNIX, host_and_port
from broker.network.read_turns import PART_BYTES, ReadTurns
from broker.network.strangers import has_unread
from broker.network.tls import client_certificate

LINGER_SECONDS = 1.0
"""Time from `close` until the socket is cut off. A reachable client has hung up long before."""


class TransportOwner(Protocol):
    """TransportOwner of the listener, which counts the sockets."""

    broker: Broker
    read_turns: ReadTurns

    def opened(self, transport: TcpTransport, peer: str) -> bool:
        """Count a new socket; return False if there are too many, and it is to be cut off. `peer` is its address."""

    def closed(self, transport: TcpTransport) -> None:
        """Count a socket less."""


class TcpTransport(asyncio.Protocol):
    """Transport of a `Connection` over TCP, and the asyncio protocol of its socket. Runs on the *loop*."""

    __slots__ = (
        "_clock",
        "_closing",
        "_connection",
        "_cut",
        "_hung_up",
        "_loop",
        "_metrics",
        "_owner",
        "_peer",
        "_reading_paused",
        "_receive",
        "_socket",
        "_spared",
        "_unread",
        "_unread_from",
        "send",
    )
    schemes = ("mqtt", "mqtts")
    """Without TLS, and with it."""

    def __init__(self, owner: TransportOwner, loop: asyncio.AbstractEventLoop, peer: str | None = None) -> None:
        """Wait for `connection_made`. `peer` (HOST:PORT) is the address from a proxy; None: the socket's own counts."""
        self._peer = peer
        self._owner = owner
        self._loop = loop
        shared_state = owner.broker.shared_state
        self._clock = shared_state.clock
        self._metrics = shared_state.metrics
        self._socket: asyncio.Transport
        self.send: Callable[[bytes], None]
        self._receive: Callable[[bytes, float], None] | None = None
        """The connection's `data_received`; None when it wants no bytes any more."""
        self._connection: Connection | None = None
        self._closing = False
        self._reading_paused = False
        """The connection wants no bytes for now."""
        self._unread: bytes | None = None
        """Bytes that wait for their turn, from `_unread_from` on."""
        self._unread_from = 0
        self._spared = False
        """It was the next to be cut off for a newcomer, and was not, because it had said something."""
        self._hung_up = False
        """The socket is gone, and its end waits for the unread bytes."""
        self._cut: asyncio.TimerHandle | None = None

    # -- called by the connection --------------------------------------------------------------------------------------

    @property
    def scheme(self) -> str:
        if isinstance(self._socket.get_extra_info("sockname"), str):
            return "unix"
        return self.schemes[self._socket.get_extra_info("ssl_object") is not None]

    def write(self, data: bytes) -> None:
        self._metrics.bytes_out += len(data)
        self.send(data)

    def send_together(self, packets: list[bytes]) -> None:
        self._socket.write(b"".join(packets))

    def close(self) -> None:
        """Send the bytes that are written, then hang up; cut off a peer that drags it out."""
        if self._closing:
            return
        self._closing = True
        self._receive = None
        self._unread = None
        if self._hung_up:
            self._loop.call_soon(self.connection_lost, None)
        if self._socket.is_closing():
            return
        self._reading_paused = False
        self._socket.resume_reading()  # to see the peer hang up
        self._cut_off_later()
        if self._socket.can_write_eof():
            self._socket.write_eof()
        else:
            self._socket.close()

    def pause_reading(self) -> None:
        if not self._closing:
            self._reading_paused = True
            self._socket.pause_reading()

    def resume_reading(self) -> None:
        if not self._reading_paused or self._closing:
            return
        self._reading_paused = False
        if self._unread is not None:
            self._owner.read_turns.add(self)
        elif not self._socket.is_closing():
            self._socket.resume_reading()

    @property
    def is_stranger(self) -> bool:
        """Whether no client is authenticated here, or none is any more."""
        return self._connection is None or self._connection.session is None

    def spare(self) -> bool:
        """Whether bytes have come, read or with the kernel still; never twice."""
        if self._spared or self._connection is None:
            return False
        received = self._connection.has_received
        self._spared = received or has_unread(self._socket.get_extra_info("socket").fileno())
        return self._spared

    def abort(self) -> None:
        """Cut off now; bytes that are written and not sent are lost."""
        self._socket.abort()

    def _sender(self) -> Callable[[bytes], None]:
        """Return the function that sends the bytes of whole packets."""
        return self._socket.write

    def _cut_off_later(self) -> None:
        if self._cut is None:
            self._cut = self._loop.call_later(LINGER_SECONDS, self._socket.abort)

    # -- called by the event loop --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket = cast(asyncio.Transport, transport)
        self.send = self._sender()
        peer = self._peer or _peer_text(transport.get_extra_info("peername"))
        if not self._owner.opened(self, peer):
            self._closing = True
            self._socket.abort()
            return
        self._socket.set_write_buffer_limits(high=self._owner.broker.settings.write_buffer)
        # TCP_NODELAY both loops set by themselves (and a test asks the kernel): to say it again costs 10 us.
        certificate = client_certificate(transport)
        self._connection = Connection(self._owner.broker, self, peer, self._clock(), certificate)
        self._receive = self._connection.data_received

    def data_received(self, data: bytes) -> None:  # Hot path.
        receive = self._receive
        if receive is None:
            return
        if len(data) > PART_BYTES or self._unread is not None:
            self._wait_for_turn(data)
        else:
            receive(data, self._clock())

    def eof_received(self) -> bool:
        """Have the loop close the socket (False) when the written bytes have left: the peer has hung up.

        A peer that hangs up and does not read would keep it, and the session, for ever.
        """
        self._cut_off_later()
        return False

    def pause_writing(self) -> None:
        if self._connection is not None and not self._closing:
            self._connection.pause_writing()

    def resume_writing(self) -> None:
        if self._connection is not None and not self._closing:
            self._connection.resume_writing(self._clock())

    def connection_lost(self, error: Exception | None) -> None:
        if self._unread is not None and error is None:
            self._hung_up = True  # TLS reports the end together with the last bytes before it
            return
        self._closing = True
        self._receive = None
        self._unread = None
        if self._cut is not None:
            self._cut.cancel()
            self._cut = None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.connection_lost(self._clock(), "connection lost" if error is None else _reason(error))
            self._owner.closed(self)

    # -- turns --------------------------------------------------------------------------------------------------------

    def _wait_for_turn(self, data: bytes) -> None:
        """Queue a large read for its turns. A stranger's is processed at once: it is little, and must not wait."""
        connection = self._connection
        unread = self._unread
        if unread is not None:  # TLS had more in its buffer
            self._unread = unread[self._unread_from :] + data
            self._unread_from = 0
            return
        begin = 0
        while connection is not None and connection.session is None and self._receive is not None and begin < len(data):
            self._receive_part(data[begin : begin + PART_BYTES])
            begin += PART_BYTES
        if self._receive is None or begin >= len(data):
            return
        self._unread = data
        self._unread_from = begin
        self._socket.pause_reading()
        self._owner.read_turns.add(self)

    def read_on(self, until: float) -> bool:
        """Process parts of the unread bytes; see `BusyReader`."""
        while (unread := self._unread) is not None and not self._reading_paused:
            begin = self._unread_from
            self._unread_from = begin + PART_BYTES
            self._receive_part(unread[begin : begin + PART_BYTES])
            if self._unread is not None and self._unread_from >= len(self._unread):
                self._all_is_read()
            elif time.monotonic() >= until:
                break
        return self._unread is not None and not self._reading_paused

    def _receive_part(self, data: bytes) -> None:
        """Process one part of the bytes that have come."""
        if self._receive is not None:
            self._receive(data, self._clock())

    def _all_is_read(self) -> None:
        self._unread = None
        if self._hung_up:
            self.connection_lost(None)
        elif not self._reading_paused and not self._socket.is_closing():
            self._socket.resume_reading()


def _peer_text(peer: object) -> str:
    """Return a remote address as HOST:PORT."""
    if isinstance(peer, tuple) and len(peer) >= 2:
        return host_and_port(str(peer[0]), int(peer[1]))
    return UNIX if isinstance(peer, str) else "unknown"


def _reason(error: Exception) -> str:
    """Return a short word group, which becomes a log line and a metric's label."""
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return "connection reset"
    if isinstance(error, TimeoutError):
        return "connection timed out"
    return "connection lost"
