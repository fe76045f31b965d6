"""What a device is told about pushes, on its `notices` topic: ordinary MQTT, kept by the broker if the device is away
and subscribed, and nothing that the ledger counts.

`preferences`: the document that `GET /v1/devices/{id}/preferences` answers, whenever it has changed, and when the
device asks for it: it says `{}` on its `settings` topic. `gap`: see `gaps`.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

from gateway.delivery.consent import Wishes
from gateway.delivery.device_topics import device_topic
from gateway.store.database import Database

log = logging.getLogger(__name__)


class Notices:
    """`publish(topic, payload)` sends one with QoS 1."""

    def __init__(self, database: Database, wishes: Wishes, publish: Callable[[str, bytes], None]) -> None:
        self._database = database
        self._wishes = wishes
        self._publish = publish
        self._under_way: dict[tuple[str, str], asyncio.Task[None]] = {}

    def preferences_changed(self, app_id: str, device_id: str) -> None:
        """Tell the device, soon; at once for many changes in a row."""
        key = app_id, device_id
        if key not in self._under_way:
            task = asyncio.get_running_loop().create_task(self._tell_preferences(app_id, device_id))
            self._under_way[key] = task
            task.add_done_callback(lambda _: self._under_way.pop(key, None))

    async def _tell_preferences(self, app_id: str, device_id: str) -> None:
        found = await self._database.read(
            lambda connection: connection.execute(
                "SELECT d.app_no, d.no FROM application AS a JOIN device AS d ON d.app_no = a.no"
                " WHERE a.id = ? AND d.id = ? AND d.removed_at IS NULL",
                (app_id, device_id),
            ).fetchone()
        )
        self._under_way.pop((app_id, device_id), None)  # what changes from here on is told again
        if found is not None:
            self.tell(app_id, device_id, "preferences", await self._wishes.preferences(*found))

    def tell(self, app_id: str, device_id: str, kind: str, content: dict[str, Any]) -> None:
        payload = json.dumps({"v": 1, "type": kind, **content}, ensure_ascii=False, separators=(",", ":"))
        self._publish(device_topic(app_id, device_id, "notices"), payload.encode())
