"""The opening handshake of a WebSocket: one HTTP request, checked as a whole, and the one response to it.

Anything that speaks HTTP may connect here, above all browsers, for any page that asks them to. So:

1. Path and origin: a page of another origin is refused unless that is on the list. A request without Origin comes from
   no browser, and a page served under the address it connects to is always allowed. A proxy in front has to pass Host
   on for that, or the origin has to be on the list.
2. MQTT, and nothing else: the client offers the subprotocol `mqtt` [MQTT-6.0.0-3] [3.1.1: MQTT-6.0.0-3], and it is
   selected [MQTT-6.0.0-4] [3.1.1: MQTT-6.0.0-4]. No extension: a compressor for each connection would cost more
   memory than the connection, and messages are short.
3. A refusal has its reason, for the client in the response's body and for us in the log.

Bytes and texts only. RFC 6455, 4.2, is obeyed by `websockets`; the numbers of the statements are those of MQTT.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, NamedTuple

from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake, InvalidUpgrade, NegotiationError
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from broker.network.proxies import TrustedProxies, host_and_port, host_of

END_OF_HEAD: Final = b"\r\n\r\n"
ANY_ORIGIN: Final = "*"
PARSER_LOG: Final = logging.getLogger(f"{__name__}.parser")
"""Logger of `websockets`. Its lines at DEBUG have heads and parts of payloads: cookies, passwords, tokens. Nobody gets
them. Its line at INFO, "connection closed", we log ourselves, with the reason."""
PARSER_LOG.setLevel(logging.WARNING)
SHOWN_CHARACTERS: Final = 200
"""Length of a stranger's text in a log line."""

