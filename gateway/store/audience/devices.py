"""The rows of devices: ids become numbers, and numbers ids.

Listed devices are looked up by id, so that the cost follows the devices addressed and not those registered, and unknown
ones can be named. The way back, from numbers to ids, is for a few devices that a person is shown.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from pyroaring import BitMap

EXAMPLE_DEVICES = 5
"""Devices that are named beside a count: enough to notice a mistake."""


def device_rows(connection: sqlite3.Connection, app_no: int, device_ids: Sequence[str]) -> dict[str, int]:
    """Numbers of the live devices among the ids, in no particular order."""
    (text,) = connection.execute(
        # One row, because each is a pass of the interpreter lock.
        # CROSS: in this order. Left alone, SQLite walks all devices of the app and the list for each of them.
        "SELECT json_group_object(d.id, d.no) FROM json_each(?) AS wanted CROSS JOIN device AS d"
        " ON d.app_no = ? AND d.id = wanted.value AND d.removed_at IS NULL",
        (json.dumps(device_ids), app_no),
    ).fetchone()
    found: dict[str, int] = json.loads(text)
    return found


def device_ids(connection: sqlite3.Connection, devices: BitMap, count: int = EXAMPLE_DEVICES) -> list[str]:
    """The ids of the first devices among these."""
    (text,) = connection.execute(
        "SELECT json_group_array(d.id) FROM json_each(?) AS w CROSS JOIN device AS d ON d.no = w.value",
        (str(devices[:count].to_array().tolist()),),
    ).fetchone()
    found: list[str] = json.loads(text)
    return found
