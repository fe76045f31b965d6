"""A WebSocket client written by hand from RFC 6455: what tests send, and what they expect byte for byte.

No line is shared with the library that the broker uses, and nothing is checked that a test may want to be wrong.
"""

from __future__ import annotations

import base64
import hashlib
import socket
import struct

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""What RFC 6455, 1.3, gives as the answer to that key."""
MASK = b"\x37\xfa\x21\x3d"
"""Of RFC 6455, 5.7. A client has to draw one that nobody can foresee; a test has to repeat itself."""
LARGEST_FRAME = 16 * 1024
"""Bytes of payload that a stream puts in a frame: as much as browsers' clients do."""


def request(
    host: str = "broker.example", path: str = "/mqtt", *headers: str, protocol: str | None = "mqtt", key: str = KEY
) -> bytes:
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
        *headers,
    ]
    if protocol is not None:
        lines.append(f"Sec-WebSocket-Protocol: {protocol}")
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode("latin-1")


def frame(payload: bytes, opcode: int = BINARY, *, final: bool = True, mask: bytes | None = MASK) -> bytes:
    """Of a client, unless `mask` is None."""
    first = bytes([opcode | (0x80 if final else 0)])
    masked = 0 if mask is None else 0x80
    length = len(payload)
    if length < 126:
        head = first + bytes([masked | length])
    elif length < 1 << 16:
        head = first + bytes([masked | 126]) + struct.pack(">H", length)
    else:
        head = first + bytes([masked | 127]) + struct.pack(">Q", length)
    if mask is None:
        return head + payload
    # Exclusive or of the payload and the mask as often as it takes, at once.
    repeated = (mask * (length // 4 + 1))[:length]
    covered = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
    return head + mask + covered.to_bytes(length, "big")


def close_frame(code: int | None = 1000, reason: str = "") -> bytes:
    return frame(b"" if code is None else struct.pack(">H", code) + reason.encode(), CLOSE)


def accept_of(key: str) -> str:
    return base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()


class WebSocketStream:
    """A connected socket that carries a stream of bytes in binary frames: as `socket.socket`, as far as tests go."""

    def __init__(self, connected: socket.socket, host: str = "broker.example", path: str = "/mqtt") -> None:
        self._socket = connected
        self._payload = b""
        self.close_code = 0
        """What the server's Close frame says; 0 before, 1005 if it says nothing."""
        self.pongs: list[bytes] = []
        self.frames: list[bytes] = []
        """Payloads of the binary frames that have been read."""
        connected.sendall(request(host, path))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            part = connected.recv(1)
            assert part, f"refused: {head.decode('latin-1')}"
            head += part
        lines = head.decode().split("\r\n")
        assert lines[0] == "HTTP/1.1 101 Switching Protocols", head.decode() + connected.recv(4_096).decode()
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
        assert headers["sec-websocket-accept"] == ACCEPT
        assert headers["sec-websocket-protocol"] == "mqtt"
        assert "sec-websocket-extensions" not in headers

    def sendall(self, data: bytes) -> None:
        starts = range(0, max(len(data), 1), LARGEST_FRAME)
        self.send_frames(*(frame(data[start : start + LARGEST_FRAME]) for start in starts))

    def send_frames(self, *frames: bytes) -> None:
        """As they are, in one segment if they fit."""
        self._socket.sendall(b"".join(frames))

    def recv(self, size: int) -> bytes:
        """Bytes of binary frames; b"" when the server has ended the connection."""
        while not self._payload:
            head = self._exactly(2)
            if not head:
                return b""
            opcode, length = head[0], head[1]
            assert length < 0x80, "a server does not mask"
            if length == 126:
                (length,) = struct.unpack(">H", self._exactly(2))
            elif length == 127:
                (length,) = struct.unpack(">Q", self._exactly(8))
            payload = self._exactly(length)
            assert len(payload) == length, "the connection ended within a frame"
            if opcode == 0x80 | BINARY:
                self._payload = payload
                self.frames.append(payload)
            elif opcode == 0x80 | PONG:
                self.pongs.append(payload)
            else:
                assert opcode == 0x80 | CLOSE, f"a server of MQTT sends no {opcode:#04x}"
                self._closed(payload)
                return b""
        data, self._payload = self._payload[:size], self._payload[size:]
        return data

    def settimeout(self, seconds: float | None) -> None:
        self._socket.settimeout(seconds)

    def close(self) -> None:
        """Hang up without a Close frame."""
        self._socket.close()

    def _closed(self, payload: bytes) -> None:
        """Answer as RFC 6455, 5.5.1, says, and see the socket closed: by the server, and without another byte."""
        self.close_code = int.from_bytes(payload[:2], "big") if payload else 1005
        try:
            self.send_frames(frame(payload, CLOSE))
            rest = self._socket.recv(1)
        except ConnectionError:
            return
        assert rest == b"", "bytes after the Close frame"

    def _exactly(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            part = self._socket.recv(length - len(data))
            if not part:
                assert not data, "the connection ended within a frame"
                return b""
            data += part
        return data
