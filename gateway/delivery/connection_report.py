"""The connection of one device as the API shows it: what it is now, and how the last ones ended.

Everything is in memory, and asked of the broker when somebody looks: a connection costs nothing more for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.delivery.connection_events import ERRORS
from gateway.delivery.connections_elsewhere import ConnectionHistory, Presence
from gateway.delivery.device_connections import DeviceConnections
from gateway.delivery.recent_disconnects import OF_DEVICE_DISCONNECTS, Disconnect, RecentDisconnects
from gateway.timestamps import rfc3339, rfc3339_or_none

PROTOCOLS: Final = {4: "3.1.1", 5: "5.0"}
"""Versions as in CONNECT; that of 3.1 counts as 3.1.1."""
LISTENERS: Final = {"mqtt": "tcp", "mqtts": "tls", "ws": "ws", "wss": "wss", "unix": "unix"}
WORDS: Final = {
    "client": "the device disconnected",
    "take_over": "another connection with its client identifier took its place",
    "network": "the network connection was lost",
    "server_ending": "the server ended",
    "revoked": "its token was replaced, or it was removed",
    **ERRORS,
}
"""Every reason in words."""


class ConnectionReport:
    """Describes connections of devices. Loop."""

    def __init__(self, connections: DeviceConnections, recent: RecentDisconnects) -> None:
        self._connections = connections
        self._recent = recent

    async def of(self, device_no: int) -> dict[str, Any]:
        """The connection of a device and the last ends of earlier ones, at whichever node."""
        found = [self.history(device_no)]
        if self._connections.elsewhere is not None:
            found += await self._connections.elsewhere.histories(device_no)
        live = next((history.live for history in found if history.live is not None), None)
        facts = live.facts if live is not None else None
        ends = sorted((end for history in found for end in history.disconnects), key=lambda end: -end.at)
        return {
            "online": live is not None,
            "connected_at": rfc3339_or_none(live.connected_at if live is not None else None),
            "address": live.address if live is not None else None,
            "listener": LISTENERS[facts.scheme] if facts is not None else None,
            "protocol": PROTOCOLS[facts.version] if facts is not None else None,
            "keep_alive": facts.keep_alive if facts is not None else None,
            "subscribed_qos": live.granted if live is not None else None,
            "in_flight": live.in_flight if live is not None else 0,
            "since": rfc3339(max(history.since for history in found)),
            "disconnects": [_described(end) for end in ends[:OF_DEVICE_DISCONNECTS]],
        }

    # -- what this node answers to others --------------------------------------------------------------------------

    def history(self, device_no: int) -> ConnectionHistory:
        """Return what this node knows of the connections of a device."""
        return ConnectionHistory(
            self._connections.connection(device_no), self._recent.since, self._recent.of(device_no)
        )

    def presence(self, device_no: int) -> Presence:
        """Whether a device is connected to this node."""
        return self._connections.presence(device_no)

    def online_here(self, app_no: int) -> int:
        """Count the devices of an app that are connected to this node."""
        return self._connections.online_of.get(app_no, 0)

    def online_by_app_here(self) -> Mapping[int, int]:
        """Count the devices that are connected to this node, by app."""
        return self._connections.online_of


def _described(end: Disconnect) -> dict[str, Any]:
    return {
        "at": rfc3339(end.at),
        "reason": end.reason,
        "text": WORDS[end.reason],
        "detail": end.detail or None,
        "duration": end.lasted_ms / 1000,
    }
