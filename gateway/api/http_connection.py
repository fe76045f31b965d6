"""One HTTP connection: bytes in, one request after the other to the application, its answers out.

`httptools` parses, uvicorn's cycle speaks ASGI (`request_cycle`); what lies between is bounded here, because a stranger
without a key can say all of it.

Laws
1. One request at a time. What comes behind one that is not answered is held, and its socket is not read, so pipelined
   requests and an upgrade behind them wait in a buffer of at most two reads.
2. The parser is never fed past the end of a message, and every part of one has its limit (`http_framing`). What has
   come is parsed `STEPS_PER_TURN` parts in a turn of the loop.
3. Every wait has an end: for a head, for a body (`BODY_BYTES_PER_SECOND`), for the next request, for the reader of an
   answer, for who is hung up on.
4. Whoever is answered before all of its body came is told `Connection: close`, unless the rest is short, and what still
   comes is thrown away unparsed: closing the socket at once would destroy the answer on its way (RFC 9112, 9.6).
"""

from __future__ import annotations

import asyncio
import json
import logging
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any, Final, Literal, cast

import httptools
from uvicorn._types import HTTPScope
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState

from gateway.api.admission import ADMITTED
from gateway.api.connection_limiter import ConnectionLimiter, ConnectionPlace
from gateway.api.http_framing import HEAD, NEXT, NOTHING, Framing, FramingError
from gateway.api.problems import MEDIA_TYPE
from gateway.api.request_cycle import EXTENSIONS, RequestCycle
from gateway.api.request_turns import RequestTurns
from gateway.errors import Problem, problem

log = logging.getLogger(__name__)

MQTT_PATH: Final = "/mqtt"
"""The path at which this port speaks MQTT over WebSocket."""
READ_BYTES: Final = 16 * 1024
"""Taken from a socket at a time; what a connection holds is a small multiple of it."""
STEPS_PER_TURN: Final = 128
"""Parts of messages that a connection may have parsed in one turn of the loop: about 0.3 ms."""
HEAD_SECONDS: float = 30.0
"""Time from the connection to the end of its first request's head; from the first byte on for each later one, and for
what comes of a body after its answer."""
BODY_SECONDS: float = 30.0
"""Time between two checks of how much has come of a body."""
BODY_BYTES_PER_SECOND: float = 1_024.0
"""The rate that a body has to come at: the slowest mobile network there is (GPRS) is faster."""
WHOLE_BODY_SECONDS: float = 600.0
"""Time for all of a body: 16 MiB at 27 KiB/s."""
FIRST_REQUEST_SECONDS: float = 1.0
"""Time for the first request of a connection that the server had accepted when it began to end."""
LAST_BODY_SECONDS: float = 1.0
"""Time for the rest of a body when the server ends."""
UNREAD_SECONDS: float = 30.0
"""Time between two checks of how much its reader has taken of an answer that waits to be sent."""
UNREAD_BYTES_PER_SECOND: float = 1_024.0
"""The rate that an answer has to be read at, until all of it is sent."""
LINGER_SECONDS: float = 5.0
"""Time from hanging up until the socket is cut off, while what still comes is thrown away (nginx's
`lingering_timeout`)."""
REST_BYTES: Final = 64 * 1024
"""Bytes of a body that are still taken after its answer, so that the connection lives on."""
GOODBYE_SECONDS: float = 0.2
"""Time for an idle connection to hang up after us, when the server ends: over TLS its goodbye is waited for, and a pool
of connections that nobody looks at says none."""


_READ: Final = memoryview(bytearray(READ_BYTES))
"""One for all connections: the loop fills it and has it emptied before it reads another socket."""


class _Flow(FlowControl):
    """Flow control that keeps the socket unread while bytes wait to be parsed, whatever the application waits for."""

    is_holding = False

    def resume_reading(self) -> None:
        if not self.is_holding:
            super().resume_reading()


