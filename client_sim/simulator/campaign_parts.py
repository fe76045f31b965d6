"""Parts of campaigns as devices have them: the build that they bring, and what a device does with it.

Nothing is drawn at run time: campaign, device and seed decide who fails a build, and how.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from client_sim.simulator.human_behaviour import hash_share

Outcome = Literal["done", "error", "refused", "silent"]
"""What a device did with a build."""


class ArrivedPart(NamedTuple):
    """A part that a device (its index) had: the campaign's number, the push, its variant, and what the device did."""

    campaign: int
    device: int
    push_id: str
    variant: str | None
    outcome: Outcome


def outcome_of(seed: int, campaign: int, index: int, failing: float) -> Outcome:
    """The outcome of a campaign's build on a device, the same for the same arguments."""
    if hash_share(seed, campaign, index, 7) >= failing:
        return "done"
    return ("error", "refused", "silent")[int(hash_share(seed, campaign, index, 8) * 3)]


def build_of(campaign: int, failing: float, variant: str | None) -> dict[str, Any]:
    """The data of a campaign's push."""
    return {"campaign": campaign, "failing": failing, "variant": variant}
