"""The nodes of a fleet, as they know each other."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, frozen=True)
class Node:
    """A node in one of its epochs."""

    no: int
    epoch: int
    url: str
    """Where its HTTP port is for other nodes, without a path."""
    secret: str
    """What it is asked with; new in each epoch."""
