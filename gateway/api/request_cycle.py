"""One request to the application and its answer: uvicorn's cycle, and an answer that leaves in one piece.

In ASGI an answer is a message for its head and one for its body, and uvicorn writes each: two system calls, two
packets, and a reader that is woken twice. An application that has the whole answer sends a single message of the type
`WHOLE_ANSWER` instead, where `scope["extensions"]` names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

WHOLE_ANSWER: Final = "fleetpush.http.response.whole"
"""Type of a message: an answer with `status`, `media_type` and `content`, whose body is not empty."""
EXTENSIONS: Final[Mapping[str, Mapping[str, Any]]] = {WHOLE_ANSWER: {}}
"""Value of `extensions` in the scope of requests."""


class RequestCycle(RequestResponseCycle):
    """The cycle of one request. Runs on the *loop*."""

    _last_headers: ClassVar[tuple[list[tuple[bytes, bytes]], bytes]] = ([], b"")
    """Default headers and their lines; uvicorn makes new ones once a second, for the date."""

    async def send(self, message: Any) -> None:  # Hot path.
        if message["type"] != WHOLE_ANSWER:
            await super().send(message)
            return
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        assert not self.response_started, "it is the whole answer"
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        headers, lines = self._last_headers
        if headers is not self.default_headers:
            headers = self.default_headers
            lines = b"".join([b"%b: %b\r\n" % header for header in headers])
            RequestCycle._last_headers = headers, lines
        content: bytes = message["content"]
        self.transport.write(
            b"%b%bcontent-length: %d\r\ncontent-type: %b\r\n%b\r\n%b"
            % (
                STATUS_LINE[message["status"]],
                lines,
                len(content),
                message["media_type"],
                b"" if self.keep_alive else b"connection: close\r\n",
                content,
            )
        )
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
