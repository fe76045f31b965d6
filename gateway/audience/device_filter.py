"""Filters for lists of devices: conditions that all hold, as SQL over the table `device`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyroaring import BitMap

from gateway.audience.device_sets import numbers_json
from gateway.delivery_states import IS_WAITING


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
