"""How a process's file descriptors are shared out, and whose share a connection counts for. Arithmetic only.

Laws
1. What the server needs for its own files and for requests of its own is kept back first, so that a crowd at a port
   stops neither a database nor a webhook.
2. Each kind of connection has a share that the others cannot take.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from broker.addresses import address_of

OWN_DESCRIPTORS: Final = 384
"""Databases and their readers (about 40), log and listeners (10), attachments being read and written (100 and 64),
requests to webhooks (50), and half as much again for what a moment needs."""
OWN_DIVISOR: Final = 4
"""No more than a fourth where there are few."""
HTTP_DIVISOR: Final = 4
"""HTTP connections have at most a fourth of the rest's whole: devices stay for days, requests for moments."""


@dataclass(frozen=True, slots=True)
class DescriptorShares:
    own: int
    http: int
    devices: int


def share_out(descriptors: int, http: int) -> DescriptorShares:
    """Of so many descriptors, when HTTP connections want at most `http`."""
    own = min(OWN_DESCRIPTORS, descriptors // OWN_DIVISOR)
    http = min(http, descriptors // HTTP_DIVISOR)
    return DescriptorShares(own, http, descriptors - own - http)


def share_of(host: str) -> str:
    """Whose share a connection of this host counts for: an IPv4 address, an IPv6 network of a customer, or the text
    itself when it is no address."""
    return address_of(host)
