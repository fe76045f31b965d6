"""The overview of an app, `GET /v1/stats`: figures that are in memory anyway.

Laws
1. Nothing is looked up for it: a console that asks every few seconds costs the loop some tenths of a millisecond, and
   the database nothing. What has to be counted is counted in the background (`measurements`), and says when.
2. What is an app's is for its readers. What is the server's is for those who may see `/metrics`: everybody, unless the
   setting `metrics_key` closes that; then for administrators of all apps alone. No other app's figures are in it.
3. The server's alerts have the names, severities and thresholds of those in `deploy/prometheus-alerts.yml`, which
   remains the one to be woken by: here they are as of now, without their patience, and only those that need no history.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from gateway.backup_record import read_record
from gateway.delivery.submission import AppRef
from gateway.metrics import BUILD, DAY_SECONDS, MetricsSources, disk_free
from gateway.minute_counts import KEPT_MINUTES, MINUTE_MS
from gateway.timestamps import rfc3339, rfc3339_of_wall, rfc3339_or_none

SERVER_SECONDS = 1.0
"""Seconds for which the figures of the server are shown again: they ask the disk."""
CRITICAL_WAITS_SECONDS = {"connected": 60, "away": 900}
WEBHOOK_FAILS_SECONDS = 900
DISK_FILLING_BYTES = 1 << 30
WRITER_BEHIND_SECONDS = 2
NODE_BEHIND_SECONDS = 5
DESCRIPTORS_SHARE = 0.8
BACKUP_ATTEMPTS = 2
BACKUP_OLD_SECONDS = 604_800
CERTIFICATE_DAYS, CERTIFICATE_DAYS_SOON = 30, 7
CRITICAL, WARNING = "critical", "warning"


class ServerAlert(NamedTuple):
    """An alert of the server that is true now."""

    name: str
    severity: str
    value: float
    summary: str
    """One line for people: what it is, and the remedy."""


class Overview:
    """Tells what there is to see of an app, and of the server. Loop.

    `clock_ms` gives server time in milliseconds; `enrolled` the number of devices of an app.
    """

    def __init__(self, sources: MetricsSources, clock_ms: Callable[[], int], enrolled: Callable[[int], int]) -> None:
        self._sources = sources
        self._clock_ms = clock_ms
        self._enrolled = enrolled
        self._started_ms = clock_ms()
        self._server: dict[str, Any] = {}
        self._server_until = 0.0

    async def of_app(self, app: AppRef, minutes: int, *, with_server: bool) -> dict[str, Any]:
        """Describe an app with its last minutes, KEPT_MINUTES at most, and the server if that may be seen."""
        sources, now_ms = self._sources, self._clock_ms()
        measured = sources.measurements
        measured.count_minute()
        first, curves = measured.minutes.curves(app.no, min(minutes, KEPT_MINUTES), now_ms)
        online = await sources.device_connections.online_of_app(app.no)
        prefix = f"{app.id}/"
        beaten = [found for name, found in sources.heartbeats.beaten.items() if name.startswith(prefix)]
        return {
            "since": rfc3339(measured.minutes.since),
            "at": rfc3339(now_ms),
            "devices": self._enrolled(app.no),
            "online": online,
            "waiting": measured.waiting.by_app.get(app.no, 0),
            "waiting_counted_at": rfc3339_or_none(measured.waiting.counted_at),
            "curves": {"from": rfc3339(first), "step_seconds": MINUTE_MS // 1000, **curves},
            "webhooks": self._webhooks(app.no),
            "heartbeats_silent": sum(found.devices["silent"] for found in beaten),
            "senders_silent": sum(
                watch.silent_at is not None for watch in sources.watches.by_app.get(app.no, {}).values()
            ),
            "server": self._of_server() if with_server else None,
        }

    def _webhooks(self, app_no: int) -> dict[str, Any]:
        found = self._sources.webhooks.of_app(app_no)
        enabled = [webhook for webhook in found if webhook.fields.enabled]
        failing = [(since, webhook) for webhook in enabled if (since := webhook.failing_since) is not None]
        return {
            "enabled": len(enabled),
            "disabled": len(found) - len(enabled),
            "failing": [
                {
                    "id": webhook.id,
                    "url": webhook.fields.url,
                    "since": rfc3339(since),
                    "last_error": webhook.last_error,
                }
                for since, webhook in failing
            ],
        }

    def _of_server(self) -> dict[str, Any]:
        monotonic = time.monotonic()
        if monotonic >= self._server_until:
            self._server_until = monotonic + SERVER_SECONDS
            self._server = self._measure_server()
        return self._server

    def _measure_server(self) -> dict[str, Any]:
        sources = self._sources
        path = sources.database.path
        ends = sources.certificates()
        return {
            "version": BUILD["version"],
            "started_at": rfc3339(self._started_ms),
            "ready": sources.is_ready(),
            "devices_online": sources.device_connections.online,
            "disk_left_bytes": sources.disk_left(),
            "disk_free_bytes": disk_free(path),
            "database_bytes": sources.database.size_bytes(),
            "webhooks_failing": len(sources.webhook_sender.failing()),
            "certificates": [
                {
                    "name": name,
                    "ends_at": rfc3339_of_wall(int(end * 1000)),
                    "days_left": round((end - time.time()) / DAY_SECONDS, 2),
                }
                for name, end in sorted(ends.items())
            ],
            "alerts": [alert._asdict() for alert in self.alerts()],
        }

    def alerts(self) -> list[ServerAlert]:
        """The alerts of the server that are true now, those that somebody should be woken for first."""
        found = [
            *self._service_alerts(),
            *self._delivery_alerts(),
            *self._storage_alerts(),
            *self._backup_alerts(),
            *self._certificate_alerts(),
        ]
        return sorted(found, key=lambda alert: alert.severity)  # `critical` before `warning`

    def _service_alerts(self) -> Iterator[ServerAlert]:
        sources = self._sources
        if not sources.is_ready():
            text = "No pushes are accepted, because a database is not to be trusted: /readyz says why."
            yield ServerAlert("FleetpushNotReady", CRITICAL, 0, text)
        _, age = sources.database.backlog()
        if age > WRITER_BEHIND_SECONDS:
            text = "What is to be stored waits: another program has the ledger locked, or the disk is slow."
            yield ServerAlert("FleetpushWriterBehind", CRITICAL, age, text)
        behind = max(sources.behind_seconds().values())
        if behind > NODE_BEHIND_SECONDS and sources.membership is not None and sources.membership.may_serve():
            text = "This node does not read what other nodes have stored: its devices wait."
            yield ServerAlert("FleetpushNodeBehind", CRITICAL, behind, text)
        if not sources.database.is_durable:
            text = "PostgreSQL's settings let a power cut take what was accepted: the log names those that are off."
            yield ServerAlert("FleetpushDatabaseNotDurable", CRITICAL, 0, text)
        connections = float(getattr(sources.broker, "connections"))  # noqa: B009  # the broker's counters are an object
        if connections > DESCRIPTORS_SHARE * sources.device_descriptors:
            text = "Few file descriptors are left for connections of devices: raise LimitNOFILE."
            yield ServerAlert("FleetpushDescriptorsShort", WARNING, connections, text)

    def _delivery_alerts(self) -> Iterator[ServerAlert]:
        sources = self._sources
        waiting = sources.measurements.critical.seconds()
        if waiting["connected"] > CRITICAL_WAITS_SECONDS["connected"]:
            text = "A critical push waits for a device that is connected and does not acknowledge."
            yield ServerAlert("FleetpushCriticalWaits", CRITICAL, waiting["connected"], text)
        if waiting["away"] > CRITICAL_WAITS_SECONDS["away"]:
            text = "A critical push waits for a device that is away."
            yield ServerAlert("FleetpushCriticalForAway", WARNING, waiting["away"], text)
        failing = max(sources.webhook_sender.failing(), default=0.0)
        if failing > WEBHOOK_FAILS_SECONDS:
            text = "The receiver of a webhook takes nothing; after a day it is disabled."
            yield ServerAlert("FleetpushWebhookFails", WARNING, failing, text)
        beaten = sources.heartbeats.beaten.values()
        if silent := sum(found.devices["silent"] for found in beaten):
            text = "Devices of a heartbeat do not answer: look for the network and the power of that site."
            yield ServerAlert("FleetpushSiteSilent", CRITICAL, silent, text)
        if slow := sum(found.devices["slow"] for found in beaten):
            yield ServerAlert("FleetpushSiteSlow", WARNING, slow, "Devices of a heartbeat answer late.")
        if senders := sum(watch.silent_at is not None for watch in sources.watches.all()):
            text = "A sender that is watched has sent nothing for as long as its watch says."
            yield ServerAlert("FleetpushSenderSilent", CRITICAL, senders, text)

    def _storage_alerts(self) -> Iterator[ServerAlert]:
        left = self._sources.disk_left()
        if left == 0:
            text = "New pushes are refused, because the disk is full: free some space."
            yield ServerAlert("FleetpushDiskFull", CRITICAL, left, text)
        elif left < DISK_FILLING_BYTES:
            text = "The disk fills: free some space, or shorten retention_days."
            yield ServerAlert("FleetpushDiskFilling", WARNING, left, text)

    def _backup_alerts(self) -> Iterator[ServerAlert]:
        record = read_record(self._sources.database.path.parent)
        if record.failed_attempts > BACKUP_ATTEMPTS:
            text = "The last attempts to make a backup have failed: the log of the schedule says why."
            yield ServerAlert("FleetpushBackupFails", WARNING, record.failed_attempts, text)
        age = time.time() - record.proven_of
        if record.interval_seconds and age > max(2 * record.interval_seconds, BACKUP_OLD_SECONDS):
            text = "No backup from the last week is known to restore: have the schedule prove them."
            yield ServerAlert("FleetpushBackupOld", WARNING, age, text)

    def _certificate_alerts(self) -> Iterator[ServerAlert]:
        for name, end in sorted(self._sources.certificates().items()):
            days = (end - time.time()) / DAY_SECONDS
            text = f"The certificate `{name}` ends in {days:.0f} days: renew it, and reload the server."
            if days < CERTIFICATE_DAYS_SOON:
                yield ServerAlert("FleetpushCertificateEndsSoon", CRITICAL, days, text)
            elif days < CERTIFICATE_DAYS:
                yield ServerAlert("FleetpushCertificateEnds", WARNING, days, text)
