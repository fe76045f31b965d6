"""A `TcpTransport` whose bytes are wrapped in WebSocket frames. The connection behind it is the same and cannot tell.

Laws
1. A frame is not a packet [MQTT-6.0.0-2] [3.1.1: MQTT-6.0.0-2]: the payloads of binary frames are one stream of bytes,
   and so are the parts of a fragmented message, each handed over as it comes. Outgoing, each packet is a frame, though
   many may leave with one write: Paho for C looks at the first packet of a frame only, until more bytes come.
2. A stranger costs no more than over TCP. The request's head, and all its bytes until its CONNECT is accepted, take
   `connect_buffer` bytes each, also within one large frame; `connect_timeout` counts from the socket on and covers the
   opening handshake and CONNECT together. Later a frame may be as large as a packet, `maximum_packet_size`.
3. A client that breaks the framing is told so twice: by DISCONNECT, if it speaks 5.0, and by a Close frame with a code.
   Text is an error [MQTT-6.0.0-1] [3.1.1: MQTT-6.0.0-1].
4. Frames are no packets for the keep alive either: pings are answered, and prove nothing about the MQTT client.

It starts as a listener's protocol or with an open transport that an HTTP server hands over, which then gives it the
head of the request as the first data.

The opening handshake and the frames that come in are parsed by `websockets` (3 us a frame); those that go out are a
header before the payload (0.2 us; the library would take 1.1).

Price of an idle connection: that of TCP and 2.0 KiB, most of it the library's parser. The rest that the
library keeps, the request of the opening handshake and the last frame, is cleared: 5 KiB for a browser's request.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Callable
from http import HTTPStatus
from typing import Final, cast

from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from broker.connection import Connection
from broker.network.read_turns import PART_BYTES
from broker.network.tls import client_certificate
from broker.network.transport import TcpTransport, TransportOwner
from broker.network.websocket_handshake import (
    END_OF_HEAD,
    NOT_A_REQUEST,
    PARSER_LOG,
    TOO_LARGE,
    Refusal,
    WebSocketRules,
    forget,
    may_become_request,
    refusal_response,
    respond,
)
from broker.protocol.packets import ReasonCode

log = logging.getLogger(__name__)

_LIMITS_MESSAGES: Final = "max_fragment_size" not in vars(ServerProtocol())
"""`websockets` before 16 can limit messages only: all fragments together."""
_BINARY_OPCODE: Final = Opcode.BINARY
_CONTINUATION_OPCODE: Final = Opcode.CONT
_TEXT_OPCODE: Final = Opcode.TEXT
_CLOSE_OPCODE: Final = Opcode.CLOSE
_BINARY: Final = 0x82
"""First byte of a binary frame that is a whole message (RFC 6455, 5.2)."""
_SHORT_HEADS: Final = tuple(bytes((_BINARY, length)) for length in range(126))
_LARGEST_HEAD: Final = 14
"""Bytes before the payload of a client's frame: the largest CONNECT may come in one frame."""
STRANGER_FRAME_BYTES: Final = 128
"""Cost of a stranger's frame without a packet, in bytes of its allowance: 512 frames instead of 10,000."""
_head_of_2_bytes: Final = struct.Struct(">BBH").pack
_head_of_8_bytes: Final = struct.Struct(">BBQ").pack


def limit_frames(frames: ServerProtocol, largest_bytes: int) -> None:
    """Limit the frames of a parser. `websockets` has a limit from its start on, ours grows with CONNECT.

    Neither name is documented.
    """
    vars(frames)["max_size" if _LIMITS_MESSAGES else "max_fragment_size"] = largest_bytes


