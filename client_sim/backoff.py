"""The end of a connection, in words for a person, and the time until the next attempt.

The schedule has two purposes. A fleet that lost its server must not come back at once, nor go on asking a server that
is overloaded: full jitter, below a ceiling that doubles with each failure. And a restart must soon be over for the last
device, too: the draws of some are short several times in a row, so that they have failed five times within two seconds,
and a ceiling of failures alone lets them wait for half a minute. So the ceiling is no higher than the time that the
device has been away. When the server is back after A seconds, each device is back within A more (or `base`), whatever
its draws were; in a long outage both ceilings reach the cap.
"""

from __future__ import annotations

import math
import random
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from paho.mqtt.client import DisconnectFlags
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

RETRY_AFTER = "retry-after"
"""User property of a server that sends us away: whole seconds until we are welcome again."""
SESSION_TAKEN_OVER = 0x8E
UNSPECIFIED_ERROR = 0x80
"""paho's word for a connection that ended without one."""
SECONDS = re.compile(r"[0-9]{1,9}")


@dataclass
class Backoff:
    """Reconnect delays with full jitter, in seconds.

    A delay is anywhere between nothing and a ceiling, which doubles with each failure up to the time that the device
    has been away. The server's word replaces the ceiling, as far as the cap allows; the jitter stays.
    """

    base: float = 1.0
    cap: float = 120.0
    random: Callable[[float, float], float] = random.uniform

    def delay(self, failures: int, retry_after: int | None = None, away_seconds: float = math.inf) -> float:
        """Return the seconds until the next attempt.

        `failures`: attempts since the last connection, which ended `away_seconds` ago. `retry_after`: the seconds that
        the server asked for, if it did.
        """
        if retry_after is not None:
            return min(self.cap, retry_after) + self.random(0.0, min(self.cap, self.base))
        ceiling = min(self.base * 2.0 ** min(failures, 30), max(self.base, away_seconds))
        return self.random(0.0, min(self.cap, ceiling))


class Absence:
    """The time that a device has been without a subscribed connection, and its attempts since. Begins when made."""

    def __init__(self, backoff: Backoff, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: seconds, never back."""
        self._backoff = backoff
        self._clock = clock
        self._attempts = 0
        self._since = clock()

    def attempt(self) -> None:
        """Count an attempt: it begins."""
        self._attempts += 1

    def end(self) -> None:
        """The attempt has led to a connection that is subscribed."""
        self._attempts = 0

    def delay(self, retry_after: int | None = None) -> float:
        """Seconds until the next attempt. Call it when a connection, or an attempt, has ended."""
        now = self._clock()
        if self._attempts == 0:
            self._since = now  # it was connected until now
        return self._backoff.delay(self._attempts, retry_after, now - self._since)


def retry_after_of(properties: Properties | None) -> int | None:
    """The seconds in the hint of a CONNACK or DISCONNECT; None without one that can be read."""
    for name, value in getattr(properties, "UserProperty", ()):
        if name == RETRY_AFTER and SECONDS.fullmatch(value):
            return int(value)
    return None


def ending_of(reason: ReasonCode, flags: DisconnectFlags, client_id: str) -> str:
    """The reason for which a connection of this client ended, in words for a person."""
    if not flags.is_disconnect_packet_from_server:
        return "connection lost" if reason.value == UNSPECIFIED_ERROR else str(reason)
    if reason.value == SESSION_TAKEN_OVER:
        return f"another client connects as {client_id}: stop one of them, or give it an id of its own"
    return str(reason)


def failure_of(error: OSError, host: str) -> str:
    """The reason for which the server that is dialled as `host` cannot be reached, in words for a person."""
    words = error.strerror or str(error)
    if not isinstance(error, socket.gaierror):
        return words
    return f"{host}: {words}; enter the name in DNS or /etc/hosts, or dial the server by another (its --public-host)"
