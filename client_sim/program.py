"""The command that the person typed, for messages that say what to type next, and the installed version."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version

PROGRAM = os.environ.get("FLEETPUSH_PROGRAM", "fleetpush")
"""run.py sets it: where that is used, there is no `fleetpush` on the path."""


def installed_version() -> str:
    """`unknown` where only the source is there."""
    try:
        return version("fleetpush")
    except PackageNotFoundError:
        return "unknown"
