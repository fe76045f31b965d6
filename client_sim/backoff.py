"""When a device that lost its connection tries again."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from paho.mqtt.properties import Properties

RETRY_AFTER = "retry-after"
"""User property of a server that sends us away: whole seconds until we are welcome again."""
SECONDS = re.compile(r"[0-9]{1,9}")


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


def retry_after_of(properties: Properties | None) -> int | None:
    """The seconds in the hint of a CONNACK or DISCONNECT; None without one that can be read."""
    for name, value in getattr(properties, "UserProperty", ()):
        if name == RETRY_AFTER and SECONDS.fullmatch(value):
            return int(value)
    return None
