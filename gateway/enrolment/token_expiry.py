"""Connections of devices whose token has expired: they are closed, within a minute of the end.

A CONNECT is refused by `auth` at once. A connection that is there already lasts for months if nobody ends it, and then
a token that ends would end nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from gateway.delivery.device_activity import DeviceActivity
from gateway.delivery.device_connections import DeviceConnections
from gateway.devices import DeviceRegistry
from gateway.store.access.credentials import expired_tokens
from gateway.store.database import Database
from gateway.timestamps import rfc3339

SLICE_DEVICES = 500
"""Devices that one read finds; as many connections are closed in a turn of the loop."""


class _Position(NamedTuple):
    """A position in the order of ends: everything up to here has ended and been dealt with."""

    expires_at: int
    device_no: int


class TokenExpiry:
    """Closes the connections of devices whose token has expired. `clock_ms` gives server time in milliseconds. Runs on
    the *loop*."""

    def __init__(
        self,
        *,
        database: Database,
        connections: DeviceConnections,
        devices: DeviceRegistry,
        activity: DeviceActivity,
        clock_ms: Callable[[], int],
    ) -> None:
        self._database = database
        self._connections = connections
        self._devices = devices
        self._activity = activity
        self._clock_ms = clock_ms
        # Nobody is connected yet, and whoever comes is asked for a token that is good.
        self._position = _Position(clock_ms(), 0)
        self.closed = 0
        """Connections that were closed, for metrics."""

    async def run(self) -> None:
        """Close what has to be closed by now."""
        now_ms = self._clock_ms()
        more = True
        while more:
            rows = await self._database.read(
                partial(expired_tokens, after=self._position, now_ms=now_ms, limit=SLICE_DEVICES)
            )
            for expires_at, device_no, app_id, device_id in rows:
                self._position = _Position(expires_at, device_no)
                if self._connections.presence(device_no).online:
                    self.closed += 1
                    self._activity.error(
                        device_no, f"its token expired at {rfc3339(expires_at)}, and it did not renew it"
                    )
                    self._devices.void_connections(app_id, device_id)
            more = len(rows) == SLICE_DEVICES
