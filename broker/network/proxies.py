"""Proxies in front of the server, and the client addresses that they pass on: X-Forwarded-For, PROXY protocol.

Anybody who connects can write any address into either. So both are believed from trusted proxies only; for all others
the socket's own address counts, which is also the one that failed authentications are counted by.

The PROXY protocol (HAProxy's proxy-protocol.txt, 2.2) is a header before the first byte of the connection itself, even
before TLS. Whether it comes is the listener's configuration and never guessed: a client that could choose would choose
its address. How to read it: read 16 bytes, call `header_length`, read exactly up to that length and no more, because
the bytes behind belong to TLS or MQTT, and pass them to `parse_header`.

Bytes and texts only: no socket, no time.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import ClassVar, Final

UNIX: Final = "unix"
"""The host of a peer that came through a Unix socket: it has no address."""

PREFIX_BYTES: Final = 16
"""The part of a PROXY header that has its length."""
MAX_HEADER_BYTES: Final = 4_096
"""Limit of a PROXY header. The addresses take 216 at most; of the extensions that are known to be sent (server name,
unique id, the TLS client's names, cloud providers' own) none is longer than 300. The protocol would allow 64 KiB."""

_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_VERSION_1: Final = b"PROXY "
_VERSION: Final = 2
_LOCAL, _PROXY = 0, 1
_UNSPEC, _INET, _INET6, _UNIX = range(4)
_ADDRESSES: Final = {_UNSPEC: 0, _INET: 12, _INET6: 36, _UNIX: 216}
"""Bytes of both addresses and ports, by family."""
_TRANSPORTS: Final = range(3)
"""Unspecified, stream, datagram."""
_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ProxyHeaderError(Exception):
    """The first bytes of a connection are no PROXY header that we accept; the text is for the log."""

    label: ClassVar[str] = "bad_proxy_header"


class TrustedProxies:
    """Addresses and networks of the proxies that are believed."""

    __slots__ = ("_networks", "_unix")

    def __init__(self, texts: Iterable[str] = (), *, unix: bool = True) -> None:
        """Parse addresses and networks (`10.0.0.0/8`, `2001:db8::1`). Raises ValueError that names a bad one.

        `unix`: whether peers of Unix sockets are proxies. Who may open the socket's file is decided on this machine, by
        the file's mode, and a browser or a device cannot.
        """
        self._networks = tuple(_network(text) for text in texts)
        self._unix = unix

    def trusts(self, host: str) -> bool:
        """Whether a host is a trusted proxy. An IPv4-mapped IPv6 address counts as its IPv4 address."""
        if host == UNIX:
            return self._unix
        try:
            return self._trusts(_address(host))
        except ValueError:
            return False

    def client_of(self, peer_host: str, forwarded_for: Iterable[str]) -> str:
        """Return the host of the client behind `peer_host`, from the values of its X-Forwarded-For headers in order.

        Each proxy appends the address of its own peer. So the list is read from its right end, as long as its writers
        are trusted; the first address that is not is the client, and everything left of it is a claim of the client's
        own. All trusted: the leftmost. A text that is no address: the client is unknown, so the peer counts.
        """
        if not self.trusts(peer_host):
            return peer_host
        client = peer_host
        for text in reversed([one for value in forwarded_for for one in value.split(",")]):
            if not text.strip():
                continue  # an empty element of a list says nothing (RFC 9110, 5.6.1)
            try:
                address = _address(_without_port(text.strip()))
            except ValueError:
                return peer_host
            client = str(address)
            if not self._trusts(address):
                break
        return client

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def host_and_port(host: str, port: int) -> str:
    """Return HOST:PORT of a peer; IPv6 in brackets, and IPv4 as itself on a socket for both."""
    if host.startswith("::ffff:") and "." in host:
        host = host.removeprefix("::ffff:")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def host_of(peer: str) -> str:
    """Return the host of HOST:PORT, or of a host alone."""
    host, colon, _ = peer.rpartition(":")
    return host.removeprefix("[").removesuffix("]") if colon else peer


def header_length(prefix: bytes) -> int:
    """Return the length of a PROXY header from its first bytes; PREFIX_BYTES until that many have come.

    Raises ProxyHeaderError as soon as they cannot be one any more.
    """
    if not _SIGNATURE.startswith(prefix[: len(_SIGNATURE)]):
        if _VERSION_1.startswith(prefix[: len(_VERSION_1)]):
            if len(prefix) < len(_VERSION_1):
                return PREFIX_BYTES
            raise ProxyHeaderError("PROXY v1 is not spoken here; use send-proxy-v2")
        raise ProxyHeaderError("not a PROXY v2 header")
    if len(prefix) < PREFIX_BYTES:
        return PREFIX_BYTES
    version, command = prefix[12] >> 4, prefix[12] & 0x0F
    if version != _VERSION:
        raise ProxyHeaderError(f"PROXY version {version} is not spoken here; use send-proxy-v2")
    if command not in (_LOCAL, _PROXY):
        raise ProxyHeaderError(f"PROXY command {command} is not defined")
    length = PREFIX_BYTES + int.from_bytes(prefix[14:16])
    if length > MAX_HEADER_BYTES:
        raise ProxyHeaderError(f"PROXY header of {length} bytes; no more than {MAX_HEADER_BYTES} are taken")
    return length


def parse_header(header: bytes) -> str | None:
    """Return HOST:PORT of the client; None if the connection is the proxy's own, or has no address: the peer counts.

    `header` is exactly as long as `header_length` says. Extensions are ignored. Raises ProxyHeaderError.
    """
    length = header_length(header[:PREFIX_BYTES])
    if len(header) != length:
        raise ProxyHeaderError(f"PROXY header of {length} bytes, {len(header)} came")
    if header[12] & 0x0F == _LOCAL:
        return None  # a health check; the rest has no meaning
    family, transport = header[13] >> 4, header[13] & 0x0F
    if family not in _ADDRESSES or transport not in _TRANSPORTS:
        raise ProxyHeaderError(f"PROXY family and transport {header[13]:#04x} are not defined")
    if family == _UNSPEC or transport == _UNSPEC:
        return None
    if length < PREFIX_BYTES + _ADDRESSES[family]:
        raise ProxyHeaderError("PROXY header too short for its addresses")
    if family == _UNIX:
        return None  # a client on the proxy's machine, without a name: as if the proxy spoke for itself
    # Source and destination address, source and destination port.
    size = 4 if family == _INET else 16
    ports = PREFIX_BYTES + 2 * size
    address = _unmapped(ipaddress.ip_address(header[PREFIX_BYTES : PREFIX_BYTES + size]))
    return host_and_port(str(address), int.from_bytes(header[ports : ports + 2]))


def _network(text: str) -> Network:
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        remedy = "; its host bits are to be 0" if "host bits" in str(error) else ""
        raise ValueError(f"{text!r} is neither an address nor a network{remedy}") from None
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        return ipaddress.ip_network((_unmapped(network.network_address), network.prefixlen - _MAPPED.prefixlen))
    return network


def _address(text: str) -> Address:
    if "%" in text:
        raise ValueError("a scope means something on one machine only")
    return _unmapped(ipaddress.ip_address(text))


def _unmapped(address: Address) -> Address:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address if mapped is None else mapped


def _without_port(text: str) -> str:
    """Remove the port of `192.0.2.1:4711` or `[2001:db8::1]:4711`; an IPv6 address without brackets has none."""
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket or (port and not _is_port(port)):
            raise ValueError("brackets that do not match")
        return host
    host, colon, port = text.partition(":")
    return host if colon and _is_port(colon + port) else text


def _is_port(text: str) -> bool:
    return text[:1] == ":" and text[1:].isascii() and text[1:].isdigit()
