"""The address of a peer, as the limits per address count it."""

from __future__ import annotations

import ipaddress
from typing import Final

IPV6_PREFIX_BITS: Final = 64
"""A network of that size belongs to one subscriber, who may use any address in it (RFC 6177)."""


def address_of(peer: str) -> str:
    """Return the host of `peer` (HOST:PORT, or a host alone): of IPv6 its network, of IPv4 in IPv6 the IPv4 address."""
    if peer.startswith("["):
        host = peer[1:].partition("]")[0]
    elif peer.count(":") < 2:
        return peer.partition(":")[0]
    else:
        host = peer
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    network = int(address) >> (128 - IPV6_PREFIX_BITS) << (128 - IPV6_PREFIX_BITS)
    return f"{ipaddress.IPv6Address(network)}/{IPV6_PREFIX_BITS}"
