"""Memory for large request bodies, shared between all apps, and bounded for each.

A body, and what is parsed of it, is in memory until its request is answered, and hundreds of connections may bring one
at a time. Each is counted as it comes: its bytes, and for a body that is parsed as a whole VALUE_BYTES for each value,
for a batch of pushes LINE_BYTES for each line.
Bodies of less than 8 KiB are not: all that there can be are 16 MiB. A request that is alone is never told to come
again, which would help it nothing: its route bounds it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Final

from gateway.auth import Principal
from gateway.errors import RetryableProblem

log = logging.getLogger(__name__)

ALL_BYTES: Final = 48 * 1024 * 1024
"""Memory for the large bodies of all apps together."""
APP_BYTES: Final = 20 * 1024 * 1024
"""Memory for one app's: a batch of pushes of the largest size, and some more."""
DEVICE_BYTES: Final = 512 * 1024
"""Memory for those of a device with its own token: it sends 128 KiB at a time."""
VALUE_BYTES: Final = 128
"""Memory of a parsed value: a device id of 40 characters as text, in a list and in a dictionary."""
LINE_BYTES: Final = 512
"""Memory of a push of a batch until the whole batch is answered: its line, its answer, and of some the checked push."""
RETRY_SECONDS: Final = 2.0
LOG_SECONDS: Final = 60.0
"""Time between two lines in the log."""


class BodyCharge:
    """Memory that one request is charged with. Made by `BodyBudget.charge`; to be released."""

    __slots__ = ("_budget", "_limit", "_share", "size")

    def __init__(self, budget: BodyBudget, share: str, limit: int) -> None:
        self._budget = budget
        self._share = share
        self._limit = limit
        self.size = 0

    def add(self, size: int) -> None:
        """Charge `size` bytes more. Raises Problem 503; what was counted before stays counted."""
        self._budget.reserve(self._share, self._limit, size, self.size)
        self.size += size

    def release(self) -> None:
        self._budget.release(self._share, self.size)
        self.size = 0


class BodyBudget:
    """Counts the memory that large bodies take, for each share and in all. `clock` gives seconds that only grow. Runs
    on the *loop*."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._shares: Counter[str] = Counter()
        self._logged_at = -LOG_SECONDS
        self.bytes = 0
        """Bytes charged now, for metrics."""
        self.refused = 0
        """Requests that were told to come again, for metrics."""

    def charge(self, principal: Principal) -> BodyCharge:
        if principal.is_device:
            return BodyCharge(self, principal.key_id, DEVICE_BYTES)
        return BodyCharge(self, f"app {principal.app_id}", APP_BYTES)

    def reserve(self, share: str, limit: int, size: int, taken: int) -> None:
        """Charge `size` bytes to a share, of which the same request has `taken` already. Raises Problem 503 for what
        others have."""
        others_of_share = self._shares[share] - taken
        of_share = self._shares[share] + size
        over_share = of_share > limit and others_of_share > 0
        if over_share or (self.bytes + size > ALL_BYTES and self.bytes > taken):
            self.refused += 1
            now = self._clock()
            if now - self._logged_at >= LOG_SECONDS:
                self._logged_at = now
                log.warning(
                    "%s is answered 503: its request bodies in memory have %d bytes (of %d), those of all %d (of %d)",
                    share,
                    of_share,
                    limit,
                    self.bytes + size,
                    ALL_BYTES,
                )
            raise RetryableProblem(
                "busy", "too many large requests are being worked on: send fewer at a time", RETRY_SECONDS
            )
        self._shares[share] = of_share
        self.bytes += size

    def release(self, share: str, size: int) -> None:
        self.bytes -= size
        self._shares[share] -= size
        if not self._shares[share]:
            del self._shares[share]
