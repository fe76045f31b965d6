"""Filters for lists of devices: conditions that all hold, and the devices that they select, in the order of their ids.

A condition is SQL over the table `device`, but for the expression: that is resolved to a set before
(`target_resolution`). A small set is joined; a large one is asked about each device that the list comes to, because a
page of a large set is full after a few.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pyroaring import BitMap

from gateway.store.audience.device_sets import live_devices, numbers_json, queried_devices
from gateway.store.deliveries.conditions import IS_WAITING
from gateway.store.transaction import Transaction

JOINED_DEVICES = 16_384
"""Devices of an expression that are joined with the table: looked up and sorted in 20 ms."""


@dataclass(slots=True, frozen=True)
class DeviceFilter:
    """Conditions on the devices of a list; None: no condition. Times are server time in milliseconds."""

    online: bool | None = None
    tag: str | None = None
    q: str | None = None
    """Text within the id or the name, whatever its case."""
    last_seen_before: int | None = None
    """Devices that are not connected and were last seen before that, or never."""
    has_error: bool | None = None
    waiting: bool | None = None
    """Whether a push waits for it or is in flight to it."""
    token_expires_before: int | None = None
    """Devices whose token ends before that, or has ended."""
    where: str | None = None
    """An expression that is true for the device; resolved by whoever selects (`DeviceSelection.matching`)."""

    def conditions(self, online: BitMap, waiting_in_sets: BitMap) -> tuple[str, list[Any]]:
        """SQL that follows `WHERE ..`, with a leading ` AND` if there is any, and its parameters. Reader thread.

        `online`: the numbers of the devices that are connected; `waiting_in_sets`: of those for which a push waits that
        was stored as a set, if `waiting` asks for them.
        """
        parts: list[str] = []
        parameters: list[Any] = []

        def add(condition: str, *values: Any) -> None:
            parts.append(f" AND {condition}")
            parameters.extend(values)

        connected = numbers_json(online) if self.online is not None or self.last_seen_before is not None else "[]"
        if self.online is not None:
            add(f"no {'' if self.online else 'NOT '}IN (SELECT value FROM json_each(?))", connected)
        if self.last_seen_before is not None:
            add("no NOT IN (SELECT value FROM json_each(?))", connected)
            add("(last_seen IS NULL OR last_seen < ?)", self.last_seen_before)
        if self.tag is not None:
            add("EXISTS (SELECT 1 FROM device_tag AS t WHERE t.app_no = device.app_no AND t.tag = ?"
                " AND t.device_no = device.no)", self.tag)  # fmt: skip
        if self.q is not None:
            pattern = "".join(f"\\{letter}" if letter in "%_\\" else letter for letter in self.q)
            add("(id LIKE ? ESCAPE '\\' OR name LIKE ? ESCAPE '\\')", f"%{pattern}%", f"%{pattern}%")
        if self.has_error is not None:
            add(f"last_error IS {'NOT ' if self.has_error else ''}NULL")
        if self.token_expires_before is not None:
            add("token_expires_at < ?", self.token_expires_before)
        if self.waiting is not None:
            exists = (
                "(no IN (SELECT value FROM json_each(?)) OR"
                f" EXISTS (SELECT 1 FROM delivery WHERE device_no = device.no AND state {IS_WAITING}))"
            )
            add(exists if self.waiting else f"NOT {exists}", numbers_json(waiting_in_sets))
        return "".join(parts), parameters


@dataclass(slots=True, frozen=True)
class DeviceSelection:
    """The live devices of an app that a filter selects. Reader thread.

    `also` and `values`: the filter's conditions, made once for list and count: they may hold the numbers of a fleet.
    `matching`: the devices that its expression selects, if it has one.
    """

    app_no: int
    also: str
    values: Sequence[Any]
    matching: BitMap | None = None

    def rows(self, transaction: Transaction, after: str = "") -> Iterator[tuple[int, str]]:
        """Yield number and id of each device behind an id, in the order of the ids."""
        of_app = f"app_no = ? AND id > ? AND removed_at IS NULL{self.also}"
        among = self.matching
        if among is not None and len(among) <= JOINED_DEVICES:
            yield from transaction.execute(
                # CROSS: in this order. Left alone, SQLite may walk all devices of the app.
                "SELECT no, id FROM (SELECT value AS wanted FROM json_each(?)) CROSS JOIN device ON no = wanted"
                f" WHERE {of_app} ORDER BY id",
                (numbers_json(among), self.app_no, after, *self.values),
            )
            return
        for no, device_id in transaction.execute(
            f"SELECT no, id FROM device INDEXED BY device_id_of_app WHERE {of_app} ORDER BY id",
            (self.app_no, after, *self.values),
        ):
            if among is None or no in among:
                yield no, device_id

    def count(self, transaction: Transaction, after: str = "") -> int:
        """Count the devices, or those behind an id: from the sets alone, if there is no condition but an expression."""
        also, values = self.also, self.values
        if after:
            also, values = f"{also} AND id > ?", [*values, after]
        if also:
            select = f"SELECT no FROM device WHERE app_no = ? AND removed_at IS NULL{also}"
            found = queried_devices(transaction, select, (self.app_no, *values))
        else:
            found = live_devices(transaction, self.app_no)
        return len(found if self.matching is None else found & self.matching)
