"""The shares of a process's file descriptors, and the share that a connection counts for. Arithmetic only.

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
"""Share of databases and their readers (about 40), log and listeners (10), attachments being read and written (100 and
64), requests to webhooks (50), and half as much again for peaks."""
OWN_DIVISOR: Final = 4
"""Our own share is at most a fourth of all descriptors."""
HTTP_DIVISOR: Final = 4
"""HTTP connections have at most a fourth of all: devices stay for days, requests for moments."""


@dataclass(frozen=True, slots=True)
class DescriptorShares:
    """Numbers of descriptors."""

    own: int
    http: int
    devices: int


def share_out(descriptors: int, http: int) -> DescriptorShares:
    """Share out the descriptors of the process; `http` is the largest number that HTTP connections want."""
    own = min(OWN_DESCRIPTORS, descriptors // OWN_DIVISOR)
    http = min(http, descriptors // HTTP_DIVISOR)
    return DescriptorShares(own, http, descriptors - own - http)


def share_of(host: str) -> str:
    """Return the share that a connection of this host counts for.

    That is an IPv4 address, an IPv6 network of one customer, or the text itself if it is no address.
    """
    return address_of(host)
