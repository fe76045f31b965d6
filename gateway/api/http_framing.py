"""The framing of HTTP/1.1: limits of a message's parts, and how far a parser may be fed. Bytes only: no socket, no
time.

`httptools` parses whatever it is given to the end, and has no limits. So it is given a part at a time: up to the end of
a head, of a body whose length is known, of one chunk, of one line of a trailer. It never gets past the end of a message
by itself, and what is too large is noticed before it costs anything. What is no HTTP the parser notices.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Final

HEAD_BYTES: Final = 16 * 1024
"""Bytes of a request's first line and headers together (Node's and h11's limit)."""
HEADERS_LIMIT: Final = 100
"""Headers of a request (Apache's limit)."""
TRAILER_BYTES: Final = 4 * 1024
"""Bytes of what follows the last chunk of a body; nobody reads it."""
CHUNK_LINE_BYTES: Final = 256
"""Bytes of a chunk's size and extensions; nobody reads these."""
FREE_CHUNKS: int = 16_384
BYTES_PER_CHUNK: Final = 64
"""A body may come in so many chunks, and in one more for each so many bytes of it: a chunk costs 2 us of the loop,
however little is in it."""


_HOST: Final = re.compile(rb"(\[[\w.:~!$&'()*+,;=%-]+\]|[\w.~!$&'()*+,;=%-]*)(:[0-9]*)?", re.ASCII)
"""Text that a Host header may have (RFC 9110, 7.2; RFC 3986, 3.2.2)."""


class MessagePart(Enum):
    """The part of a message to which the next byte belongs."""

    HEAD = auto()
    BODY = auto()
    CHUNK_LINE = auto()
    CHUNK = auto()
    TRAILER = auto()
    NEXT = auto()
    """The next request, which waits until this one is answered."""
    NOTHING = auto()
    """The connection has been hung up."""


# For every request several are looked up, and `Part.HEAD` costs four times as much as a name of the module.
HEAD, BODY, CHUNK_LINE, CHUNK, TRAILER, NEXT, NOTHING = MessagePart


class FramingError(Exception):
    """A message is larger than it may be, or says of itself what no request may. The text is for its sender."""

    def __init__(self, limit: str, text: str) -> None:
        super().__init__(text)
        self.limit = limit


class Framing:
    """The message that is being read on a connection."""

    __slots__ = (
        "_chunks", "_hosts", "_line", "_trailer_bytes", "body_bytes", "expects_100", "head_bytes", "headers",
        "is_chunked", "left", "part",
    )  # fmt: skip

    def __init__(self) -> None:
        self.part = HEAD
        self.head_bytes = 0
        """0 before a message begins, and after its head."""
        self.begin_message()

    def begin_message(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.is_chunked = self.expects_100 = False
        self.left = 0
        """Bytes of the body, or of the chunk and its end of line, that have not come."""
        self._line = b""
        """The part of a chunk's first line that has come."""
        self._chunks = self._trailer_bytes = self._hosts = 0
        self.body_bytes = 0
        """Bytes of the body that have come, with everything around the chunks."""

    def add_header(self, name: bytes, value: bytes) -> None:  # Hot path.
        """Note a header. A field in a trailer is none (RFC 9110, 6.5.1). Raises FramingError."""
        if self.part is not HEAD:
            return
        name = name.lower()
        if name == b"content-length":
            self.left = int(value)  # the parser has checked that it is a number
        elif name == b"host":
            self._hosts += 1
            if self._hosts > 1 or _HOST.fullmatch(value) is None:
                raise FramingError("malformed", "a request has one Host header, with a name or an address")
        elif name == b"transfer-encoding":
            self.is_chunked = True
            if value.strip().lower() != b"chunked":  # the application would take what is encoded for the content
                raise FramingError("malformed", "of transfer codings this server knows `chunked` alone")
        elif name == b"expect":
            self.expects_100 = value.lower() == b"100-continue"
        if len(self.headers) == HEADERS_LIMIT:
            raise FramingError("too_many_headers", f"a request may have {HEADERS_LIMIT} headers")
        self.headers.append((name, value))

    def check_head(self, version: str) -> None:
        """Refuse a head that the parser lets pass (RFC 9112, 3.2; RFC 9110, 10.1.1). Raises FramingError."""
        if version == "1.1":
            if not self._hosts:
                raise FramingError("malformed", "a request of HTTP/1.1 has a Host header")
        elif version == "1.0":
            self.expects_100 = False
        else:
            raise FramingError("malformed", "this server speaks HTTP/1.1")

    def end_head(self) -> None:
        self.head_bytes = 0
        self.part = CHUNK_LINE if self.is_chunked else BODY if self.left else NEXT

    def end_of_part(self, data: bytes, at: int, end: int) -> int:  # Hot path.
        """Return up to where the parser may be fed of `data[at:end]`, as it will be. Raises FramingError."""
        part = self.part
        if part is HEAD:
            if self.head_bytes:
                stop = data.find(b"\n", at) + 1 or end  # its end may have come in two reads: line by line
            else:
                found = data.find(b"\r\n\r\n", at)
                stop = end if found < 0 else found + 4
            self.head_bytes += stop - at
            if self.head_bytes > HEAD_BYTES:
                raise FramingError("head_too_large", f"the head of a request may have {HEAD_BYTES} bytes")
            return stop
        if part is TRAILER:
            stop = data.find(b"\n", at) + 1 or end
            self._trailer_bytes += stop - at
            if self._trailer_bytes > TRAILER_BYTES:
                raise FramingError("trailer_too_large", f"the trailer of a body may have {TRAILER_BYTES} bytes")
        elif part is CHUNK_LINE:
            stop = data.find(b"\n", at) + 1 or end
            self._line += data[at:stop]
            if len(self._line) > CHUNK_LINE_BYTES:
                raise FramingError("chunk_line_too_large", f"before a chunk may stand {CHUNK_LINE_BYTES} bytes")
            if data[stop - 1] == 0x0A:
                self._begin_chunk()
        else:
            stop = min(end, at + self.left)
            self.left -= stop - at
            if part is CHUNK and not self.left:
                self.part = CHUNK_LINE
        self.body_bytes += stop - at
        return stop

    def _begin_chunk(self) -> None:
        """The parser has not seen the line yet: what is no number it refuses."""
        line, self._line = self._line, b""
        try:
            size = int(line.partition(b";")[0], 16)
        except ValueError:
            size = 0
        self._chunks += 1
        if self._chunks > FREE_CHUNKS + self.body_bytes // BYTES_PER_CHUNK:
            raise FramingError("too_many_chunks", f"its chunks are too small: send {BYTES_PER_CHUNK} bytes in each")
        self.part = CHUNK if size else TRAILER
        self.left = size + 2
