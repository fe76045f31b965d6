"""Time zones: IANA names, of the system or of the `tzdata` package."""

from __future__ import annotations

from functools import cache, lru_cache
from zoneinfo import ZoneInfo, available_timezones

KEPT_ZONES = 1_024
"""Zones that are kept in memory, 8 KiB each: more than there are."""


@cache
def time_zones() -> frozenset[str]:
    """All names. The first call reads hundreds of files (40 ms): the composition root does it before anybody waits."""
    return frozenset(available_timezones())


def is_time_zone(name: object) -> bool:
    return isinstance(name, str) and name in time_zones()


@lru_cache(maxsize=KEPT_ZONES)
def time_zone(name: str) -> ZoneInfo:
    """The zone of a name. `ZoneInfo` keeps eight, and reads the file of any other each time, 0.2 ms."""
    return ZoneInfo(name)
