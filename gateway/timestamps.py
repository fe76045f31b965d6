"""Times as the API writes and reads them: RFC 3339, UTC, milliseconds, `Z`; inside they are integer milliseconds.

Inside, a time is server time (`broker/clock.py`): it never goes back, and a wall clock that is set changes nothing.
What is shown to a person, signed for a receiver or compared with a time of day is what the clock on the wall showed
then: server time and the offset that was between the two. The machine's clock may be wrong when the server starts (no
battery, time comes from the network later), so the offset is known only once that clock is set right, and then for the
whole boot: everything stored under it is shown right from then on.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  # UTC; one with a zone would write it


class WallTime:
    """Turns server time into the wall clock's, and back. Milliseconds.

    Belongs to the loop's thread; readers of other threads see the offsets before or after a change.
    """

    def __init__(self) -> None:
        self._pieces: tuple[list[int], list[int]] = [], []

    def set_offsets(self, offsets: Iterable[tuple[int, int]]) -> None:
        """(server time from which it holds, offset), in order; before the first the offset is 0."""
        pieces = list(offsets)
        self._pieces = [since for since, _ in pieces], [offset for _, offset in pieces]

    def offsets(self) -> list[tuple[int, int]]:
        return list(zip(*self._pieces, strict=True))

    def offset(self, server_ms: int) -> int:
        starts, offsets = self._pieces
        at = bisect_right(starts, server_ms)
        return offsets[at - 1] if at else 0

    def of(self, server_ms: int) -> int:
        """Return what the clock on the wall shows, or should have shown, at a server time; both in milliseconds."""
        return server_ms + self.offset(server_ms)

    def to_server(self, wall_ms: int) -> int:
        """The (latest) server time at which the clock on the wall showed this."""
        starts, offsets = self._pieces
        for since, offset in zip(reversed(starts), reversed(offsets), strict=True):
            if wall_ms - offset >= since:
                return wall_ms - offset
        return wall_ms if not starts else min(wall_ms, starts[0])


wall_time = WallTime()
"""The wall time of this process: a server sets it when it starts, and when the machine's clock was set. Elsewhere (the
command line, tests of single modules) the two clocks are one."""


def rfc3339(server_ms: int) -> str:
    """1796113800000 -> `2026-12-01T08:30:00.000Z`."""
    return _format(wall_time.of(server_ms))


def rfc3339_of_wall(wall_ms: int) -> str:
    """Format milliseconds of the clock on the wall, which are no server time: a date of a schedule."""
    return _format(wall_ms)


@lru_cache(maxsize=256)  # the pushes of a batch have one time in common
def _format(milliseconds: int) -> str:
    # A third of what strftime takes (4.5 µs), and a list of 1,000 pushes has 2,000 times.
    return (_EPOCH + timedelta(0, 0, milliseconds * 1000)).isoformat("T", "milliseconds") + "Z"


def rfc3339_or_none(server_ms: int | None) -> str | None:
    return None if server_ms is None else rfc3339(server_ms)


def retry_after_ms(header: str, wall_ms: int) -> int:
    """Return the milliseconds that a Retry-After header asks for: seconds or a date (RFC 9110, 10.2.3). 0 when it is
    neither, or over."""
    text = header.strip()
    if text.isascii() and text.isdigit():
        return int(text[:9]) * 1000
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return 0
    if date.tzinfo is None:  # `-0000`, or none at all
        date = date.replace(tzinfo=UTC)
    return max(int(date.timestamp() * 1000) - wall_ms, 0)
