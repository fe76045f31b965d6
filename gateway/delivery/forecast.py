"""Forecast of a push: its reach if it were sent now. Nothing is stored or sent."""

from __future__ import annotations

import sqlite3
from typing import Any

from pyroaring import BitMap

from gateway.audience import targeting
from gateway.audience.device_sets import queried_devices, selected_devices
from gateway.audience.policy import PolicyStore
from gateway.audience.target_resolution import TargetResolver
from gateway.delivery.attachments import Attachments
from gateway.delivery.consent import unwanted_selects
from gateway.delivery.device_connections import DeviceConnections
from gateway.delivery.duties import devices_of_step, read_duty, unknown_duty
from gateway.delivery.push import PushRequest
from gateway.delivery.push_store import NO_TEXT
from gateway.delivery.submission import (
    AppRef,
    Submission,
    approval_needed,
    listed_ids,
    nobody_known,
    pending_push,
)
from gateway.delivery.text_rendering import TextRenderer
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
        texts: TextRenderer,
        connections: DeviceConnections,
        policies: PolicyStore,
        attachments: Attachments,
        targets: TargetResolver,
        max_payload: int,
    ) -> None:
        self._targets = targets
        self._database = database
        self._texts = texts
        self._connections = connections
        self._policies = policies
        self._attachments = attachments
        self._targets = targets
        self._max_payload = max_payload

    async def of(self, app: AppRef, request: PushRequest) -> dict[str, Any]:
        """Count the reach: `{"targeted", "online", "suppressed": {reason: n}, "unknown": [id]}`.

        Of a push with templates or texts by locale also `texts`, and what is `missing`. Raises as `Acceptance.accept`.
        """
        is_composed = request.render is not None or request.texts is not None or request.template is not None
        fetch_from = None if is_composed else self._attachments.refer(app.no, request, keep=False)
        pending_push(app, Submission(request), self._max_payload, fetch_from)
        if is_composed:
            return await self._of_composed(app, request)
        return await self._count(app, request)

    async def _of_composed(self, app: AppRef, request: PushRequest) -> dict[str, Any]:
        devices = await self._targets.resolve(app.no, request.target)
        composed, rendered = await self._texts.forecast(app, request, devices)
        fields = composed.fields
        whole = request.model_copy(update={name: fields[name] for name in ("kind", "channel", "priority")})
        leaves_out = fields["on_missing"] == "leave_out"
        found = await self._count(app, whole, devices, rendered.without if leaves_out else None)
        missing = [
            {"variable": one.variable, "where": one.where, "devices": one.devices, "examples": one.examples}
            for one in rendered.lacking
        ]
        return found | {"texts": len(rendered.texts), "missing": missing}

    async def _count(
        self, app: AppRef, request: PushRequest, searched: BitMap | None = None, without: BitMap | None = None
    ) -> dict[str, Any]:
        """Count the reach, of a target that was `searched` for, and `without` devices that get no text."""
        online = self._connections.online_set()
        target = request.target
        if searched is None and self._targets.is_searched_for(target):
            searched = await self._targets.resolve(app.no, target)

        def count(connection: sqlite3.Connection) -> dict[str, Any]:
            ids = listed_ids(target)
            if target.duty is not None:
                duty = read_duty(connection, app.no, target.duty)
                if duty is None:
                    raise unknown_duty(target.duty)
                chosen = devices_of_step(connection, app.no, duty.steps[0])
                devices, unknown = BitMap(chosen.numbers), list(chosen.unknown)
            elif ids is not None:
                known = targeting.device_rows(connection, app.no, ids)
                unknown = [device_id for device_id in ids if device_id not in known]
                if not known:
                    raise nobody_known(unknown)
                devices = BitMap(known.values())
            else:
                unknown = []
                devices = selected_devices(connection, app.no, target) if searched is None else searched
            above = self._policies.of(app.no).policy.approve_above
            if above is not None and request.kind == "command" and len(devices) > above:
                raise approval_needed(len(devices), above)
            targeted, reachable = len(devices), devices.intersection_cardinality(online)
            suppressed, left = self._would_suppress(connection, app.no, request, devices)
            if without and (lacking := left.intersection_cardinality(without)):
                suppressed[NO_TEXT] = lacking
            return {"targeted": targeted, "online": reachable, "suppressed": suppressed, "unknown": unknown}

        return await self._database.read(count, app.no)

    def _would_suppress(
        self, connection: sqlite3.Connection, app_no: int, request: PushRequest, devices: BitMap
    ) -> tuple[dict[str, int], BitMap]:
        """Count by reason the suppressed among the devices, and find the others. Reader thread."""
        if not self._policies.is_guarded(app_no):
            return {}, devices
        assert request.kind is not None, "filled in by validation"
        priority = PRIORITIES.index(request.priority)
        counts: dict[str, int] = {}
        for reason, select, parameters in unwanted_selects(
            app_no, self._policies.of(app_no), request.kind, request.channel, priority
        ):
            unwilling = devices & queried_devices(connection, select, parameters)
            if unwilling:
                counts[reason] = len(unwilling)
                devices = devices - unwilling
        return counts, devices
