"""The end of a connection, in words for a person, and the time until the next attempt."""

from __future__ import annotations

import random
import re
import socket
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
    """Reconnect delays with full jitter: anywhere between nothing and an exponentially growing ceiling, in seconds. The
    server's word replaces the growth, as far as the cap allows; the jitter stays."""

    base: float = 1.0
    cap: float = 120.0
    random: Callable[[float, float], float] = random.uniform

    def delay(self, failures: int, retry_after: int | None = None) -> float:
        """Seconds until the next attempt, after so many failures, or when the server said `retry_after`."""
        if retry_after is not None:
            return min(self.cap, retry_after) + self.random(0.0, min(self.cap, self.base))
        return self.random(0.0, min(self.cap, self.base * 2.0 ** min(failures, 30)))


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
