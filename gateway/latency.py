"""Histogram of latencies, as Prometheus wants it: counts by upper bound.

One scale for all of them, so that a person compares a commit with the loop, and both with a delivery.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

BOUNDS_MS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)
"""The promise is 5 ms plus an fsync at 1,000 pushes a second; what takes over 10 s is a fault."""


class LatencyHistogram:
    """Counts how often something took how long. One thread adds; any reads."""

    __slots__ = ("_counts", "sum_ms")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS_MS) + 1)
        self.sum_ms = 0.0

    def add(self, took_ms: float, times: int) -> None:  # Hot path.
        """Count `times` that took `took_ms`."""
        self._counts[bisect_left(BOUNDS_MS, took_ms)] += times
        self.sum_ms += took_ms * times

    @property
    def beyond(self) -> int:
        """Count of what took longer than the last bound."""
        return self._counts[-1]

    def buckets(self) -> list[tuple[str, float]]:
        """Buckets as (upper bound in seconds, how many took no longer), the last one without a bound."""
        total = 0
        found = []
        for bound, count in zip((*(f"{bound / 1000:g}" for bound in BOUNDS_MS), "+Inf"), self._counts, strict=True):
            total += count
            found.append((bound, float(total)))
        return found
