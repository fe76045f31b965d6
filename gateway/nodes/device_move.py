"""The devices of a node that ends go to the other nodes, a few at a time.

A node that ends takes no new devices, and its health routes say so; for NOTICE_SECONDS everything else goes on, until
balancers have looked. Then its devices are disconnected, DEVICES_PER_SECOND at most: those that are still here are
served as before, and each comes back to a node that is claiming hundreds and not all of them at once. MQTT 5 clients
are told DISCONNECT 0x8B with a time to come back, others see the end of the connection. HTTP requests, and the
questions of other nodes for sessions, are answered to the end; then the server ends as any does, and its epoch with it.

Nobody is moved while there is no other node: the devices would come back here, and be refused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final, Protocol

log = logging.getLogger(__name__)

NOTICE_SECONDS: Final = 2.0
"""Time for balancers to notice: two checks of `examples/cluster/haproxy.cfg`."""
DEVICES_PER_SECOND: Final = 500
"""Devices that are disconnected in a second. After a node that has died the others take 800 a second (50,000 devices
within a minute: docs/operate/capacity.md), and this is no emergency."""
DEVICES_PER_ROUND: Final = 10
"""Devices that are disconnected in one turn of the loop."""


class ConnectionMetrics(Protocol):
    """The part of the broker's counters that is looked at."""

    @property
    def connections(self) -> int: ...


class ClosingBroker(Protocol):
    """The part of `Broker` that ends connections."""

    @property
    def metrics(self) -> ConnectionMetrics: ...

    def close(self) -> None:
        """Refuse new clients, for good."""

    def shutdown(self, at_most: int | None = None) -> bool:
        """Disconnect the clients of at most so many credentials; return whether any client is left."""


class Peers(Protocol):
    """The part of `Membership` that knows who else is there."""

    def peers(self) -> Sequence[object]: ...


class DeviceMove:
    """Moves the devices of this node to the others, at its end. Loop."""

    def __init__(self, broker: ClosingBroker, membership: Peers) -> None:
        self._broker = broker
        self._membership = membership

    def expected_seconds(self) -> float:
        """Return how long `run` takes; 0: there is nobody to move devices to."""
        if not self._membership.peers():
            return 0.0
        return NOTICE_SECONDS + self._broker.metrics.connections / DEVICES_PER_SECOND

    async def run(self, hurry: asyncio.Event) -> None:
        """Disconnect the devices until none is left, no other node is, or `hurry` is set."""
        if not self._membership.peers():
            return
        log.info("ending: handing %d connections to the other nodes", self._broker.metrics.connections)
        self._broker.close()
        await _wait(hurry, NOTICE_SECONDS)
        while not hurry.is_set() and self._membership.peers():
            if not self._broker.shutdown(DEVICES_PER_ROUND):
                return
            await _wait(hurry, DEVICES_PER_ROUND / DEVICES_PER_SECOND)
        log.warning("the move of devices ends early: %d connections are left", self._broker.metrics.connections)


async def _wait(hurry: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(hurry.wait(), seconds)
    except TimeoutError:
        pass
