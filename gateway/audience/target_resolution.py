"""Resolution of targets to sets of devices, on a reader thread, before a push is stored.

A target that lists devices, or names a tag or all, is resolved by the operation that stores the push: from a few rows,
whatever it addresses. What has to be searched for takes longer than others may wait for the writer: it is resolved
before, and the operation that stores leaves out who was removed meanwhile. What a device has become in between, some
milliseconds, is not looked at again.

A resolution is a read of its app (`store/read_queue`): it has its turn, and is interrupted when it takes too long.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Protocol

from pyroaring import BitMap

from gateway.audience.device_sets import selected_devices
from gateway.audience.targeting import Selection, device_rows
from gateway.store.database import Database


class ResolvableTarget(Selection, Protocol):
    """A target as a whole: it lists devices, or selects them."""

    @property
    def device(self) -> str | None: ...

    @property
    def devices(self) -> Sequence[str] | None: ...


class TargetResolver:
    """Resolves targets to sets of devices. Loop."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def resolve(self, app_no: int, target: ResolvableTarget) -> BitMap:
        """The devices that a target addresses now; unknown ids are left out. Raises Problem 503."""
        return await self._database.read(lambda connection: resolved_devices(connection, app_no, target), app_no)


def resolved_devices(connection: sqlite3.Connection, app_no: int, target: ResolvableTarget) -> BitMap:
    """The devices that a target addresses. Reader thread."""
    listed = target.devices if target.device is None else [target.device]
    if listed is not None:
        return BitMap(device_rows(connection, app_no, listed).values())
    return selected_devices(connection, app_no, target)
