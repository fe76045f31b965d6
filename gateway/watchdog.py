"""Whether the server is alive: each writer carries out an operation of ours now and then, in its turn.

A loop that runs is not a server that works: the thread that writes may hang in the disk, or have died, and then nothing
is accepted, acknowledged or recorded any more, while HTTP answers. So each check submits an operation that changes
nothing to every writer, behind all that wait there, unless an earlier one is still on its way. Whatever was submitted
before it is older, and whatever hangs keeps it from coming back: its age is a lower bound of the age of the oldest.

It costs the hot path nothing. An operation that changes nothing takes no sync of the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

STALL_SECONDS = 60.0
"""Age of an operation from which its writer counts as stalled, where no service manager says another."""


@dataclass(slots=True)
class WriterProbe:
    """One writer, with our operation that it has not carried out yet. Runs on the *loop*."""

    name: str
    """The writer's name for a person."""
    submit: Callable[[Callable[[], None]], None]
    """Submits an operation that changes nothing; calls back when it has been carried out, whether or not it failed."""
    is_waiting: Callable[[], bool] = field(kw_only=True)
    """Whether the writer is alive and waits for something else, such as room on the disk."""
    _is_on_its_way: bool = field(default=False, init=False)
    _since: float = field(default=0.0, init=False)
    """Time from which the writer has no excuse."""

    def age(self, now: float) -> float:
        """Return how long our operation has been on its way, and submit the next when it has come back."""
        if not self._is_on_its_way:
            self._is_on_its_way = True
            self._since = now
            self.submit(self._done)
        elif self.is_waiting():
            self._since = now
        return now - self._since if self._is_on_its_way else 0.0

    def _done(self) -> None:
        self._is_on_its_way = False


class Watchdog:
    """Every writer of the server. Runs on the *loop*."""

    def __init__(self, probes: Sequence[WriterProbe], clock: Callable[[], float], stall_seconds: float) -> None:
        self._probes = probes
        self._clock = clock
        self._stall_seconds = stall_seconds

    def fault(self) -> str | None:
        """Explain which writer has stalled; None: the server works."""
        now = self._clock()
        ages = [(probe.age(now), probe.name) for probe in self._probes]
        age, name = max(ages)
        return f"{name} has been at one operation for {age:.0f} s" if age > self._stall_seconds else None
