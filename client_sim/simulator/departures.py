"""People who have left: their devices have said that they mute a channel, or deny consent, and what follows from that.

From the moment at which a device says so, the server may end what is for it as `suppressed`; once it has acknowledged
it, nothing that is asked for later may arrive.
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from client_sim.simulator.comparison import SentPush
from client_sim.simulator.human_behaviour import SHOWN


class Departure(NamedTuple):
    """A person has muted a channel, or denied consent (None)."""

    channel: str | None
    acknowledged: float = inf
    """The time at which the server acknowledged it."""


class Departures:
    """The devices whose person has left, by index; each leaves once."""

    def __init__(self) -> None:
        self._found: dict[int, Departure] = {}

    def __contains__(self, index: int) -> bool:
        return index in self._found

    def __len__(self) -> int:
        return len(self._found)

    def left(self, index: int, when: float, channel: str | None, acknowledged: bool) -> None:
        """Record that a person mutes a channel, or denies consent (None), or that the server has acknowledged it."""
        before = self._found.get(index, Departure(channel))
        self._found[index] = before._replace(acknowledged=min(before.acknowledged, when)) if acknowledged else before

    def reason(self, index: int, push: SentPush) -> str | None:
        """The reason for which a push must not reach this device; None: it may."""
        departure = self._found.get(index)
        if departure is None:
            return None
        if departure.channel is None:
            return "no_consent" if push.kind == "alert" else None
        # What is critical passes a muted channel, as often as the app lets it.
        is_muted = push.kind in SHOWN and push.channel == departure.channel and push.priority != "critical"
        return "channel_muted" if is_muted else None

    def seconds_late(self, index: int, push: SentPush) -> float:
        """Seconds from the acknowledgement of a departure to the request of a push that it forbids; 0: it does not."""
        if self.reason(index, push) is None:
            return 0.0
        return max(0.0, push.requested - self._found[index].acknowledged)
