"""Limits of the log: lines of a kind and about an address, bytes of a kind, and bytes of all together.

The kind of a line is its logger with its text before anything is filled in. In each window of `WINDOW_SECONDS`:

| of | at most |
| --- | --- |
| any kind, about one address, device or webhook | `LINES_PER_SUBJECT` lines |
| a kind that is about addresses | `LINES_PER_PEERS_KIND` lines |
| any other kind | `LINES_PER_KIND` lines: a fleet that returns may fill a minute with one |
| any kind | `KIND_BYTES` |

Laws
1. All lines together are `BURST_BYTES` and then `BYTES_PER_SECOND`: 700 MB a day, whatever strangers, devices, apps and
   receivers do. The last half of the burst is for warnings and errors, the last quarter for errors.
2. What was left out is counted, and a line at the end of the window says how many of which kind. These lines are few,
   too: what has none of its own goes into one for all.
3. It takes `now`, in seconds of a clock that does not jump, and no thread: who calls it has a lock.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

WINDOW_SECONDS: Final = 60.0
LINES_PER_SUBJECT: Final = 5
LINES_PER_PEERS_KIND: Final = 100
LINES_PER_KIND: Final = 1_000
KIND_BYTES: Final = 128 * 1024
"""A thousand lines of usual length; a fourth of what all kinds together may write in the same time."""
BYTES_PER_SECOND: Final = 8 * 1024
BURST_BYTES: Final = 1024 * 1024
SERIOUS_SHARE: Final = 1 / 2
"""Share of the burst that is for warnings and errors."""
ERRORS_SHARE: Final = 1 / 4
MAX_COUNTED_KINDS: Final = 10_000
"""Kinds, and what they are about; beyond it the oldest starts again at none."""
SUMMARIES_PER_WINDOW: Final = 60
"""Lines that say what was left out; those about a single address or device may use half of them."""


@dataclass(slots=True, frozen=True)
class Summary:
    """Lines that were left out."""

    lines: int
    kind: str = ""
    """Empty: of several kinds."""
    about: str = ""
    """The address, device or webhook; empty: not about a single one."""


class _Count:
    """Lines of one kind, or of one kind about one address or device, since a moment."""

    __slots__ = ("bytes", "left_out", "lines", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.lines = 0
        self.bytes = 0
        self.left_out = 0


class _Bucket:
    """An amount that is used up, and comes back with time."""

    def __init__(self, most: float, per_second: float) -> None:
        self._most = most
        self._per_second = per_second
        self._left = most
        self._at = 0.0

    def left(self, now: float) -> float:
        if now > self._at:
            self._left = min(self._most, self._left + (now - self._at) * self._per_second)
            self._at = now
        return self._left

    def spend(self, amount: float) -> None:
        """Spend it, whether or not it is there: what is owed comes back first."""
        self._left -= amount


class LogLimits:
    """Limits of one log, with what was left out since the last summary."""

    def __init__(self) -> None:
        self.left_out = 0
        """Lines left out because there had been many of their kind."""
        self.over_bytes = 0
        """Lines left out because all lines together were too many."""
        self._counts: dict[tuple[str, str], _Count] = {}
        """Counts by kind and what it is about, the oldest first; that is empty for a kind as a whole."""
        self._ended: list[Summary] = []
        self._bytes = _Bucket(BURST_BYTES, BYTES_PER_SECOND)
        self._summaries = _Bucket(SUMMARIES_PER_WINDOW, SUMMARIES_PER_WINDOW / WINDOW_SECONDS)
        self._others = 0
        """Lines left out that had no summary of their own."""
        self._others_told_at = 0.0

    def admit(self, kind: str, now: float, about: str = "", *, is_peer: bool = False) -> bool:
        """Count a line; return whether it may be written. `about`: the address, device or webhook that it is about;
        `is_peer`: that is an address."""
        most = LINES_PER_PEERS_KIND if is_peer else LINES_PER_KIND
        admitted = not about or self._counted((kind, about), LINES_PER_SUBJECT, now)
        admitted = admitted and self._counted((kind, ""), most, now)
        self.left_out += not admitted
        return admitted

    def spend(self, kind: str, level: int, size: int, now: float) -> bool:
        """Count the bytes of an admitted line; return whether it may be written."""
        count = self._count((kind, ""), now)
        share = SERIOUS_SHARE if level < logging.WARNING else ERRORS_SHARE if level < logging.ERROR else 0.0
        too_much = self._bytes.left(now) - size < share * BURST_BYTES
        if too_much or count.bytes + size > KIND_BYTES:
            count.left_out += 1
            self.over_bytes += 1
            return False
        count.bytes += size
        self._bytes.spend(size)
        return True

    def spend_note(self, size: int) -> None:
        """Count the bytes of a line that is written in any case."""
        self._bytes.spend(size)

    def ended(self, now: float, *, everything: bool = False) -> list[Summary]:
        """Return what was left out in windows that have ended, or in all of them, as few lines as it may be."""
        while self._counts:
            key, count = next(iter(self._counts.items()))
            if not everything and now - count.since < WINDOW_SECONDS:
                break  # the oldest is first
            self._end(key)
        found, self._ended = self._ended, []
        summaries = []
        for summary in sorted(found, key=lambda each: bool(each.about)):
            least = SUMMARIES_PER_WINDOW / 2 if summary.about else 1
            if self._summaries.left(now) <= least:
                self._others += summary.lines
                continue
            self._summaries.spend(1)
            summaries.append(summary)
        if self._others and (everything or now - self._others_told_at >= WINDOW_SECONDS):
            summaries.append(Summary(self._others))
            self._others, self._others_told_at = 0, now
        return summaries

    def _counted(self, key: tuple[str, str], limit: int, now: float) -> bool:
        count = self._count(key, now)
        if count.lines >= limit:
            count.left_out += 1
            return False
        count.lines += 1
        return True

    def _count(self, key: tuple[str, str], now: float) -> _Count:
        count = self._counts.get(key)
        if count is not None and now - count.since < WINDOW_SECONDS:
            return count
        if count is not None:
            self._end(key)
        elif len(self._counts) >= MAX_COUNTED_KINDS:
            self._end(next(iter(self._counts)))
        count = self._counts[key] = _Count(now)
        return count

    def _end(self, key: tuple[str, str]) -> None:
        count = self._counts.pop(key)
        if not count.left_out:
            return
        if len(self._ended) >= MAX_COUNTED_KINDS:
            self._others += count.left_out
        else:
            self._ended.append(Summary(count.left_out, *key))