class HttpConnection(asyncio.BufferedProtocol):
    """One HTTP connection: it parses requests, gives them to the application in turn, and writes the answers.
    `websocket` makes the protocol that takes an open connection over: it gets the head of the request first.
    `share_of_holder` names the share in whose turn a request of these headers, over this scheme, waits, if they have a
    key or a session which is known to be valid. Runs on the *loop*."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        limiter: ConnectionLimiter,
        turns: RequestTurns,
        share_of_holder: Callable[[Sequence[tuple[bytes, bytes]], str], str | None],
        websocket: Callable[[], asyncio.Protocol],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._config = config
        self._state = server_state
        self._app_state = app_state
        self._limiter = limiter
        self._turns = turns
        self._share_of_holder = share_of_holder
        self._websocket = websocket
        self._loop = _loop or asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._flow: _Flow
        self.write: Callable[[bytes], None]
        self._place: ConnectionPlace | None = None
        self._server: tuple[str, int | None] | None = None
        self._client: tuple[str, int] | None = None
        self._scheme: Literal["http", "https"] = "http"
        self._deadline: asyncio.TimerHandle | None = None
        """The one thing that is waited for: a head, a body, the next request, the other side's goodbye."""
        self._unread: asyncio.TimerHandle | None = None
        self._unparsed = b""
        """Bytes that have come and are not parsed yet."""
        self._is_continuing = False
        self._is_idle = False
        """Whether it is the next request that is waited for."""
        self._is_last = False
        """Whether the server ends, and the first request is the last."""
        self._is_known = False
        """Whether a request on it has shown a valid key."""
        self._is_turned_away = False
        self._framing = Framing()
        self.on_header = self._framing.add_header
        self._parser: httptools.HttpRequestParser = self._new_parser()
        # Of the message that is being read:
        self._body_began = 0.0
        self._url = b""
        self._keep_alive = True
        self._upgrade: Literal["mqtt", "unknown"] | None = None
        self._cycle: RequestCycle | None = None

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # What follows the last request of a connection is no error: it is not parsed.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    # -- what the event loop calls ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._flow = _Flow(self._transport)
        self.write = self._transport.write
        self._server = get_local_addr(self._transport)
        self._client = get_remote_addr(self._transport)
        if self._client is not None and self._client[0].startswith("::ffff:"):
            # IPv4 on a socket for both: uvicorn compares it with the trusted proxies as it stands.
            self._client = self._client[0].removeprefix("::ffff:"), self._client[1]
        self._scheme = "https" if is_ssl(self._transport) else "http"
        self._state.connections.add(self)  # type: ignore[arg-type]  # all it does with them is `shutdown`
        self._place = self._limiter.enter(self, self._client[0] if self._client is not None else "")
        if self._place is None:
            self._turn_away()
            return
        self._wait(HEAD_SECONDS, self._head_is_late)

    def get_buffer(self, sizehint: int) -> memoryview:  # Hot path.
        return _READ

    def buffer_updated(self, nbytes: int) -> None:  # Hot path.
        if self._framing.part is NOTHING:
            return
        data = bytes(_READ[:nbytes])
        if self._unparsed:
            self._keep_unparsed(self._unparsed + data)
        else:
            self._parse(data)

    def eof_received(self) -> None:
        """The loop closes the socket."""

    def pause_writing(self) -> None:
        self._flow.pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        self._flow.resume_writing()
        self._watch_reader()

    def connection_lost(self, exc: Exception | None) -> None:
        self._release()
        self._framing.part = NOTHING
        self._flow.resume_writing()
        if self._is_turned_away:
            self._limiter.refusal_explained()

    def _release(self) -> None:
        """Let go of parser, cycle and place, when the connection ends or is somebody else's. Parser and cycle refer to
        us and we to them: such circles would stay in memory until the collector comes."""
        self._state.connections.discard(self)
        self._stop_waiting()
        self._stop_watching()
        self._unparsed = b""
        self._abandon_request()
        self._cycle = None
        self._parser = None  # type: ignore[assignment]  # nobody parses any more
        if self._place is not None:
            self._place.release()

    def _abandon_request(self) -> None:
        """Tell the application that nothing of its answer is sent any more."""
        cycle = self._cycle
        if cycle is not None:
            if not cycle.response_complete:
                cycle.disconnected = True
            cycle.message_event.set()

    # -- what comes in ------------------------------------------------------------------------------------------------

    def _parse(self, data: bytes) -> None:
        """Have what has come parsed, part by part, until a request waits for its answer or the turn is over."""
        framing = self._framing
        at, end = 0, len(data)
        steps = STEPS_PER_TURN
        try:
            while at < end:
                if framing.part is NOTHING:
                    return
                if framing.part is NEXT or not steps:
                    self._keep_unparsed(data[at:])
                    return
                stop = framing.end_of_part(data, at, end)
                self._parser.feed_data(data if stop - at == end else data[at:stop])
                at = stop
                steps -= 1
        except httptools.HttpParserUpgrade:
            self._switch_protocol(data[stop:])
            return
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            if not isinstance(cause, FramingError):
                self._refuse("malformed", problem("malformed_request", "the request line is none"))
                return
            self._refuse(cause.limit, problem("malformed_request", str(cause)))
            return
        except httptools.HttpParserError as error:
            self._refuse("malformed", problem("malformed_request", f"this is no HTTP request: {error}"))
            return
        except FramingError as error:
            self._refuse(error.limit, problem("malformed_request", str(error)))
            return
        part = framing.part
        if part is HEAD:
            if self._is_idle and framing.head_bytes:
                self._is_idle = False
                self._wait(HEAD_SECONDS, self._head_is_late)
        elif part is not NEXT and self._deadline is None:
            self._body_began = self._loop.time()
            self._wait(BODY_SECONDS, self._check_body_rate, framing.body_bytes)

    def _keep_unparsed(self, data: bytes) -> None:
        """Keep it until the request before is answered, or for the next turn; the socket is not read meanwhile."""
        self._unparsed = data
        self._flow.is_holding = True
        self._flow.pause_reading()
        if self._framing.part is not NEXT:
            self._continue_soon()

    def _continue_soon(self) -> None:
        if not self._is_continuing:
            self._is_continuing = True
            self._loop.call_soon(self._continue)

    def _continue(self) -> None:
        self._is_continuing = False
        if self._framing.part is NOTHING or self._framing.part is NEXT:
            return
        data, self._unparsed = self._unparsed, b""
        self._flow.is_holding = False
        self._parse(data)
        if not self._unparsed and not self.is_closing():
            self._flow.resume_reading()

    # -- what the parser calls ----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        assert self._framing.part is HEAD, "the parser is never fed past the end of a message"
        self._framing.begin_message()
        self._url = b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_headers_complete(self) -> None:  # Hot path.
        self._stop_waiting()
        self._is_idle = False
        parser = self._parser
        version = parser.get_http_version()
        self._framing.check_head(version)
        if parser.should_upgrade():
            self._framing.head_bytes = 0
            is_ours = self._url.partition(b"?")[0] == MQTT_PATH.encode() and self._asks_for_websocket()
            self._upgrade = "mqtt" if is_ours else "unknown"
            return
        self._keep_alive = version != "1.0" and parser.should_keep_alive() and not self._is_last
        self._framing.end_head()
        self._begin_request(parser.get_method().decode("ascii"), version)

    def _asks_for_websocket(self) -> bool:
        return any(name == b"upgrade" and value.lower() == b"websocket" for name, value in self._framing.headers)

    def _begin_request(self, method: str, version: str) -> None:
        url = httptools.parse_url(self._url)
        raw_path = url.path or b"/"  # `GET http://host` (RFC 9112, 3.2.2)
        path = raw_path.decode("ascii")
        scope: HTTPScope = {
            "type": "http",
            "asgi": {"version": self._config.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "server": self._server,
            "client": self._client,
            "scheme": self._scheme,
            "method": method,
            "root_path": "",
            "path": urllib.parse.unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": url.query or b"",
            "headers": self._framing.headers,
            "state": self._app_state.copy(),
            "extensions": EXTENSIONS,  # type: ignore[typeddict-item]  # nobody changes it
        }
        if self._place is not None:
            self._place.busy()
        is_whole = self._framing.part is NEXT
        self._cycle = cycle = RequestCycle(
            scope=scope,
            transport=self,  # type: ignore[arg-type]  # it writes, closes, and asks whether that was done
            flow=self._flow,
            logger=log,
            access_logger=log,
            access_log=False,
            default_headers=self._state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self._framing.expects_100,
            # Until its body is whole an answer ends the connection, unless what is left is short.
            keep_alive=self._keep_alive
            and (
                is_whole
                or (not self._framing.is_chunked and self._framing.left <= REST_BYTES and not self._framing.expects_100)
            ),
            on_response=self._answered,
        )
        self._turns.begin(self._share, partial(self._answer, cycle))

    def _share(self) -> str:
        """Return the share in whose turn a request waits. It is that of its key or session, if that is known to be
        valid, or of its address."""
        share = self._share_of_holder(self._framing.headers, self._scheme)
        if share is not None:
            return share
        return self._place.share if self._place is not None else ""

    def _answer(self, cycle: RequestCycle) -> None:  # Hot path.
        if cycle.disconnected:
            return
        task = self._loop.create_task(cycle.run_asgi(self._config.loaded_app))
        task.add_done_callback(self._state.tasks.discard)
        self._state.tasks.add(task)

    def on_body(self, body: bytes) -> None:  # Hot path.
        cycle = self._cycle
        if cycle is None or cycle.response_complete or cycle.disconnected:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self._flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:  # Hot path.
        if self._upgrade is not None:
            return
        self._stop_waiting()
        self._framing.part = NEXT
        cycle = self._cycle
        assert cycle is not None, "made at the end of the head"
        if cycle.response_complete:
            self._await_request()
            return
        cycle.more_body = False
        if not cycle.response_started:
            cycle.keep_alive = self._keep_alive
        cycle.message_event.set()

    # -- what the request's cycle calls -------------------------------------------------------------------------------

    def is_closing(self) -> bool:
        return self._framing.part is NOTHING or self._transport.is_closing()

    def close(self) -> None:
        """Send what is written, then hang up. With something unread in the socket that would be a reset, which destroys
        what the other side has not read yet: then our half only is closed, and what still comes is thrown away."""
        part, self._framing.part = self._framing.part, NOTHING
        if part is NOTHING or self._transport.is_closing():
            return
        self._stop_waiting()
        if self._unparsed or self._framing.head_bytes or (part is not NEXT and part is not HEAD):
            self._linger()
        else:
            self._transport.close()
        self._watch_reader()

    def _linger(self) -> None:
        self._unparsed = b""
        if self._place is not None:
            self._place.idle()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._flow.is_holding = False
        self._flow.resume_reading()
        self._wait(LINGER_SECONDS, self._transport.abort)

    def _answered(self) -> None:
        self._state.total_requests += 1
        self._watch_reader()
        if self.is_closing():
            return
        if self._framing.part is NEXT:
            self._await_request()
        else:
            self._wait(HEAD_SECONDS, self._transport.abort)  # the rest of its body
            self._flow.resume_reading()

    def _await_request(self) -> None:
        self._framing.part = HEAD
        if self._place is not None:
            self._is_known = self._is_known or (self._cycle is not None and ADMITTED in self._cycle.scope)
            self._place.idle(is_known=self._is_known)
        self._is_idle = True
        self._wait(self._config.timeout_keep_alive, self._transport.close)
        if self._unparsed:
            self._continue_soon()
        else:
            self._flow.resume_reading()

    # -- ends ---------------------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """The server ends: at once if nothing is under way, else after the answer. A request may be on its way on a
        connection that has had none: its client has no reason to think that it has to send it again."""
        cycle = self._cycle
        if cycle is None and self._framing.part is HEAD:
            self._is_last = True
            self._wait(FIRST_REQUEST_SECONDS, self._transport.close)
            return
        if cycle is not None and not cycle.response_complete and self._framing.part is not NOTHING:
            cycle.keep_alive = self._keep_alive = False
            if cycle.more_body:
                self._wait(LAST_BODY_SECONDS, self._refuse_body)
            return
        self._transport.close()
        if not self._transport.get_write_buffer_size():
            # TLS waits for the other side's goodbye, and a client that is idle does not read ours.
            self._loop.call_later(GOODBYE_SECONDS, self._transport.abort)

    def evict(self) -> None:
        if self._place is not None:
            self._place.release()
        self._transport.abort()

    def _refuse(self, limit: str, refusal: Problem, headers: Mapping[str, str] | None = None) -> None:
        """Answer what the application does not get to see, or whose body it will not get whole; then hang up."""
        self._limiter.acted(limit, f"{self._client[0] if self._client is not None else 'unknown'}: {refusal.detail}")
        cycle = self._cycle
        self._abandon_request()
        if cycle is None or cycle.response_complete or not cycle.response_started:
            self.write(self._response(refusal, headers))
        self.close()

    def _response(self, refusal: Problem, headers: Mapping[str, str] | None) -> bytes:
        content = json.dumps(refusal.document()).encode()
        usual = {name.decode(): value.decode() for name, value in self._state.default_headers}  # the date
        lines = "".join(f"{name}: {value}\r\n" for name, value in {**usual, **(headers or {})}.items())
        status = HTTPStatus(refusal.status)
        head = f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: {MEDIA_TYPE}\r\n{lines}"
        return f"{head}content-length: {len(content)}\r\nconnection: close\r\n\r\n".encode() + content

    def _turn_away(self) -> None:
        """Refuse a connection for which there is no room."""
        self._framing.part = NOTHING
        if not self._limiter.may_explain_refusal():
            self._transport.abort()
            return
        self._is_turned_away = True
        refusal = problem("busy", "all HTTP connections are at work; wait as long as Retry-After says")
        self.write(self._response(refusal, {"Retry-After": "1"}))
        self._linger()

    def _head_is_late(self) -> None:
        self._limiter.acted("head_late", f"{self._client}: no whole head of a request in {HEAD_SECONDS:g} s")
        self._transport.abort()

    def _check_body_rate(self, seen: int) -> None:
        self._deadline = None
        took = self._loop.time() - self._body_began
        is_slow = self._framing.body_bytes - seen < BODY_BYTES_PER_SECOND * BODY_SECONDS and not self._flow.read_paused
        if is_slow or took > WHOLE_BODY_SECONDS:
            detail = (
                f"a body has to bring {BODY_BYTES_PER_SECOND:g} bytes a second and end within {WHOLE_BODY_SECONDS:g} s"
            )
            self._refuse("body_late", problem("request_timeout", detail))
        else:
            self._wait(BODY_SECONDS, self._check_body_rate, self._framing.body_bytes)

    def _refuse_body(self) -> None:
        """Refuse the rest of a body when the server ends. Devices are told goodbye when the last request is answered:
        not when somebody's upload has come in."""
        self._deadline = None
        self._refuse("body_late", problem("unavailable", "the server is ending; send it again when it is back"))
        self._loop.call_later(GOODBYE_SECONDS, self._transport.abort)

    def _wait(self, seconds: float, end: Callable[..., None], *arguments: object) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self._loop.call_later(seconds, end, *arguments)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _watch_reader(self) -> None:
        """Watch, until all is sent, that the answer is read: a client that takes next to nothing of it is cut off.
        Without that neither its answer nor `close` ends."""
        self._stop_watching()
        if waiting := self._transport.get_write_buffer_size():
            self._unread = self._loop.call_later(UNREAD_SECONDS, self._check_reader, waiting)

    def _check_reader(self, waited: int) -> None:
        waiting = self._transport.get_write_buffer_size()
        if waiting and waited - waiting < min(waited, UNREAD_BYTES_PER_SECOND * UNREAD_SECONDS):
            self._limiter.acted("answer_unread", f"{self._client}: takes nothing of its answer")
            self._transport.abort()
        else:
            self._watch_reader()

    def _stop_watching(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    # -- another protocol ---------------------------------------------------------------------------------------------

    def _switch_protocol(self, rest: bytes) -> None:
        """The parser has stopped at a request that asks for another protocol."""
        upgrade, self._upgrade = self._upgrade, None
        method, version = self._parser.get_method(), self._parser.get_http_version()
        if upgrade == "unknown" and method != b"CONNECT":
            # A server may ignore it (RFC 9110, 7.8); Java's client asks for HTTP/2 so, also when it sends a body.
            headers = [header for header in self._framing.headers if header[0] != b"upgrade"]
            self._parser = self._new_parser()
            self._parse(_head(method, self._url, version, headers) + rest)
        elif upgrade == "unknown":
            self._refuse("malformed", problem("malformed_request", "this is no proxy"))
        else:
            head = _head(method, self._url, version, self._framing.headers)
            transport, protocol = self._transport, self._websocket()
            self._framing.part = NOTHING
            self._release()
            # Not while it is being read: the loop chose how to read it by the protocol that it had.
            transport.pause_reading()
            transport.set_protocol(protocol)
            protocol.connection_made(transport)
            protocol.data_received(head + rest)
            if not transport.is_closing():
                transport.resume_reading()


def _head(method: bytes, url: bytes, version: str, headers: list[tuple[bytes, bytes]]) -> bytes:
    lines = b"".join(b"%b: %b\r\n" % header for header in headers)
    return b"%b %b HTTP/%b\r\n%b\r\n" % (method, url, version.encode(), lines)
