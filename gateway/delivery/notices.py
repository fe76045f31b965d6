"""Notices to devices about pushes, on their `notices` topic: ordinary MQTT, which the ledger does not count.

The broker keeps a notice for a device that is away and has subscribed.

`preferences`: the document that `GET /v1/devices/{id}/preferences` answers, whenever it has changed, and when the
device asks for it: it says `{}` on its `settings` topic. `gap`: see `missed_pushes`. `clear`: a push that it has was
recalled, or somebody else has acted on it, and it should leave the screen; told once, to as many as there are until the
server ends.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any

from gateway.delivery.consent import PreferenceStore
from gateway.delivery_states import DeliveryState
from gateway.device_topics import device_topic
from gateway.store.audience.devices import device_of_app, live_device_ids
from gateway.store.database import Database
from gateway.store.deliveries.pushes import shown_push
from gateway.store.deliveries.whole_deliveries import whole_deliveries
from gateway.store.transaction import Transaction

log = logging.getLogger(__name__)

CLEARED_DEVICES = 500
"""Devices that are told at a time, about 5 ms; the loop has others to see to."""
_MAY_SHOW = (
    DeliveryState.WAITING,
    DeliveryState.SENT,
    DeliveryState.DELIVERED,
    DeliveryState.DISPLAYED,
    DeliveryState.OPENED,
)
"""States of a delivery that the device may show; one in flight is still waiting on disk."""


class Notices:
    """Sends notices to devices. Loop.

    `publish(topic, payload)` sends one with QoS 1.
    """

    def __init__(
        self, *, database: Database, preferences: PreferenceStore, publish: Callable[[str, bytes], None]
    ) -> None:
        self._database = database
        self._preferences = preferences
        self._publish = publish
        self._clearing: set[asyncio.Task[None]] = set()
        self._under_way: dict[tuple[str, str], asyncio.Task[None]] = {}

    def preferences_changed(self, app_id: str, device_id: str) -> None:
        """Send the device its preferences, soon; at once for many changes in a row."""
        key = app_id, device_id
        if key not in self._under_way:
            task = asyncio.get_running_loop().create_task(self._send_preferences(app_id, device_id))
            self._under_way[key] = task
            task.add_done_callback(lambda _: self._under_way.pop(key, None))

    async def _send_preferences(self, app_id: str, device_id: str) -> None:
        found = await self._database.read_soon(partial(device_of_app, app_id=app_id, device_id=device_id))
        self._under_way.pop((app_id, device_id), None)  # what changes from here on is told again
        if found is not None:
            self.send(app_id, device_id, "preferences", await self._preferences.document(found.app_no, found.device_no))

    def clear_push(self, app_id: str, push_id: str, but_not: str | None, done: Callable[[], None]) -> None:
        """Send a `clear` to the devices that have the push, and may still show it; `done` is called when they are told.

        `but_not`: the id of a device that may go on showing it, since somebody has just acted there.
        """
        task = asyncio.get_running_loop().create_task(self._send_clear(app_id, push_id, but_not))
        self._clearing.add(task)

        def told(task: asyncio.Task[None]) -> None:
            self._clearing.discard(task)
            if not task.cancelled():  # the server ends
                if task.exception() is not None:
                    log.warning("a push cannot be taken off the screens: %s", task.exception())
                done()

        task.add_done_callback(told)

    async def _send_clear(self, app_id: str, push_id: str, but_not: str | None) -> None:
        after: int | None = 0
        while after is not None:
            looked_from = after
            rows, after = await self._database.read(
                lambda transaction: _showing_devices(transaction, push_id, looked_from)  # noqa: B023  awaited here
            )
            for _, device_id in rows:
                if device_id != but_not:
                    self.send(app_id, device_id, "clear", {"push_ids": [push_id]})

    def send(self, app_id: str, device_id: str, kind: str, content: dict[str, Any]) -> None:
        """Send one notice to a device."""

        payload = json.dumps({"v": 1, "type": kind, **content}, ensure_ascii=False, separators=(",", ":"))
        self._publish(device_topic(app_id, device_id, "notices"), payload.encode())


def _showing_devices(transaction: Transaction, push_id: str, after: int) -> tuple[list[tuple[int, str]], int | None]:
    """Find devices, (number, id) each, that may still show a push, and where to go on. Reader thread.

    They have acknowledged it, were sent it with QoS 0, or have it in flight: still waiting on disk.
    """
    push_no = shown_push(transaction, push_id)
    if push_no is None:
        return [], None
    showing = (one.device_no for one in whole_deliveries(transaction, push_no, after) if one.state in _MAY_SHOW)
    numbers = list(islice(showing, CLEARED_DEVICES))
    rows = live_device_ids(transaction, numbers)
    return rows, numbers[-1] if len(numbers) == CLEARED_DEVICES else None
