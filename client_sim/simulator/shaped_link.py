"""The network between a simulated device and the server, as bad as a scenario wants it; inside the process, no root.

Bytes wait for the latency and keep their order, as TCP does. A stall holds everything back for a while. A half-open
connection takes bytes and passes none, in either direction, and nobody is told: only keep alive finds that out. A reset
is the device's own business (`SimulatedDevice.cut`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from client_sim.simulator.timing_wheel import TimingWheel


@dataclass(frozen=True)
class Network:
    """The faults of a bad network: seconds, and events per second of one device."""

    latency: float = 0.0
    jitter: float = 0.0
    """Added to the latency of each piece: anything from none to this."""
    resets: float = 0.0
    stalls: float = 0.0
    stall: float = 0.0
    half_open: float = 0.0

    @property
    def worst(self) -> float:
        """Seconds that something on its way may take, a stall included."""
        return self.latency + self.jitter + (self.stall if self.stalls else 0.0)


class ShapedLink:
    """The bad network of one connection. The wheel hands on what has to wait; after `close` it hands on nothing."""

    __slots__ = ("_closed", "_half_open", "_network", "_receive_due", "_send_due", "_stalled_until", "_wheel")

    def __init__(self, network: Network, wheel: TimingWheel) -> None:
        self._network = network
        self._wheel = wheel
        self._send_due = 0.0
        self._receive_due = 0.0
        self._stalled_until = 0.0
        self._half_open = False
        self._closed = False

    def pass_on(self, data: bytes, to: Callable[[bytes], None], *, outward: bool) -> None:
        """Hand data on to `to` after the latency of this direction, in order."""
        if self._half_open:
            return
        now = time.monotonic()
        network = self._network
        last = self._send_due if outward else self._receive_due
        due = max(now + network.latency + random.random() * network.jitter, self._stalled_until, last)
        if outward:
            self._send_due = due
        else:
            self._receive_due = due
        self._wheel.at(due, self._hand_on, (data, to))

    def _hand_on(self, waiting: tuple[bytes, Callable[[bytes], None]]) -> None:
        if not (self._closed or self._half_open):
            data, to = waiting
            to(data)

    def stall(self) -> None:
        """Hold everything back for the network's `stall` seconds."""
        self._stalled_until = time.monotonic() + self._network.stall

    def half_open(self) -> None:
        """Drop everything from now on, in both directions."""
        self._half_open = True

    def close(self) -> None:
        """Hand nothing on any more."""
        self._closed = True
