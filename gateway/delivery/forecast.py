"""Forecast of a push: its reach if it were sent now. Nothing is stored or sent."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from gateway.audience import targeting
from gateway.audience.policy import PolicyStore
from gateway.delivery.attachments import Attachments
from gateway.delivery.consent import unwanted_selects
from gateway.delivery.device_connections import DeviceConnections
from gateway.delivery.push import PushRequest
from gateway.delivery.submission import AppRef, Submission, listed_ids, nobody_known, pending_push
from gateway.delivery_states import PRIORITIES
from gateway.store.database import Database


class Forecast:
    """Counts the reach of a push without sending it. Loop.

    `max_payload`: bytes of a wire payload.
    """

    def __init__(
        self,
        *,
        database: Database,
        connections: DeviceConnections,
        policies: PolicyStore,
        attachments: Attachments,
        max_payload: int,
    ) -> None:
        self._database = database
        self._connections = connections
        self._policies = policies
        self._attachments = attachments
        self._max_payload = max_payload

    async def of(self, app: AppRef, request: PushRequest) -> dict[str, Any]:
        """Count the reach: `{"targeted", "online", "suppressed": {reason: n}, "unknown": [id]}`. Raises as
        `Acceptance.accept`."""
        fetch_from = self._attachments.refer(app.no, request, keep=False)
        pending_push(app, Submission(request), self._max_payload, fetch_from)
        online = self._connections.online_devices(app.no)
        target = request.target

        def count(connection: sqlite3.Connection) -> dict[str, Any]:
            ids = listed_ids(target)
            if ids is not None:
                known = targeting.device_rows(connection, app.no, ids)
                unknown = [device_id for device_id in ids if device_id not in known]
                if not known:
                    raise nobody_known(unknown)
                select, parameters = "SELECT value AS no FROM json_each(?)", (json.dumps(list(known.values())),)
            else:
                unknown = []
                select, parameters = targeting.select_sql(app.no, target)
            targeted, reachable = connection.execute(
                f"SELECT count(*), count(*) FILTER (WHERE no IN (SELECT value FROM json_each(?))) FROM ({select})",
                (json.dumps(online), *parameters),
            ).fetchone()
            suppressed = self._would_suppress(connection, app.no, request, select, parameters)
            return {"targeted": targeted, "online": reachable, "suppressed": suppressed, "unknown": unknown}

        return await self._database.read(count, app.no)

    def _would_suppress(
        self, connection: sqlite3.Connection, app_no: int, request: PushRequest, select: str, parameters: Sequence[Any]
    ) -> dict[str, int]:
        """Count by reason the suppressed among the devices that a SELECT yields. Reader thread."""
        if not self._policies.is_guarded(app_no):
            return {}
        assert request.kind is not None, "filled in by validation"
        priority = PRIORITIES.index(request.priority)
        counts: dict[str, int] = {}
        before, used = "", list[Any]()
        for reason, who, more in unwanted_selects(
            app_no, self._policies.of(app_no), request.kind, request.channel, priority
        ):
            (count,) = connection.execute(
                f"SELECT count(*) FROM ({select}) WHERE no IN ({who}){before}", (*parameters, *more, *used)
            ).fetchone()
            before, used = before + f" AND no NOT IN ({who})", [*used, *more]
            if count:
                counts[reason] = count
        return counts
