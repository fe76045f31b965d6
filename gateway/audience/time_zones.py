"""Time zones: IANA names, of the system or of the `tzdata` package."""

from __future__ import annotations

from functools import cache
from zoneinfo import available_timezones


@cache
def time_zones() -> frozenset[str]:
    """All names. The first call reads hundreds of files (40 ms): the composition root does it before anybody waits."""
    return frozenset(available_timezones())


def is_time_zone(name: object) -> bool:
    return isinstance(name, str) and name in time_zones()
