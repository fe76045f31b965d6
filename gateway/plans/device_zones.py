"""Devices by time zone: which zones the devices of an app are in, and who is in each. Reader thread."""

from __future__ import annotations

from pyroaring import BitMap

from gateway.audience.time_zones import is_time_zone
from gateway.store.audience.devices import devices_in_zone, reported_zones
from gateway.store.transaction import Transaction


def zones_of_app(transaction: Transaction, app_no: int) -> list[str]:
    """The time zones that devices of an app have reported: a look at the index for each, not for each device."""
    return [name for name in reported_zones(transaction, app_no) if is_time_zone(name)]


def devices_by_zone(transaction: Transaction, app_no: int, devices: BitMap, default_zone: str) -> dict[str, BitMap]:
    """Divide devices of an app by their zones. The default one has those without, too."""
    found: dict[str, BitMap] = {}
    left = devices
    for zone in zones_of_app(transaction, app_no):
        here = devices & devices_in_zone(transaction, app_no, zone)
        if here:
            found[zone] = here
            left = left - here
    if left:
        found[default_zone] = found.get(default_zone, BitMap()) | left
    return found
