"""When a device that lost its connection tries again."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Backoff:
    """Full jitter: anywhere between nothing and an exponentially growing ceiling, in seconds. The server's word
    replaces the growth, as far as the cap allows; the jitter stays."""

    base: float = 1.0
    cap: float = 120.0
    random: Callable[[float, float], float] = random.uniform

    def delay(self, failures: int, retry_after: int | None = None) -> float:
        if retry_after is not None:
            return min(self.cap, retry_after) + self.random(0.0, min(self.cap, self.base))
        return self.random(0.0, min(self.cap, self.base * 2.0 ** min(failures, 30)))
