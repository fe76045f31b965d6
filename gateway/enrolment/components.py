"""Everything that enrolment consists of, wired with each other: a part of the composition root."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from gateway.audience.enrolments import EnrolmentQuota
from gateway.delivery.device_activity import DeviceActivity
from gateway.delivery.device_connections import DeviceConnections
from gateway.devices import DeviceRegistry, MqttAddress
from gateway.enrolment.addresses import FleetCa, code_address
from gateway.enrolment.guesses import GuessLimiter
from gateway.enrolment.invitations import InvitationStore
from gateway.enrolment.shared_requests import SharedRequests
from gateway.enrolment.token_expiry import TokenExpiry
from gateway.enrolment.token_requests import TokenRequests
from gateway.store.database import Database


class EnrolmentComponents:
    """The register of devices, invitations with what limits guesses at their codes, and token requests. Runs on the
    *loop*."""

    def __init__(
        self,
        *,
        database: Database,
        connections: DeviceConnections,
        activity: DeviceActivity,
        quota: EnrolmentQuota,
        clock_ms: Callable[[], int],
        clock: Callable[[], float],
        share_of: Callable[[str], str],
        mqtt_address: Callable[[], MqttAddress],
        confirm: Callable[[], Awaitable[None]] | None,
    ) -> None:
        """`clock_ms` gives server time in milliseconds, `clock` gives seconds that only grow; `share_of` gives the
        address that a host counts for, `mqtt_address` where devices connect, once the broker listens; `confirm` waits
        until all servers over the database know what is stored (None: there is one)."""
        self.fleet_ca: FleetCa | None = None
        """Set when the certificates are read, and again when they are read again."""
        self._mqtt_address = mqtt_address
        self.devices = devices = DeviceRegistry(
            database=database,
            connections=connections,
            activity=activity,
            clock_ms=clock_ms,
            mqtt_address=mqtt_address,
            quota=quota,
        )
        self.invitations = InvitationStore(database=database, devices=devices, quota=quota, clock_ms=clock_ms)
        self.guesses = GuessLimiter(clock, share_of)
        self.token_expiry = TokenExpiry(
            database=database, connections=connections, devices=devices, activity=activity, clock_ms=clock_ms
        )
        self.token_requests = TokenRequests(
            database=database,
            devices=devices,
            clock_ms=clock_ms,
            share_of=share_of,
            shared=None if confirm is None else SharedRequests(database, confirm),
        )

    def address_of(self, code: str) -> str:
        """Return the address for the QR code of an enrolment code."""
        return code_address(self._mqtt_address().http, code, self.fleet_ca)
