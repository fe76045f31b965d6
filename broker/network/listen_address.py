"""Listening addresses as URLs.

`mqtt://127.0.0.1:1883`, `mqtts://0.0.0.0:8883`, `ws://[::1]:9001/mqtt`, `wss://:443/mqtt`,
`unix:/run/fleetpush.sock`. Behind `?`: `proxy=v2` (each connection starts with a PROXY header, version 2; `acceptor`);
for a Unix socket `mode=660` (its file mode in octal; by default its owner alone may open it); for `wss`
`certificates=ask` (clients are asked for a certificate as on the ports of MQTT; browsers are not otherwise).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace
from typing import Final, Literal, cast
from urllib.parse import parse_qsl, urlsplit

Scheme = Literal["mqtt", "mqtts", "ws", "wss", "unix"]

SCHEMES: Final = ("mqtt", "mqtts", "ws", "wss", "unix")
PORTS: Final[dict[str, int]] = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}
"""Default ports: those registered for MQTT and HTTP."""
WEBSOCKET_PATH: Final = "/mqtt"
"""The path that clients try first; the standard names none."""
OWNER_ONLY: Final = 0o600


class BadAddress(ValueError):
    """A URL cannot be used; the text says what is wrong, and what it may be."""


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """One listening address, with its options."""

    scheme: Scheme
    host: str = ""
    port: int = 0
    """0: any free one."""
    path: str = ""
    """Path of the WebSocket, or of the Unix socket."""
    proxy: bool = False
    """Connections come from a proxy that says in a PROXY header for whom."""
    mode: int = OWNER_ONLY
    """File mode of the Unix socket."""
    certificates: bool = False
    """Clients of a WebSocket are asked for an optional certificate, too, although browsers then give up."""

    @property
    def is_tls(self) -> bool:
        return self.scheme in ("mqtts", "wss")

    @property
    def is_websocket(self) -> bool:
        return self.scheme in ("ws", "wss")

    @property
    def crosses_networks(self) -> bool:
        """Whether others than this machine's own programs can reach the address."""
        return self.scheme != "unix" and not is_loopback(self.host)

    def at(self, host: str, port: int) -> ListenAddress:
        """Return the address with host and port of its socket, whose port the system may have chosen."""
        return replace(self, host=host, port=port)

    @property
    def place(self) -> str:
        """HOST:PORT, or the path of a Unix socket."""
        return self.path if self.scheme == "unix" else f"{bracketed(self.host)}:{self.port}"

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.scheme == "unix" else f"{self.scheme}://{self.place}{self.path}"


def parse_address(text: str) -> ListenAddress:
    """Parse a URL. Raises BadAddress."""
    try:
        parts = urlsplit(text)
        port = parts.port
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError as error:
        raise BadAddress(f"{text!r}: {error}") from None
    if parts.scheme not in SCHEMES:
        raise BadAddress(f"{text!r}: begin with mqtt://, mqtts://, ws://, wss:// or unix:/path")
    scheme = cast(Scheme, parts.scheme)
    if parts.username is not None or parts.fragment:
        raise BadAddress(f"{text!r}: an address has no user and no fragment")
    proxy = _proxy(text, options)
    if scheme == "unix":
        return ListenAddress(scheme, path=_socket_path(text, parts.netloc, parts.path), proxy=proxy,
                             mode=_mode(text, options))  # fmt: skip
    if certificates := scheme == "wss" and options.get("certificates") == "ask":
        options.pop("certificates")
    if options:
        others = "proxy=v2 and certificates=ask are" if scheme == "wss" else "proxy=v2 is"
        raise BadAddress(f"{text!r}: {'='.join(next(iter(options.items())))} is no option of {scheme}://; {others}")
    host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname or "0.0.0.0"
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise BadAddress(f"{text!r}: {host!r} is no address of a network interface; 0.0.0.0 is all of them") from None
    path = parts.path
    if scheme in ("ws", "wss"):
        path = path if path not in ("", "/") else WEBSOCKET_PATH
    elif path not in ("", "/"):
        raise BadAddress(f"{text!r}: only ws:// and wss:// have a path")
    else:
        path = ""
    return ListenAddress(scheme, host, PORTS[scheme] if port is None else port, path, proxy, certificates=certificates)


def _proxy(text: str, options: dict[str, str]) -> bool:
    version = options.pop("proxy", None)
    if version not in (None, "v2"):
        raise BadAddress(f"{text!r}: proxy={version}: version 2 of the PROXY protocol is what is spoken here: proxy=v2")
    return version is not None


def _socket_path(text: str, netloc: str, path: str) -> str:
    if netloc or not path.startswith("/"):
        raise BadAddress(f"{text!r}: write the whole path of the socket: unix:/run/fleetpush.sock")
    if len(path.encode()) > 107:
        raise BadAddress(f"{text!r}: the system takes paths of at most 107 bytes for a socket")  # sun_path of unix(7)
    return path


def _mode(text: str, options: dict[str, str]) -> int:
    mode = options.pop("mode", None)
    if options:
        raise BadAddress(f"{text!r}: {next(iter(options))} is no option of unix:; proxy=v2 and mode=660 are")
    if mode is None:
        return OWNER_ONLY
    try:
        value = int(mode, 8)
    except ValueError:
        value = -1
    if not 0 <= value <= 0o777:
        raise BadAddress(f"{text!r}: mode={mode}: three octal digits, such as 660")
    return value


def is_loopback(host: str) -> bool:
    """Whether only this machine's own programs reach the host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bracketed(host: str) -> str:
    """Return a host as it stands in front of a port: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host