_MQTT: Final = Subprotocol("mqtt")
_ORIGIN: Final = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[^\s/?#@:\[\]]+)(?::(\d{1,5}))?")
"""RFC 6454, 6.2: a scheme, a host, and a port if it is not the scheme's own."""
_OWN_PORTS: Final = {"http": "80", "https": "443"}


@dataclass(frozen=True, slots=True)
class WebSocketRules:
    """Rules of one listener for requests. Raises ValueError that names a bad path or origin."""

    path: str = "/mqtt"
    """Path of the request; its query is ignored."""
    origins: frozenset[str] = frozenset()
    """Origins of pages that may connect besides our own: `https://kiosk.example`, or `*` for all."""
    proxies: TrustedProxies = field(default_factory=TrustedProxies)
    certificate: bool = False
    """Whether the client must have shown one in the TLS handshake, which lets others in for other requests."""

    def __post_init__(self) -> None:
        if not self.path.startswith("/") or "?" in self.path:
            raise ValueError(f"{self.path!r} is not a path; one begins with /")
        origins = frozenset(origin if origin == ANY_ORIGIN else _normal_origin(origin) for origin in self.origins)
        object.__setattr__(self, "origins", origins)

    def allow(self, origins: Sequence[str], hosts: Sequence[str]) -> bool:
        """Whether a request with these Origin and Host headers is allowed."""
        if not origins or ANY_ORIGIN in self.origins:
            return True
        try:
            (origin,) = map(_normal_origin, origins)
            scheme, _, _ = origin.partition("://")
            return origin in self.origins or (len(hosts) == 1 and origin == _normal_origin(f"{scheme}://{hosts[0]}"))
        except ValueError:
            return False  # several, or `null`, which is any document without an address


class Refusal(NamedTuple):
    """Reason for the refusal of a request."""

    reason: str
    """A short word group: it becomes a metric's label."""
    detail: str


class HandshakeResponse(NamedTuple):
    """Response to a request, accepted or refused."""

    response: bytes
    peer: str
    """Address of the client, HOST:PORT, from a trusted proxy if there is one."""
    refusal: Refusal | None


NOT_A_REQUEST: Final = Refusal(
    "not a websocket request", "a WebSocket begins with an HTTP GET; MQTT and TLS have ports of their own"
)
TOO_LARGE: Final = Refusal("websocket request too large", "the head of the request does not end")


def may_become_request(data: bytes | bytearray) -> bool:
    """Whether the first bytes can be those of an upgrade, whose method is always GET."""
    return b"GET ".startswith(data[:4])


def refusal_response(status: HTTPStatus, refusal: Refusal) -> bytes:
    """Encode the HTTP response of a refusal."""
    body = f"{refusal.detail}\n".encode()
    headers = Headers({"Connection": "close", "Content-Type": "text/plain; charset=utf-8"})
    headers["Content-Length"] = str(len(body))
    if status is HTTPStatus.UPGRADE_REQUIRED:
        headers["Upgrade"] = "websocket"  # RFC 9110, 15.5.22
    return Response(status.value, status.phrase, headers, body).serialize()


def respond(head: bytes, peer: str, rules: WebSocketRules, *, certified: bool = False) -> HandshakeResponse:
    """Respond to a whole request head from `peer` (HOST:PORT); `certified`: with a client certificate."""
    protocol = ServerProtocol(subprotocols=[_MQTT], logger=PARSER_LOG)
    try:
        protocol.receive_data(head)
        events = protocol.events_received()
        if not events:
            error = protocol.handshake_exc
            return _refused(peer, HTTPStatus.BAD_REQUEST, NOT_A_REQUEST.reason, f"bad request: {_shown(_cause(error))}")
        request = events[0]
        assert isinstance(request, Request), "what a server receives first"
        client = _client(peer, request.headers, rules.proxies)
        return _validate(protocol, request, client, rules, certified)
    finally:
        forget(protocol)


def forget(protocol: ServerProtocol) -> None:
    """Clear all that `websockets` keeps of a connection that is over, whatever the names are.

    Its parser refers to it and it to its parser: such a circle would stay in memory until the collector comes.
    """
    vars(protocol).clear()


def _validate(
    protocol: ServerProtocol, request: Request, peer: str, rules: WebSocketRules, certified: bool
) -> HandshakeResponse:
    headers = request.headers
    if request.path.partition("?")[0] != rules.path:
        detail = f"path {_shown(request.path)}; MQTT is at {rules.path}"
        return _refused(peer, HTTPStatus.NOT_FOUND, "websocket path unknown", detail)
    origins = headers.get_all("Origin")
    if not rules.allow(origins, headers.get_all("Host")):
        detail = f"pages of {_shown(', '.join(origins))} may not connect"
        return _refused(peer, HTTPStatus.FORBIDDEN, "websocket origin refused", detail)
    if rules.certificate and not certified:
        detail = "whoever speaks MQTT here needs a client certificate"
        return _refused(peer, HTTPStatus.FORBIDDEN, "websocket certificate missing", detail)
    try:
        key, _, _ = protocol.process_request(request)
    except InvalidUpgrade as error:
        detail = f"this is no upgrade to a WebSocket: {_shown(error)}"
        return _refused(peer, HTTPStatus.UPGRADE_REQUIRED, NOT_A_REQUEST.reason, detail)
    except NegotiationError:
        # [MQTT-6.0.0-3] [3.1.1: MQTT-6.0.0-3]
        detail = f"the client does not offer the subprotocol {_MQTT}"
        return _refused(peer, HTTPStatus.BAD_REQUEST, "websocket subprotocol missing", detail)
    except (InvalidHandshake, UnicodeError) as error:  # UnicodeError: a key that is not ASCII
        return _refused(peer, HTTPStatus.BAD_REQUEST, NOT_A_REQUEST.reason, f"bad request: {_shown(error)}")
    accepted = Headers({"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": key})
    # [MQTT-6.0.0-4] [3.1.1: MQTT-6.0.0-4]
    accepted["Sec-WebSocket-Protocol"] = _MQTT
    status = HTTPStatus.SWITCHING_PROTOCOLS
    return HandshakeResponse(Response(status.value, status.phrase, accepted).serialize(), peer, None)


def _refused(peer: str, status: HTTPStatus, reason: str, detail: str) -> HandshakeResponse:
    refusal = Refusal(reason, detail)
    return HandshakeResponse(refusal_response(status, refusal), peer, refusal)


def _client(peer: str, headers: Headers, proxies: TrustedProxies) -> str:
    host = host_of(peer)
    client = proxies.client_of(host, headers.get_all("X-Forwarded-For"))
    # The client's port at the proxy is unknown.
    return peer if client == host else host_and_port(client, 0)


def _normal_origin(text: str) -> str:
    matched = _ORIGIN.fullmatch(text.lower())
    if matched is None:
        raise ValueError(f"{text!r} is not an origin; one is like https://kiosk.example")
    scheme, host, port = matched.groups()
    return f"{scheme}://{host}" if port in (None, _OWN_PORTS.get(scheme)) else f"{scheme}://{host}:{port}"


def _cause(error: BaseException | None) -> object:
    return error.__cause__ if error is not None and error.__cause__ is not None else error


def _shown(text: object) -> str:
    """Return a text for the log: one line of ASCII, and not too much of it."""
    return ascii(str(text))[1:-1][:SHOWN_CHARACTERS]
