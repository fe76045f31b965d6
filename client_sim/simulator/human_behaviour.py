"""Behaviour of the people at the devices: some open a notification, some of those act on it, after a moment.

And some have had enough, the sooner the more alerts they had in the last week.

Nothing is drawn at run time: push number, device and seed decide, so that a run repeats however its messages interleave
and however many processes share the fleet.
"""

from __future__ import annotations

from dataclasses import dataclass

DISPLAYED, OPENED, ACTED = 1, 2, 3
"""Levels, as a ledger orders them; 0 is delivered only."""
SHOWN = ("alert", "in_app")
"""Kinds that a person sees. A command is carried out by the device at once, data is seen by nobody."""
LEFT = -1
"""Stands for a level where a device says that its person has left."""
EVENTS = {DISPLAYED: "displayed", OPENED: "opened", ACTED: "acted"}

_MASK = 0xFFFF_FFFF_FFFF_FFFF


@dataclass(frozen=True)
class HumanBehaviour:
    """The shares of pushes that are displayed, of those that are opened, and of those that are acted on. `think_time`:
    seconds, the mean; anything from none to twice that."""

    displayed: float
    opened: float
    acted: float
    think_time: float
    seed: int
    leave: float = 0.0
    """The probability with which an alert makes a person leave, for each alert of the seven days before it."""
    mute: float = 0.5
    """The share of those who leave by muting the channel, if the alert has one; the others deny consent."""

    def level(self, number: int, index: int) -> int:
        """The furthest that the person at this device goes with this push."""
        if hash_share(self.seed, number, index, 1) >= self.displayed:
            return 0
        if hash_share(self.seed, number, index, 2) >= self.opened:
            return DISPLAYED
        return ACTED if hash_share(self.seed, number, index, 3) < self.acted else OPENED

    def leaves(self, number: int, index: int, before: int) -> bool:
        """Whether this alert is too much for the person, who had so many in the seven days before it."""
        return hash_share(self.seed, number, index, 5) < self.leave * before

    def mutes(self, number: int, index: int) -> bool:
        """Whether they would leave by muting its channel."""
        return hash_share(self.seed, number, index, 6) < self.mute

    def pause(self, number: int, index: int) -> float:
        """Seconds until they have decided."""
        return hash_share(self.seed, number, index, 4) * 2 * self.think_time


def hash_share(seed: int, number: int, index: int, salt: int) -> float:
    """0 <= x < 1, the same for the same arguments: the finalizer of SplitMix64 (Steele, Lea, Flood 2014)."""
    x = (seed * 0x9E37_79B9_7F4A_7C15 + number * 0xD1B5_4A32_D192_ED03 + index * 0x8CB9_2BA7_2F3D_8DD7 + salt) & _MASK
    x = (x ^ (x >> 30)) * 0xBF58_476D_1CE4_E5B9 & _MASK
    x = (x ^ (x >> 27)) * 0x94D0_49BB_1331_11EB & _MASK
    return ((x ^ (x >> 31)) >> 11) / 9_007_199_254_740_992