class WebSocketTransport(TcpTransport):
    """Transport of a `Connection` over WebSocket. Runs on the *loop*."""

    __slots__ = ("_allowance", "_frames", "_request", "_rules")
    schemes = ("ws", "wss")

    def __init__(
        self, owner: TransportOwner, loop: asyncio.AbstractEventLoop, rules: WebSocketRules, peer: str | None = None
    ) -> None:
        super().__init__(owner, loop, peer)
        self._rules = rules
        self._request: bytearray | None = bytearray()
        """Bytes of the request's head so far; None once it is answered."""
        self._frames: ServerProtocol | None = None
        """The parser of frames, from the opening handshake on."""
        self._allowance: int | None = owner.broker.settings.connect_buffer + _LARGEST_HEAD
        """Bytes of frames that a stranger may still send; None once its CONNECT is accepted."""

    def close(self) -> None:
        """Send the bytes that are written and a Close frame, then hang up."""
        frames = self._frames
        if self._closing:
            return
        if self._request is not None:
            self._request = None
            if self._connection is not None:
                peer = self._connection.peer
                log.info("%s: closed before the opening handshake was over", peer, extra={"peer": peer})
        elif frames is not None and not self._socket.is_closing():
            if frames.state is State.OPEN:
                frames.send_close(CloseCode.NORMAL_CLOSURE)
            self._socket.write(b"".join(frames.data_to_send()))
        super().close()

    def _sender(self) -> Callable[[bytes], None]:
        write = self._socket.write

        def send(data: bytes) -> None:  # Hot path.
            """[MQTT-6.0.0-1] [3.1.1: MQTT-6.0.0-1]"""
            length = len(data)
            if length < 126:
                write(_SHORT_HEADS[length] + data)
            elif length < 65_536:
                write(_head_of_2_bytes(_BINARY, 126, length) + data)
            else:
                write(_head_of_8_bytes(_BINARY, 127, length) + data)

        return send

    def send_together(self, packets: list[bytes]) -> None:
        parts: list[bytes] = []
        for data in packets:
            length = len(data)
            if length < 126:
                parts.append(_SHORT_HEADS[length])
            elif length < 65_536:
                parts.append(_head_of_2_bytes(_BINARY, 126, length))
            else:
                parts.append(_head_of_8_bytes(_BINARY, 127, length))
            parts.append(data)
        self._socket.write(b"".join(parts))

    # -- called by the event loop --------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:  # Hot path.
        connection = self._connection
        if connection is None or self._closing:
            return
        if self._frames is None:
            self._open(connection, data)
        elif len(data) > PART_BYTES or self._unread is not None:
            self._wait_for_turn(data)
        else:
            self._receive_part(data)

    def _receive_part(self, data: bytes) -> None:  # Hot path.
        connection, frames, receive = self._connection, self._frames, self._receive
        if connection is None or frames is None or receive is None:
            return
        if self._allowance is not None and not self._within_allowance(len(data), frames, connection):
            return
        frames.receive_data(data)
        payload = b""
        extra = 0
        end: Frame | None = None
        # Requests come before the opening handshake is over.
        for frame in cast("list[Frame]", frames.events_received()):
            opcode = frame.opcode
            if opcode is _BINARY_OPCODE or opcode is _CONTINUATION_OPCODE:
                part = frame.data
                if part:
                    payload = payload + part if payload else bytes(part)
                    frame.data = b""  # the parser keeps its last frame until the next one
                if opcode is _CONTINUATION_OPCODE or not part:
                    extra += 1
            elif opcode is _TEXT_OPCODE or opcode is _CLOSE_OPCODE:
                end = frame
                break
            else:
                extra += 1
        now = self._clock()
        if payload:
            receive(payload, now)
        if extra:
            self._count_frames(extra, len(data), connection, now)
        if self._receive is None:
            return
        if end is not None:
            self._end_with_frame(end, frames, connection, now)
        elif frames.state is not State.OPEN:
            self._broken(frames, connection)
        else:
            if _LIMITS_MESSAGES and frames.cur_size:
                frames.cur_size = 0  # of a message in fragments, which we do not collect
            if pongs := frames.data_to_send():
                self._answer_pings(pongs, connection)

    def _count_frames(self, extra: int, size: int, connection: Connection, now: float) -> None:
        """Count frames without a whole packet as work: pings, fragments, empty ones."""
        if self._allowance is not None and connection.session is None:
            self._allowance -= extra * STRANGER_FRAME_BYTES
        else:
            connection.charge(extra, size, now)

    def _end_with_frame(self, frame: Frame, frames: ServerProtocol, connection: Connection, now: float) -> None:
        if frame.opcode is _CLOSE_OPCODE:
            connection.connection_lost(now)
        else:
            # [MQTT-6.0.0-1] [3.1.1: MQTT-6.0.0-1]
            frames.fail(CloseCode.UNSUPPORTED_DATA, "MQTT comes in binary frames")
            self._end(connection, ReasonCode.PROTOCOL_ERROR, "websocket text frame", "MQTT comes in binary frames")

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        frames, self._frames = self._frames, None
        if frames is not None:
            forget(frames)

    # -- the opening handshake ----------------------------------------------------------------------------------------

    def _open(self, connection: Connection, data: bytes) -> None:
        request = self._request
        assert request is not None, "once it is answered there are frames, or the end"
        looked_at = max(len(request) - len(END_OF_HEAD), 0)
        request += data
        limit = self._owner.broker.settings.connect_buffer
        if not may_become_request(request):
            self._refuse(connection, NOT_A_REQUEST, refusal_response(HTTPStatus.BAD_REQUEST, NOT_A_REQUEST))
            return
        found = request.find(END_OF_HEAD, looked_at)
        end = len(request) if found < 0 else found + len(END_OF_HEAD)
        if end > limit:
            too_large = refusal_response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, TOO_LARGE)
            self._refuse(connection, TOO_LARGE, too_large)
        elif found >= 0:
            certified = client_certificate(self._socket) is not None
            head = bytes(request[:end])
            response, connection.peer, refusal = respond(head, connection.peer, self._rules, certified=certified)
            if refusal is not None:
                self._refuse(connection, refusal, response)
                return
            self._request = None
            self._frames = ServerProtocol(state=State.OPEN, max_size=None, logger=PARSER_LOG)
            self._socket.write(response)
            if end < len(request):
                self.data_received(bytes(request[end:]))

    def _refuse(self, connection: Connection, refusal: Refusal, response: bytes) -> None:
        self._request = None
        self._socket.write(response)
        self._end(connection, ReasonCode.PROTOCOL_ERROR, refusal.reason, refusal.detail)

    # -- frames -------------------------------------------------------------------------------------------------------

    def _within_allowance(self, length: int, frames: ServerProtocol, connection: Connection) -> bool:
        """Limit the size of frames, before the parser gets `length` bytes more; return False if they are too many.

        The parser collects each frame as a whole.
        """
        left = self._allowance
        settings = self._owner.broker.settings
        if left is None or connection.session is not None:
            self._allowance = None
            limit_frames(frames, settings.maximum_packet_size)
        elif left > 0:
            self._allowance = left - length
            limit_frames(frames, min(left, settings.connect_buffer))
        else:
            # Mostly frames without a payload, which no limit of the parser's stops.
            frames.fail(CloseCode.MESSAGE_TOO_BIG)
            self._end(connection, ReasonCode.QUOTA_EXCEEDED, "too much before authentication", "no CONNECT in sight")
            return False
        return True

    def _answer_pings(self, pongs: list[bytes], connection: Connection) -> None:
        """Send pongs, unless the socket is full: a client that asks without reading would fill our memory."""
        if not connection.paused:
            self._socket.write(b"".join(pongs))

    def _broken(self, frames: ServerProtocol, connection: Connection) -> None:
        """End a connection whose bytes are no frames; the parser has a Close frame ready, with the reason."""
        frames.receive_eof()
        sent = frames.close_exc.sent
        if sent is not None and sent.code == CloseCode.MESSAGE_TOO_BIG:
            self._end(connection, ReasonCode.PACKET_TOO_LARGE, "websocket frame too large", sent.reason)
        else:
            detail = "no frame of a WebSocket" if sent is None else sent.reason
            self._end(connection, ReasonCode.PROTOCOL_ERROR, "websocket protocol error", detail)

    def _end(self, connection: Connection, reason_code: int, reason: str, detail: str) -> None:
        """Close with a reason for people and metrics, and a detail for the log."""
        peer = connection.peer
        log.info("%s: %s (%s)", peer, detail, reason.replace(" ", "_"), extra={"peer": peer})
        connection.end(reason_code, reason, detail)
