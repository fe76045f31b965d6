"""Devices by time zone: which zones the devices of an app are in, and who is in each. Reader thread."""

from __future__ import annotations

import sqlite3

from pyroaring import BitMap

from gateway.audience.time_zones import is_time_zone
from gateway.store.audience.device_sets import queried_devices

_LIVE = "INDEXED BY device_zone WHERE app_no = ?1 AND timezone IS NOT NULL AND removed_at IS NULL"


def zones_of_app(connection: sqlite3.Connection, app_no: int) -> list[str]:
    """The time zones that devices of an app have reported: a look at the index for each, not for each device."""
    rows = connection.execute(
        f"WITH RECURSIVE zone (name) AS (SELECT min(timezone) FROM device {_LIVE} UNION ALL"
        f" SELECT (SELECT min(timezone) FROM device {_LIVE} AND timezone > zone.name) FROM zone"
        " WHERE zone.name IS NOT NULL) SELECT name FROM zone WHERE name IS NOT NULL",
        (app_no,),
    )
    return [name for (name,) in rows.fetchall() if is_time_zone(name)]


def devices_by_zone(
    connection: sqlite3.Connection, app_no: int, devices: BitMap, default_zone: str
) -> dict[str, BitMap]:
    """Divide devices of an app by their zones. The default one has those without, too."""
    found: dict[str, BitMap] = {}
    left = devices
    for zone in zones_of_app(connection, app_no):
        here = devices & queried_devices(connection, f"SELECT no FROM device {_LIVE} AND timezone = ?2", (app_no, zone))
        if here:
            found[zone] = here
            left = left - here
    if left:
        found[default_zone] = found.get(default_zone, BitMap()) | left
    return found
