"""Counts of the last minutes, by app: the curves of `GET /v1/stats`.

Laws
1. In memory alone: nothing of it survives the process, and `since` says from when on it is complete.
2. Bounded: KEPT_MINUTES minutes, and KEPT_CELLS of (minute, app) in all, of which an app has one in each minute in
   which anything happened, was connected or waited. Where there are more, the oldest minutes of all apps leave, and
   `since` moves.
3. The hot path pays nothing: it is told sums, about once a second, by whoever has counted them anyway.

Minutes are those of server time. They have no gaps: a minute in which nobody looked has nothing in it, and as many
devices online and deliveries waiting as the one before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from gateway.delivery_states import DeliveryState

MINUTE_MS = 60_000
KEPT_MINUTES = 120
KEPT_CELLS = 20_000
"""Minutes of apps that are kept, about 5 MB: two hours of 166 apps that are always busy, 20 minutes of 1,000."""
PUSHES, TARGETED, CONNECTS, DISCONNECTS = "pushes", "targeted", "connects", "disconnects"
STATES = tuple(state.label for state in DeliveryState if state is not DeliveryState.WAITING)
"""States that deliveries come to."""
COUNTS = (PUSHES, TARGETED, *STATES, CONNECTS, DISCONNECTS)
"""What is counted within a minute."""
LEVELS = ("online", "waiting")
"""What there was at the end of a minute."""
_COLUMNS = {name: column for column, name in enumerate((*COUNTS, *LEVELS))}
_ONLINE, _WAITING = (_COLUMNS[name] for name in LEVELS)
_EVENTS = {
    **{f"delivery.{name}": _COLUMNS[name] for name in STATES},
    "device.connected": _COLUMNS[CONNECTS],
    "device.disconnected": _COLUMNS[DISCONNECTS],
}
EVENT_TYPES = tuple(_EVENTS)
"""Types of events that are counted."""


class MinuteCounts:
    """Counts of the last minutes of every app. Loop. Times are server time in milliseconds."""

    def __init__(self, now_ms: int) -> None:
        self.since = now_ms
        """Time before which nothing is known."""
        self._first = now_ms // MINUTE_MS
        self._minutes: deque[dict[int, list[int]]] = deque([{}])
        """Of each minute from the first to the present one: app number -> its columns."""
        self._cells = 0

    def add_events(self, app_no: int, event: str, minute: int, count: int) -> None:
        """Add events of a type in a minute, which is a server time divided by MINUTE_MS. Those from before the first
        minute are left out."""
        self._advance(minute)
        if minute >= self._first:
            self._cell(minute - self._first, app_no)[_EVENTS[event]] += count

    def add_pushes(self, app_no: int, pushes: int, targeted: int, minute: int) -> None:
        """Add pushes that were accepted in a minute, and their deliveries, as `add_events` adds events."""
        self._advance(minute)
        if minute >= self._first:
            cell = self._cell(minute - self._first, app_no)
            cell[_COLUMNS[PUSHES]] += pushes
            cell[_COLUMNS[TARGETED]] += targeted

    def note_levels(self, online: Mapping[int, int], waiting: Mapping[int, int], now_ms: int) -> None:
        """Note how many devices are connected now and how many deliveries wait, by app; none of those left out."""
        self._advance(now_ms // MINUTE_MS)
        present = self._minutes[-1]
        for app_no in {app_no for levels in (online, waiting) for app_no, count in levels.items() if count} | {
            *present
        }:
            cell = self._cell(-1, app_no)
            cell[_ONLINE], cell[_WAITING] = online.get(app_no, 0), waiting.get(app_no, 0)
        self._make_room()

    def curves(self, app_no: int, minutes: int, now_ms: int) -> tuple[int, dict[str, list[int]]]:
        """Return the last minutes of an app, the present one included.

        When the first of them began, and by name a number for each.
        """
        self._advance(now_ms // MINUTE_MS)
        wanted = min(minutes, len(self._minutes))
        nothing = [0] * len(_COLUMNS)
        kept = [self._minutes[place].get(app_no, nothing) for place in range(-wanted, 0)]
        columns = zip(*kept, strict=True)
        first = self._first + len(self._minutes) - wanted
        return first * MINUTE_MS, {name: list(column) for name, column in zip(_COLUMNS, columns, strict=True)}

    def _cell(self, place: int, app_no: int) -> list[int]:
        minute = self._minutes[place]
        cell = minute.get(app_no)
        if cell is None:
            cell = minute[app_no] = [0] * len(_COLUMNS)
            self._cells += 1
        return cell

    def _advance(self, minute: int) -> None:
        """Begin the minutes up to this one."""
        missing = minute - (self._first + len(self._minutes) - 1)
        for _ in range(min(missing, KEPT_MINUTES)):
            levels = [(app_no, cell[_ONLINE], cell[_WAITING]) for app_no, cell in self._minutes[-1].items()]
            self._minutes.append({})
            for app_no, online, waiting in levels:
                if online or waiting:
                    cell = self._cell(-1, app_no)
                    cell[_ONLINE], cell[_WAITING] = online, waiting
        if missing > KEPT_MINUTES:  # nobody has looked for so long that all that was known has left
            self._first = minute - len(self._minutes) + 1
        if missing > 0:
            self._make_room()

    def _make_room(self) -> None:
        while len(self._minutes) > KEPT_MINUTES or (self._cells > KEPT_CELLS and len(self._minutes) > 1):
            self._cells -= len(self._minutes.popleft())
            self._first += 1
        self.since = max(self.since, self._first * MINUTE_MS)
