"""Connections of devices at other nodes, as the components of this one ask for them (`nodes/peer_connections`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from pyroaring import BitMap

from gateway.delivery.engine import ConnectionFacts
from gateway.delivery.recent_disconnects import Disconnect


@dataclass(slots=True, frozen=True)
class Presence:
    """Whether a device is connected, since when and from where."""

    online: bool
    connected_at: int | None
    """Milliseconds; None while offline, or where the node that has it did not answer."""
    address: str | None
    """HOST:PORT; None as well then."""


class LiveConnection(NamedTuple):
    """A connection of a device that lasts."""

    connected_at: int
    """Milliseconds."""
    address: str
    """HOST:PORT."""
    facts: ConnectionFacts | None
    granted: int | None
    """The QoS with which it has subscribed to its pushes; None: it has not."""
    in_flight: int
    """Pushes that it has not acknowledged, or a few more."""


class ConnectionHistory(NamedTuple):
    """The connections of a device, as far as one node knows them."""

    live: LiveConnection | None
    since: int
    """Time up to which ends may be missing, in milliseconds."""
    disconnects: Sequence[Disconnect]
    """The newest first."""


class ConnectionsElsewhere(Protocol):
    """Answers of other nodes about their connections. What a node does not tell in time is missing. Loop."""

    def devices(self) -> BitMap:
        """Return the devices that are connected to another node, as of a second ago."""

    async def presences(self, device_nos: Sequence[int]) -> Mapping[int, Presence]:
        """Return the presence of those of these devices that are connected to another node."""

    async def histories(self, device_no: int) -> Sequence[ConnectionHistory]:
        """Return what each node knows of a device."""

    async def online_of(self, app_no: int) -> int:
        """Count the devices of an app that are connected to other nodes."""

    async def online_by_app(self) -> Mapping[int, int]:
        """Count the devices that are connected to other nodes, by app."""
