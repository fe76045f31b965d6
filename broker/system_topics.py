"""The broker's counters as retained messages under `$SYS/broker/`, with the names that mosquitto's users know.

Published every `system_interval` seconds, and only what has changed; kept in memory, never in the store. A filter that
begins with a wildcard does not see them [MQTT-4.7.2-1], and no client may publish there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from broker.message import Body, Message
from broker.metrics import BrokerMetrics

SYSTEM: Final = "$SYS/"
"""Prefix of the topics that are the server's own (MQTT 5.0, 4.7.2)."""
PREFIX: Final = "$SYS/broker/"


class SystemTopics:
    """Publisher of the system topics; a target of the timing wheel. `interval` is in seconds."""

    __slots__ = ("_interval", "_metrics", "_publish", "_published", "_started", "slot")

    def __init__(self, metrics: BrokerMetrics, interval: int, now: float, publish: Callable[[Message], object]) -> None:
        self._metrics = metrics
        self._interval = interval
        self._publish = publish
        self._started = now
        self._published: dict[str, str] = {}
        self.slot = -1

    def due(self, now: float) -> float:
        """Publish the values that have changed; return the time of the next check."""
        for name, value in self._values(now):
            if self._published.get(name) != value:
                self._published[name] = value
                self._publish(Message(PREFIX + name, Body(value.encode()), 0, retain=True))
        return now + self._interval

    def _values(self, now: float) -> Iterator[tuple[str, str]]:
        metrics = self._metrics
        dropped = (
            metrics.dropped_expired
            + metrics.dropped_queue_full
            + metrics.dropped_offline
            + metrics.dropped_too_large
            + metrics.dropped_not_permitted
            + metrics.dropped_invalid
        )
        yield "version", _VERSION
        yield "uptime", f"{int(now - self._started)} seconds"
        yield "clients/connected", str(metrics.connections)
        yield "clients/disconnected", str(metrics.sessions - metrics.connections)
        yield "clients/total", str(metrics.sessions)
        yield "clients/maximum", str(metrics.most_connections)
        yield "connections/accepted", str(metrics.connects)
        yield "connections/refused", str(sum(metrics.refused.values()))
        yield "subscriptions/count", str(metrics.subscriptions)
        yield "retained messages/count", str(metrics.retained)
        yield "store/messages/count", str(metrics.queued_messages)
        yield "store/messages/bytes", str(metrics.queued_bytes)
        yield "publish/messages/received", str(metrics.publishes_in)
        yield "publish/messages/sent", str(metrics.publishes_out)
        yield "publish/messages/dropped", str(dropped)
        yield "bytes/received", str(metrics.bytes_in)
        yield "bytes/sent", str(metrics.bytes_out)


def _version() -> str:
    try:
        return f"fleetpush {version('fleetpush')}"
    except PackageNotFoundError:
        return "fleetpush from a checkout"


_VERSION: Final = _version()
